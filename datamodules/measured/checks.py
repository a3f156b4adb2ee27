"""What makes a pattern doubtful (warnings) or useless (errors)."""

from __future__ import annotations

import numpy as np

from datamodules.grid import Grid
from datamodules.measured.errors import PatternError
from datamodules.measured.scan import Scan

MIN_POINTS = 100
COARSE_STEP, COARSEST_STEP = 0.06, 0.2
"""Steps in degrees of the grid: lines of 0.1–0.2° are sampled badly, not at all."""
SHORT_WINDOW, SHORTEST_WINDOW = 30.0, 10.0
"""Degrees of the grid that were measured."""
_SATURATED_RUN = 4
_BEYOND = 0.02
_SIGNAL_TO_NOISE, _WEAK_SIGNAL_TO_NOISE = 5.0, 15.0


def check_angles(two_theta: np.ndarray) -> None:
    """Refuses an axis in another unit than degrees.

    Raises:
        PatternError: if more than a few points lie beyond 180.
    """
    if float(np.mean(two_theta >= 180.0)) > _BEYOND:
        raise PatternError(
            f"angles up to {float(two_theta.max()):g}: 2θ in degrees ends at 180; is it in other "
            "units, or another quantity?"
        )


def check_scan(scan: Scan) -> list[str]:
    """Warnings about a scan as it was read.

    Raises:
        PatternError: if it has too few points, is a list of lines, constant, mostly negative or
            mostly saturated.
    """
    x, y = scan.x, scan.intensity
    if len(x) < MIN_POINTS:
        raise PatternError(
            f"{len(x)} points from {x[0]:g} to {x[-1]:g}: a list of lines or a cut file, no scan "
            f"(at least {MIN_POINTS} points)"
            if len(x)
            else "no point between 0° and 180°"
        )
    low, high = float(y.min()), float(y.max())
    if low == high:
        raise PatternError(f"flat: all {len(y)} intensities are {low:g}")
    warnings = []
    negative = float(np.mean(y < 0))
    if negative > 0.3 or -low > high:
        raise PatternError(
            f"{negative:.0%} of the intensities are negative: a difference or a derivative? Give "
            "the pattern as counted"
        )
    if negative > 0:
        warnings.append(
            f"{negative:.1%} of the intensities are negative (a background was taken off?)"
        )
    top = y == high
    run = _longest_run(top)
    if run >= _SATURATED_RUN and high > 100:
        share = float(top.mean())
        if share > 0.1:
            raise PatternError(
                f"saturated: {share:.0%} of the points are at the maximum of {high:g}; measure "
                "with an attenuator"
            )
        warnings.append(
            f"saturated? {run} neighbouring points are at the maximum of {high:g}: the strongest "
            "lines are cut, the others count too much"
        )
    return warnings


def _longest_run(flags: np.ndarray) -> int:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    return int((edges[1::2] - edges[::2]).max(initial=0))


def check_spacing(position: np.ndarray) -> list[str]:
    """Warnings about the steps, in degrees of the grid.

    Args:
        position: Where the points lie on the grid's axis, (n,), ascending.

    Raises:
        PatternError: if they are too coarse for lines to be seen.
    """
    step = float(np.median(np.diff(position)))
    if step > COARSEST_STEP:
        raise PatternError(
            f"steps of {step:.2g}° (on the model's axis) are too coarse: lines are 0.1 to 0.2° "
            f"wide; measure with 0.02°, at most {COARSEST_STEP}°"
        )
    if step > COARSE_STEP:
        return [f"steps of {step:.2g}° (on the model's axis) are coarse: narrow lines lose height"]
    return []


def check_window(measured: np.ndarray, grid: Grid) -> list[str]:
    """Warnings about how much of the model's window was measured.

    Raises:
        PatternError: if it is too little.
    """
    degrees = float(measured.sum()) * grid.step
    # A model of a narrow window cannot ask for more than it has.
    window = grid.two_theta_max - grid.two_theta_min
    if degrees < min(SHORTEST_WINDOW, 0.5 * window):
        raise PatternError(
            f"only {degrees:.1f}° of the model's window ({grid.two_theta_min:g}–"
            f"{grid.two_theta_max:g}° at {grid.wavelength:g} Å) were measured; at least "
            f"{min(SHORTEST_WINDOW, 0.5 * window):g}° are needed. Is the wavelength right?"
        )
    if degrees < min(SHORT_WINDOW, 0.8 * window):
        return [f"only {degrees:.1f}° of the model's window were measured"]
    return []


def check_signal(signal: np.ndarray, counts: np.ndarray) -> list[str]:
    """Warnings about lines and noise.

    Args:
        signal: Without background, of the points of the grid that were measured, (m,).
        counts: What tells the noise, at the steps at which it is independent, (k,): where the
            grid's points are interpolated, those of the scan.

    Raises:
        PatternError: if no line stands out of the noise.
    """
    # Second differences see noise, not lines or background; 1.4826 makes the median absolute
    # deviation a Gaussian's σ, √6 is their σ in units of the noise's.
    noise = 1.4826 * float(np.median(np.abs(np.diff(counts, 2)))) / np.sqrt(6.0)
    highest = float(signal.max())
    if not highest > _SIGNAL_TO_NOISE * noise:
        raise PatternError(
            f"flat: the highest point is {highest / max(noise, 1e-300):.1f} times the noise above "
            "the background; no line is seen (amorphous, or an empty holder?)"
        )
    warnings = []
    if highest < _WEAK_SIGNAL_TO_NOISE * noise:
        warnings.append(
            f"weak: the highest line is only {highest / noise:.0f} times the noise; count longer"
        )
    return warnings
