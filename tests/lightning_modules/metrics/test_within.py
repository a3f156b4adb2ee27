"""Figures within formulas: what the composition cannot know."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch

from datamodules import batch as keys
from lightning_modules.metrics import within
from lightning_modules.metrics.evaluation import report
from lightning_modules.metrics.predictions import Predictions
from lightning_modules.regression import Regression
from tests.lightning_modules.batches import make_batch
from tests.lightning_modules.test_regression import make_task


def plain(value: np.ndarray, target: np.ndarray, formula: np.ndarray, tolerance: float) -> Any:
    """The three figures by plain loops over formulas and pairs."""
    errors, exchanged, pairs = [], [], []
    for f in sorted(set(formula.tolist())):
        rows = [i for i in np.flatnonzero(formula == f) if np.isfinite(target[i])]
        if len(rows) < 2:
            continue
        p, y = value[rows] - value[rows].mean(), target[rows] - target[rows].mean()
        errors += list(np.abs(p - y))
        exchanged += [
            np.mean([abs(p[j] - y[i]) for j in range(len(y)) if j != i]) for i in range(len(y))
        ]
        for i, j in itertools.combinations(range(len(y)), 2):
            if abs(y[i] - y[j]) > tolerance:
                pairs.append(0.5 if p[i] == p[j] else float((p[i] > p[j]) == (y[i] > y[j])))
    return np.mean(errors), np.mean(pairs), np.mean(exchanged)


def made(seed: int = 0) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    formula = np.sort(rng.integers(0, 12, 60)) * 7919 - 40000
    target = rng.normal(size=60)
    value = target + rng.normal(size=60)
    target[::7] = np.nan
    value[10], value[11] = value[12], value[12]
    return value, target, formula, rng.permutation(1000)[:60]


def test_figures_equal_plain_loops() -> None:
    value, target, formula, index = made()
    found = within.figures(value[:, None], target, formula, index, 0.3)[0]
    expected = plain(value, target, formula, 0.3)
    assert [found[name] for name in within.FIGURES] == pytest.approx(expected)
    several = [f for f in set(formula) if np.isfinite(target[formula == f]).sum() > 1]
    assert (found["formulas"], found["tolerance"]) == (len(several), 0.3)


def test_figures_do_not_depend_on_the_order_of_the_rows() -> None:
    value, target, formula, index = made()
    order = np.random.default_rng(1).permutation(60)
    expected = within.figures(value[:, None], target, formula, index, 0.1, draws=50)
    found = within.figures(value[order, None], target[order], formula[order], index[order], 0.1, 50)
    assert found[0] == pytest.approx(expected[0])


@pytest.mark.parametrize("seed", range(3))
def test_a_composition_ranks_half_of_the_pairs_and_takes_nothing_from_the_pattern(
    seed: int,
) -> None:
    _, target, formula, index = made(seed)
    rounding = np.random.default_rng(seed).normal(size=60) * 1e-7
    value = np.sin(formula.astype(float)) + rounding
    found = within.figures(value[:, None], target, formula, index, 0.01, draws=200)[0]
    assert found["pairs"] == found["pairs_low"] == found["pairs_high"] == 0.5
    assert found["shuffled_mae"] == pytest.approx(found["mae"], abs=1e-6)


def test_a_perfect_model_ranks_all_and_loses_all_with_other_patterns() -> None:
    _, target, formula, index = made()
    offset = np.cos(formula.astype(float))
    found = within.figures((target + offset)[:, None], target, formula, index, 0.01)[0]
    assert found["pairs"] == 1.0
    assert found["mae"] == pytest.approx(0.0, abs=1e-12)
    assert found["shuffled_mae"] > 0.5


def test_labels_closer_than_the_tolerance_are_no_pair() -> None:
    target, formula = np.array([0.0, 0.009, 1.0]), np.zeros(3, int)
    value, index = np.array([5.0, 4.0, 6.0])[:, None], np.arange(3)
    assert within.figures(value, target, formula, index, 0.01)[0]["pairs"] == 1.0
    assert within.figures(value, target, formula, index, 0.001)[0]["pairs"] == pytest.approx(2 / 3)
    assert "pairs" not in within.figures(value, target, formula, index, 2.0)[0]


def test_without_several_structures_of_a_formula_there_is_nothing_to_judge() -> None:
    value, nothing = np.zeros((4, 2)), np.array([1.0, math.nan, 2.0, 3.0])
    formula = np.array([1, 1, 2, 3])
    assert within.figures(value, nothing, formula, np.arange(4), 0.1) == [{}, {}]
    assert within.figures(value[:0], nothing[:0], formula[:0], np.arange(0), 0.1) == [{}, {}]


def test_pairs_of_a_large_formula_are_a_sample_that_uses_each_structure_alike() -> None:
    group = np.concatenate((np.zeros(1000, int), np.ones(4, int)))
    pairs = within.pairs_of(group, np.arange(1004))
    large = pairs.formula == 0
    assert large.sum() == 1000 * 64
    often = np.bincount(np.concatenate((pairs.first[large], pairs.second[large])))
    assert set(often.tolist()) == {128}
    assert len({frozenset(p) for p in zip(pairs.first, pairs.second, strict=True)}) == 64006
    assert (~large).sum() == 6


def test_intervals_come_from_formulas_not_from_rows() -> None:
    rng = np.random.default_rng(0)
    # In half of the 40 formulas all pairs are ranked rightly, in the other half none.
    formula = np.repeat(np.arange(40), 10)
    target = rng.normal(size=400)
    value = np.where(formula % 2, target, -target)
    found = within.figures(value[:, None], target, formula, np.arange(400), 0.0, draws=1000)[0]
    assert found["pairs"] == pytest.approx(0.5)
    expected = 2 * 1.96 * 0.5 / math.sqrt(40)
    assert found["pairs_high"] - found["pairs_low"] == pytest.approx(expected, rel=0.15)


def test_tolerances_go_by_unit_and_can_be_chosen() -> None:
    assert within.pair_tolerance("e", "eV/atom", 2.0) == 0.001
    assert within.pair_tolerance("e", "furlong", 2.0) == 0.002
    assert within.pair_tolerance("e", "eV/atom", 2.0, {"e": 0.02, "f": 3.0}) == 0.02
    assert make_task(pair_tolerance={"a": 0.02}).constructed_with["pair_tolerance"] == {"a": 0.02}
    with pytest.raises(ValueError, match="pair_tolerance: no target 'c'; there are a, b"):
        make_task(pair_tolerance={"c": 0.02})
    with pytest.raises(ValueError, match="pair_tolerance of a is -1"):
        make_task(pair_tolerance={"a": -1.0})


def polymorphs(n: int = 24) -> tuple[Regression, dict[str, torch.Tensor]]:
    """A model and structures of which three each share a composition."""
    task, batch = make_task(("a",)).eval(), make_batch(n)
    first = torch.arange(n) // 3 * 3
    for key in (keys.ELEMENTS, keys.FRACTIONS):
        batch[key] = batch[key][first]
    targets = torch.randn(n, 1, generator=torch.Generator().manual_seed(3))
    return task, batch | {keys.FORMULA_KEY: first, keys.TARGETS: targets}


def values_of(task: Regression, batch: dict[str, torch.Tensor]) -> dict[str, float]:
    predictions = Predictions()
    with torch.no_grad():
        task.collect(batch, predictions)
    return report(predictions.table(), list(task.modes), task.targets)


def test_a_model_run_with_exchanged_patterns_has_the_error_that_is_computed_without_it() -> None:
    task, batch = polymorphs()
    expected = values_of(task, batch)
    found = []
    for step in (1, 2):  # all exchanges of three structures that leave none in its place
        other = torch.arange(24) // 3 * 3 + (torch.arange(24) % 3 + step) % 3
        exchanged = batch | {key: batch[key][other] for key in (keys.XRD, keys.MEASURED)}
        found.append(values_of(task, exchanged))
    for mode in ("both", "xrd"):
        mean = sum(values[f"{mode}/a/within/mae"] for values in found) / 2
        assert mean == pytest.approx(expected[f"{mode}/a/within/shuffled_mae"], rel=1e-4)
        assert abs(mean - expected[f"{mode}/a/within/mae"]) > 1e-6


def test_the_report_has_the_figures_of_every_mode() -> None:
    task, batch = polymorphs()
    values = values_of(task, batch)
    assert values["composition/a/within/pairs"] == 0.5
    assert values["composition/a/within/mae"] == pytest.approx(
        values["composition/a/within/shuffled_mae"], abs=1e-6
    )
    assert values["both/a/within/formulas"] == 8
    assert 0.0 <= values["both/a/within/pairs"] <= 1.0
    assert values["both/a/within/tolerance"] == pytest.approx(1e-3)
