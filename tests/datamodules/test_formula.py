import numpy as np
import pytest

from datamodules.elements import ATOMIC_NUMBERS
from datamodules.formula import parse_formula


@pytest.mark.parametrize(
    ("text", "amounts"),
    [
        ("NaCl", {"Na": 1, "Cl": 1}),
        ("Ca3(PO4)2", {"Ca": 3, "P": 2, "O": 8}),
        ("Li0.5CoO2", {"Li": 0.5, "Co": 1, "O": 2}),
        ("K4[Fe(CN)6]", {"K": 4, "Fe": 1, "C": 6, "N": 6}),
        ("[Fe(CN)6]2", {"Fe": 2, "C": 12, "N": 12}),
        ("CuSO4·5H2O", {"Cu": 1, "S": 1, "O": 9, "H": 10}),
        ("Fe2O3*.5H2O", {"Fe": 2, "O": 3.5, "H": 1}),
        (" Na Cl ", {"Na": 1, "Cl": 1}),
        ("CoCO", {"Co": 1, "C": 1, "O": 1}),
        ("Na1H0Cl1", {"Na": 1, "Cl": 1}),
    ],
)
def test_reads_formulas(text: str, amounts: dict[str, float]) -> None:
    elements, fractions = parse_formula(text)
    expected = sorted((ATOMIC_NUMBERS[symbol], n) for symbol, n in amounts.items())
    assert elements.tolist() == [z for z, _ in expected]
    total = sum(amounts.values())
    np.testing.assert_allclose(fractions, [n / total for _, n in expected], rtol=1e-6)
    assert (elements.dtype, fractions.dtype) == (np.uint8, np.float32)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("Xx2O", "unknown element 'Xx'"),
        ("nacl", "cannot read 'nacl'"),
        ("Na(Cl", r"'\)' is missing"),
        ("NaCl)", r"'\)' closes no bracket"),
        ("Na(Cl]", "closes no bracket"),
        ("Na()", "empty brackets"),
        ("Na+", r"cannot read '\+'"),
        ("Na0", "all amounts are zero"),
        ("(2Na)", "follows nothing"),
        ("NaCl·", "empty"),
    ],
)
def test_says_what_is_wrong_with_a_formula(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_formula(text)
