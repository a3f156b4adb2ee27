"""Bootstrap, crossings of curves and power laws.

Shapes: R runs, N materials, K draws, S sizes.
"""

from collections.abc import Sequence

import numpy as np

DRAWS = 4000
_CHUNK = 256


def interval(draws: np.ndarray) -> tuple[float, float]:
    """95 % interval of bootstrap draws along the first axis; draws that are not finite count."""
    low, high = np.quantile(draws, [0.025, 0.975], axis=0, method="inverted_cdf")
    return float(low), float(high)


def group_means(
    errors_RN: np.ndarray, groups: np.ndarray, draws: int = DRAWS, seed: int = 0
) -> np.ndarray:
    """Means over materials when whole groups are drawn with replacement, (K, R).

    Args:
        errors_RN: Errors of each run and material, (R, N).
        groups: What is drawn: the materials' formulas, (N,).
        draws: How many times, K.
        seed: The same seed draws the same groups: means of equal columns are paired.
    """
    _, group = np.unique(groups, return_inverse=True)
    n_groups = int(group.max()) + 1
    size = np.bincount(group, minlength=n_groups).astype(float)
    sums = np.stack([np.bincount(group, weights=row, minlength=n_groups) for row in errors_RN])
    generator = np.random.default_rng(seed)
    means = []
    for start in range(0, draws, _CHUNK):
        k = min(_CHUNK, draws - start)
        # How often each group is drawn; equal to n_groups draws with replacement.
        often = generator.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=k)
        means.append((often @ sums.T) / (often @ size)[:, None])
    return np.concatenate(means)


def first_crossing(
    steps: Sequence[float], values: Sequence[float], threshold: float
) -> float | None:
    """Where a curve first reaches a threshold from above, between points linearly.

    Returns:
        The step, or None if it never does.
    """
    for i, value in enumerate(values):
        if value <= threshold:
            if i == 0 or not np.isfinite(values[i - 1]):
                return float(steps[i])
            share = (values[i - 1] - threshold) / (values[i - 1] - value)
            return float(steps[i - 1] + share * (steps[i] - steps[i - 1]))
    return None


def power_law(n_S: np.ndarray, error_KS: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least squares of log error against log n: error = factor · n^(-exponent).

    Args:
        n_S: Numbers of training materials, (S,).
        error_KS: Errors, (K, S).

    Returns:
        Factors and exponents, (K,) each.
    """
    x = np.log(n_S) - np.log(n_S).mean()
    y = np.log(error_KS)
    slope = (y * x).sum(axis=1) / (x * x).sum()
    return np.exp(y.mean(axis=1) - slope * np.log(n_S).mean()), -slope
