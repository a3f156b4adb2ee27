"""The symmetry that a CIF means: listed, or named in any of the ways in which it is named."""

from __future__ import annotations

import gemmi
import numpy as np
import pytest

from datamodules.prepare.crystals.cif import crystal_from_cif
from datamodules.prepare.crystals.composition import reduced_formula
from datamodules.prepare.crystals.crystal import Crystal, EntryError
from tests.prepare.examples import pymatgen_crystal, written_cif

SITES = "Fe1 Fe 0.3133 0.0385 0.3849\nO1 O 0.0617 0.3407 0.2011"
SETTINGS = list(gemmi.spacegroup_table())
CELLS = {
    "triclinic": [12.2, 14.6, 17.8, 81, 97, 102],
    "a": [12.2, 14.6, 17.8, 101, 90, 90],
    "b": [12.2, 14.6, 17.8, 90, 101, 90],
    "c": [12.2, 14.6, 17.8, 90, 90, 101],
    "orthorhombic": [12.2, 14.6, 17.8, 90, 90, 90],
    "tetragonal": [17.3, 17.3, 18.9, 90, 90, 90],
    "trigonal": [17.3, 17.3, 21.9, 90, 90, 120],
    "hexagonal": [17.3, 17.3, 21.9, 90, 90, 120],
    "cubic": [25.3] * 3 + [90.0] * 3,
}
RHOMBOHEDRAL = [17.3] * 3 + [72.0] * 3


def atoms(crystal: Crystal) -> list[tuple[float, ...]]:
    rows = np.column_stack([crystal.numbers, np.round(crystal.coordinates, 5) % 1])
    return sorted(map(tuple, rows.tolist()))


def cell_of(group: gemmi.SpaceGroup) -> list[float]:
    """A cell of the group's system with some 200 Å³ an atom."""
    cell = CELLS.get(group.monoclinic_unique_axis()) or CELLS[group.crystal_system_str()]
    cell = RHOMBOHEDRAL if group.ext == "R" else cell
    size = (400 * len(list(group.operations())) / np.prod(cell[:3])) ** (1 / 3)
    return [round(float(x * size), 4) for x in cell[:3]] + cell[3:]


def read(group: gemmi.SpaceGroup, symmetry: str, head: str = "") -> Crystal:
    n = len(list(group.operations()))
    return crystal_from_cif(written_cif(cell_of(group), SITES, symmetry, "Fe O", n, head=head))


@pytest.mark.parametrize("part", range(8))
def test_a_name_gives_the_operations_that_it_stands_for(part: int) -> None:
    """All 564 tabulated settings, each by several spellings, against its listed operations."""
    for group in SETTINGS[part::8]:
        listed = read(group, "\n".join(o.triplet() for o in group.operations()))
        assert len(listed.numbers) == 2 * len(list(group.operations()))
        name = group.xhm()
        code = (group.ext.strip("\0HR") + group.qualifier) or "abc"
        heads = [
            f"_space_group_name_H-M_alt '{name}'\n_space_group_IT_number {group.number}",
            f"_symmetry_space_group_name_H-M '{name.replace(' ', '')}'",
            f"_symmetry_space_group_name_H-M '{name.upper()}'",
            f"_space_group_name_Hall '{group.hall}'",
            f"_space_group_name_H-M_alt '{group.hm}'\n"
            f"_space_group_IT_coordinate_system_code {code}",
        ]
        if group.ext in "12":
            heads += [
                f"_symmetry_space_group_name_H-M '{group.hm} {'SZ'[int(group.ext) - 1]}'",
                f"_symmetry_space_group_name_H-M '{group.hm} O{group.ext}'",
                f"_space_group_name_H-M_alt '{group.hm} (origin choice {group.ext})'",
            ]
        else:
            heads.append(f"_symmetry_space_group_name_H-M '{group.short_name()}'")
        for head in heads:
            assert atoms(read(group, "", head)) == atoms(listed), head


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("P 2_1/n", "P 1 21/n 1"), ("P 2(1)/n", "P 1 21/n 1"), ("'P 21/n'", "P 1 21/n 1"),
        ("P 21/n (No. 14)", "P 1 21/n 1"), ("B 2/b", "B 1 1 2/b"), ("I 2/a", "I 1 2/a 1"),
        ("Fd3m :2", "F d -3 m:2"), ("F d 3 m Z", "F d -3 m:2"), ("Ia3d", "I a -3 d"),
        ("F 41/d -3 2/m S", "F d -3 m:1"), ("P 21/n 21/m 21/a", "P n m a"),
        ("F 4/m -3 2/m", "F m -3 m"), ("P 42/m 21/n 2/m", "P 42/m n m"), ("C m c e", "C m c a"),
        ("R -3 m (hexagonal axes)", "R -3 m:H"), ("R -3 m :R", "R -3 m:R"),
        ("R -3 m R", "R -3 m:R"), ("R -3 m", "R -3 m:R"), ("R -3 c H", "R -3 c:H"),
        ("H -3 m", "R -3 m:H"), ("P 63/mmc", "P 63/m m c"), ("p-1", "P -1"),
    ],
)  # fmt: skip
def test_names_as_programs_and_people_write_them(name: str, other: str) -> None:
    [group] = [group for group in SETTINGS if group.xhm() == other]
    listed = read(group, "\n".join(o.triplet() for o in group.operations()))
    assert atoms(read(group, name.strip("'"))) == atoms(listed)


