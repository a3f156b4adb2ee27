"""Compositions as a laboratory states them, read from text.

Fe2O3                         a formula
Fe,O  or  Fe-O                the elements and no more
Fe 55±2, O 45±2 at%           percentages of atoms, with their errors
Fe2O3 72(1), SiO2 bal wt%     percentages of mass, of compounds, one of them the balance

Errors are standard deviations, also in the crystallographers' way: 72(1) is 72±1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from datamodules.elements import ATOMIC_NUMBERS
from datamodules.formula import parse_formula
from datamodules.io.arguments import printable

_LONGEST = 1000
_SLACK = 0.01
"""Percent that a sum may always be off by: numbers with many digits were rounded once, too."""
_EXAMPLE = "Fe 55±2, O 45±2 at%"
#: D and T are hydrogen, as in formulas.
_SYMBOLS = ATOMIC_NUMBERS | {"D": 1, "T": 1}

_NUMBER = r"(?:\d+(?:[.,]\d+)?|\.\d+)"
_PLUS_MINUS = r"(?:±|\+\s*/\s*[-−–]|\+[-−–]|\\pm)"
_MASS = r"(?:wt|weight|mass|m|w)"
_ATOMS = r"(?:at|atomic|atom|atoms|mol|mole|molar)"
_UNIT = re.compile(
    rf"(?<![A-Za-z])[(\[]?(?:(?P<mass>{_MASS})|(?P<atoms>{_ATOMS}))[.\s-]*(?:%|percent|pct)[)\]]?",
    re.IGNORECASE,
)
_SHARE = re.compile(
    rf"\s*(?P<name>[A-Z][A-Za-z0-9()\[\].₀-₉]*)\s*[:=]?\s+(?P<value>{_NUMBER}|bal(?:ance|\.)?|rest)"
    rf"\s*%?\s*(?:\((?P<digits>\d+)\)|{_PLUS_MINUS}\s*(?P<error>{_NUMBER}))?\s*%?\s*(?:[,;/|]|$|(?=\s))",
    re.IGNORECASE,
)
#: `Fe55±2`: the symbol and its percentage are not apart.
_ATTACHED = re.compile(rf"(?<![A-Za-z0-9])([A-Z][a-z]?)[:=]?(?=\d[\d.,]*\s*(?:%|\(|{_PLUS_MINUS}))")


@dataclass(frozen=True)
class Share:
    """A percentage of a composition.

    Attributes:
        elements: Atomic numbers of what it is of, ascending.
        fractions: Their atomic fractions in it.
        value: Percent.
        error: One standard deviation, percent; 0 where none is stated.
        rounding: Half of the last digit's unit, percent.
        is_balance: Whether it is what the others leave of 100.
    """

    elements: tuple[int, ...]
    fractions: tuple[float, ...]
    value: float
    error: float = 0.0
    rounding: float = 0.0
    is_balance: bool = False


@dataclass(frozen=True)
class Stated:
    """A composition that is not known to the atom.

    Attributes:
        text: As it was given.
        elements: Atomic numbers, in the order in which they were given.
        shares: Percentages; empty if the elements are all that is known.
        of_mass: Whether percentages are of mass, and not of atoms or formula units.
    """

    text: str
    elements: tuple[int, ...]
    shares: tuple[Share, ...] = ()
    of_mass: bool = False


def parse_composition(text: str) -> tuple[np.ndarray, np.ndarray] | Stated:
    """A composition in any of the notations above.

    Args:
        text: A formula, elements separated by commas, or percentages.

    Returns:
        Of a formula what `parse_formula` gives: atomic numbers, ascending, (n,) uint8, and atomic
        fractions, (n,) float32. Else what is stated.

    Raises:
        ValueError: if it is none of these, names something twice, or its percentages lack their
            unit or do not sum to 100 within their errors.
    """
    if len(text) > _LONGEST:
        raise ValueError(f"composition {text[:40]!r}…: {len(text)} characters; none is as long")
    if re.search(rf"%|percent|pct|{_PLUS_MINUS}", text, re.IGNORECASE):
        return _percentages(text)
    words = re.split(r"\s*[,;|/]\s*|(?<=[A-Za-z])\s*[-–]\s*(?=[A-Z])", text.strip())
    if len(words) == 1:
        return parse_formula(text)
    if all(re.fullmatch("[A-Z][a-z]?", word) for word in words):
        return _elements_only(words, text)
    if any(re.fullmatch(rf"[A-Z][A-Za-z0-9()]*\s+{_NUMBER}", word) for word in words):
        raise ValueError(
            f"composition {_told(text)}: of what are these percentages? Add wt% or at%, such as "
            f"{_EXAMPLE}"
        )
    if "/" in text and not re.search("[,;|]", text):
        return parse_formula(text)
    raise ValueError(
        f"composition {_told(text)}: give a formula (Fe2O3), elements (Fe,O) or percentages "
        f"({_EXAMPLE})"
    )


def _told(text: str) -> str:
    return repr(printable(text, 80))


def _elements_only(words: list[str], text: str) -> Stated:
    for word in words:
        if word not in _SYMBOLS:
            raise ValueError(f"composition {_told(text)}: unknown element {word!r}")
    numbers = tuple(_SYMBOLS[word] for word in words)
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"composition {_told(text)}: an element is named twice")
    return Stated(text, numbers)


def _percentages(text: str) -> Stated:
    units = {"mass" if match["mass"] else "atoms" for match in _UNIT.finditer(text)}
    if len(units) != 1:
        what = "both wt% and at%; give one" if units else "percent of what? Write wt% or at%"
        raise ValueError(f"composition {_told(text)}: {what}, as in {_EXAMPLE}")
    of_mass = units == {"mass"}
    plain = _ATTACHED.sub(r"\1 ", _UNIT.sub(" ", text)).strip(" ,;:%")
    shares: list[Share] = []
    position = 0
    while position < len(plain):
        match = _SHARE.match(plain, position)
        if match is None:
            raise ValueError(
                f"composition {_told(text)}: cannot read {_told(plain[position:].strip())}; write "
                f"percentages such as {_EXAMPLE}"
            )
        shares.append(_share(match, text))
        position = match.end()
    if len({(share.elements, share.fractions) for share in shares}) < len(shares):
        raise ValueError(f"composition {_told(text)}: something is named twice")
    checked = _summed(shares, text)
    elements = tuple(dict.fromkeys(z for share in checked for z in share.elements))
    return Stated(text, elements, tuple(checked), of_mass)


def _share(match: re.Match[str], text: str) -> Share:
    elements, fractions = parse_formula(match["name"])
    what = tuple(int(z) for z in elements), tuple(float(x) for x in fractions)
    if not match["value"][0].isdigit() and match["value"][0] != ".":
        if match["digits"] or match["error"]:
            raise ValueError(f"composition {_told(text)}: the balance has no error of its own")
        return Share(*what, 0.0, is_balance=True)
    value = match["value"].replace(",", ".")
    unit = 10.0 ** -len(value.partition(".")[2])
    error = 0.0
    if match["error"]:
        error = float(match["error"].replace(",", "."))
    elif match["digits"]:
        # 55.1(12) is 55.1 ± 1.2.
        error = int(match["digits"]) * unit
    for number in (float(value), error):
        if not number <= 100.0:
            raise ValueError(f"composition {_told(text)}: {number:g} is no percentage")
    return Share(*what, float(value), error, unit / 2.0)


def _summed(shares: list[Share], text: str) -> list[Share]:
    """The shares, the balance with what the others leave, and those of nothing left out.

    Raises:
        ValueError: if they do not sum to 100 within their errors.
    """
    total = sum(share.value for share in shares)
    slack = sum(max(share.error, share.rounding) for share in shares) + _SLACK
    balances = [i for i, share in enumerate(shares) if share.is_balance]
    if len(balances) > 1:
        raise ValueError(f"composition {_told(text)}: only one can be the balance")
    if balances:
        if total - 100.0 > slack:
            raise ValueError(
                f"composition {_told(text)}: the others sum to {total:g} %, which leaves nothing "
                "for the balance"
            )
        old = shares[balances[0]]
        left = Share(old.elements, old.fractions, max(0.0, 100.0 - total), is_balance=True)
        shares = [left if share.is_balance else share for share in shares]
    elif abs(total - 100.0) > slack:
        raise ValueError(
            f"composition {_told(text)}: the percentages sum to {total:g}, and their errors allow "
            f"no more than {slack:.2g} from 100; correct them, or name what is missing"
        )
    return [share for share in shares if share.value > 0 or share.error > 0 or share.is_balance]
