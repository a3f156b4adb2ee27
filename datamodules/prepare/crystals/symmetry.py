"""Space group, Bravais class and reduced cell of a crystal, by moyo."""

from __future__ import annotations

import logging

import moyopy
import numpy as np
from numpy.typing import NDArray

from datamodules.prepare.crystals.crystal import Crystal
from datamodules.store.structure import BRAVAIS_CLASSES, Symmetry

SYMPREC = 0.01
"""Å within which positions are equivalent; moyo lowers it where it leads to a contradiction."""

MIN_TRANSLATION = 1.0
"""Å; moyo may never end on a lattice with shorter translations, and no crystal has one."""

_CLASS_OF_GROUP = {
    number: 1 + BRAVAIS_CLASSES.index(str(moyopy.SpaceGroupType(number).bravais_class))
    for number in range(1, 231)
}

# Tells of operations of the primitive cell that are none of a supercell's; we ask for neither.
logging.getLogger("moyo").setLevel(logging.ERROR)


def symmetry(crystal: Crystal, symprec: float = SYMPREC) -> Symmetry | None:
    """The symmetry of a crystal; None if there is none to be found (atoms that coincide, mostly).

    Sites are alike if the same species share them with the same occupancies, to 0.001: a disordered
    crystal has the symmetry of its average structure.

    Args:
        crystal: The crystal.
        symprec: Distance in Å within which positions are equivalent.
    """
    found = dataset(crystal, symprec)
    if found is None:
        return None
    primitive = found.prim_std_cell
    try:
        reduced, _ = moyopy.niggli_reduce(primitive.basis)
    except ValueError:
        return None
    return Symmetry(
        found.number,
        _CLASS_OF_GROUP[found.number],
        primitive.num_atoms,
        reciprocal_metric(np.array(reduced)),
    )


def dataset(crystal: Crystal, symprec: float = SYMPREC) -> moyopy.MoyoDataset | None:
    """Everything that moyo finds out about a crystal; None if it finds no symmetry.

    Args:
        crystal: The crystal; sites are alike as for `symmetry`.
        symprec: Distance in Å within which positions are equivalent.
    """
    positions, kinds = _sites(crystal)
    basis = crystal.lattice.tolist()
    try:
        reduced, _ = moyopy.niggli_reduce(basis)
        if min(np.linalg.norm(reduced, axis=1)) < MIN_TRANSLATION:
            return None
        cell = moyopy.Cell(basis, positions, kinds)
        return moyopy.MoyoDataset(cell, symprec=symprec, rotate_basis=False)
    except ValueError:
        return None
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # an error in moyo itself, no `Exception`
            raise
        return None


def reciprocal_metric(
    basis: NDArray[np.float64],
) -> tuple[float, float, float, float, float, float]:
    """Metric tensor of the reciprocal lattice, Å⁻², as in `RECIPROCAL_METRIC`.

    Args:
        basis: Cell vectors as rows, shape (3, 3), Å.
    """
    reciprocal = np.linalg.inv(basis).T
    g = (reciprocal @ reciprocal.T).tolist()
    return g[0][0], g[1][1], g[2][2], g[1][2], g[0][2], g[0][1]


def _sites(crystal: Crystal) -> tuple[list[list[float]], list[int]]:
    """Coordinates of the sites, and a number for each that is equal where they are alike."""
    if crystal.occupancies.min() > 0.999:
        return crystal.coordinates.tolist(), crystal.numbers.tolist()
    sites: dict[tuple[float, ...], list[tuple[int, float]]] = {}
    species = zip(
        crystal.coordinates.tolist(),
        crystal.numbers.tolist(),
        crystal.occupancies.round(3).tolist(),
        strict=True,
    )
    for place, number, occupancy in species:
        sites.setdefault(tuple(place), []).append((number, occupancy))
    known: dict[tuple[tuple[int, float], ...], int] = {}
    kinds = [known.setdefault(tuple(sorted(site)), 1 + len(known)) for site in sites.values()]
    return [list(place) for place in sites], kinds
