"""New compounds from known crystals: which elements are alike, and how large the new cell is."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np

from datamodules.elements import SYMBOLS
from datamodules.prepare.crystals.crystal import Crystal, EntryError

NEAR = 12
"""Elements this close on Pettifor's chemical scale may replace each other."""
REACH = 6.0
"""Å within which bonds are looked for; the shortest bond of a prototype is at most 4.1 Å."""

_CONTACT = 4.0
"""Å; 0.72 of the sum of the two largest radii is 3.8."""

# Noble gases and, but for thorium and uranium, radioactive elements.
_EXCLUDED = {
    *("D", "He", "Ne", "Ar", "Kr", "Xe", "Rn"),
    *("Tc", "Pm", "Po", "At", "Fr", "Ra", "Ac", "Pa"),
}
_HEAVIEST = 92

Distances = Mapping[tuple[str, str], float]
"""Shortest distance in Å between each two elements that are near each other in a crystal."""


@cache
def chemical_scale() -> dict[str, float]:
    """Mendeleev numbers (Pettifor's scale) of the elements that may be put into a crystal."""
    from pymatgen.core import Element

    return {
        element.symbol: float(element.mendeleev_no)
        for element in Element
        if element.Z <= _HEAVIEST and element.symbol not in _EXCLUDED
    }


def near_elements(symbol: str, pool: frozenset[str]) -> list[str]:
    """Elements of a pool at most `NEAR` away on the chemical scale, in the scale's order."""
    from pymatgen.core import Element

    scale, place = chemical_scale(), float(Element(symbol).mendeleev_no)
    near = [s for s in pool if abs(scale[s] - place) <= NEAR]
    return sorted(near, key=lambda s: (scale[s], s))


def shortest_distances(structure: Any) -> dict[tuple[str, str], float]:
    """Shortest distances between the elements of a pymatgen structure, within `REACH`."""
    centers, others, _, distances = structure.get_neighbor_list(REACH)
    symbols = [site.specie.symbol for site in structure]
    shortest: dict[tuple[str, str], float] = {}
    for i, j, distance in zip(centers, others, distances, strict=True):
        pair = symbols[i], symbols[j]
        shortest[pair] = min(float(distance), shortest.get(pair, np.inf))
    return shortest


def bond_ratio(shortest: Distances, replacing: Mapping[str, str], spread: float) -> float:
    """By what all lengths must be divided when a crystal's elements are replaced.

    The data-mined length scheme of pymatgen's DLSVolumePredictor: the bond that is shortest for its
    two elements gets the length expected of them. The distances are searched once a crystal, not
    once a substitution: the search was half of the time of the embedded set.

    Source: I.-H. Chu et al., Comput. Mater. Sci. 146, 184 (2018).

    Args:
        shortest: Of the crystal before its elements are replaced.
        replacing: New symbols by old ones.
        spread: Standard deviation of the new atoms' Pauling electronegativities.

    Raises:
        EntryError: if the bond lengths of an element are not known.
    """
    from pymatgen.core.structure_prediction.volume_predictor import bond_params

    ratios = []
    for (first, second), distance in shortest.items():
        bonds = [bond_params.get(replacing[symbol]) for symbol in (first, second)]
        if None in bonds:
            raise EntryError("no volume predicted", f"no bond lengths of {replacing[first]}")
        ratios.append(distance / sum(float(b["r"]) + float(b["k"]) * spread for b in bonds))
    if not ratios:
        raise EntryError("no volume predicted", f"no two atoms within {REACH:g} Å")
    return float(min(ratios))


def to_structure(crystal: Crystal) -> Any:
    """An ordered crystal as a pymatgen structure."""
    from pymatgen.core import Lattice, Structure

    symbols = [SYMBOLS[number] for number in crystal.numbers]
    return Structure(Lattice(crystal.lattice), symbols, crystal.coordinates)


def closest_contact(crystal: Crystal) -> float:
    """The smallest distance of two atoms over the sum of their radii; infinite beyond 4 Å.

    The radii are Slater's empirical ones, as pymatgen has them.
    Source: J. C. Slater, J. Chem. Phys. 41, 3199 (1964).
    """
    centers, others, _, distances = to_structure(crystal).get_neighbor_list(_CONTACT)
    radii = np.array([_radius(int(number)) for number in crystal.numbers])
    ratios = distances / (radii[centers] + radii[others])
    return float(ratios.min()) if len(ratios) else np.inf


@cache
def _radius(number: int) -> float:
    from pymatgen.core import Element

    # Noble gases have none; with 0.3 Å only damaged cells are refused.
    return float(Element.from_Z(number).atomic_radius or 0.3)
