"""Atoms that are too near to each other, in all kinds of cells."""

from __future__ import annotations

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from datamodules.prepare.crystals.crystal import Crystal, EntryError
from datamodules.prepare.crystals.distances import check_distances
from datamodules.prepare.sources.prototypes import _library
from tests.prepare.examples import ROCK_SALT, crystal_of, random_structure


def cell(lattice: np.ndarray, *sites: tuple[str, list[float], float]) -> Crystal:
    return Crystal.from_symbols(
        np.asarray(lattice, float),
        np.array([site[1] for site in sites]),
        [site[0] for site in sites],
        np.array([site[2] for site in sites]),
    )


CUBE = 4.0 * np.eye(3)


def test_real_crystals_and_disorder_pass() -> None:
    for structure in [ROCK_SALT, random_structure(2), *_library()[::11]]:
        check_distances(crystal_of(structure))
    check_distances(cell(CUBE, ("Fe", [0, 0, 0], 0.667), ("Ni", [0, 0, 0], 0.334)))
    check_distances(cell(CUBE, ("O", [0, 0, 0.05], 0.5), ("O", [0, 0, 0.95], 0.5)))
    check_distances(cell(CUBE, ("H", [0, 0, 0], 1), ("H", [0.185, 0, 0], 1)))


@pytest.mark.parametrize(
    ("sites", "reason"),
    [
        ([("Na", [0, 0, 0], 1), ("Na", [1, 0, 0], 1)], "the same atom twice"),
        ([("Na", [0, 0, 0], 1), ("Na", [0.001, 0.999, 2], 1)], "the same atom twice"),
        ([("Na", [0, 0, 0], 1), ("Cl", [0, 0, 0.999], 1)], "atoms nearer than 0.5 Å"),
        ([("Na", [0, 0, 0.02], 1), ("Na", [0, 0, 0.93], 1)], "atoms nearer than 0.5 Å"),
        ([("Na", [0, 0, 0], 0.5), ("K", [0, 0, 1], 0.51)], "occupancies of one site above 1"),
        ([("Na", [0, 0, 0], 0.4)] * 3, "occupancies of one site above 1"),
        ([("O", [0, 0, 0.05], 0.6), ("O", [0, 0, 0.95], 0.5)], "atoms nearer than 0.5 Å"),
    ],
)
def test_what_cannot_be_is_rejected(
    sites: list[tuple[str, list[float], float]], reason: str
) -> None:
    with pytest.raises(EntryError) as error:
        check_distances(cell(CUBE, *sites))
    assert error.value.reason == reason


def test_distances_are_right_in_skewed_cells() -> None:
    """Against pymatgen, in cells whose planes are nearer than the bound."""
    random = np.random.default_rng(1)
    found = []
    for _ in range(60):
        skew = np.array([[1, 0, 0], [random.integers(-9, 9), 1, 0],
                         [*random.integers(-9, 9, 2), 1]])  # fmt: skip
        lattice = skew @ (np.eye(3) * random.uniform(2, 5, 3))
        direction = random.normal(size=3)
        distance = random.choice([0.45, 0.55])
        vector = direction / np.linalg.norm(direction) * distance
        apart = vector @ np.linalg.inv(lattice)
        start = random.random(3)
        crystal = cell(lattice, ("Fe", start.tolist(), 1), ("Fe", (start + apart).tolist(), 1))
        theirs = Structure(Lattice(lattice), ["Fe", "Fe"], crystal.coordinates).distance_matrix
        try:
            check_distances(crystal)
            found.append(False)
        except EntryError:
            found.append(True)
        assert found[-1] == (theirs[0, 1] < 0.5)
    assert 10 < sum(found) < 50


def test_an_edge_shorter_than_the_bound_is_rejected() -> None:
    with pytest.raises(EntryError, match="its image"):
        check_distances(cell(np.diag([0.4, 10, 10]), ("Li", [0, 0, 0], 1)))


def test_thirteen_times_the_density_of_lead_is_no_crystal() -> None:
    with pytest.raises(EntryError, match="absurd density"):
        cell(np.eye(3) * 1.254, ("Bi", [0, 0, 0], 1))
