"""Compositions as a laboratory states them: notations, units, errors, and what they allow."""

import numpy as np
import pytest

from datamodules.composition import Candidates, Stated, candidates_of, parse_composition
from datamodules.composition.atoms import ATOMIC_WEIGHTS
from datamodules.elements import ATOMIC_NUMBERS
from datamodules.formula import parse_formula


def candidates(text: str) -> Candidates:
    stated = parse_composition(text)
    assert isinstance(stated, Stated)
    return candidates_of(stated)


@pytest.mark.parametrize(
    "formula", ["Fe2O3", "Na2/3CoO2", "CuSO4·5H2O", "La0.7Sr0.3MnO3", "Fe", "CuSO4 5H2O"]
)
def test_a_formula_is_what_it_was(formula: str) -> None:
    found, expected = parse_composition(formula), parse_formula(formula)
    assert not isinstance(found, Stated)
    for ours, theirs in zip(found, expected, strict=True):
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize(
    "text",
    [
        "Fe 55±2, O 45±2 at%",
        "O 45±2, Fe 55±2 at%",
        "Fe 55 ± 2, O 45 ± 2 at.%",
        "Fe 55+/-2; O 45+/-2 atomic %",
        "Fe 55 +- 2 O 45 +- 2 at-%",
        "Fe: 55(2), O: 45(2) at%",
        "Fe55±2 O45±2 (at%)",
        "Fe = 55±2 %, O = 45±2 % (at %)",
        "at%: Fe 55±2, O 45±2",
        "Fe 55±2 at%, O 45±2 at%",
        "Fe 55.0(20), O 45.0(20) mol%",
        "Fe 55,0±2,0; O 45,0±2,0 at%",
    ],
)
def test_one_statement_has_many_notations_and_one_meaning(text: str) -> None:
    found, expected = candidates(text), candidates("Fe 55±2, O 45±2 at%")
    assert np.array_equal(found.elements, expected.elements)
    assert np.array_equal(found.fractions, expected.fractions)


def test_draws_have_the_stated_mean_and_errors() -> None:
    found = candidates("Fe 50±2, O 30±1, Ti 20±0.5 at%")
    assert found.elements.tolist() == [8, 22, 26]
    assert found.fractions[0] == pytest.approx([0.3, 0.2, 0.5])
    assert found.fractions.sum(axis=1) == pytest.approx(np.ones(len(found)))
    assert found.fractions.mean(axis=0) == pytest.approx([0.3, 0.2, 0.5], abs=1e-3)
    # Of errors scaled to a sum of 1: d f_i = (d x_i - f_i Σ d x_j) / 100.
    shares, errors = np.array([0.3, 0.2, 0.5]), np.array([1.0, 0.5, 2.0])
    change = (np.eye(3) - shares[:, None]) * errors / 100.0
    assert found.fractions.std(axis=0) == pytest.approx(np.linalg.norm(change, axis=1), rel=0.15)


def test_percent_of_mass_and_of_compounds_become_atoms() -> None:
    iron, oxygen = (ATOMIC_WEIGHTS[ATOMIC_NUMBERS[symbol]] for symbol in ("Fe", "O"))
    share = 100.0 * 2 * iron / (2 * iron + 3 * oxygen)
    found = candidates(f"Fe {share:.6f}, O {100 - share:.6f} wt%")
    assert found.fractions == pytest.approx(np.array([[0.6, 0.4]]), abs=1e-6)
    mixed = candidates("Fe2O3 50, SiO2 50 mol%")
    assert mixed.fractions == pytest.approx(np.array([[5 / 8, 1 / 8, 2 / 8]]))
    by_mass = candidates("Fe2O3 72.66, SiO2 27.34 wt%")
    assert by_mass.fractions == pytest.approx(mixed.fractions, abs=1e-3)


def test_the_balance_takes_what_the_others_leave() -> None:
    found = candidates("Cr 18±1, Ni 8±0.5, Fe bal wt%")
    stated = candidates("Cr 18, Ni 8, Fe 74 wt%")
    assert found.fractions[0] == pytest.approx(stated.fractions[0])
    assert found.fractions.std(axis=0).min() > 1e-3


def test_percentages_without_errors_are_one_composition() -> None:
    found = candidates("Fe 40, O 60 at%")
    assert len(found) == 1
    assert np.array_equal(found.fractions[0], parse_formula("Fe2O3")[1])
    assert len(candidates("Fe 40±0, O 60±0 at%")) == 1