@pytest.mark.parametrize(
    ("cell", "name", "number", "reason"),
    [
        ("b", "X 21/n", 14, "space group not understood"),
        ("b", "P 21/n m a", None, "space group not understood"),
        ("cubic", "F d -3 n", 227, "space group not understood"),
        ("cubic", "F d -3 m :3", 227, "space group not understood"),
        ("b", "P 21/n", 15, "space group's name and number contradict each other"),
        ("orthorhombic", "P b n m", 63, "space group's name and number contradict each other"),
        ("b", "P 21/n", 300, "space group not understood"),
        ("triclinic", "P 21/n", 14, "cell and space group contradict each other"),
        ("c", "P 1 21/n 1", 14, "cell and space group contradict each other"),
        ("b", "P b n m", 62, "cell and space group contradict each other"),
        ("tetragonal", "R -3 m :H", 166, "cell and space group contradict each other"),
        ("orthorhombic", "F m -3 m", None, "cell and space group contradict each other"),
        ("tetragonal", "I 41/a m d", 141, "origin or setting of the space group not stated"),
    ],
)
def test_what_is_not_understood_or_contradicts_itself_is_refused(
    cell: str, name: str, number: int | None, reason: str
) -> None:
    head = f"_space_group_IT_number {number}" if number else ""
    with pytest.raises(EntryError) as error:
        crystal_from_cif(written_cif(CELLS[cell], SITES, name, head=head))
    assert error.value.reason == reason


@pytest.mark.parametrize(
    ("cell", "name", "units", "sites", "formula"),
    [
        ([5.4309], "F d -3 m", 8, "Si1 Si 0 0 0", "Si"),
        ([5.4309], "F d -3 m", 8, "Si1 Si 0.125 0.125 0.125", "Si"),
        ([8.0835], "Fd-3m", 8, "Mg Mg .125 .125 .125\nAl Al .5 .5 .5\nO O .2624 .2624 .2624",
         "Mg Al2 O4"),
        ([8.0835], "Fd-3m", 8, "Mg Mg 0 0 0\nAl Al .625 .625 .625\nO O .3876 .3876 .3876",
         "Mg Al2 O4"),
        ([3.7845, 3.7845, 9.5143, 90, 90, 90], "I 41/a m d", 4,
         "Ti Ti 0 0 0\nO O 0 0 0.2081", "Ti O2"),
        ([3.7845, 3.7845, 9.5143, 90, 90, 90], "I 41/a m d", 4,
         "Ti Ti 0 0.75 0.125\nO O 0 0.75 0.3331", "Ti O2"),
    ],
)  # fmt: skip
def test_the_formula_decides_between_origins(
    cell: list[float], name: str, units: int, sites: str, formula: str
) -> None:
    crystal = crystal_from_cif(written_cif(cell, sites, name, formula, units))
    elements, counts = crystal.composition()
    assert counts.sum() % units == 0
    assert [note.phrase for note in crystal.notes] == [
        "setting of the space group found by the formula"
    ]
    with pytest.raises(EntryError):
        crystal_from_cif(written_cif(cell, sites, name, formula, units + 1))
    assert reduced_formula(elements, counts) in ("Si", "MgAl2O4", "TiO2")


