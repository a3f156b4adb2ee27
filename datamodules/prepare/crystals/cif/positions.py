"""Sites of the asymmetric unit to all atoms of the cell.

A site on a symmetry element is mapped onto itself by some operations. Coordinates are rounded:
0.333 for a third, 0.157 and 0.313 for x and 2x. The images are then a little apart and would
become several atoms, so that a site is first put where its own images agree, if they are as near
as its last digits explain.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from datamodules.prepare.crystals.cif.sites import Site
from datamodules.prepare.crystals.cif.space_groups import Setting
from datamodules.prepare.crystals.crystal import MAX_ATOMS, Crystal, EntryError, Note

_LEAST_TOLERANCE = 0.005
_MOST_TOLERANCE = 0.3
"""Å, of the distance of images of one site that are meant to coincide."""
_SHIFT_NOTED = 1e-3
"""Å."""


def expand(sites: list[Site], setting: Setting, lattice: NDArray[np.float64]) -> Crystal:
    """All atoms of the cell, with the hydrogens that are said to be attached to sites.

    Args:
        sites: The sites of the asymmetric unit.
        setting: The symmetry operations.
        lattice: Cell vectors as rows, shape (3, 3), Å.

    Raises:
        EntryError: if there are too many atoms, or it is no crystal.
    """
    edges = np.linalg.norm(lattice, axis=1)
    coordinates, rows, notes = [], [], []
    total = 0
    for row, site in enumerate(sites):
        # Both a position and its image are off by the rounding.
        tolerance = 2 * float(np.dot(site.rounding, edges))
        tolerance = min(max(tolerance, _LEAST_TOLERANCE), _MOST_TOLERANCE)
        orbit, shift = _orbit(
            setting.rotations, setting.translations, np.array(site.position), lattice, tolerance
        )
        if shift > _SHIFT_NOTED:
            notes.append(
                Note(
                    "rounded special position restored",
                    f"site {site.label} moved by {shift:.4f} Å, {len(orbit)} in the cell",
                )
            )
        total += len(orbit)
        if total > MAX_ATOMS:
            raise EntryError("too many atoms", f"more than {MAX_ATOMS}")
        coordinates.append(orbit)
        rows += [row] * len(orbit)
    if not sites:
        raise EntryError("no atoms")
    return Crystal.from_symbols(
        lattice,
        np.concatenate(coordinates),
        [sites[row].symbol for row in rows],
        np.array([sites[row].occupancy for row in rows]),
        hydrogens=sum(sites[row].attached * sites[row].occupancy for row in rows),
        notes=tuple(notes[:1]),
    )


@njit(cache=True)
def _orbit(
    rotations: NDArray[np.float64],
    translations: NDArray[np.float64],
    position: NDArray[np.float64],
    lattice: NDArray[np.float64],
    tolerance: float,
) -> tuple[NDArray[np.float64], float]:
    """Equivalent positions, shape (n, 3), in [0, 1), and how far the first was moved, Å."""
    n = len(rotations)
    x = position.copy()
    delta = np.empty(3)
    for _ in range(8):
        mean = np.zeros(3)
        near = 0
        for k in range(n):
            for axis in range(3):
                image = translations[k, axis]
                for other in range(3):
                    image += rotations[k, axis, other] * x[other]
                delta[axis] = image - x[axis]
                delta[axis] -= np.round(delta[axis])
            if _length(delta, lattice) <= tolerance:
                mean += delta
                near += 1
        mean /= max(near, 1)
        x += mean
        if _length(mean, lattice) < 1e-9:
            break
    shift = _length(x - position, lattice)
    orbit = np.empty((n, 3))
    found = 0
    for k in range(n):
        for axis in range(3):
            image = translations[k, axis]
            for other in range(3):
                image += rotations[k, axis, other] * x[other]
            # Rounded, so that an image at -1e-17 is not put at 1.
            image = np.round(image - np.floor(image), 12)
            orbit[found, axis] = image - np.floor(image)
        new = True
        for other in range(found):
            delta = orbit[found] - orbit[other]
            delta -= np.round(delta)
            if _length(delta, lattice) < 1e-3:
                new = False
                break
        if new:
            found += 1
    return orbit[:found].copy(), shift


@njit(cache=True)
def _length(delta: NDArray[np.float64], lattice: NDArray[np.float64]) -> float:
    total = 0.0
    for axis in range(3):
        x = delta[0] * lattice[0, axis] + delta[1] * lattice[1, axis] + delta[2] * lattice[2, axis]
        total += x * x
    return float(np.sqrt(total))
