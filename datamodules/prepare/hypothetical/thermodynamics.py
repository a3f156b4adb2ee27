"""Energies and volumes of the elements as parents show them; distances from the convex hull."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull

from datamodules.prepare.hypothetical.parents import Parent

FEWEST_PARENTS = 8
"""With an element, from which its energy or volume is fitted."""
ENERGY_OUTLIER = 0.05
"""eV/atom; parents whose residual is larger weigh less in the fit."""
VOLUME_OUTLIER = 1.0
"""Å³/atom, likewise."""
ROUNDS = 30
"""Of the reweighted fit; the weights no longer change after ten."""
DECIMALS = 6
"""Of what is fitted: the same for any number of threads of the linear algebra."""
STABLE = 1e-7
"""eV/atom below the elements from which a compound is a corner of the hull."""

MOST_SYSTEMS = 100_000
"""Whose facets are kept, about 1 kB each; rows of one system mostly follow each other."""


def fitted_references(parents: Iterable[Parent]) -> tuple[dict[int, float], float]:
    """References with which the potential's energies give the parents' formation energies best.

    Args:
        parents: Those without an energy or a label are left out.

    Returns:
        eV/atom by atomic number, and the median of the residuals' magnitudes, eV/atom.
    """
    usable = [p for p in parents if p.energy is not None and p.label is not None]
    differences = [float(p.energy or 0) - float(p.label or 0) for p in usable]
    return _fitted([parent.amounts for parent in usable], differences, ENERGY_OUTLIER)


def fitted_volumes(parents: Iterable[Parent]) -> dict[int, float]:
    """Volumes of the elements' atoms (Å³ by atomic number) that add up to the parents' best."""
    known = list(parents)
    volumes = [parent.crystal.volume_per_atom for parent in known]
    fitted, _ = _fitted([parent.amounts for parent in known], volumes, VOLUME_OUTLIER)
    return {number: volume for number, volume in fitted.items() if volume > 1}


def _fitted(
    amounts: Sequence[Mapping[int, int]], values: Sequence[float], outlier: float
) -> tuple[dict[int, float], float]:
    """A robust linear fit (Huber's weights) of a property an atom over the atomic fractions.

    Source: P. J. Huber, Ann. Math. Statist. 35, 73 (1964).

    Args:
        amounts: Amounts of each compound by atomic number.
        values: A property of each, an atom.
        outlier: Residual above which a compound weighs less.

    Returns:
        The property by atomic number, of elements in `FEWEST_PARENTS` compounds and more that hold
        no others, and the median of the residuals' magnitudes.
    """
    rows = list(range(len(amounts)))
    while True:
        counts = Counter(number for row in rows for number in amounts[row])
        common = {number for number, count in counts.items() if count >= FEWEST_PARENTS}
        kept = [row for row in rows if set(amounts[row]) <= common]
        if len(kept) == len(rows):
            break
        rows = kept
    if not rows:
        return {}, np.nan
    numbers = sorted(common)
    matrix = np.array([[amounts[row].get(n, 0) for n in numbers] for row in rows], np.float64)
    matrix /= matrix.sum(axis=1, keepdims=True)
    wanted = np.array([values[row] for row in rows])
    weights = np.ones(len(rows))
    for _ in range(ROUNDS):
        root = np.sqrt(weights)
        fit = np.linalg.lstsq(matrix * root[:, None], wanted * root, rcond=None)[0]
        residuals = np.abs(wanted - matrix @ fit)
        weights = np.minimum(1.0, outlier / np.maximum(residuals, 1e-12))
    found = {n: round(float(value), DECIMALS) for n, value in zip(numbers, fit, strict=True)}
    return found, float(np.median(residuals))


class Hull:
    """The lower convex hulls of all chemical systems of some compounds and their elements.

    The elements lie at 0, so that no compound above 0 can be a corner, and of a composition only
    the lowest. The hull's energy at a composition is the largest of the planes through its facets,
    each of which lies under all compounds.
    """

    def __init__(self) -> None:
        # By system and rounded composition: the fractions and the lowest energy.
        self._lowest: dict[tuple[int, ...], dict[tuple[float, ...], tuple[Any, float]]]
        self._lowest = defaultdict(dict)
        self._planes: dict[tuple[int, ...], NDArray[np.float64]] = {}

    def add(self, numbers: Sequence[int], fractions: Sequence[float], energy: float) -> None:
        """Adds a compound.

        Args:
            numbers: Atomic numbers, ascending.
            fractions: Atomic fractions of these.
            energy: Formation energy, eV/atom.
        """
        if len(numbers) < 2 or not energy < -STABLE:
            return
        compounds = self._lowest[tuple(numbers)]
        # float32 has seven digits.
        composition = tuple(round(float(x), 6) for x in fractions)
        if energy < compounds.get(composition, (None, 0.0))[1]:
            compounds[composition] = (tuple(fractions), energy)

    def energy(self, numbers: Sequence[int], fractions: Sequence[float]) -> float:
        """The hull's energy at a composition, eV/atom; not above 0.

        Args:
            numbers: Atomic numbers, ascending.
            fractions: Atomic fractions of these.
        """
        system = tuple(numbers)
        if system not in self._planes:
            if len(self._planes) >= MOST_SYSTEMS:
                self._planes.clear()
            self._planes[system] = self._facets(system)
        planes = self._planes[system]
        if not len(planes):
            return 0.0
        return min(0.0, float((planes[:, :-1] @ np.asarray(fractions)[1:] + planes[:, -1]).max()))

    def _facets(self, system: tuple[int, ...]) -> NDArray[np.float64]:
        """Planes (slopes along all fractions but the first, offset) under a system's compounds."""
        points: list[list[float]] = []
        for size in range(2, len(system) + 1):
            for some in combinations(system, size):
                for fractions, energy in self._lowest.get(some, {}).values():
                    amounts = dict(zip(some, fractions, strict=True))
                    points.append([*(amounts.get(number, 0.0) for number in system[1:]), energy])
        if not points:
            return np.empty((0, len(system)))
        corners = np.eye(len(system))[:, 1:]
        elements = np.column_stack([corners, np.zeros(len(system))])
        equations = ConvexHull(np.vstack([elements, points])).equations
        # Normals point outwards: those of lower facets down.
        lower = equations[equations[:, -2] < -1e-9]
        return -lower[:, [*range(len(system) - 1), -1]] / lower[:, [-2]]


def hull_of_parents(parents: Iterable[Parent], references: Mapping[int, float]) -> Hull:
    """The hull of those parents whose elements all have a reference, by the potential."""
    hull = Hull()
    for parent in parents:
        if parent.energy is None or not set(parent.amounts) <= set(references):
            continue
        numbers = list(parent.amounts)
        amounts = np.array(list(parent.amounts.values()), dtype=np.float64)
        fractions = amounts / amounts.sum()
        energy = parent.energy - float(fractions @ [references[number] for number in numbers])
        hull.add(numbers, fractions.tolist(), energy)
    return hull
