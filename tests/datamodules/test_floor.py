"""What the composition cannot know: against plain loops, and where a formula decides everything."""

from __future__ import annotations

import numpy as np
import pytest

from datamodules.store.floor import CompositionFloor, composition_floor


def plainly(formulas: np.ndarray, labels: np.ndarray) -> CompositionFloor:
    groups: dict[int, list[float]] = {}
    for formula, label in zip(formulas.tolist(), labels.tolist(), strict=True):
        if np.isfinite(label):
            groups.setdefault(formula, []).append(label)
    every = np.concatenate(list(groups.values()))
    several = [np.array(group) for group in groups.values() if len(group) > 1]
    within = sum(((group - group.mean()) ** 2).sum() for group in several)
    distance = sum(np.abs(group - np.median(group)).sum() for group in several)
    rows = sum(map(len, several))
    return CompositionFloor(
        len(groups),
        len(several),
        rows,
        within / ((every - every.mean()) ** 2).sum(),
        distance / rows,
        distance / len(every),
    )


@pytest.mark.parametrize("n_formulas", [1, 7, 150, 400])
def test_it_equals_plain_loops(n_formulas: int) -> None:
    random = np.random.default_rng(n_formulas)
    keys = random.integers(0, 2**64, n_formulas, dtype=np.uint64, endpoint=False)
    formulas = random.choice(keys, 500)
    labels = random.choice([-3.5, 0.0, -0.0, 1e-30, 2.0, np.nan], 500).astype(np.float32)
    labels[::3] = random.normal(-100, 50, len(labels[::3]))
    found, expected = composition_floor(formulas, labels), plainly(formulas, labels)
    assert vars(found) == pytest.approx(vars(expected), rel=1e-6)


def test_no_composition_does_better_than_the_floor() -> None:
    """Any answer by formula has at least this error; the medians have exactly this one."""
    formulas = np.repeat(np.arange(40), 5)
    labels = np.random.default_rng(0).gumbel(size=200).astype(np.float32)
    floor = composition_floor(formulas, labels).composition_floor_mae
    by_formula = labels.reshape(40, 5)
    for answer in (by_formula.mean(1), np.median(by_formula, 1) + 0.05, by_formula.min(1)):
        assert np.abs(by_formula - answer[:, None]).mean() > floor
    median = np.median(by_formula, 1)[:, None]
    assert np.abs(by_formula - median).mean() == pytest.approx(floor, rel=1e-6)


def test_where_the_formula_says_all_nothing_is_left() -> None:
    labels = np.array([1.0, 1.0, 2.0, np.nan])
    found = composition_floor(np.array([5, 5, 6, 6]), labels)
    assert vars(found) == {
        "formulas": 2,
        "formulas_with_several": 1,
        "rows_of_several": 2,
        "within_formula_share": 0.0,
        "composition_floor_mae": 0.0,
        "composition_floor_mae_all": 0.0,
    }


def test_what_is_undefined_is_none() -> None:
    one_each = composition_floor(np.arange(3), np.array([1.0, 2, 4]))
    assert (one_each.within_formula_share, one_each.composition_floor_mae) == (0.0, None)
    assert one_each.composition_floor_mae_all == 0.0
    assert composition_floor(np.zeros(3, int), np.ones(3)).within_formula_share is None
    none = composition_floor(np.arange(3), np.full(3, np.nan))
    assert vars(none) == {**dict.fromkeys(vars(none)), **dict.fromkeys(list(vars(none))[:3], 0)}
