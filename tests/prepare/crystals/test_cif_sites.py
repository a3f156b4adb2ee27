"""What stands on the sites of a CIF: nothing is lost, doubled or turned into something else."""

from __future__ import annotations

import numpy as np
import pytest

from datamodules.prepare.crystals.cif import crystal_from_cif
from datamodules.prepare.crystals.composition import reduced_formula
from datamodules.prepare.crystals.crystal import Crystal, EntryError
from datamodules.prepare.crystals.diffraction import diffraction_lines
from datamodules.prepare.crystals.distances import check_distances
from tests.prepare.examples import pymatgen_crystal, written_cif

HEXAGONAL = [3.2495, 3.2495, 5.2069, 90, 90, 120]
LABELS = "label fract_x fract_y fract_z"
TYPED = "label type_symbol fract_x fract_y fract_z"
OCCUPIED = "label type_symbol fract_x fract_y fract_z occupancy"


def formula(crystal: Crystal) -> str:
    return reduced_formula(*crystal.composition())


def phrases(crystal: Crystal) -> list[str]:
    return [note.phrase for note in crystal.notes]


def refused(text: str) -> EntryError:
    with pytest.raises(EntryError) as error:
        check_distances(crystal_from_cif(text))
    return error.value


@pytest.mark.parametrize("formula_sum", ["", "Zn O"])
@pytest.mark.parametrize(
    ("x", "y"),
    [("0.333", "0.667"), ("0.3333", "0.6667"), ("0.33", "0.67"), ("0.333", "0.666"),
     ("0.333(1)", "0.667(1)"), ("0.33333", "0.66667"), ("-0.667", "0.667"), ("1.333", "0.6670")],
)  # fmt: skip
def test_rounded_thirds_are_thirds(x: str, y: str, formula_sum: str) -> None:
    sites = f"Zn1 Zn {x} {y} 0\nO1 O {x} {y} 0.3819"
    crystal = crystal_from_cif(written_cif(HEXAGONAL, sites, "P 63 m c", formula_sum))
    exact = sites.replace(x, repr(1 / 3)).replace(y, repr(2 / 3))
    right = pymatgen_crystal(written_cif(HEXAGONAL, exact, "P 63 m c"))
    assert crystal.volume_per_atom == pytest.approx(11.904, abs=1e-3)
    for ours, theirs in zip(diffraction_lines(crystal), diffraction_lines(right), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-6)
    if len(x) < 6:
        assert "rounded special position restored" in phrases(crystal)


@pytest.mark.parametrize(
    ("cell", "name", "site", "n"),
    [
        (HEXAGONAL, "P 63/m m c", "Ni 0.157 0.313 0.25", 6),  # 6h: x, 2x
        (HEXAGONAL, "P 63/m m c", "Ni 0.1667 0.8333 0.25", 6),
        (HEXAGONAL, "P 6/m m m", "Ni 0.167 0.333 0.5", 6),
        (HEXAGONAL, "P -6 m 2", "Ni 0.333 0.667 0.1", 2),
        (HEXAGONAL, "R -3 m", "Ni 0.156 0.845 0.071", 18),  # 18h: x, -x, z
        ([7.0], "F d -3 m :2", "Ni 0.264 0.2639 0.264", 32),
        ([7.0], "P a -3", "Ni 0.385 0.3849 0.385", 8),
        ([7.0, 7.0, 9.0, 90, 90, 90], "P 42/m n m", "Ni 0.305 0.3049 0", 4),
        ([7.0, 7.0, 9.0, 90, 90, 90], "P 4/m m m", "Ni 0.305 0.001 0.2", 8),
    ],
)
def test_special_positions_that_only_the_rounding_hides_are_restored(
    cell: list[float], name: str, site: str, n: int
) -> None:
    size = 3 if cell == HEXAGONAL else 1
    cell = [x * size for x in cell[:3]] + cell[3:]
    crystal = crystal_from_cif(written_cif(cell, f"Ni1 {site}", name))
    assert len(crystal.numbers) == n