def test_an_element_that_may_be_absent_is_padding_where_it_is() -> None:
    found = candidates("Fe 39.9, O 60, S 0.1±0.2 at%")
    numbers, fractions = found.padded()
    absent = found.fractions[:, 1] == 0
    assert 0 < absent.sum() < len(found)
    assert (numbers[absent] == [8, 26, 0]).all()
    assert (numbers[~absent] == [8, 16, 26]).all()
    assert (fractions[absent, 2] == 0).all()


@pytest.mark.parametrize("text", ["Fe,O", "O;Fe", "Fe-O", "Fe - O", " Fe , O "])
def test_elements_alone_allow_small_formulas_neutral_ones_before_others(text: str) -> None:
    found = candidates(text)
    assert found.elements.tolist() == [8, 26]
    assert found.weights.sum() == pytest.approx(1)
    amounts = found.amounts
    assert amounts is not None
    weight = {tuple(a): w for a, w in zip(amounts.tolist(), found.weights, strict=True)}
    assert len(weight) == len(found), "none twice"
    assert (2, 2) not in weight
    # Amounts of O and Fe.
    assert weight[1, 1] > weight[3, 2] > weight[2, 1] > weight[5, 4]
    assert found.fractions[0].tolist() == [0.5, 0.5]


def test_charge_balance_counts_little_among_metals() -> None:
    def advantage(text: str, neutral: tuple[int, int], other: tuple[int, int]) -> float:
        found = candidates(text)
        assert found.amounts is not None
        weight = dict(zip(map(tuple, found.amounts.tolist()), found.weights, strict=True))
        return float(weight[neutral] / weight[other])

    # By atomic number: O and Mg, Mg and Sn. Of as many atoms, the neutral one is the heavier.
    assert advantage("Mg,O", (1, 1), (1, 2)) > 2 * advantage("Mg,Sn", (2, 1), (1, 2)) > 2


def test_all_small_formulas_of_three_elements_are_there_once() -> None:
    amounts = candidates("Ba,Ti,O").amounts
    assert amounts is not None
    brute = {
        (a, b, c)
        for a in range(1, 23)
        for b in range(1, 23)
        for c in range(1, 23)
        if a + b + c <= 24 and np.gcd.reduce([a, b, c]) == 1
    }
    assert {tuple(row) for row in amounts.tolist()} == brute
    assert len(amounts) == len(brute)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Fe 55±2, O 35±2 at%", "sum to 90, and their errors allow no more than 4 from 100"),
        ("Fe 55±2 at%", "sum to 55"),
        ("Fe 55.0, O 45.2 wt%", "sum to 100.2"),
        ("Fe 55±2, O 45±2", "of what are these|percent of what"),
        ("Fe 55, O 45", "Add wt% or at%"),
        ("Fe 55±2 %, O 45±2 %", "percent of what"),
        ("Fe 55 wt%, O 45 at%", "both wt% and at%"),
        ("Fe 55±2, Fe 45±2 at%", "named twice"),
        ("Fe,Fe", "named twice"),
        ("Fe,Xx", "unknown element 'Xx'"),
        ("Xx 55±2, O 45±2 at%", "unknown element 'Xx'"),
        ("Fe 155±2, O 45 at%", "155 is no percentage"),
        ("Fe 55±200, O 45 at%", "200 is no percentage"),
        ("Fe 55±nan, O 45 at%", "cannot read"),
        ("Fe -5±2, O 105 at%", "cannot read"),
        ("Fe <1, O 99 at%", "cannot read"),
        ("Fe bal, O bal at%", "only one can be the balance"),
        ("Fe 80, O 40, Ni bal at%", "leaves nothing for the balance"),
        ("Fe bal±2, O 50 at%", "no error of its own"),
        ("Fe,", "give a formula"),
        ("%", "percent of what"),
        ("a,b\x1b[31m", "unknown|give a formula"),
        ("Fe 1±1 at%" * 200, "characters"),
        ("H,He,Li,Be,B,C,N,O,F", "9 elements and no amounts"),
        ("Md 55±2, No 45±2, Db 0±1 wt%", "Db has no atomic weight"),
    ],
)
def test_nonsense_is_refused_in_one_line(text: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected) as refused:
        candidates(text)
    assert str(refused.value).isprintable()
