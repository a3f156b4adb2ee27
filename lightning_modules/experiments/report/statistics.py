"""Crossings of curves and power laws.

Shapes: K draws, S sizes.
"""

from collections.abc import Sequence

import numpy as np


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
