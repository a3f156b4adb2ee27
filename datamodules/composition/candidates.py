"""The compositions that a statement allows, with their weights.

Percentages: draws from the stated errors (independent normal, one standard deviation each, cut off
at 0), scaled to 100; the balance takes what the others leave. The draws are those of an even
sequence and their mirror images, the same at every call; the first one is what was stated.

Elements alone: formulas of small whole numbers. A formula of N atoms weighs (N + m)^−e, more if
common oxidation states can make it neutral: much more with an electronegative element than among
metals, more with three elements than with two (`FORMULA_WEIGHTS`). Chosen by the likelihood of
formulas of the Materials Project; a sharper fall, or one for all, was too sure of the simplest
formulas of two elements (docs/results.md).

Shapes: K candidates, n elements, S shares.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
from scipy.special import ndtri

from datamodules.composition.atoms import ATOMIC_WEIGHTS, OXIDATION_STATES
from datamodules.composition.stated import Share, Stated
from datamodules.elements import ATOMIC_NUMBERS, SYMBOLS
from datamodules.formula import whole_amounts

DRAWS = 64
"""Of percentages, beside what is stated; half of them mirror the other half."""
ANIONS = frozenset(ATOMIC_NUMBERS[symbol] for symbol in ("N", "O", "F", "S", "Cl", "Se", "Br", "I"))
"""Electronegative elements: with one of them, charges say more of a formula."""


@dataclass(frozen=True)
class FormulaWeights:
    """A formula of N atoms weighs (N + more_atoms)^−exponent, times `neutral` if it can be that.

    Attributes:
        more_atoms: Added to the number of atoms.
        exponent: Of the fall with the number of atoms.
        neutral: Factor of formulas that common oxidation states make neutral.
    """

    more_atoms: float = 3.0
    exponent: float = 5.0
    neutral: float = 20.0


FORMULA_WEIGHTS = {
    (2, True): FormulaWeights(6.0, 5.0, 5.0),
    (2, False): FormulaWeights(6.0, 6.0, 2.0),
    (3, True): FormulaWeights(),
    (3, False): FormulaWeights(3.0, 7.0, 3.0),
}
"""By number of elements, 3 for all above, and whether one of `ANIONS` is among them."""
_MOST_ATOMS = {2: 24, 3: 24, 4: 24, 5: 20, 6: 18, 7: 17, 8: 16}
"""Atoms of a formula by number of elements: about 20 000 formulas at most."""


@dataclass(frozen=True)
class Candidates:
    """Compositions of the same elements.

    Attributes:
        elements: Atomic numbers, ascending, (n,) uint8.
        fractions: Atomic fractions, (K, n) float32, sum 1; 0 where an element may be absent.
        weights: (K,) float64, sum 1.
        amounts: Whole numbers of the formulas, (K, n); None for percentages.
        order: Places of the elements in the order in which they were given.
    """

    elements: np.ndarray
    fractions: np.ndarray
    weights: np.ndarray
    amounts: np.ndarray | None
    order: tuple[int, ...]

    def __len__(self) -> int:
        """K."""
        return len(self.weights)

    def padded(self) -> tuple[np.ndarray, np.ndarray]:
        """Atomic numbers and fractions, (K, n) int64 and float32; 0 after those that are there."""
        absent = np.argsort(self.fractions == 0, axis=1, kind="stable")
        numbers = np.broadcast_to(self.elements.astype(np.int64), self.fractions.shape)
        numbers = np.where(self.fractions > 0, numbers, 0)
        return (
            np.take_along_axis(numbers, absent, axis=1),
            np.take_along_axis(self.fractions, absent, axis=1),
        )

    def told(self, weights: np.ndarray, most: int = 3) -> str:
        """The heaviest formulas in words, or the average of the draws.

        Args:
            weights: (K,), sum 1; others than those of the statement where more is known.
            most: Formulas that are named.
        """
        if self.amounts is None:
            mean = 100.0 * weights @ self.fractions
            shares = " ".join(f"{SYMBOLS[self.elements[i]]} {mean[i]:.1f}" for i in self.order)
            return f"{len(self)} draws from the errors, on average {shares} at%"
        heaviest = np.argsort(-weights, kind="stable")[:most]
        named = ", ".join(f"{self.formula(i)} {100 * weights[i]:.0f} %" for i in heaviest)
        return f"{named} of {len(self)} formulas"

    def formula(self, number: int | np.integer) -> str:
        """The formula of a candidate, in the order in which its elements were given.

        Args:
            number: Which one; there must be `amounts`.
        """
        assert self.amounts is not None
        amounts = self.amounts[number]
        return "".join(
            f"{SYMBOLS[self.elements[i]]}{amounts[i] if amounts[i] > 1 else ''}" for i in self.order
        )


def candidates_of(stated: Stated) -> Candidates:
    """The compositions that a statement allows; the first is what is stated or likeliest.

    Args:
        stated: From `parse_composition`.

    Raises:
        ValueError: if there are too many elements to try formulas of.
    """
    elements = np.array(sorted(stated.elements), np.uint8)
    order = tuple(int(np.flatnonzero(elements == z)[0]) for z in stated.elements)
    if stated.shares:
        fractions = _drawn(stated, elements)
        weights = np.full(len(fractions), 1.0 / len(fractions))
        return Candidates(elements, fractions.astype(np.float32), weights, None, order)
    if len(elements) > max(_MOST_ATOMS):
        raise ValueError(
            f"composition {stated.text!r}: {len(elements)} elements and no amounts; give "
            f"percentages, or at most {max(_MOST_ATOMS)} elements"
        )
    amounts = _small_formulas(len(elements))
    has_anion = bool(ANIONS & set(elements.tolist()))
    scale = FORMULA_WEIGHTS[min(len(elements), 3), has_anion]
    weights = (amounts.sum(axis=1) + scale.more_atoms) ** -scale.exponent
    weights *= np.where(_neutral(amounts, elements), scale.neutral, 1.0)
    heaviest = np.argsort(-weights, kind="stable")
    amounts, weights = amounts[heaviest], weights[heaviest]
    fractions = amounts / amounts.sum(axis=1, keepdims=True)
    return Candidates(
        elements, fractions.astype(np.float32), weights / weights.sum(), amounts, order
    )


def _drawn(stated: Stated, elements: np.ndarray) -> np.ndarray:
    """Atomic fractions of what is stated and of the draws, (K, n)."""
    # In an order of their own, so that the order of the text means nothing.
    shares = sorted(stated.shares, key=lambda share: (share.elements, share.fractions))
    value_S = np.array([share.value for share in shares])
    error_S = np.array([share.error for share in shares])
    percent_KS = value_S[None]
    if (error_S > 0).any():
        free = int((error_S > 0).sum())
        normal = np.zeros((DRAWS // 2, len(shares)))
        drawn = ndtri(_even(DRAWS // 2, free))
        # So few points have not quite the spread that they are drawn from.
        normal[:, error_S > 0] = drawn / np.sqrt((drawn**2).mean(axis=0))
        percent_KS = value_S + error_S * np.concatenate([normal[:1] * 0.0, normal, -normal])
    percent_KS = np.clip(percent_KS, 0.0, None)
    for s, share in enumerate(shares):
        if share.is_balance:
            others = np.delete(percent_KS, s, axis=1).sum(axis=1)
            percent_KS[:, s] = np.clip(100.0 - others, 0.0, None)
    # A draw of nothing at all says nothing.
    percent_KS = percent_KS[percent_KS.sum(axis=1) > 0]
    atoms_Sn = np.zeros((len(shares), len(elements)))
    for s, share in enumerate(shares):
        for z, fraction in zip(share.elements, share.fractions, strict=True):
            atoms_Sn[s, np.searchsorted(elements, z)] = fraction
    if stated.of_mass:
        masses = np.array([ATOMIC_WEIGHTS.get(int(z), math.nan) for z in elements])
        if np.isnan(masses).any():
            unknown = SYMBOLS[int(elements[np.isnan(masses)][0])]
            raise ValueError(
                f"composition {stated.text!r}: {unknown} has no atomic weight; give at%"
            )
        # Percent of mass over the mass of an average atom: atoms.
        atoms_Sn = atoms_Sn / (atoms_Sn @ masses)[:, None]
    elif any(len(share.elements) > 1 for share in shares):
        for s, share in enumerate(shares):
            atoms_Sn[s] *= _atoms_in_unit(share, stated.text)
    atoms_Kn = percent_KS @ atoms_Sn
    fractions: np.ndarray = atoms_Kn / atoms_Kn.sum(axis=1, keepdims=True)
    return fractions


def _atoms_in_unit(share: Share, text: str) -> float:
    """Atoms in a compound's reduced formula."""
    amounts = whole_amounts(np.array(share.fractions))
    if amounts is None:
        raise ValueError(
            f"composition {text!r}: percent of formula units need formulas of whole numbers; give "
            "wt%, or at% of the elements"
        )
    return float(amounts.sum())


