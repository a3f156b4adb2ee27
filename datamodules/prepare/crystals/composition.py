"""Reduced formulas, and whether a crystal's atoms are what its source says they are."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.elements import ATOMIC_NUMBERS
from datamodules.formula import parse_formula
from datamodules.prepare.crystals.crystal import Crystal, EntryError, Note

LITTLE = 0.02
"""Share of the atoms by which a formula may differ where occupancies or amounts are fractions."""

ROUNDING = 0.0045
"""Atoms a formula unit: 0.083 is a twelfth. Whole numbers below its inverse are never joined."""
_MOST_ATOMS = 10_000

_TERM = re.compile(r"([A-Z][a-z]?)(\d*)(?:\.(\d+))?(?![a-z])")
_HYDROGEN = {"D": 1, "T": 1}


@dataclass(frozen=True)
class Stated:
    """A composition that the input states beside the atoms.

    Attributes:
        where: What states it, for messages: "_chemical_formula_sum", "column formula".
        text: The formula as it is written.
        units: Formula units in the cell if that is stated too; None compares proportions only.
        whole: Whether `text` may also be that of the whole cell, with `units` of its reduced
            formula in it, as pymatgen and ASE write CIFs.
    """

    where: str
    text: str
    units: float | None = None
    whole: bool = False


def stated_amounts(where: str, amounts: Mapping[Any, Any]) -> Stated:
    """What a dictionary of amounts states, as pymatgen writes the composition of a cell.

    Args:
        where: What states it.
        amounts: Atoms in the cell by element; charges ("Fe3+") are ignored.
    """
    terms = []
    for symbol, amount in amounts.items():
        element = re.match(r"[A-Z][a-z]?", str(symbol))
        try:
            number = f"{float(amount):.6f}".rstrip("0").rstrip(".")
        except (TypeError, ValueError, OverflowError):
            number = "?"  # the text is then no formula, which is noted
        terms.append(f"{element.group() if element else symbol}{number}")
    return Stated(where, " ".join(terms), 1.0)


def check_composition(crystal: Crystal, stated: Iterable[Stated]) -> list[Note]:
    """Compares the atoms with what the input says of them.

    Whole numbers must be met exactly. Where occupancies or amounts are fractions, what rounding
    explains is no difference, and a little more (`LITTLE`) is noted.

    Args:
        crystal: The crystal.
        stated: What the input says.

    Returns:
        What deserves a word but is no contradiction.

    Raises:
        EntryError: if they contradict each other, naming both sides.
    """
    notes: list[Note] = []
    for claim in stated:
        amounts = read_amounts(claim.text)
        if amounts is None:
            notes.append(Note("stated formula not understood", f"{claim.where}: {claim.text}"))
        else:
            notes += _compare(crystal, claim, amounts)
    return notes


@lru_cache(maxsize=4096)
def read_amounts(text: str) -> dict[int, tuple[float, float]] | None:
    """Amounts and half a unit of their last digit by atomic number; None if it is no formula.

    Only terms that blanks separate, as in CIFs, may have decimals. Brackets and dots are
    understood as `parse_formula` does (CaSO4.2H2O is a hydrate), but give proportions only.
    """
    found: dict[int, tuple[float, float]] = {}
    position = 0
    words = text.split()
    compact = "".join(words)
    plain = "." not in text or all(_TERM.fullmatch(word) for word in words)
    while plain and position < len(compact):
        term = _TERM.match(compact, position)
        number = term and (ATOMIC_NUMBERS.get(term[1]) or _HYDROGEN.get(term[1]))
        if term is None or number is None:
            break
        whole, decimals = term[2], term[3]
        amount = float(f"{whole or '0'}.{decimals or '0'}") if whole or decimals else 1.0
        before = found.get(number, (0.0, 0.0))
        half = 0.5 * 10.0 ** -len(decimals) if decimals and decimals.strip("0") else 0.0
        found[number] = before[0] + amount, before[1] + half
        position = term.end()
    if position < len(compact) or not found:
        try:
            elements, fractions = parse_formula(text)
        except ValueError:
            return None
        shares = zip(elements.tolist(), fractions.tolist(), strict=True)
        return {int(z): (float(x), 2e-7) for z, x in shares}
    found = {z: pair for z, pair in found.items() if pair[0] > 0}
    total = sum(amount for amount, _ in found.values())
    return found if found and math.isfinite(total) else None


def _compare(
    crystal: Crystal, claim: Stated, amounts: dict[int, tuple[float, float]]
) -> list[Note]:
    atoms = crystal.amounts
    n_atoms, n_stated = sum(atoms.values()), sum(amount for amount, _ in amounts.values())
    units = n_atoms / n_stated
    worst, off, slack, fractional = _difference(crystal, amounts, n_atoms, n_stated)
    both = f"{claim.where} is {claim.text}, the atoms are {_written(atoms)}" if worst > 0 else ""
    little = fractional and atoms.keys() == amounts.keys() and off <= LITTLE
    if worst > 0 and not little:
        raise EntryError("stated formula and atoms disagree", both)
    exact = 0.02 if fractional else 1e-5
    if claim.units and not _close(units, claim.units, exact + slack):
        whole = [amount for amount, half in amounts.values() if not half and amount == int(amount)]
        divides = len(whole) == len(amounts) and claim.units == int(claim.units)
        divides = divides and math.gcd(*map(int, whole)) % int(claim.units) == 0
        if not (claim.whole and divides and _close(units, 1.0, exact)):
            raise EntryError(
                "stated formula and atoms disagree",
                f"{claim.where} is {claim.text}, the atoms are {_written(atoms)}: {units:.4g} "
                f"formula units in the cell, stated {claim.units:g}",
            )
    return [Note("stated formula differs a little from the atoms", both)] if worst > 0 else []


def _difference(
    crystal: Crystal, amounts: dict[int, tuple[float, float]], n_atoms: float, n_stated: float
) -> tuple[float, float, float, bool]:
    """How far two compositions are apart.

    Returns:
        By how much the worst atomic fraction is off, beyond rounding (at most 0: they agree); the
        share of the atoms that differ; what rounding may do to the number of atoms; whether there
        are fractions of atoms.
    """
    atoms = crystal.amounts
    plain = crystal.ordered and not any(half for _, half in amounts.values())
    if plain and atoms.keys() == amounts.keys():
        tolerance = 1e-9 * n_atoms * n_stated
        pairs = [(n * n_stated, amounts[z][0] * n_atoms) for z, n in atoms.items()]
        if all(abs(ours - theirs) <= tolerance for ours, theirs in pairs):
            return 0.0, 0.0, 0.0, False
    # Half a unit of the second decimal for every partly occupied site.
    rounding = dict.fromkeys(atoms.keys() | amounts.keys(), 0.0)
    fractional = not crystal.ordered
    if fractional:
        for z in crystal.numbers[crystal.occupancies != 1].tolist():
            rounding[z] += 0.005
    for z, (_, half) in amounts.items():
        rounding[z] += half * n_atoms / n_stated
        fractional = fractional or half > 0
    slack = sum(rounding.values()) / n_atoms
    worst = off = 0.0
    for z, spread in rounding.items():
        share, expected = atoms.get(z, 0.0) / n_atoms, amounts.get(z, (0.0, 0.0))[0] / n_stated
        difference = abs(share - expected)
        off += difference / 2
        worst = max(worst, difference - spread / n_atoms - expected * slack - 1e-6)
    return worst, off, slack, fractional


def _close(value: float, expected: float, tolerance: float) -> bool:
    return abs(value / expected - 1) <= tolerance


def _written(amounts: dict[int, float]) -> str:
    symbols = {z: symbol for symbol, z in ATOMIC_NUMBERS.items()}
    return " ".join(f"{symbols[z]}{amount:.4g}" for z, amount in sorted(amounts.items()))


def whole_numbers(amounts: NDArray[np.float64]) -> NDArray[np.float64]:
    """The smallest whole numbers in the proportions of some amounts.

    One composition has one answer, from whatever cell and however rounded: the smallest formula
    unit in which every amount is within `ROUNDING` of a whole number. Of proportions that no unit
    below 10 000 atoms fits, these are parts in 10 000.

    Args:
        amounts: Atoms of each element, shape (n,), positive.

    Returns:
        Whole numbers, shape (n,), float64.
    """
    amounts = np.asarray(amounts, np.float64)
    if (amounts == np.round(amounts)).all() and amounts.sum() < 1e9:
        reduced = amounts / math.gcd(*amounts.astype(np.int64).tolist())
        if reduced.sum() < 1 / ROUNDING:  # smaller units are off by more than `ROUNDING`
            return reduced
    shares = amounts / amounts.sum()
    for block in np.array_split(np.arange(1.0, _MOST_ATOMS + 1), 20):
        fits = block[_misses(shares, block) <= ROUNDING]
        if len(fits):
            # Of large units, one of the next may fit better: Y1.999Eu0.001O3 has 5 000 atoms.
            near = np.arange(fits[0], fits[0] * 1.01 + 1e-9)
            whole: NDArray[np.float64] = np.round(shares * near[np.argmin(_misses(shares, near))])
            return whole / math.gcd(*whole.astype(np.int64).tolist())
    parts = np.maximum(np.round(shares * _MOST_ATOMS), 1)
    return parts / math.gcd(*parts.astype(np.int64).tolist())


def _misses(shares: NDArray[np.float64], units: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far the amounts in formula units of some sizes are from whole ones (0 never fits)."""
    amounts = shares * units[:, None]
    whole = np.maximum(np.round(amounts), 1)
    misses: NDArray[np.float64] = np.abs(amounts - whole).max(axis=1)
    return misses


def reduced_formula(elements: NDArray[np.uint8], amounts: NDArray[np.float64]) -> str:
    """The reduced formula as pymatgen writes it, e.g. "Li3Fe2(PO4)3", with whole numbers.

    Args:
        elements: Atomic numbers, shape (n,).
        amounts: Atoms of each in the cell, or atomic fractions, shape (n,).
    """
    return _formula(tuple(elements.tolist()), tuple(np.round(amounts, 9).tolist()))


@lru_cache(maxsize=65536)
def _formula(elements: tuple[int, ...], amounts: tuple[float, ...]) -> str:
    from pymatgen.core import Composition, Element

    whole = whole_numbers(np.array(amounts))
    with warnings.catch_warnings():
        # Noble gases have no electronegativity to be sorted by; pymatgen says so each time.
        warnings.simplefilter("ignore")
        species = {Element.from_Z(z): int(n) for z, n in zip(elements, whole, strict=True)}
        return str(Composition(species).reduced_formula)
