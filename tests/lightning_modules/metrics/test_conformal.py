"""Intervals: what is promised, and for whom: formulas, however many structures they have."""

import math

import pytest
import torch
from torch import Tensor

from lightning_modules.metrics.conformal import conformal_quantile, coverage, quantiles
from lightning_modules.metrics.predictions import Table
from lightning_modules.objectives.targets import Prediction, Targets


def test_quantile_has_the_finite_sample_correction() -> None:
    scores, each = torch.arange(1.0, 20.0), torch.arange(20)  # 19 scores: ceil(20 * 0.9) = 18
    shuffled = scores[torch.randperm(19, generator=torch.Generator().manual_seed(0))]
    assert conformal_quantile(shuffled, each[:19], 0.9) == 18.0
    assert conformal_quantile(torch.cat((shuffled, torch.tensor([math.nan]))), each, 0.9) == 18.0
    assert conformal_quantile(scores[:9], each[:9], 0.9) == 9.0
    assert conformal_quantile(scores[:8], each[:8], 0.9) == math.inf, "too few for any guarantee"
    assert conformal_quantile(scores[:0], each[:0], 0.9) == math.inf


def test_a_formula_weighs_as_much_as_another_however_many_structures_it_has() -> None:
    generator = torch.Generator().manual_seed(0)
    scores, each = torch.rand(30, generator=generator), torch.arange(30)
    expected = conformal_quantile(scores, each, 0.8)
    # Seven equal structures in place of one, in some formulas: nothing changes.
    times = torch.where(each % 3 == 0, 7, 1)
    repeated = scores.repeat_interleave(times), each.repeat_interleave(times)
    assert conformal_quantile(*repeated, 0.8) == expected
    # A formula's structures share its weight: of ten formulas one reaches to 5 in a quarter.
    scores = torch.tensor([*range(9), 1.0, 2.0, 3.0, 5.0])
    groups = torch.tensor([*range(9), 9, 9, 9, 9])
    # Weights up to 5.0: formulas 0 to 5, and all of the tenth: 7 of 11.
    assert conformal_quantile(scores, groups, 6.9 / 11) == 5.0
    assert conformal_quantile(scores, groups, 6.7 / 11) == 4.0 + 1.0
    assert conformal_quantile(scores, groups, 5.7 / 11) == 4.0


def promise_and_reality(by_formula: bool) -> tuple[float, float]:
    """Mean coverage of new formulas, and of their rows, of intervals at nominal 90 %.

    A quarter of the formulas have 40 structures, of which the model knows what it says; the others
    have one, with errors ten times as large. Spreads know nothing of it.
    """
    generator = torch.Generator().manual_seed(1)
    found = []
    for _ in range(60):
        many = torch.rand(120, generator=generator) < 0.25
        formula = torch.arange(120).repeat_interleave(torch.where(many, 40, 1))
        scale = torch.where(many, 0.1, 1.0)[formula]
        value = torch.randn(len(formula), 1, 1, generator=generator)
        error = torch.randn(len(formula), 1, generator=generator) * scale[:, None]
        target, spread = value[:, 0] + error, torch.ones_like(value)
        known = formula < 60
        groups = formula[known] if by_formula else torch.arange(int(known.sum()))
        targets = Targets(["x"], 1)
        targets.conformal = quantiles(_table(target, value, spread)[known], groups, 0.9)
        prediction = Prediction(value[~known, 0], spread[~known, 0])
        low, high = (end[:, 0] for end in targets.interval(prediction, 0))
        found.append(coverage(low, high, target[~known, 0], formula[~known]))
    by_formulas, by_rows = (
        sum(x[name] for x in found) / len(found) for name in ("coverage", "coverage_rows")
    )
    return by_formulas, by_rows


def _table(target: Tensor, value: Tensor, spread: Tensor) -> Table:
    nothing = torch.empty(len(target))
    return Table(*[nothing] * 4, target, value, spread)


def test_new_formulas_are_covered_as_promised_where_counting_rows_breaks_the_promise() -> None:
    by_formulas, by_rows = promise_and_reality(by_formula=True)
    # 3 600 new formulas: three standard errors around the promise.
    assert by_formulas == pytest.approx(0.9, abs=0.02)
    assert by_rows > 0.97, "rows of the well-known formulas are covered more often"
    counting_rows, _ = promise_and_reality(by_formula=False)
    assert counting_rows < 0.6, "what counting rows gave: the promise held for rows alone"


def test_coverage_comes_with_its_own_interval() -> None:
    target = torch.arange(100.0)
    low, high = target - 1, target + 1
    high[:10] = target[:10] - 0.5
    labels = torch.cat((target[:99], torch.tensor([math.nan])))
    found = coverage(low, high, labels, torch.arange(100))
    assert found["coverage"] == found["coverage_rows"] == pytest.approx(89 / 99)
    # Wilson's interval of 89 in 99, computed by hand.
    assert found["coverage_low"] == pytest.approx(0.8237, abs=2e-3)
    assert found["coverage_high"] == pytest.approx(0.9443, abs=2e-3)
    assert found["coverage_rows_low"] == pytest.approx(89 / 99 - 1.96 * 0.0303, abs=0.012)
    assert coverage(low, high, target * math.nan, torch.arange(100)) == {}


def test_coverage_by_formula_and_by_row_and_intervals_that_know_of_formulas() -> None:
    # 20 formulas: 10 of one structure, not covered; 10 of nine, covered.
    formula = torch.arange(20).repeat_interleave(torch.tensor([1, 9]).repeat(10))
    target = torch.zeros(len(formula))
    covered = (formula % 2).float()
    found = coverage(1 - 2 * covered, 2 - covered, target, formula)
    assert found["coverage"] == pytest.approx(0.5)
    assert found["coverage_rows"] == pytest.approx(0.9)
    # Twenty formulas know no more than Wilson's interval of 10 in 20; a hundred rows would.
    assert found["coverage_low"] == pytest.approx(0.2993, abs=1e-3)
    assert found["coverage_rows_low"] < 0.82
    assert 0.9 < found["coverage_rows_high"] < 0.97
