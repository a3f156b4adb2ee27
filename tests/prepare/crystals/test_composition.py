"""Formulas: one for a composition; and what a source says against what the atoms are."""

from __future__ import annotations

import numpy as np
import pytest
from pymatgen.core import Composition, Lattice, Structure

from datamodules.elements import ATOMIC_NUMBERS
from datamodules.formula import parse_formula
from datamodules.prepare.crystals.composition import (
    Stated,
    check_composition,
    reduced_formula,
    stated_amounts,
)
from datamodules.prepare.crystals.crystal import EntryError
from datamodules.prepare.sources.prototypes import _library
from tests.prepare.examples import ROCK_SALT, crystal_of

ORDERED = crystal_of(ROCK_SALT)
MIXED = crystal_of(
    Structure(Lattice.cubic(4), [{"Ti": 0.667, "Nb": 0.333}, "N"], [[0, 0, 0], [0.5] * 3])
)


def formula_of(**amounts: float) -> str:
    elements = sorted(amounts, key=lambda symbol: ATOMIC_NUMBERS[symbol])
    numbers = np.array([ATOMIC_NUMBERS[symbol] for symbol in elements], np.uint8)
    return reduced_formula(numbers, np.array([amounts[symbol] for symbol in elements]))


@pytest.mark.parametrize(
    ("same", "formula"),
    [
        ([{"Ti": 2.4, "Nb": 1.6, "N": 4}, {"Ti": 0.6, "Nb": 0.4, "N": 1},
          {"Ti": 3, "Nb": 2, "N": 5}, {"Ti": 0.3, "Nb": 0.2, "N": 0.5}], "Ti3Nb2N5"),
        ([{"Fe": 0.333, "Ni": 0.667}, {"Fe": 1 / 3, "Ni": 2 / 3}, {"Fe": 4, "Ni": 8},
          {"Fe": 1.3332, "Ni": 2.6668}], "FeNi2"),
        ([{"La": 0.7, "Sr": 0.3, "Mn": 1, "O": 3}, {"La": 7, "Sr": 3, "Mn": 10, "O": 30},
          {"La": 2.8, "Sr": 1.2, "Mn": 4, "O": 12}], "Sr3La7Mn10O30"),
        ([{"Ti": 0.59, "Nb": 0.41, "N": 1}, {"Ti": 59, "Nb": 41, "N": 100}], "Ti59Nb41N100"),
        ([{"Li": 0.97, "Co": 1, "O": 2}, {"Li": 97, "Co": 100, "O": 200},
          {"Li": 2.91, "Co": 3, "O": 6}], "Li97(CoO2)100"),
        ([{"Mg": 1, "O": 0.9}, {"Mg": 4, "O": 3.6}, {"Mg": 10, "O": 9}], "Mg10O9"),
        ([{"Eu": 0.001, "Y": 1.999, "O": 3}, {"Eu": 0.016, "Y": 31.984, "O": 48}],
         "EuY1999O3000"),
        ([{"O": 8}, {"O": 1}], "O2"),
    ],
)  # fmt: skip
def test_one_composition_has_one_formula(same: list[dict[str, float]], formula: str) -> None:
    assert {formula_of(**amounts) for amounts in same} == {formula}


def test_fractions_of_a_text_give_the_formula_of_the_crystal() -> None:
    """As `prepare patterns` does it: fractions in float32."""
    for text in ("Ti0.6Nb0.4N", "Ti3Nb2N5", "Ti2.4Nb1.6N4", "Ti0.300Nb0.200N0.5"):
        elements, fractions = parse_formula(text)
        assert reduced_formula(elements, fractions.astype(np.float64)) == "Ti3Nb2N5"


def test_formulas_of_ordered_crystals_are_pymatgens() -> None:
    random = np.random.default_rng(0)
    compositions = [structure.composition for structure in _library()[::7]]
    for _ in range(200):
        symbols = random.choice(["Li", "Fe", "O", "Ba", "Cl", "H"], 3, replace=False)
        amounts = random.integers(1, 70, 3).tolist()
        compositions.append(Composition(dict(zip(map(str, symbols), amounts, strict=True))))
    for composition in compositions:
        amounts = {str(e): float(n) for e, n in composition.items()}
        assert formula_of(**amounts) == composition.reduced_formula