def test_what_is_no_rounding_is_not_moved() -> None:
    cell = [4.0, 5.0, 6.0, 90, 90, 90]
    split = written_cif(cell, "O1 O 0.2 0.2 0.0312 0.5", "P m m m", columns=OCCUPIED)
    assert len(crystal_from_cif(split).numbers) == 8
    whole = written_cif(cell, "O1 O 0.2 0.2 0.0312 1", "P m m m", columns=OCCUPIED)
    assert refused(whole).reason == "atoms nearer than 0.5 Å"


@pytest.mark.parametrize("occupancies", [".1", "..", "?1", "1?", "??", ".?"])
def test_default_and_unknown_occupancies_are_one(occupancies: str) -> None:
    first, second = occupancies
    sites = f"Na1 Na 0 0 0 {first}\nCl1 Cl 0.5 0.5 0.5 {second}"
    crystal = crystal_from_cif(written_cif([5.64], sites, "F m -3 m", columns=OCCUPIED))
    assert crystal.volume_per_atom == pytest.approx(22.426, abs=1e-3)
    assert ("unknown occupancy taken as 1" in phrases(crystal)) == ("?" in occupancies)


@pytest.mark.parametrize(
    ("occupancy", "reason"),
    [("x", "not a number"), ("-0.1", "occupancy outside of (0, 1]"), ("nan", "value that is not"),
     ("1.01", "occupancy outside of (0, 1]"), ("1e999", "value that is not")],
)  # fmt: skip
def test_occupancies_that_are_none_are_refused(occupancy: str, reason: str) -> None:
    sites = f"Na1 Na 0 0 0 {occupancy}\nCl1 Cl 0.5 0.5 0.5 1"
    error = refused(written_cif([5.64], sites, "F m -3 m", columns=OCCUPIED))
    assert error.reason.startswith(reason)
    assert "Na1" in error.detail


@pytest.mark.parametrize(
    ("first", "second", "accepted"),
    [("0.667", "0.334", True), ("0.501", "0.5", True), ("1.001", "0", True), ("0.5", "0.51", False),
     ("0.67", "0.34", False), ("0.7", "0.6", False), ("1", "0.01", False)],
)  # fmt: skip
def test_occupancies_a_little_above_one(first: str, second: str, accepted: bool) -> None:
    sites = f"Na1 Na 0 0 0 {first}\nK1 K 0 0 0 {second}\nCl1 Cl 0.5 0.5 0.5 1"
    text = written_cif([5.64], sites, "F m -3 m", columns=OCCUPIED)
    if accepted:
        assert crystal_from_cif(text).n_atoms == pytest.approx(8, abs=0.01)
    else:
        error = refused(text)
        assert error.reason == "occupancies of one site above 1"
        assert f"{float(first) + float(second):.4g}" in error.detail


@pytest.mark.parametrize(
    "sites",
    [
        "Na1 Na 0 0 0\nNa2 Na 1 0 0\nCl1 Cl .5 .5 .5",
        "Na1 Na 0 0 0\nNa2 Na 1 1 1\nCl1 Cl .5 .5 .5",
        "Na1 Na 0.1 0 0\nNa2 Na 0.1003 0 0\nCl1 Cl .5 .5 .5",
        "Na1 Na 0 0 -0.0001\nNa2 Na 0 0 0.9999\nCl1 Cl .5 .5 .5",
    ],
)
@pytest.mark.parametrize("symmetry", ["P 1", "x,y,z", "P -1"])
def test_an_atom_that_is_listed_twice_is_refused(sites: str, symmetry: str) -> None:
    assert refused(written_cif([5.64], sites, symmetry)).reason == "the same atom twice"


def test_equivalent_sites_that_are_listed_too_are_refused() -> None:
    sites = "Na1 Na 0 0 0\nNa2 Na 0.5 0.5 0\nCl1 Cl .5 .5 .5"
    assert refused(written_cif([5.64], sites, "F m -3 m")).reason == "the same atom twice"


