"""A measured scan as read from a file, and its wavelength."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from datamodules.radiation import ANODES

MAX_POINTS = 1_000_000
"""More points than any powder scan has; a file that claims more is damaged."""

_LARGEST = 1e15
"""No detector counts as far."""

_SAME_ANGLES = 2e-3
"""Degrees within which the points of repeated scans are the same."""


class PatternError(ValueError):
    """A file that is no usable pattern; the message names it, the reason and the mend."""


@dataclass(frozen=True)
class Wavelength:
    """Radiation of a scan.

    Attributes:
        mean: Mean over the lines, weighted by their intensities, Å.
        lines: Wavelengths, Å, and relative intensities, strongest first; one line or Kα1 and Kα2.
        source: Where it is from, for messages: "the file" or "the user".

    Raises:
        PatternError: if a wavelength is no X-ray's.
    """

    lines: tuple[tuple[float, float], ...]
    source: str = "the file"

    def __post_init__(self) -> None:
        for wavelength, weight in self.lines:
            # 0.01 Å: 1.2 MeV; 10 Å: 1.2 keV. Also refuses NaN.
            if not (0.01 <= wavelength <= 10.0 and 0.0 <= weight < math.inf):
                raise PatternError(
                    f"wavelength {wavelength:g} Å (weight {weight:g}): must lie in 0.01 to 10 Å"
                )
        if not sum(weight for _, weight in self.lines) > 0:
            raise PatternError("wavelength: no line has a positive weight")

    @property
    def mean(self) -> float:
        """Weighted mean, Å."""
        total = sum(weight for _, weight in self.lines)
        return sum(wavelength * weight for wavelength, weight in self.lines) / total

    @classmethod
    def doublet(
        cls, alpha1: float, alpha2: float | None, ratio: float | None, source: str = "the file"
    ) -> Wavelength:
        """Kα1 and Kα2 with I(Kα2)/I(Kα1) = ratio (1/2 where unknown), or Kα1 alone."""
        if alpha2 is None or ratio == 0.0:
            return cls(((alpha1, 1.0),), source)
        return cls(((alpha1, 1.0), (alpha2, 0.5 if ratio is None else ratio)), source)

    def __str__(self) -> str:
        text = f"{self.mean:.5f} Å"
        if len(self.lines) > 1:
            text += " (mean of " + ", ".join(f"{x:.5f} × {w:g}" for x, w in self.lines) + ")"
        return f"{text} from {self.source}"


def parse_wavelength(text: str) -> Wavelength:
    """A wavelength given by the user: Å, or a name such as `CuKa` (doublet) or `CuKa1`.

    Raises:
        ValueError: if it is neither.
    """
    word = text.strip().replace("α", "a").replace("_", "").replace("-", "").replace(" ", "")
    anode, line = word[:2].capitalize(), word[2:].lower()
    if anode in ANODES and line in ("ka", "ka1", "ka12"):
        alpha1, alpha2 = ANODES[anode]
        return Wavelength.doublet(alpha1, None if line == "ka1" else alpha2, 0.5, "the user")
    try:
        value = float(text)
    except ValueError:
        names = ", ".join(f"{name}Ka" for name in ANODES)
        raise ValueError(
            f"wavelength {text!r}: give Å (such as 1.5418) or one of {names} (doublet), or "
            "CuKa1 and the like for a monochromatic beam"
        ) from None
    return Wavelength(((value, 1.0),), "the user")


def wavelength_of_row(text: str | None) -> Wavelength | None:
    """The wavelength in a table's field; None where it is empty or says "from the file".

    Raises:
        ValueError: if it is something else.
    """
    text = (text or "").strip()
    return None if text.lower() in ("", "from the file", "file") else parse_wavelength(text)


@dataclass
class Scan:
    """Intensities against an axis, as they lie in a file.

    Attributes:
        x: The axis, shape (n,), float64, ascending: 2θ in degrees, or Q in Å⁻¹.
        intensity: Counts or counts per second, shape (n,), float64.
        axis: "two_theta" or "q".
        wavelength: From the file; None if it has none.
        format: What the file was read as, in words.
        notes: What the reader did that a user should know.
        warnings: What the reader doubts.
    """

    x: np.ndarray
    intensity: np.ndarray
    axis: str = "two_theta"
    wavelength: Wavelength | None = None
    format: str = ""
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def make_scan(
    x: Sequence[float] | np.ndarray, intensity: Sequence[float] | np.ndarray, format: str
) -> Scan:
    """A checked scan: finite, ascending, points at one angle averaged.

    Raises:
        PatternError: if it has no points, too many, or unequal columns.
    """
    # Seven digits: angles closer than that are one.
    a, b = np.round(np.asarray(x, np.float64), 7), np.asarray(intensity, np.float64)
    if len(a) != len(b):
        raise PatternError(f"{format}: {len(a)} angles and {len(b)} intensities; the file is cut")
    if len(a) > MAX_POINTS:
        raise PatternError(f"{format}: {len(a)} points; no powder scan has over {MAX_POINTS}")
    scan = Scan(a, b, format=format)
    finite = np.isfinite(a) & (np.abs(b) < _LARGEST)
    if not finite.all():
        scan.notes.append(f"left out {np.count_nonzero(~finite)} points that are no numbers")
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


def combine(scans: Sequence[Scan]) -> Scan:
    """Several scans of one file as one: repeats are averaged, ranges that follow are joined.

    Raises:
        PatternError: if they overlap without being repeats.
    """
    assert scans
    first = scans[0]
    if len(scans) == 1:
        return first
    same = all(
        len(scan.x) == len(first.x) and np.abs(scan.x - first.x).max() < _SAME_ANGLES
        for scan in scans
    )
    if same:
        first.intensity = np.mean([scan.intensity for scan in scans], axis=0)
        first.notes.append(f"mean of {len(scans)} repeated scans")
        return first
    ordered = sorted(scans, key=lambda scan: float(scan.x[0]))
    for before, after in pairwise(ordered):
        if after.x[0] < before.x[-1] - _SAME_ANGLES:
            raise PatternError(
                f"{first.format}: {len(scans)} scans that overlap ({before.x[0]:g}–"
                f"{before.x[-1]:g}° and {after.x[0]:g}–{after.x[-1]:g}°); export the one that is "
                "meant to a file of its own"
            )
    joined = make_scan(
        np.concatenate([scan.x for scan in ordered]),
        np.concatenate([scan.intensity for scan in ordered]),
        first.format,
    )
    joined.wavelength = first.wavelength
    joined.notes = [*first.notes, f"{len(scans)} ranges joined"]
    joined.warnings = [
        *first.warnings,
        "ranges of one file are joined as they are: check that they have the same counting time",
    ]
    return joined
