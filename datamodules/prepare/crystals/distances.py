"""Atoms that are nearer to each other than atoms can be."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from datamodules.prepare.crystals.crystal import OCCUPANCY_TOLERANCE, Crystal, EntryError

MIN_DISTANCE = 0.5
"""Å; the shortest bond is that of H₂, 0.74 Å, and X-rays place hydrogen at 0.6 Å and more."""

_SAME_PLACE = 0.05
"""Å; species of one site, given with three digits."""


def check_distances(crystal: Crystal) -> None:
    """Refuses crystals in which two atoms are at one place, or nearly.

    Species that share a place, or neighbouring places, and are not there at the same time
    (occupancies that add up to 1 at most) are disorder.

    Raises:
        EntryError: naming the atoms, their places and distance.
    """
    lattice, coordinates = crystal.lattice, crystal.coordinates
    found = _find(lattice, coordinates, crystal.occupancies, MIN_DISTANCE, _SAME_PLACE, False)
    if found[0] < 0:
        lattice, coordinates = _reduced(lattice, coordinates)
        found = _find(lattice, coordinates, crystal.occupancies, MIN_DISTANCE, _SAME_PLACE, True)
    kind, i, j, value = found
    if not kind:
        return
    first, second = (
        f"{crystal.symbol(k)} at {', '.join(f'{x:.4f}' for x in crystal.coordinates[k])}"
        for k in (i, j)
    )
    if kind == 1:
        raise EntryError("occupancies of one site above 1", f"{first}: they add up to {value:.4g}")
    if i == j:
        raise EntryError("atoms nearer than 0.5 Å", f"{first} and its image, {value:.3f} Å apart")
    if value <= _SAME_PLACE and crystal.numbers[i] == crystal.numbers[j]:
        raise EntryError("the same atom twice", f"{first} and {second}, {value:.3f} Å apart")
    raise EntryError("atoms nearer than 0.5 Å", f"{first} and {second}, {value:.3f} Å apart")


def _reduced(
    lattice: NDArray[np.float64], coordinates: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The same crystal in a cell of short edges: few images are then near."""
    from pymatgen.core import Lattice

    reduced = Lattice(lattice).get_lll_reduced_lattice().matrix
    moved = coordinates @ lattice @ np.linalg.inv(reduced)
    return np.ascontiguousarray(reduced), np.ascontiguousarray(moved - np.floor(moved))


@njit(cache=True)
def _find(
    lattice: NDArray[np.float64],
    coordinates: NDArray[np.float64],
    occupancies: NDArray[np.float64],
    least: float,
    same: float,
    reduced: bool,
) -> tuple[int, int, int, float]:
    """The first trouble: 1 (occupancies of one place) or 2 (distance), two rows, and its size.

    -1 if planes of the lattice are so near that many images would have to be looked at.
    """
    n = len(coordinates)
    reach = np.empty(3)
    for axis in range(3):  # over the distance of planes: volume / area
        other, third = (axis + 1) % 3, (axis + 2) % 3
        area = np.cross(lattice[other], lattice[third])
        volume = abs(np.dot(lattice[axis], area))
        reach[axis] = least * np.sqrt(np.dot(area, area)) / volume
    if reach.max() > 0.5 and not reduced:
        return -1, 0, 0, 0.0
    images = np.ceil(reach - 0.5).astype(np.int64)
    limit = 1.0 + OCCUPANCY_TOLERANCE
    for i in range(n):
        total = occupancies[i]
        partner = i
        for j in range(n):
            d0 = coordinates[i, 0] - coordinates[j, 0]
            d0 -= np.round(d0)
            if abs(d0) > reach[0] and images[0] <= 0:
                continue
            d1 = coordinates[i, 1] - coordinates[j, 1]
            d1 -= np.round(d1)
            if abs(d1) > reach[1] and images[1] <= 0:
                continue
            d2 = coordinates[i, 2] - coordinates[j, 2]
            d2 -= np.round(d2)
            for n0 in range(-max(images[0], 0), max(images[0], 0) + 1):
                for n1 in range(-max(images[1], 0), max(images[1], 0) + 1):
                    for n2 in range(-max(images[2], 0), max(images[2], 0) + 1):
                        if i == j and n0 == 0 and n1 == 0 and n2 == 0:
                            continue
                        square = 0.0
                        for axis in range(3):
                            x = (
                                (d0 + n0) * lattice[0, axis]
                                + (d1 + n1) * lattice[1, axis]
                                + (d2 + n2) * lattice[2, axis]
                            )
                            square += x * x
                        if square >= least * least:
                            continue
                        distance = np.sqrt(square)
                        both = occupancies[i] + occupancies[j]
                        if both > limit and (distance > same or both >= 1.999):
                            return 2, i, j, distance
                        if distance <= same and i != j:
                            total += occupancies[j]
                            partner = j
        if total > limit:
            return 1, i, partner, total
    return 0, 0, 0, 0.0
