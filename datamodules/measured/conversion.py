"""From a measured scan to the model's grid, with everything that was done written down.

Order: padding off; Kα2 off if asked; points to the grid through Q; background; Jacobian and
Lorentz–polarization factor of the new wavelength; width; scale. Legend: n points of the scan,
L points of the grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.interpolate import PchipInterpolator

from datamodules.grid import Grid
from datamodules.measured import checks
from datamodules.measured.corrections.background import estimate_background
from datamodules.measured.corrections.kalpha2 import strip_kalpha2
from datamodules.measured.corrections.widths import typical_width, widen
from datamodules.measured.errors import PatternError
from datamodules.measured.scan import Scan
from datamodules.measured.wavelength import Wavelength
from datamodules.radiation import lorentz_polarization

_LARGEST_GAP = 0.25
"""Degrees; what lies between points further apart (and than four steps) was not measured."""
_PADDING = 20
"""Exact zeros at an end that are taken for padding."""


@dataclass(frozen=True)
class Options:
    """What the user can choose.

    Attributes:
        wavelength: In place of the file's; needed where the file has none and the axis is 2θ.
        polarization: P in 1 + P cos²2θ of the measurement: 1 for an unpolarised tube, cos²2θ of a
            crystal monochromator (0.80 for graphite at Cu Kα, 26.6°), 0 for a synchrotron that
            scatters in the vertical plane.
        strip_kalpha2: Whether to take Kα2 off; training meets the doublet by augmentation.
        background: Whether to take off a background.
        fwhm: Lines narrower than this are widened to it, degrees at the grid's wavelength: the
            width of the patterns that the model was trained on. None leaves them.
        model_polarization: P of the patterns that the model was trained on.
        zero: 2θ at which the instrument's zero lies, degrees; subtracted from the angles.
    """

    wavelength: Wavelength | None = None
    polarization: float = 1.0
    strip_kalpha2: bool = False
    background: bool = True
    fwhm: float | None = None
    zero: float = 0.0
    model_polarization: float = 1.0

    def __post_init__(self) -> None:
        for polarization in (self.polarization, self.model_polarization):
            if not 0.0 <= polarization <= 1.0:
                raise ValueError(f"polarization is {polarization}; it lies in 0 to 1")
        if self.fwhm is not None and not 0.0 < self.fwhm <= 5.0:
            raise ValueError(f"fwhm is {self.fwhm}°; give a width above 0 and at most 5")
        if not abs(self.zero) < 5.0:
            raise ValueError(f"zero is {self.zero}°; an instrument's is below 5°")


@dataclass
class ConvertedPattern:
    """A pattern on the model's grid, and the way there.

    Attributes:
        profile: Intensity, shape (L,), float32, at most 1; NaN where not measured. Not its root.
        grid: The grid.
        raw: The scan's intensity on the grid before anything was taken off, (L,), NaN where not
            measured; in the file's units.
        background: What was taken off `raw`, (L,).
        scan: As read.
        wavelength: Of the measurement; None for a scan in Q.
        fwhm: Width of the pattern's lines before widening, degrees (median); None if unknown.
        notes: What was done, in order.
        warnings: What is doubtful.
    """

    profile: np.ndarray
    grid: Grid
    raw: np.ndarray
    background: np.ndarray
    scan: Scan
    wavelength: Wavelength | None
    fwhm: float | None = None
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def convert(
    scan: Scan, grid: Grid | None = None, options: Options | None = None
) -> ConvertedPattern:
    """Brings a scan to a grid.

    Args:
        scan: As `read_scan` gives it; not changed.
        grid: The model's grid.
        options: The user's choices.

    Raises:
        PatternError: if there is no wavelength, or the data cannot be used (see `checks`).
    """
    grid, options = grid or Grid(), options or Options()
    wavelength = options.wavelength or scan.wavelength
    if scan.axis == "two_theta" and wavelength is None:
        raise PatternError(
            f"the wavelength is unknown ({scan.format} has none): give it with --wavelength, in Å "
            "or by name (CuKa, CoKa, MoKa, CrKa, CuKa1 …); none is assumed"
        )
    if scan.axis == "q" and (options.strip_kalpha2 or options.zero):
        raise PatternError(
            "Kα2 and the zero are matters of 2θ, and this scan is in Q: take them off before"
        )
    notes, warnings = [f"read as {scan.format}", *scan.notes], list(scan.warnings)
    if options.wavelength and scan.wavelength:
        given, found = options.wavelength.mean, scan.wavelength.mean
        if not math.isclose(given, found, rel_tol=1e-3):
            warnings.append(f"the wavelength given, {given:g} Å, is not the file's, {found:g} Å")
    if options.zero:
        scan = replace(scan, x=scan.x - options.zero)
        notes.append(f"angles shifted by the zero, {-options.zero:+g}°")
    if scan.axis == "two_theta":
        checks.check_angles(scan.x)
        inside = (scan.x > 0.0) & (scan.x < 180.0)
        scan = replace(scan, x=scan.x[inside], intensity=scan.intensity[inside])
    warnings += checks.check_scan(scan)
    if wavelength is not None and scan.axis == "two_theta":
        notes.append(f"wavelength {wavelength}")
    # Before Kα2, which leaves no exact zeros.
    scan = _without_zero_ends(scan, notes)
    if options.strip_kalpha2:
        if wavelength is None or len(wavelength.lines) != 2:
            raise PatternError(
                "Kα2 cannot be taken off: the wavelengths of Kα1 and Kα2 are not known; give them "
                "by name, such as --wavelength CuKa"
            )
        scan = replace(scan, intensity=strip_kalpha2(scan.x, scan.intensity, wavelength))
        wavelength = replace(wavelength, lines=wavelength.lines[:1])
        notes.append("Kα2 taken off (Rachinger); wavelength is Kα1's from here")

    position = _positions(scan, grid, wavelength)
    on_axis = np.isfinite(position)
    position, counts = position[on_axis], scan.intensity[on_axis]
    if len(position) < checks.MIN_POINTS:
        raise PatternError(
            f"{len(position)} points lie on the model's axis ({grid.wavelength:g} Å); is the "
            "wavelength right?"
        )
    warnings += checks.check_spacing(position)
    raw, measured = _resample(position, counts, grid)
    warnings += checks.check_window(measured, grid)
    notes.append(_window_text(measured, grid))
    background = np.zeros(grid.n_points)
    if options.background:
        background = estimate_background(raw, measured, grid.step)
        notes.append("background taken off (pybaselines)")
    signal = np.where(measured, raw - background, 0.0)
    in_window = (position > grid.two_theta_min) & (position < grid.two_theta_max)
    independent = raw[measured] if _is_fine(position, grid) else counts[in_window]
    warnings += checks.check_signal(signal[measured], independent)
    factor = _factor(scan, grid, wavelength, options, notes)
    signal = signal * np.where(measured, factor, 0.0)

    fwhm = typical_width(signal, grid.step)
    if options.fwhm is not None:
        signal = widen(signal, measured, grid.step, fwhm, options.fwhm, notes)
    signal = np.clip(signal, 0.0, None)
    largest = signal[measured].max()
    if not largest > 0.0:
        raise PatternError("flat: nothing is left above the background")
    profile = np.where(measured, signal / largest, np.nan).astype(np.float32)
    notes.append("scaled to a maximum of 1 in the measured window; what was not measured stays so")
    return ConvertedPattern(
        profile,
        grid,
        np.where(measured, raw, np.nan),
        np.where(measured, background, np.nan),
        scan,
        wavelength if scan.axis == "two_theta" else None,
        fwhm,
        notes,
        warnings,
    )


def _positions(scan: Scan, grid: Grid, wavelength: Wavelength | None) -> np.ndarray:
    """Where the scan's points lie on the grid's axis, (n,), degrees; NaN beyond 180°."""
    if scan.axis == "q":
        q = scan.x
    else:
        assert wavelength is not None
        if math.isclose(wavelength.mean, grid.wavelength, rel_tol=1e-12):
            return scan.x
        q = 4.0 * np.pi * np.sin(np.radians(scan.x / 2.0)) / wavelength.mean
    sine = q * grid.wavelength / (4.0 * np.pi)
    with np.errstate(invalid="ignore"):
        return np.degrees(2.0 * np.arcsin(np.where(np.abs(sine) < 1.0, sine, np.nan)))


def _is_fine(position: np.ndarray, grid: Grid) -> bool:
    """Whether the scan's steps are averaged over the grid's, and not interpolated."""
    return float(np.median(np.diff(position))) < grid.step / 1.5


def _resample(position: np.ndarray, y: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Intensity at the grid's points, and which of them were measured; (L,) each.

    Fine steps are averaged over the grid's, coarse ones interpolated (monotone cubic, so that no
    line gets side lobes).
    """
    x = grid.two_theta()
    # Slopes next to zero overflow in its harmonic mean, which is then the zero it should be.
    with np.errstate(over="ignore"):
        curve = PchipInterpolator(position, y, extrapolate=False)
    if _is_fine(position, grid):
        low = np.clip(x - grid.step / 2.0, position[0], position[-1])
        high = np.clip(x + grid.step / 2.0, position[0], position[-1])
        width = np.where(high > low, high - low, 1.0)
        integral = curve.antiderivative()
        values = (integral(high) - integral(low)) / width
    else:
        values = curve(np.clip(x, position[0], position[-1]))
    slack = 0.5 * grid.step + 1e-9
    measured = (x >= position[0] - slack) & (x <= position[-1] + slack)
    # Between points far from each other nothing was measured.
    after = np.clip(np.searchsorted(position, x), 1, len(position) - 1)
    spacing = position[after] - position[after - 1]
    measured &= spacing <= max(4.0 * float(np.median(np.diff(position))), _LARGEST_GAP)
    return np.where(measured, values, 0.0), measured