@pytest.mark.parametrize(
    ("kind", "symbol", "hydrogens"),
    [
        ("Mg", "Mg", 0), ("Mg2+", "Mg", 0), ("Mg+2", "Mg", 0), ("Mg(2+)", "Mg", 0), ("O2-", "O", 0),
        ("O-2", "O", 0), ("Fe(III)", "Fe", 0), ("Fe3", "Fe", 0), ("FE", "Fe", 0), ("cl", "Cl", 0),
        ("57Fe", "Fe", 0), ("(57)Fe3+", "Fe", 0), ("^57^Fe", None, 0), ("11B", "B", 0),
        ("D", "D", 0), ("D1+", "D", 0), ("T", "T", 0), ("Cval", "C", 0), ("Sival", "Si", 0),
        ("OH", "O", 1), ("OH-", "O", 1), ("OH1-", "O", 1), ("Oh", "O", 1), ("H2O", "O", 2),
        ("OW", "O", 2), ("Ow", "O", 2), ("Wat", "O", 2), ("WAT", "O", 2), ("HOH", "O", 2),
        ("NH4+", "N", 4), ("NH41+", "N", 4), ("H3O+", "O", 3), ("CH3", "C", 3),
        ("CO", None, 0), ("CN", None, 0), ("Xx", None, 0), ("M", None, 0), ("Ln", None, 0),
        ("Fe/Ni", None, 0), ("Fe,Ni", None, 0), ("Q1", None, 0), ("NO3-", None, 0), ("Bq", None, 0),
    ],
)  # fmt: skip
def test_types(kind: str, symbol: str | None, hydrogens: int) -> None:
    sites = f"A1 '{kind}' 0 0 0 1\nI1 I 0.5 0.5 0.5 1"
    text = written_cif([6.0], sites, "P m -3 m", columns=OCCUPIED)
    if symbol is None:
        error = refused(text)
        assert error.reason == "unknown element"
        assert kind in error.detail
        assert "A1" in error.detail
        return
    crystal = crystal_from_cif(text)
    assert crystal.symbol(0) == {"D": "H", "T": "H"}.get(symbol, symbol)
    assert crystal.hydrogens == hydrogens
    assert len(crystal.numbers) == 2
    assert ("hydrogens without a place" in phrases(crystal)) == (hydrogens > 0)


@pytest.mark.parametrize(
    ("label", "stated", "symbol", "hydrogens"),
    [
        ("Na1", "", "Na", 0), ("O1A", "", "O", 0), ("Ob", "", "O", 0), ("Fe2_3", "", "Fe", 0),
        ("O(1)", "", "O", 0), ("57Fe1", "", "Fe", 0), ("D1", "", "H", 0),
        ("OH", "", "O", 1), ("OH1", "", "O", 1), ("OH2", "", "O", 1), ("Oh", "", "O", 1),
        ("Wat", "", "O", 2), ("WAT1", "", "O", 2), ("Wat2", "", "O", 2), ("Ow1", "", "O", 2),
        ("OW", "", "O", 2), ("O1W", "", "O", 2), ("H2O", "", "O", 2), ("NH4", "", "N", 4),
        ("W1", "", "W", 0), ("W1", "W I", "W", 0), ("W1", "O H2 I", "O", 2),
        ("OH", "O H I", "O", 1), ("OH", "O I", "O", 0), ("Ow", "O H I", "O", 1),
        ("CA1", "Ca I", "Ca", 0), ("CA1", "C I", "C", 0), ("CL2", "Cl I", "Cl", 0),
        ("HO1", "H I", "H", 0), ("HO1", "Ho I", "Ho", 0), ("Ho1", "Ho I", "Ho", 0),
        ("FE", "Fe I", "Fe", 0), ("fe1", "Fe I", "Fe", 0), ("Va", "V I", None, 0),
        ("CA1", "", None, 0), ("HO1", "", None, 0), ("M1", "", None, 0), ("T1", "", None, 0),
        ("Al/Si", "", None, 0), ("X", "", None, 0), ("CH3", "", None, 0), ("?", "", None, 0),
        ("M1", "Fe I", None, 0), ("W1", "Mg I", None, 0), ("Na1", "K I", None, 0),
    ],
)  # fmt: skip
def test_labels_without_types(label: str, stated: str, symbol: str | None, hydrogens: int) -> None:
    sites = f"{label} 0 0 0\nI1 0.5 0.5 0.5"
    text = written_cif([6.0], sites, "P m -3 m", stated, columns=LABELS)
    if symbol is None:
        refused(text)
        return
    crystal = crystal_from_cif(text)
    assert (crystal.symbol(0), crystal.hydrogens) == (symbol, hydrogens)


