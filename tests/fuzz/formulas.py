"""Formulas of a table's field: read, or refused in one line."""

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from datamodules.formula import parse_formula
from tests.fuzz.mutation import NUMBERS, WORDS

_SOUND = (
    *("CaSO4.2H2O", "CuSO4·5H2O", "Pb(Mg1/3Nb2/3)O3", "La0.7Sr0.3MnO3", "Fe₂O₃", "K4[Fe(CN)6]"),
    *("3CaO.Al2O3.6H2O", "Fe³⁺₂O₃", "FeCl3 6H2O", "CaSO4·2½H2O", "Na2CO3.2Na2SO4", "D2O"),
)
_PIECES = (
    *("(", ")", "[", "}", ".", "..", "·", " ", "*", "x", "/", "1/0", "½", "⅓", "²", "⁺", "₀", "٣"),
    *("Ⅲ", "(II)", "^{2+}", "_{", "<sub>", "H2O", "0.5", "é", "e9", "((" * 600, "1" * 70, "\ud800"),
    *(*NUMBERS, *WORDS),
)


def mutants(seed: int, n: int) -> Iterator[tuple[str, bytes]]:
    """Formulas with pieces put in, taken out and repeated."""
    random_ = random.Random(f"formulas {seed}")
    for number in range(n):
        text = random_.choice(_SOUND)
        for _ in range(random_.randrange(1, 5)):
            start = random_.randrange(len(text) + 1)
            end = min(len(text), start + random_.randrange(3))
            piece = random_.choice((*_PIECES, text[start:], random_.choice(_SOUND)))
            text = text[:start] + piece + text[end:]
        yield f"{seed}-{number}.txt", text.encode("utf-8", "surrogatepass")


def check(path: Path) -> str:
    """Parse a file of one formula; what is read must be a composition."""
    text = path.read_bytes().decode("utf-8", "surrogatepass")
    try:
        elements, fractions = parse_formula(text)
    except ValueError as error:
        if len(str(error).splitlines()) != 1 or not str(error).startswith("formula "):
            raise AssertionError(str(error)[:500]) from error
        return "refused"
    assert len(elements) == len(fractions) > 0
    assert (np.diff(elements.astype(int)) > 0).all()
    assert np.isfinite(fractions).all()
    assert (fractions > 0).all()
    assert abs(float(fractions.sum()) - 1.0) < 1e-5
    return "read"
