"""Reading CIF: the fast way gives what pymatgen gives, or leaves it to pymatgen."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.io.cif import CifWriter

from datamodules.prepare.crystals.cif import crystal_from_cif, fast_crystal
from datamodules.prepare.crystals.crystal import Crystal, EntryError
from datamodules.prepare.sources.prototypes import _library
from tests.prepare.examples import ROCK_SALT, cif_text, pymatgen_crystal, random_structure


def assert_equal(ours: Crystal, theirs: Crystal) -> None:
    """Equal up to the order of sites, which pymatgen changes."""

    def rows(crystal: Crystal) -> np.ndarray:
        table = np.column_stack(
            [crystal.numbers, crystal.occupancies, np.round(crystal.coordinates, 9) % 1.0]
        )
        return table[np.lexsort(table.T[::-1])]

    np.testing.assert_allclose(rows(ours), rows(theirs), atol=1e-8)
    # Lattices may be turned against each other: compare lengths and angles.
    metric = [crystal.lattice @ crystal.lattice.T for crystal in (ours, theirs)]
    np.testing.assert_allclose(metric[0], metric[1], rtol=1e-9, atol=1e-8)
    assert ours.volume == pytest.approx(theirs.volume, rel=1e-9)
    assert ours.density == pytest.approx(theirs.density, rel=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_fast_way_equals_pymatgen_on_triclinic_cells(seed: int) -> None:
    text = cif_text(random_structure(seed, 3 + seed))
    fast = fast_crystal(text)
    assert fast is not None
    assert_equal(fast, pymatgen_crystal(text))


@pytest.mark.parametrize("number", range(0, 288, 32))
def test_fast_way_equals_pymatgen_on_prototypes(number: int) -> None:
    text = cif_text(_library()[number])
    fast = fast_crystal(text)
    assert fast is not None
    assert_equal(fast, pymatgen_crystal(text))


def test_thirds_and_uncertainties_are_read_as_pymatgen_reads_them() -> None:
    text = cif_text(
        Structure(
            Lattice.hexagonal(3.2, 5.1),
            ["Mg", "Mg", "O"],
            [[1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.75], [0.33335, 0.66667, 0.6]],
        )
    )
    text = text.replace("0.33333333", "0.3333(2)").replace("0.66666667", "0.6667(12)")
    fast = fast_crystal(text)
    assert fast is not None
    assert_equal(fast, pymatgen_crystal(text))
    assert (fast.coordinates == 1 / 3).sum() == 3
    assert (fast.coordinates == 2 / 3).sum() == 3


def disordered() -> Structure:
    return Structure(
        Lattice.cubic(4), [{"Fe": 0.5, "Ni": 0.5}, {"O": 0.8}], [[0, 0, 0], [0.5, 0.5, 0.5]]
    )


def test_disorder_symmetry_and_shared_sites_are_left_to_pymatgen() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        symmetric = str(CifWriter(ROCK_SALT, symprec=0.01))
    charged = ROCK_SALT.copy().add_oxidation_state_by_element({"Na": 1, "Cl": -1})
    twice = cif_text(ROCK_SALT) + "  Na  Na9  1  0.00000001  0.00000000  0.99999999  1\n"
    for text in (symmetric, cif_text(disordered()), cif_text(charged), twice):
        assert fast_crystal(text) is None
    assert len(crystal_from_cif(symmetric).numbers) == 8
    assert_equal(crystal_from_cif(symmetric), crystal_from_cif(cif_text(ROCK_SALT)))
    assert_equal(crystal_from_cif(cif_text(charged)), crystal_from_cif(cif_text(ROCK_SALT)))
    assert crystal_from_cif(cif_text(disordered())).n_atoms == pytest.approx(1.8)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "unreadable CIF"),
        ("this is no CIF", "unreadable CIF"),
        (cif_text(ROCK_SALT)[:400], "unreadable CIF"),
        (cif_text(ROCK_SALT).replace("_cell_length_a   5.64", "_cell_length_a   x"), None),
        (cif_text(ROCK_SALT).replace("_cell_length_a   5.64", "_cell_length_a   0.00"), None),
        (cif_text(ROCK_SALT).replace("0.50000000  1", "nan  1", 1), None),
    ],
)
def test_broken_cif_is_rejected_with_a_reason(text: str, reason: str | None) -> None:
    with pytest.raises(EntryError) as error:
        crystal_from_cif(text)
    assert reason is None or error.value.reason == reason


def test_two_structures_in_one_cif_are_rejected() -> None:
    text = cif_text(ROCK_SALT) + cif_text(random_structure(0))
    with pytest.raises(EntryError, match="several structures"):
        crystal_from_cif(text)


def test_deuterium_keeps_its_mass_either_way() -> None:
    heavy = Structure(Lattice.cubic(4), ["O", "D", "D"], [[0, 0, 0], [0.2, 0.1, 0], [0.8, 0.1, 0]])
    text = cif_text(heavy).replace("  H  ", "  D  ")
    fast = fast_crystal(text)
    assert fast is not None
    assert fast.density == pytest.approx(float(heavy.density), rel=1e-6)
    assert pymatgen_crystal(text).density == pytest.approx(float(heavy.density), rel=1e-6)
    assert sorted(fast.numbers.tolist()) == [1, 1, 8]


def test_a_dummy_atom_is_an_unknown_element() -> None:
    text = cif_text(ROCK_SALT).replace("  Na  Na", "  Xx  Na")
    with pytest.raises(EntryError, match="unknown element"):
        crystal_from_cif(text)
