"""The background of a measured pattern, by pybaselines."""

from __future__ import annotations

import numpy as np
from pybaselines import Baseline
from scipy.ndimage import gaussian_filter1d

_STIFFNESS = 1e7
"""arPLS's λ at steps of 0.02°: follows the humps of glass holders (10–30° wide), not the lines.

Chosen by eye on seven measured patterns and five others among λ = 1e6, 1e7, SNIP, spline and FABC:
docs/measured.md."""
_STEP = 0.02
_DITHER = 0.003
"""arPLS tells lines from background by the noise below it; without any (smoothed or simulated data)
it misses humps altogether. This share of the range, always the same numbers, is added before."""
_TAIL_DEGREES = 10.0
"""Reach of the primary beam's tail from where the pattern starts."""
_SMOOTH_DEGREES = 0.1


def estimate_background(intensity: np.ndarray, measured: np.ndarray, step: float) -> np.ndarray:
    """Background on the whole grid; means nothing where nothing was measured.

    Asymmetrically reweighted smoothing (arPLS). It takes the primary beam's steep tail at low
    angles for the flank of a line; there the falling lower envelope, counted from the start, is
    the background.

    Args:
        intensity: On the grid, shape (L,).
        measured: Which points were measured, (L,) bool; gaps are bridged by straight lines.
        step: Of the grid, degrees.

    Source: Baek et al., Analyst 140 (2015) 250.
    """
    points = np.flatnonzero(measured)
    first, last = points[0], points[-1] + 1
    inside = np.arange(first, last)
    y = np.interp(inside, points, intensity[points])
    fitter = Baseline(inside.astype(float), check_finite=False)
    noise = np.random.default_rng(0).normal(0.0, _DITHER * np.ptp(y), len(y))
    background, _ = fitter.arpls(y + noise, lam=_STIFFNESS * (_STEP / step) ** 4, max_iter=100)
    n_tail = min(len(y), round(_TAIL_DEGREES / step))
    reach = min(len(y) - 1, round(4 * _SMOOTH_DEGREES / step))
    # Odd reflection goes on falling before the first point, as the tail does.
    padded = np.pad(y, reach, mode="reflect", reflect_type="odd")
    smooth = gaussian_filter1d(padded, _SMOOTH_DEGREES / step)[reach:]
    tail = np.minimum.accumulate(smooth[:n_tail])
    background[:n_tail] = np.maximum(background[:n_tail], tail)
    whole = np.zeros(len(intensity))
    whole[first:last] = background
    return whole