def _even(n: int, dimensions: int) -> np.ndarray:
    """Points that fill a cube evenly, (n, dimensions), within (0, 1).

    Source: the additive recurrence of the generalised golden ratio (M. Roberts, "The Unreasonable
    Effectiveness of Quasirandom Sequences", 2018).
    """
    ratio = 2.0
    for _ in range(60):
        ratio = (1.0 + ratio) ** (1.0 / (dimensions + 1))
    steps = ratio ** -np.arange(1.0, dimensions + 1)
    points: np.ndarray = (0.5 + np.arange(1, n + 1)[:, None] * steps) % 1.0
    return np.clip(points, 1e-6, 1.0 - 1e-6)


@cache
def _small_formulas(n_elements: int) -> np.ndarray:
    """Whole numbers without a common divisor, (K, n_elements); fewest atoms first."""
    most = _MOST_ATOMS.get(n_elements, 1)
    rows = np.zeros((1, 0), np.int64)
    for place in range(n_elements):
        room = most - (n_elements - 1 - place)
        grown = np.repeat(rows, most, axis=0)
        new = np.tile(np.arange(1, most + 1), len(rows))[:, None]
        rows = np.concatenate([grown, new], axis=1)
        rows = rows[rows.sum(axis=1) <= room]
    rows = rows[np.gcd.reduce(rows, axis=1) == 1]
    return rows[np.argsort(rows.sum(axis=1), kind="stable")]


def _neutral(amounts: np.ndarray, elements: np.ndarray) -> np.ndarray:
    """Which formulas common oxidation states make neutral, one state an element, (K,) bool."""
    found = np.zeros(len(amounts), bool)
    for states in product(*(OXIDATION_STATES.get(int(z), ()) for z in elements)):
        found |= amounts @ np.array(states) == 0
    return found