@pytest.mark.parametrize(
    "head",
    [
        "_space_group_name_H-M_alt 'P 21/n'\n_symmetry_space_group_name_H-M 'P 21/c'",
        "_space_group_name_H-M_alt 'P 21/n'\n_space_group_name_Hall '-P 2ybc'",
        "_space_group_name_H-M_alt 'C 2/m'\n_space_group_name_Hall '-P 2ybc'",
        "_space_group_IT_number 13\n_space_group_name_Hall '-P 2ybc'",
    ],
)
def test_names_that_contradict_each_other_are_refused(head: str) -> None:
    with pytest.raises(EntryError) as error:
        crystal_from_cif(written_cif(CELLS["b"], SITES, head=head))
    assert error.value.reason == "space group's names contradict each other"
    code = "_space_group_IT_coordinate_system_code 2"
    with pytest.raises(EntryError, match="contradict"):
        crystal_from_cif(written_cif([5.43], "Si Si 0 0 0", "F d -3 m:1", head=code))


def test_operations_of_another_setting_than_the_names_are_believed_and_noted() -> None:
    [group] = [group for group in SETTINGS if group.xhm() == "P 1 21/n 1"]
    operations = "\n".join(o.triplet() for o in group.operations())
    crystal = read(group, operations, "_symmetry_space_group_name_H-M 'P 21/c'")
    assert atoms(crystal) == atoms(read(group, operations))
    assert "another setting" in crystal.notes[0].phrase


def test_only_a_number_means_the_standard_setting() -> None:
    for number in (14, 62, 166, 194, 225):
        [group] = [g for g in SETTINGS if g.number == number and g.is_reference_setting()]
        listed = read(group, "\n".join(o.triplet() for o in group.operations()))
        crystal = read(group, "", f"_space_group_IT_number {number}")
        assert atoms(crystal) == atoms(listed)
        assert crystal.notes[0].phrase == "only the number of the space group is stated"


@pytest.mark.parametrize(
    ("operations", "reason"),
    [
        ("x,y,z\n-x,1/2+y,-z\n-x,-y,-z", "symmetry operations are no group"),
        ("x,y,z\n-x,y,z\nq,y,z", "symmetry operation not understood"),
        ("x,y,z\ny,x,z", "cell and symmetry operations contradict each other"),
        ("x,y,z\n2*x,y,z", "symmetry operations are no group"),
        ("x,y,z\n" + "x,y,z\n" * 500, "too many symmetry operations"),
    ],
)
def test_lists_of_operations_that_are_no_group_are_refused(operations: str, reason: str) -> None:
    with pytest.raises(EntryError) as error:
        crystal_from_cif(written_cif(CELLS["orthorhombic"], SITES, operations))
    assert error.value.reason == reason


def test_operations_that_contradict_the_name_need_the_formula() -> None:
    """All atoms listed under the name of their group: right if the formula says so."""
    full = "Na Na 0 0 0\nNa Na 0 .5 .5\nNa Na .5 0 .5\nNa Na .5 .5 0\n"
    full += "Cl Cl .5 .5 .5\nCl Cl .5 0 0\nCl Cl 0 .5 0\nCl Cl 0 0 .5"
    head = "_symmetry_space_group_name_H-M 'F m -3 m'"
    crystal = crystal_from_cif(written_cif([5.64], full, "x,y,z", "Na Cl", 4, head=head))
    assert len(crystal.numbers) == 8
    assert "Fm-3m" in crystal.notes[0].detail.replace(" ", "")
    for text in (
        written_cif([5.64], full, "x,y,z", head=head),
        written_cif([5.64], "Na Na 0 0 0\nCl Cl .5 .5 .5", "x,y,z", "Na Cl", 4, head=head),
        written_cif([5.64], full, "F m -3 m"),
    ):
        with pytest.raises(EntryError):
            crystal_from_cif(text)


def test_symmetric_cifs_are_read_as_pymatgen_reads_them() -> None:
    sites = "Si1 Si 0.4697 0 0.3333333\nO1 O 0.4135 0.2669 0.452433"
    operations = "\n".join(o.triplet() for o in gemmi.SpaceGroup("P 31 2 1").operations())
    text = written_cif([4.916, 4.916, 5.4054, 90, 90, 120], sites, operations, "Si O2", 3)
    ours, theirs = crystal_from_cif(text), pymatgen_crystal(text)
    np.testing.assert_allclose(atoms(ours), atoms(theirs), atol=2e-5)