def test_many_unrelated_occupancies_have_a_formula_too() -> None:
    amounts = dict(zip("Fe Ni Co Cr Mn".split(), [0.2113, 0.1871, 0.2347, 0.1932, 0.1737]))  # noqa: B905, SIM905
    assert formula_of(**amounts) == formula_of(**{s: 4 * n for s, n in amounts.items()})


@pytest.mark.parametrize(
    "stated",
    [
        Stated("f", "Na Cl", 4),
        Stated("f", "NaCl"),
        Stated("f", "Na4 Cl4", 1),
        Stated("f", "Na4 Cl4", 4, whole=True),
        Stated("f", "Na4 Cl4", 2, whole=True),
        Stated("f", "Na1.0 Cl1.00", 4),
        Stated("f", "(NaCl)2"),
        stated_amounts("f", {"Na+": 4.0, "Cl-": 4.0}),
    ],
)
def test_what_agrees_is_silent(stated: Stated) -> None:
    assert check_composition(ORDERED, [stated]) == []


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        (Stated("the sum", "Na Cl3"), ["the sum is Na Cl3", "the atoms are Na4 Cl4"]),
        (Stated("f", "Na Cl", 2), ["4 formula units", "stated 2"]),
        (Stated("f", "Na Cl H"), ["Na Cl H"]),
        (Stated("f", "Na"), []),
        (Stated("f", "K Cl"), ["K Cl", "Na4"]),
        (Stated("f", "Na100 Cl101"), []),
        (Stated("f", "Na0.99 Cl0.9"), []),
        (Stated("f", "Na4 Cl4", 8, whole=True), []),
        (Stated("f", "Na4 Cl4", 3, whole=True), []),
        (stated_amounts("composition", {"Na": 2, "Cl": 2}), ["composition is Na2 Cl2"]),
    ],
)
def test_a_contradiction_names_both_sides(stated: Stated, words: list[str]) -> None:
    with pytest.raises(EntryError) as error:
        check_composition(ORDERED, [stated])
    assert error.value.reason == "stated formula and atoms disagree"
    for word in words:
        assert word in error.value.detail


def test_rounding_is_no_difference_and_a_little_more_is_noted() -> None:
    for text in ("Ti0.667 Nb0.333 N", "Ti0.67 Nb0.33 N", "Ti2 Nb N3", "Ti0.7 Nb0.3 N"):
        assert check_composition(MIXED, [Stated("f", text, 1 if "." in text else None)]) == []
    [note] = check_composition(MIXED, [Stated("f", "Ti0.650 Nb0.350 N")])
    assert note.phrase == "stated formula differs a little from the atoms"
    assert "Ti0.650" in note.detail
    with pytest.raises(EntryError):
        check_composition(MIXED, [Stated("f", "Ti0.50 Nb0.50 N")])


def test_a_hydrate_is_no_decimal() -> None:
    atoms = Structure(
        Lattice.cubic(7), ["Ca", "S", *"O" * 6, *"H" * 4], np.linspace(0, 0.9, 36).reshape(12, 3)
    )
    for text in ("CaSO4.2H2O", "CaSO4·2H2O", "Ca S O6 H4", "Ca1.0 S1 O6.00 H4"):
        assert check_composition(crystal_of(atoms), [Stated("f", text)]) == []


def test_a_text_that_is_no_formula_is_noted() -> None:
    for amount in (None, "x", 10**400, float("nan")):
        [note] = check_composition(ORDERED, [stated_amounts("composition", {"Na": amount})])
        assert note.phrase == "stated formula not understood"
    for text in ("quartz", "?", "Na Cl x H2O etc.", "Xx2", "9" * 400, "Na" + "9" * 400):
        [note] = check_composition(ORDERED, [Stated("column formula", text)])
        assert note.phrase == "stated formula not understood"