def _without_zero_ends(scan: Scan, notes: list[str]) -> Scan:
    """Cuts runs of exact zeros off the ends: padding of a format, not counts."""
    nonzero = np.flatnonzero(scan.intensity != 0)
    if not len(nonzero):
        return scan
    first, last = nonzero[0], nonzero[-1] + 1
    if first < _PADDING:
        first = 0
    if len(scan.x) - last < _PADDING:
        last = len(scan.x)
    if (first, last) == (0, len(scan.x)) or np.median(scan.intensity[first:last]) == 0:
        return scan
    cut = len(scan.x) - (last - first)
    notes.append(f"{cut} zeros at the ends are not taken for measured")
    return replace(scan, x=scan.x[first:last], intensity=scan.intensity[first:last])


def _factor(
    scan: Scan,
    grid: Grid,
    wavelength: Wavelength | None,
    options: Options,
    notes: list[str],
) -> np.ndarray:
    """Jacobian and ratio of Lorentz–polarization factors on the grid, (L,).

    A line's area over 2θ′ is I(2θ) (d2θ/dQ)(dQ/d2θ′), dQ/d2θ = 2π cos θ/λ; and its
    Lorentz–polarization factor is that of the new angle and the model's polarization.
    """
    polarization, new = options.polarization, options.model_polarization
    theta_new = np.radians(grid.two_theta() / 2.0)
    if scan.axis == "q":
        # dQ is what the intensity counts by; LP of the measurement is unknown without λ.
        jacobian = np.cos(theta_new)
        if wavelength is None:
            notes.append(
                "Q: density over Q turned into density over 2θ; Lorentz–polarization left as "
                "measured (give --wavelength to convert it)"
            )
            return jacobian / jacobian.max()
    assert wavelength is not None
    sine = np.sin(theta_new) * wavelength.mean / grid.wavelength
    theta = np.arcsin(np.clip(sine, 0.0, 1.0 - 1e-9))
    jacobian = np.cos(theta_new) / (1.0 if scan.axis == "q" else np.cos(theta))
    measured, model = np.sin(theta), np.sin(theta_new)
    ratio = lorentz_polarization(model, new) / lorentz_polarization(measured, polarization)
    if math.isclose(wavelength.mean, grid.wavelength, rel_tol=1e-3) and scan.axis == "two_theta":
        if polarization != new:
            notes.append(f"polarization {polarization:g} converted to the model's, {new:g}")
    else:
        notes.append(
            f"intensities converted to {grid.wavelength:g} Å: Jacobian and Lorentz–polarization "
            f"(polarization {polarization:g} of the measurement)"
        )
    factor: np.ndarray = jacobian * ratio
    return factor / factor.max()


def _window_text(measured: np.ndarray, grid: Grid) -> str:
    angles = grid.two_theta()[measured]
    share = measured.mean()
    return (
        f"on the model's grid ({grid.wavelength:g} Å): {angles[0]:.2f}–{angles[-1]:.2f}°, "
        f"{share:.0%} of the window"
    )