@pytest.mark.parametrize("kind", ["Va", "va", "Vac", "VAC", "Va1", "vacancy", "□"])
def test_vacancies_are_empty(kind: str) -> None:
    sites = f"Mg1 Mg 0 0 0 1\nO1 O .5 .5 .5 0.9\nX1 '{kind}' .5 .5 .5 0.1"
    text = written_cif([4.2], sites, "F m -3 m", "Mg O0.9", columns=OCCUPIED)
    crystal = crystal_from_cif(text)
    assert formula(crystal) == "Mg10O9"
    assert "vacancy" in phrases(crystal)


BRUCITE = [3.142, 3.142, 4.766, 90, 90, 120]


@pytest.mark.parametrize(
    ("sites", "columns", "stated"),
    [
        ("Mg 0 0 0\nOH 0.3333 0.6667 0.2203", LABELS, "Mg O2 H2"),
        ("Mg 0 0 0\nOH 0.3333 0.6667 0.2203", LABELS, ""),
        ("Mg 0 0 0\nO1 0.3333 0.6667 0.2203", LABELS, "Mg O2 H2"),
        ("Mg1 Mg2+ 0 0 0\nO1 OH- 0.3333 0.6667 0.2203", TYPED, ""),
        ("Mg1 Mg 0 0 0 0\nO1 O 0.3333 0.6667 0.2203 1",
         TYPED + " attached_hydrogens", ""),
        ("Mg1 Mg 0 0 0 .\nO1 O 0.3333 0.6667 0.2203 1",
         TYPED + " attached_hydrogens", "H2 Mg O2"),
        ("Mg1 Mg 0 0 0\nO1 O 0.3333 0.6667 0.2203\nH1 H ? ? ?",
         TYPED, "H2 Mg O2"),
    ],
)  # fmt: skip
def test_hydrogens_without_a_place_count(sites: str, columns: str, stated: str) -> None:
    text = written_cif(BRUCITE, sites, "P -3 m 1", stated, 1 if stated else None, columns)
    crystal = crystal_from_cif(text)
    assert formula(crystal) == "Mg(HO)2"
    assert crystal.volume_per_atom == pytest.approx(8.149, abs=1e-3)
    assert crystal.density == pytest.approx(2.377, abs=1e-3)
    assert "hydrogens without a place" in phrases(crystal)
    assert len(crystal.numbers) == 3


@pytest.mark.parametrize(
    ("stated", "units", "sites", "reason"),
    [
        ("Mg O3 H2", 1, "", "stated formula and atoms disagree"),
        ("Mg O2 H2", 2, "", "stated formula and atoms disagree"),
        ("Mg O2 H2 Cl", 1, "", "stated formula and atoms disagree"),
        ("Mg O2", 1, "H1 H 0.3333 0.6667 0.43", "stated formula and atoms disagree"),
        ("Mg O2 D2", 1, "", "deuterium stated but not located"),
        ("", None, "H1 H ? ? ?", "site without coordinates"),
        ("Mg O3 H2", 1, "O2 O ? ? ?", "site without coordinates"),
    ],
)
def test_what_the_formula_does_not_explain_is_refused(
    stated: str, units: int | None, sites: str, reason: str
) -> None:
    rows = f"Mg1 Mg 0 0 0\nO1 O 0.3333 0.6667 0.2203\n{sites}"
    assert refused(written_cif(BRUCITE, rows, "P -3 m 1", stated, units)).reason == reason


def test_attached_hydrogens_that_contradict_the_formula_are_refused() -> None:
    columns = "label type_symbol fract_x fract_y fract_z attached_hydrogens"
    rows = "N1 N3- 0 0 0 5\nCl1 Cl 0.5 0.5 0.5 0"
    error = refused(written_cif([3.86], rows, "P m -3 m", "Cl H4 N", 1, columns))
    assert error.reason == "stated formula and atoms disagree"


def test_located_hydrogens_are_not_counted_twice() -> None:
    rows = "Mg 0 0 0\nOH 0.3333 0.6667 0.2203\nH 0.3333 0.6667 0.43"
    for stated in ("", "Mg O2 H2"):
        crystal = crystal_from_cif(written_cif(BRUCITE, rows, "P -3 m 1", stated, None, LABELS))
        assert formula(crystal) == "Mg(HO)2"
        assert crystal.hydrogens == 0


