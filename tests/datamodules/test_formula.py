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
        ("Fe₂O₃", {"Fe": 2, "O": 3}),
        ("Ｆｅ２Ｏ３", {"Fe": 2, "O": 3}),
        ("Fe٢O٣", {"Fe": 2, "O": 3}),
        ("Fe_{2}O_3", {"Fe": 2, "O": 3}),
        ("Fe<sub>2</sub>O<sub>3</sub>", {"Fe": 2, "O": 3}),
        ("Fe³⁺₂O²⁻₃", {"Fe": 2, "O": 3}),
        ("SO4^{2-}", {"S": 1, "O": 4}),
        ("Fe⁺³₂O⁻²₃", {"Fe": 2, "O": 3}),
        ("Na\u200bCl\ufeff", {"Na": 1, "Cl": 1}),
        ("D2O", {"H": 2, "O": 1}),
        ("LiTD", {"Li": 1, "H": 2}),
        ("Pb(Mg1/3Nb2/3)O3", {"Pb": 3, "Mg": 1, "Nb": 2, "O": 9}),
        ("Na2/3CoO2", {"Na": 2, "Co": 3, "O": 6}),
        ("Na(2/3)CoO2", {"Na": 2, "Co": 3, "O": 6}),
        ("Na(0.5)CoO2", {"Na": 1, "Co": 2, "O": 4}),
        ("Na⅔CoO₂", {"Na": 2, "Co": 3, "O": 6}),
        ("LiNi1⁄3Mn1∕3Co1/3O2", {"Li": 3, "Ni": 1, "Mn": 1, "Co": 1, "O": 6}),
        ("(TiO2)1/2(SnO2)0.5", {"Ti": 1, "Sn": 1, "O": 4}),
        ("CaSO4·2½H2O", {"Ca": 1, "S": 1, "O": 6.5, "H": 5}),
    ],
)
def test_reads_formulas(text: str, amounts: dict[str, float]) -> None:
    check(text, amounts)
    elements, fractions = parse_formula(text)
    assert (elements.dtype, fractions.dtype) == (np.uint8, np.float32)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("Xx2O", "unknown element 'Xx'"),
        ("nacl", "cannot read 'nacl'; symbols begin with a capital letter"),
        ("Na(Cl", r"'\)' is missing"),
        ("NaCl)", r"'\)' closes no bracket"),
        ("Na(Cl]", "closes no bracket"),
        ("Na()", "empty brackets"),
        ("Na+", r"cannot read '\+'"),
        ("Na0", "all amounts are zero"),
        ("(2Na)", "follows nothing"),
        ("NaCl·", "empty"),
        ("H₂¹⁸O", "superscripts are charges or isotopes"),
        ("Fe(III)2O3", "oxidation state"),
        ("CuFe(I)O2", "oxidation state"),
        ("FeⅢCl3", "no amount"),
        ("Na1/0Cl", "1/0 is not finite"),
        ("Na" + "9" * 400 + "Cl", "not finite or too large"),
        ("Na0.0000000000001Cl", "differ by more than"),
        ("H" * 2000, "no formula is as long"),
        ("(" * 900, "is missing"),
        ("CaSO4·xH2O", "cannot read 'xH2O'"),
        ("Na2CO3.2Na2SO4", "ambiguous.*write Na2CO3·2Na2SO4"),
        ("V2O5.1.8H2O", "ambiguous points.*write V2O5·1.8H2O"),
        ("Na2O.2.5SiO2", "ambiguous points.*write Na2O·2.5SiO2"),
        ("Mg1.2H2O", "ambiguous, 1.2 is an amount or parts the water"),
        ("CaSO4.05H2O", "ambiguous"),
        ("NaCl 2 H2O", "ambiguous, 2 can belong to 'NaCl' or"),
        ("Fe 2O3", "ambiguous"),
        ("Fe2O3 3", "ambiguous"),
        ("BaCl2 .2H2O", "ambiguous"),
    ],
)
def test_says_what_is_wrong_with_a_formula(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_formula(text)


@pytest.mark.parametrize(
    "dot", ["·", "•", "∙", "⋅", "‧", "・", "･", "*", " * ", "∗", "×", " x ", " · "]
)
@pytest.mark.parametrize("water", ["5H2O", "5 H2O", "5D2O", "5(H2O)"])
def test_any_dot_parts_water_from_a_salt(dot: str, water: str) -> None:
    check(f"CuSO4{dot}{water}", {"Cu": 1, "S": 1, "O": 9, "H": 10})


@pytest.mark.parametrize(
    ("text", "amounts"),
    [
        ("CaSO4.2H2O", {"Ca": 1, "S": 1, "O": 6, "H": 4}),
        ("CaSO4 2H2O", {"Ca": 1, "S": 1, "O": 6, "H": 4}),
        ("CaSO4 2 H2O", {"Ca": 1, "S": 1, "O": 6, "H": 4}),
        ("CaSO4. 2H2O", {"Ca": 1, "S": 1, "O": 6, "H": 4}),
        ("CaSO4 . 2H2O", {"Ca": 1, "S": 1, "O": 6, "H": 4}),
        ("FeCl3 6H2O", {"Fe": 1, "Cl": 3, "H": 12, "O": 6}),
        ("Zn(NO3)2.6H2O", {"Zn": 1, "N": 2, "O": 12, "H": 12}),
        ("Na2CO3.10H2O", {"Na": 2, "C": 1, "O": 13, "H": 20}),
        ("NaCl.2H2O", {"Na": 1, "Cl": 1, "O": 2, "H": 4}),
        ("NaCl 2H2O", {"Na": 1, "Cl": 1, "O": 2, "H": 4}),
        ("CaSO4.0.5H2O", {"Ca": 1, "S": 1, "O": 4.5, "H": 1}),
        ("CaSO4.½H2O", {"Ca": 1, "S": 1, "O": 4.5, "H": 1}),
        ("CaSO4 0.5H2O", {"Ca": 1, "S": 1, "O": 4.5, "H": 1}),
        ("CaSO4.1/2H2O", {"Ca": 1, "S": 1, "O": 4.5, "H": 1}),
        ("(CaSO4)2.H2O", {"Ca": 2, "S": 2, "O": 9, "H": 2}),
        ("WO3.H2O", {"W": 1, "O": 4, "H": 2}),
        ("CaO.2Al2O3", {"Ca": 1, "Al": 4, "O": 7}),
        ("Al2O3.2SiO2.2H2O", {"Al": 2, "Si": 2, "O": 9, "H": 4}),
        ("3CaO.Al2O3.6H2O", {"Ca": 3, "Al": 2, "O": 12, "H": 12}),
        ("3Al2O3.2SiO2", {"Al": 6, "Si": 2, "O": 13}),
        ("KAl(SO4)2.12H2O", {"K": 1, "Al": 1, "S": 2, "O": 20, "H": 24}),
        ("Ca0.5Sr0.5SO4.2H2O", {"Ca": 0.5, "Sr": 0.5, "S": 1, "O": 6, "H": 4}),
        ("Fe 2 O 3", {"Fe": 2, "O": 3}),
        ("Ca3 (PO4) 2", {"Ca": 3, "P": 2, "O": 8}),
    ],
)
def test_points_and_blanks_of_hydrates_are_no_decimals(
    text: str, amounts: dict[str, float]
) -> None:
    check(text, amounts)


@pytest.mark.parametrize(
    ("text", "amounts"),
    [
        ("Ti0.6Nb0.4N", {"Ti": 0.6, "Nb": 0.4, "N": 1}),
        ("Ti.6Nb.4N", {"Ti": 0.6, "Nb": 0.4, "N": 1}),
        ("La0.7Sr0.3MnO3", {"La": 0.7, "Sr": 0.3, "Mn": 1, "O": 3}),
        ("YBa2Cu3O6.93", {"Y": 1, "Ba": 2, "Cu": 3, "O": 6.93}),
        ("YBa2Cu3O6.5F", {"Y": 1, "Ba": 2, "Cu": 3, "O": 6.5, "F": 1}),
        ("MnFe2.5O4", {"Mn": 1, "Fe": 2.5, "O": 4}),
        ("Ca2.5Sr0.5GaMn2O8", {"Ca": 2.5, "Sr": 0.5, "Ga": 1, "Mn": 2, "O": 8}),
        ("Li1.2Mn0.54Ni0.13Co0.13O2", {"Li": 1.2, "Mn": 0.54, "Ni": 0.13, "Co": 0.13, "O": 2}),
        ("LiMn1.5Ni.5O4", {"Li": 1, "Mn": 1.5, "Ni": 0.5, "O": 4}),
        ("CoO0.5H2O", {"Co": 1, "O": 1.5, "H": 2}),
        ("2.5H2O", {"H": 2, "O": 1}),
    ],
)
def test_real_decimals_stay(text: str, amounts: dict[str, float]) -> None:
    check(text, amounts)


def check(text: str, amounts: dict[str, float]) -> None:
    elements, fractions = parse_formula(text)
    expected = sorted((ATOMIC_NUMBERS[symbol], n) for symbol, n in amounts.items())
    assert elements.tolist() == [z for z, _ in expected]
    total = sum(amounts.values())
    np.testing.assert_allclose(fractions, [n / total for _, n in expected], rtol=1e-6)
