"""Crossings, power laws and the bootstrap."""

import numpy as np
import pytest

from lightning_modules.experiments.report.statistics import first_crossing, power_law
from lightning_modules.metrics.bootstrap import group_means, interval


@pytest.mark.parametrize(
    ("values", "threshold", "expected"),
    [
        ([4.0, 2.0, 1.0], 3.0, 15.0),  # half way between the points
        ([4.0, 2.0, 1.0], 1.0, 30.0),
        ([4.0, 2.0, 1.0], 5.0, 10.0),  # better from the first look on
        ([4.0, 2.0, 3.0, 1.0], 2.5, 17.5),  # the first time counts
        ([4.0, 2.0, 1.0], 0.5, None),
        ([4.0, float("nan"), 1.0], 0.5, None),
        ([4.0, float("nan"), 1.0], 2.0, 30.0),  # between it and nothing there is no line
    ],
)
def test_a_curve_first_crosses_between_its_points(
    values: list[float], threshold: float, expected: float | None
) -> None:
    assert first_crossing([10, 20, 30, 40], values, threshold) == expected


def test_a_power_law_is_found_exactly_and_draw_by_draw() -> None:
    n = np.array([100.0, 300.0, 1000.0, 10000.0])
    factor, exponent = power_law(n, np.stack([3.0 * n**-0.5, 0.1 * n**-0.25]))
    np.testing.assert_allclose(factor, [3.0, 0.1])
    np.testing.assert_allclose(exponent, [0.5, 0.25])


def test_the_bootstrap_draws_whole_groups() -> None:
    # 400 materials of 40 formulas; a formula's materials are all alike. Drawing materials one by
    # one would give an interval narrower by the square root of ten.
    rng = np.random.default_rng(0)
    by_group = rng.normal(size=40)
    groups = np.repeat([f"f{i}" for i in range(40)], 10)
    means = group_means(np.repeat(by_group, 10)[None], groups)[:, 0]
    expected = by_group.std() / np.sqrt(40)
    assert means.std() == pytest.approx(expected, rel=0.05)
    assert means.mean() == pytest.approx(by_group.mean(), abs=0.2 * expected)
    low, high = interval(means)
    assert high - low == pytest.approx(2 * 1.96 * expected, rel=0.1)


def test_runs_are_drawn_on_the_same_materials() -> None:
    rng = np.random.default_rng(0)
    errors = rng.random(50)
    means = group_means(np.stack([errors, errors + 1.0]), np.arange(50))
    np.testing.assert_allclose(means[:, 1] - means[:, 0], 1.0)
    # Groups of different sizes: the mean is over materials, not over groups.
    uneven = group_means(np.array([[1.0, 1.0, 1.0, 4.0]]), np.array(["a", "a", "a", "b"]))
    assert set(np.round(uneven[:, 0], 6)) == {1.0, 1.75, 4.0}


def test_an_infinite_draw_widens_the_interval() -> None:
    assert interval(np.array([1.0] * 90 + [np.inf] * 10)) == (1.0, np.inf)


def test_a_draw_with_nothing_to_judge_is_left_out() -> None:
    assert interval(np.array([1.0, np.nan, 2.0, np.nan])) == (1.0, 2.0)
    assert np.isnan(interval(np.array([np.nan]))).all()
