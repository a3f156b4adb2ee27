"""Space group, Bravais class and reduced cell."""

from __future__ import annotations

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from datamodules.prepare.crystals.crystal import Crystal
from datamodules.prepare.crystals.symmetry import symmetry
from datamodules.store.structure import BRAVAIS_CLASSES, Symmetry
from tests.prepare.examples import ROCK_SALT, crystal_of, random_structure


def found(structure: Structure) -> Symmetry:
    result = symmetry(crystal_of(structure))
    assert result is not None
    return result


@pytest.mark.parametrize(
    ("number", "lattice", "bravais"),
    [
        (2, Lattice.from_parameters(4, 5, 6, 80, 85, 95), "aP"),
        (14, Lattice.monoclinic(4, 5, 6, 100), "mP"),
        (12, Lattice.monoclinic(7, 5, 6, 100), "mC"),
        (62, Lattice.orthorhombic(4, 5, 6), "oP"),
        (38, Lattice.orthorhombic(4, 5, 6), "oS"),
        (63, Lattice.orthorhombic(4, 5, 6), "oS"),
        (71, Lattice.orthorhombic(4, 5, 6), "oI"),
        (69, Lattice.orthorhombic(6, 7, 8), "oF"),
        (123, Lattice.tetragonal(4, 6), "tP"),
        (139, Lattice.tetragonal(4, 7), "tI"),
        (166, Lattice.hexagonal(4, 12), "hR"),
        (194, Lattice.hexagonal(4, 6), "hP"),
        (221, Lattice.cubic(5), "cP"),
        (229, Lattice.cubic(5), "cI"),
        (225, Lattice.cubic(6), "cF"),
    ],
)
def test_every_bravais_class_is_told_by_its_symbol(
    number: int, lattice: Lattice, bravais: str
) -> None:
    structure = Structure.from_spacegroup(
        number,
        lattice.scale(27 * lattice.volume),
        ["Fe", "O"],
        [[0.12, 0.23, 0.34], [0.4, 0.07, 0.19]],
    )
    result = found(structure)
    assert result.space_group == number
    assert BRAVAIS_CLASSES[result.bravais_class - 1] == bravais
    centring = {"P": 1, "C": 2, "S": 2, "I": 2, "F": 4, "R": 3}[bravais[1]]
    assert result.n_sites == len(structure) / centring


def test_the_reduced_cell_gives_the_spacings_of_the_lattice() -> None:
    """The metric of rock salt's primitive cell: 60° between edges of a/√2."""
    result = found(ROCK_SALT)
    assert (result.space_group, result.n_sites) == (225, 2)
    a = 5.64
    assert result.reciprocal_metric[:3] == pytest.approx([3 / a**2] * 3)
    assert np.abs(result.reciprocal_metric[3:]) == pytest.approx([1 / a**2] * 3)
    structure = random_structure(2, 6)
    lattice = structure.lattice
    g11, g22, g33, g23, g13, g12 = found(structure).reciprocal_metric
    metric = np.array([[g11, g12, g13], [g12, g22, g23], [g13, g23, g33]])
    niggli = lattice.get_niggli_reduced_lattice()
    assert np.sort(np.linalg.inv(metric).diagonal() ** 0.5) == pytest.approx(niggli.abc, rel=1e-6)
    assert np.linalg.det(metric) ** -0.5 == pytest.approx(lattice.volume, rel=1e-6)


def test_another_cell_of_the_same_crystal_has_the_same_labels() -> None:
    structure = random_structure(7, 4)
    other = structure.make_supercell([[1, 1, 0], [0, 1, 0], [1, 0, 2]], in_place=False)
    assert len(other) == 8
    a, b = found(structure), found(other)
    assert (a.space_group, a.bravais_class, a.n_sites) == (b.space_group, b.bravais_class, 4)
    assert a.reciprocal_metric == pytest.approx(b.reciprocal_metric, rel=1e-6)
    small, large = found(ROCK_SALT.get_primitive_structure()), found(ROCK_SALT)
    assert small.columns() == pytest.approx(large.columns(), rel=1e-6)


def test_a_disordered_crystal_has_the_symmetry_of_its_average() -> None:
    mixed = Structure(Lattice.cubic(3), [{"Fe": 0.5, "Ni": 0.5}, "O"], [[0, 0, 0], [0.5] * 3])
    assert found(mixed).space_group == 221
    ordered = Structure(Lattice.cubic(3), ["Fe", "Fe"], [[0, 0, 0], [0.5] * 3])
    vacant = Structure(Lattice.cubic(3), [{"Fe": 0.8}, "Fe"], [[0, 0, 0], [0.5] * 3])
    assert found(ordered).space_group == 229
    assert (found(vacant).space_group, found(vacant).n_sites) == (221, 2)


@pytest.mark.parametrize(
    ("lattice", "coordinates"),
    [
        (np.eye(3) * 4, [[0, 0, 0], [0, 0, 0]]),
        (np.diag([0.1, 30, 900]), [[0, 0, 0], [0, 0, 0.5]]),  # moyo would never end
        ([[30, 0, 0], [30, 0.2, 0], [0, 0, 900]], [[0, 0, 0], [0, 0, 0.5]]),
    ],
)
def test_where_no_symmetry_is_found_there_is_none(lattice: object, coordinates: object) -> None:
    iron = np.array([26, 26])
    crystal = Crystal(np.array(lattice), np.array(coordinates), iron, np.ones(2), 55.8 * np.ones(2))
    assert symmetry(crystal) is None


def test_unusual_supercells_print_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    found(ROCK_SALT.get_primitive_structure() * (3, 1, 1))
    assert capfd.readouterr() == ("", "")