@pytest.mark.parametrize(
    "head",
    [
        "_cell_modulation_dimension 1", "_cell_modulation_dimension '2'",
        "_space_group_ssg_name 'Pnma(0b0)'", "_cell_subsystems_number 2",
        "loop_\n_cell_wave_vector_seq_id\n_cell_wave_vector_x\n1 0.586",
        "loop_\n_atom_site_occ_special_func_crenel_c\n_atom_site_occ_special_func_crenel_w\n.2 .7",
        "loop_\n_atom_site_Fourier_wave_vector_seq_id\n_atom_site_Fourier_wave_vector_x\n1 0.5",
        "_space_group_symop_ssg_operation_algebraic 'x1,x2,x3,x4'",
    ],
)  # fmt: skip
def test_modulated_structures_are_refused(head: str) -> None:
    sites = "Na1 Na 0 0 0\nCl1 Cl .5 .5 .5"
    for symmetry in ("F m -3 m", "x,y,z"):
        error = refused(written_cif([5.64], sites, symmetry, head=head))
        assert error.reason == "modulated structure"
    plain = "_cell_modulation_dimension 0\n_publ_section_comment 'no wave_vector, no _ssg_'"
    assert formula(crystal_from_cif(written_cif([5.64], sites, "F m -3 m", head=plain))) == "NaCl"


def test_magnetic_cifs_lose_their_time_reversal_only() -> None:
    head = (
        "loop_\n_space_group_symop_magn_operation.xyz\nx,y,z,+1\n-x,-y,-z,+1\n"
        "loop_\n_space_group_symop_magn_centering.xyz\nx,y,z,+1\nx+1/2,y+1/2,z+1/2,-1\n"
    )
    sites = "Cr1 Cr 0.1 0.2 0.3"
    crystal = crystal_from_cif(written_cif([5.0, 6, 7, 90, 90, 90], sites, head=head))
    assert len(crystal.numbers) == 4


def test_dotted_names_other_letters_and_harmless_mistakes() -> None:
    text = written_cif([5.64], "Na1 Na 0 0 0\nCl1 Cl .5 .5 .5", "F m -3 m", "Na Cl", 4)
    dotted = text.replace("_atom_site_", "_atom_site.").replace("_cell_", "_cell.")
    dotted = dotted.replace("_chemical_formula_sum", "_chemical_formula.sum")
    assert formula(crystal_from_cif(dotted)) == "NaCl"
    with pytest.raises(EntryError):
        crystal_from_cif(dotted.replace("Na Cl", "Na Cl2"))
    crystal = crystal_from_cif(text.replace("data_x", "data_x\n_author Müller\n_journal\n_a 1"))
    assert formula(crystal) == "NaCl"
    assert phrases(crystal) == ["CIF with mistakes"]
    assert refused(text.replace("_cell_length_a 5.64", "_cell_length_a 5\n_cell_length_a 6")).reason


def test_a_publication_block_beside_the_structure_is_no_second_structure() -> None:
    text = written_cif([5.64], "Na1 Na 0 0 0\nCl1 Cl .5 .5 .5", "F m -3 m")
    assert formula(crystal_from_cif("data_global\n_journal_year 1999\n" + text)) == "NaCl"


def test_moieties_state_the_composition_too() -> None:
    sites = "Na1 Na 0 0 0\nCl1 Cl .5 .5 .5"
    head = "_chemical_formula_moiety 'Na 1+, Cl 1-'"
    assert formula(crystal_from_cif(written_cif([5.64], sites, "F m -3 m", head=head))) == "NaCl"
    head = "_chemical_formula_moiety 'Na 1+, 2(Cl 1-)'"
    error = refused(written_cif([5.64], sites, "F m -3 m", head=head))
    assert error.reason == "stated formula and atoms disagree"


@pytest.mark.parametrize("value", ["1e999", "nan", "0", "-4", "x", "?", "."])
def test_cells_that_are_none_are_refused(value: str) -> None:
    for at in range(6):
        cell: list = [5.64, 5.64, 5.64, 90, 90, 90]
        cell[at] = value
        refused(written_cif(cell, "Na1 Na 0 0 0", "P 1"))
