"""Compositions that are wrong in a stated way, to measure what a check of pairs detects."""

from collections.abc import Callable, Sequence

import numpy as np

from datamodules.elements import ATOMIC_NUMBERS
from datamodules.formula import whole_amounts

Composition = tuple[np.ndarray, np.ndarray]
"""Atomic numbers, ascending, and fractions; (n,) each."""

#: Elements that replace each other in crystals: neighbours in a group or a row of the d-block.
FAMILIES = (
    "Li Na K Rb Cs",
    "Be Mg Ca Sr Ba",
    "Sc Y La Ce Pr Nd Sm Eu Gd Tb Dy Ho Er Tm Yb Lu",
    "Ti Zr Hf",
    "V Nb Ta",
    "Cr Mo W",
    "Mn Fe Co Ni",
    "Tc Re Ru Os Rh Ir Pd Pt",
    "Cu Ag Au",
    "Zn Cd Hg",
    "B Al Ga In Tl",
    "C Si Ge Sn Pb",
    "N P As Sb Bi",
    "O S Se Te",
    "F Cl Br I",
    "Th U Np Pu",
)
_SIMILAR = {
    ATOMIC_NUMBERS[symbol]: [ATOMIC_NUMBERS[other] for other in family.split() if other != symbol]
    for family in FAMILIES
    for symbol in family.split()
}


def _ordered(elements: np.ndarray, fractions: np.ndarray) -> Composition:
    order = np.argsort(elements)
    return elements[order].astype(np.uint8), fractions[order].astype(np.float32)


def _replaced(
    elements: np.ndarray, fractions: np.ndarray, slot: int, candidates: Sequence[int],
    random: np.random.Generator,
) -> Composition | None:  # fmt: skip
    new = [z for z in candidates if z not in elements]
    if not new:
        return None
    changed = elements.copy()
    changed[slot] = random.choice(new)
    return _ordered(changed, fractions)


def similar_element(composition: Composition, random: np.random.Generator) -> Composition | None:
    """One element replaced by a chemically similar one; None where it has none."""
    elements, fractions = composition
    slot = int(random.integers(len(elements)))
    return _replaced(elements, fractions, slot, _SIMILAR.get(int(elements[slot]), []), random)


def any_element(composition: Composition, random: np.random.Generator) -> Composition | None:
    """One element replaced by any other."""
    elements, fractions = composition
    slot = int(random.integers(len(elements)))
    return _replaced(elements, fractions, slot, sorted(_SIMILAR), random)


def altered_stoichiometry(
    composition: Composition, random: np.random.Generator
) -> Composition | None:
    """One atom of a formula unit more or less; None for elements and large formula units."""
    elements, fractions = composition
    counts = whole_amounts(fractions)
    if counts is None or len(elements) < 2:
        return None
    changes = [
        (slot, step) for slot in range(len(counts)) for step in (-1, 1) if counts[slot] + step > 0
    ]
    for slot, step in random.permutation(changes):
        changed = counts.copy()
        changed[slot] += step
        altered = changed / changed.sum()
        if np.abs(altered - fractions).max() > 1e-3:
            return _ordered(elements, altered)
    return None


#: Each makes a wrong composition of a right one, or None where it cannot.
KINDS: dict[str, Callable[[Composition, np.random.Generator], Composition | None]] = {
    "similar_element": similar_element,
    "any_element": any_element,
    "stoichiometry": altered_stoichiometry,
}
