"""Widths of a measured pattern's lines, and widening them to those of the model.

Legend: L points of the grid.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.signal import find_peaks, peak_widths

_FWHM_PER_SIGMA = 2.0 * math.sqrt(2.0 * math.log(2.0))
_SMOOTHING = 0.35
"""Of the lines' width: widens them by 6 %."""


def typical_width(signal: np.ndarray, step: float) -> float | None:
    """Median FWHM of the strong lines, degrees, weighted by their heights; None without lines.

    Args:
        signal: Without background, (L,); 0 where not measured.
        step: Degrees.
    """
    smooth = gaussian_filter1d(signal, 0.03 / step, mode="nearest")
    peaks, found = find_peaks(smooth, prominence=0.1 * float(smooth.max()))
    if not len(peaks):
        return None
    widths = peak_widths(smooth, peaks, rel_height=0.5)[0] * step
    order = np.argsort(widths)
    share = np.cumsum(found["prominences"][order])
    width = float(widths[order][np.searchsorted(share, 0.5 * share[-1])])
    # What the smoothing above added.
    return math.sqrt(max(width**2 - (0.03 * _FWHM_PER_SIGMA) ** 2, step**2))


def widen(
    signal: np.ndarray,
    measured: np.ndarray,
    step: float,
    fwhm: float | None,
    wanted: float,
    notes: list[str],
) -> np.ndarray:
    """Convolves with the Gaussian that brings typical lines to the wanted width.

    Args:
        signal: Without background, (L,).
        measured: Which points were measured, (L,) bool.
        step: Degrees.
        fwhm: Width of the lines, degrees; None if unknown.
        wanted: Width to reach, degrees.
        notes: What was done is added.
    """
    if fwhm is None:
        notes.append("lines not widened: their width could not be told")
        return signal
    if fwhm < wanted:
        width = math.sqrt(wanted**2 - fwhm**2)
        notes.append(f"lines widened from {fwhm:.2f}° (median) to the model's {wanted:g}°")
    else:
        # The root of the intensity makes noise near zero large: smoothed as far as lines allow.
        width = _SMOOTHING * fwhm
        notes.append(f"lines not widened ({fwhm:.2f}° wide, the model's {wanted:g}°), smoothed")
    sigma = width / _FWHM_PER_SIGMA / step
    weight = gaussian_filter1d(measured.astype(float), sigma, mode="constant")
    wide = gaussian_filter1d(np.where(measured, signal, 0.0), sigma, mode="constant")
    return np.where(measured, wide / np.maximum(weight, 1e-6), 0.0)
