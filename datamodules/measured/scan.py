"""A measured scan as read from a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from datamodules.measured.errors import PatternError
from datamodules.measured.wavelength import Wavelength

MAX_POINTS = 1_000_000
"""More points than any powder scan has; a file that claims more is damaged."""

_OF_THE_INSTRUMENT = ("detector", "cool", "water", "tube", "cabinet", "room", "chiller", "counter")
_LARGEST = 1e15
"""No detector counts as far."""


@dataclass
class Scan:
    """Intensities against an axis, as they lie in a file.

    Attributes:
        x: The axis, shape (n,), float64, ascending: 2θ in degrees, or Q in Å⁻¹.
        intensity: Counts or counts per second, shape (n,), float64.
        axis: "two_theta" or "q".
        wavelength: From the file; None if it has none.
        format: What the file was read as, in words.
        seconds: Counting time of a point in which its counts were counted; None if the file does
            not say.
        rate: Whether the intensity is per second already.
        conditions: What the sample was at, by name: "temperature" in K, others as the file says.
        notes: What the reader did that a user should know.
        warnings: What the reader doubts.
    """

    x: np.ndarray
    intensity: np.ndarray
    axis: str = "two_theta"
    wavelength: Wavelength | None = None
    format: str = ""
    seconds: float | None = None
    rate: bool = False
    conditions: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def make_scan(
    x: Sequence[float] | np.ndarray, intensity: Sequence[float] | np.ndarray, format: str
) -> Scan:
    """A checked scan: finite, ascending, points at one angle averaged.

    Raises:
        PatternError: if it has no points, too many, unequal columns, or an infinite intensity.
    """
    a, b = np.asarray(x, np.float64), np.asarray(intensity, np.float64)
    if len(a) != len(b):
        raise PatternError(f"{format}: {len(a)} angles and {len(b)} intensities; the file is cut")
    if len(a) > MAX_POINTS:
        raise PatternError(f"{format}: {len(a)} points; no powder scan has over {MAX_POINTS}")
    scan = Scan(a, b, format=format)
    if np.any(np.abs(b) >= _LARGEST) or np.any(np.abs(a) >= _LARGEST):
        raise PatternError(
            f"{format}: an intensity or angle that is infinite or over {_LARGEST:g}; the detector "
            "overflowed or the file is damaged"
        )
    # Seven digits: angles closer than that are one.
    a = np.round(a, 7)
    finite = np.isfinite(a) & np.isfinite(b)
    if not finite.all():
        scan.warnings.append(
            f"{np.count_nonzero(~finite)} points are marked as not measured (NaN) and left out"
        )
        a, b = a[finite], b[finite]
    if not len(a):
        raise PatternError(f"{format}: no points in it")
    if np.any(np.diff(a) <= 0):
        if len(a) > 1 and np.all(np.diff(a) < 0):
            scan.notes.append("measured downwards; turned round")
        unique, where = np.unique(a, return_inverse=True)
        counts = np.bincount(where)
        if counts.max() > 1:
            scan.notes.append(f"{len(a) - len(unique)} points at an angle met before: averaged")
        a, b = unique, np.bincount(where, weights=b) / counts
    scan.x, scan.intensity = a, b
    return scan


def weigh_by_time(intensity: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, str | None]:
    """Counts of points that were counted for unequal times, as if all had the mean of the times.

    Args:
        intensity: Counts, shape (n,).
        times: Seconds, (n,).

    Returns:
        Intensity, (n,), and what was done; nothing where the times are equal, not all positive, or
        the time since the start of the scan (n, 2n, 3n … seconds).
    """
    if len(times) != len(intensity) or not np.all(np.isfinite(times)) or not times.min() > 0:
        return intensity, None
    if np.ptp(times) <= 1e-3 * times.mean() or is_elapsed(times):
        return intensity, None
    return intensity * (times.mean() / times), "divided by the points' counting times"


def is_elapsed(times: np.ndarray) -> bool:
    """Whether times run on from point to point in equal steps, as a clock's do."""
    steps = np.diff(times)
    if len(steps) < 10 or not np.all(steps > 0):
        return False
    return bool(np.ptp(times) > 0.9 * np.median(steps) * len(steps) and times[-1] > 10 * times[0])


def is_condition(name: str) -> bool:
    """Whether a name is of a state of the sample, and not of the instrument or the room."""
    name = name.lower()
    return any(word in name for word in ("temperature", "pressure", "humidity")) and not any(
        word in name for word in _OF_THE_INSTRUMENT
    )


def condition(name: str, value: float, unit: str = "") -> tuple[str, float]:
    """A condition of the sample by its canonical name; temperatures in K.

    Args:
        name: As the file calls it.
        value: In `unit`.
        unit: Such as "K", "°C" or "kPa".
    """
    name, unit = name.strip().lower(), unit.strip().lower().lstrip("°º ")
    for known in ("temp", "pressure", "humidity", "field", "voltage"):
        if known in name:
            name = "temperature" if known == "temp" else known
            break
    if name == "temperature" and unit in ("c", "℃", "celsius", "degc", "deg c", "centigrade"):
        value += 273.15
    return name, value
