"""Formulas and other compositions of a table's field: read, or refused in one line."""

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from datamodules.composition import Stated, candidates_of, parse_composition
from tests.fuzz.mutation import NUMBERS, WORDS

_SOUND = (
    *("CaSO4.2H2O", "CuSO4·5H2O", "Pb(Mg1/3Nb2/3)O3", "La0.7Sr0.3MnO3", "Fe₂O₃", "K4[Fe(CN)6]"),
    *("3CaO.Al2O3.6H2O", "Fe³⁺₂O₃", "FeCl3 6H2O", "CaSO4·2½H2O", "Na2CO3.2Na2SO4", "D2O"),
    *(
        "Fe,O",
        "Ba-Ti-O",
        "Fe 55±2, O 45±2 wt%",
        "Fe 69,9(5); O 30,1(5) at.%",
        "W 50 +/- 1 C bal mol%",
    ),
    *("W 50 +/- 1 C bal mol%", "Fe2O3 72±1, SiO2 28±1 wt%", "S 0±0.5, Fe 40.0, O 60.0 at%"),
    "wt%: Cr 18±1 Ni 8(1) Fe rest",
)
_PIECES = (
    *("(", ")", "[", "}", ".", "..", "·", " ", "*", "x", "/", "1/0", "½", "⅓", "²", "⁺", "₀", "٣"),
    *("Ⅲ", "(II)", "^{2+}", "_{", "<sub>", "H2O", "0.5", "é", "e9", "((" * 600, "1" * 70, "\ud800"),
    *("±", "+/-", "(2)", "%", "wt%", "at%", "bal", ", ", ";", "-", "100", "5.5", "Fe", "O 45±2"),
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
    """Parse a file of one composition; what is read must be one, or several with weights."""
    text = path.read_bytes().decode("utf-8", "surrogatepass")
    try:
        known = parse_composition(text)
        allowed = candidates_of(known) if isinstance(known, Stated) else None
    except ValueError as error:
        said = str(error)
        if len(said.splitlines()) != 1 or not said.startswith(("formula ", "composition ")):
            raise AssertionError(said[:500]) from error
        return "refused"
    if allowed is None:
        assert not isinstance(known, Stated)
        elements, fractions = known
        assert (fractions > 0).all()
    else:
        elements, fractions = allowed.elements, allowed.fractions
        assert abs(allowed.weights.sum() - 1.0) < 1e-9
        assert (fractions >= 0).all()
    assert fractions.shape[-1] == len(elements) > 0
    assert (np.diff(elements.astype(int)) > 0).all()
    assert np.isfinite(fractions).all()
    assert np.abs(fractions.sum(axis=-1) - 1.0).max() < 1e-5
    return "read" if allowed is None else "several"
