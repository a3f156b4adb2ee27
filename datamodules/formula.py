"""Chemical formulas as text, read without pymatgen."""

from __future__ import annotations

import re

import numpy as np

from datamodules.elements import ATOMIC_NUMBERS

_NUMBER = r"(?:\d+\.?\d*|\.\d+)"
_TOKEN = re.compile(
    rf"(?P<symbol>[A-Z][a-z]?)|(?P<open>[(\[{{])|(?P<close>[)\]}}])|(?P<number>{_NUMBER})"
)
_CLOSING = {"(": ")", "[": "]", "{": "}"}
#: Separates the parts of an adduct, such as the water of CuSO4·5H2O.
_DOTS = re.compile("[·•∙*]")


def parse_formula(text: str) -> tuple[np.ndarray, np.ndarray]:
    """Elements and fractions of a formula.

    Args:
        text: Such as `NaCl`, `Ca3(PO4)2`, `Li0.5CoO2` or `CuSO4·5H2O`.

    Returns:
        Atomic numbers, ascending, shape (n,), uint8, and atomic fractions, (n,), float32, sum 1.

    Raises:
        ValueError: if the formula does not parse or names an unknown element, saying what.
    """
    amounts: dict[int, float] = {}
    for part in _DOTS.split("".join(text.split())):
        match = re.match(_NUMBER, part)
        factor = float(match.group()) if match else 1.0
        for z, amount in _parse(part[match.end() :] if match else part, text).items():
            amounts[z] = amounts.get(z, 0.0) + factor * amount
    amounts = {z: amount for z, amount in amounts.items() if amount > 0}
    if not amounts:
        raise ValueError(f"formula {text!r}: all amounts are zero")
    elements = np.array(sorted(amounts), np.uint8)
    counts = np.array([amounts[int(z)] for z in elements])
    return elements, (counts / counts.sum()).astype(np.float32)


def whole_amounts(fractions: np.ndarray, most: int = 12) -> np.ndarray | None:
    """Smallest whole numbers in the proportions of some fractions, shape (n,), float64.

    Args:
        fractions: Atomic fractions, (n,).
        most: Atoms of the rarest element at most.

    Returns:
        None if there are no such numbers within 2 %.
    """
    for rarest in range(1, most + 1):
        amounts = np.asarray(fractions, np.float64) / np.min(fractions) * rarest
        if np.abs(amounts - amounts.round()).max() < 0.02:
            whole: np.ndarray = amounts.round()
            return whole
    return None


def _parse(part: str, text: str) -> dict[int, float]:
    """Amounts by atomic number of a formula without dots; `text` is for messages."""
    if not part:
        raise ValueError(f"formula {text!r}: empty")
    stack: list[dict[int, float]] = [{}]
    brackets: list[str] = []
    last: dict[int, float] | None = None
    position = 0
    while position < len(part):
        match = _TOKEN.match(part, position)
        if match is None:
            raise ValueError(f"formula {text!r}: cannot read {part[position:]!r}")
        position, token = match.end(), match.group()
        if match["number"]:
            if last is None:
                raise ValueError(f"formula {text!r}: {token} follows nothing it could multiply")
            # The group counted once when it was closed; the number adds the rest.
            for z, amount in last.items():
                stack[-1][z] += (float(token) - 1.0) * amount
            last = None
        elif match["symbol"]:
            if token not in ATOMIC_NUMBERS:
                raise ValueError(f"formula {text!r}: unknown element {token!r}")
            last = {ATOMIC_NUMBERS[token]: 1.0}
            _add(stack[-1], last)
        elif match["open"]:
            brackets.append(_CLOSING[token])
            stack.append({})
            last = None
        else:
            if not brackets or brackets.pop() != token:
                raise ValueError(f"formula {text!r}: {token!r} closes no bracket")
            last = stack.pop()
            if not last:
                raise ValueError(f"formula {text!r}: empty brackets")
            _add(stack[-1], last)
    if brackets:
        raise ValueError(f"formula {text!r}: {brackets[-1]!r} is missing")
    return stack[0]


def _add(to: dict[int, float], amounts: dict[int, float]) -> None:
    for z, amount in amounts.items():
        to[z] = to.get(z, 0.0) + amount
