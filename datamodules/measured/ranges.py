"""Several scans of one file as one: repeats are averaged, ranges that follow are joined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from datamodules.measured.errors import PatternError
from datamodules.measured.scan import Scan, make_scan

_SAME_ANGLES = 2e-3
"""Degrees within which the points of repeated scans are the same."""
_SAME_TEMPERATURE = 2.0
"""K; a furnace holds its temperature better."""
_SAME_CONDITION = 0.02
"""Relative difference of pressures and the like that are the same."""
_SAME_WAVELENGTH = 5e-4
_ALIKE = 0.8
"""Cosine of two scans' lines below which they are not of one sample, unless they are as weak as
their noise."""
_DEVIATION = 3.0
"""Mean squared deviation of two scans, in units of what counting statistics explain."""
_BIN_DEGREES = 0.3
_OVERLAP = 0.2
"""Share of the shorter of two ranges that may lie within the other."""
_LEVEL = 1.2
"""Ratio of the levels of two ranges where both measured."""
_JUMP, _LARGE_JUMP = 1.5, 2.0
"""Ratios of the backgrounds where two ranges meet that are warned about, and refused."""
_SEAM = 1.0
"""Degrees on either side in which the background is compared."""


def combine(scans: Sequence[Scan]) -> Scan:
    """Several scans of one file as one.

    Counts are brought to one counting time where the file states the times. Scans at different
    temperatures or other conditions, of different wavelengths, or with different lines are never
    put together.

    Args:
        scans: At least one, of one format.

    Raises:
        PatternError: if they are not of one sample in one state, or overlap without being repeats.
    """
    assert scans
    first = scans[0]
    if len(scans) == 1:
        return first
    _check_beam(scans)
    _check_conditions(scans)
    notes, warnings = _to_one_time(scans)
    if all(_same_angles(scan, first) for scan in scans):
        _check_alike(scans)
        weights = [scan.seconds or 1.0 for scan in scans]
        first.intensity = np.average([scan.intensity for scan in scans], axis=0, weights=weights)
        first.notes += [*notes, f"mean of {len(scans)} repeated scans"]
        return first
    ordered = sorted(scans, key=lambda scan: float(scan.x[0]))
    for i in range(1, len(ordered)):
        if ordered[i].x[0] < ordered[i - 1].x[-1] - _SAME_ANGLES:
            ordered[i - 1 : i + 1] = _parted(ordered[i - 1], ordered[i], len(scans))
            notes.append(f"ranges that overlap are joined at {ordered[i].x[0]:g}°")
    joined = make_scan(
        np.concatenate([scan.x for scan in ordered]),
        np.concatenate([scan.intensity for scan in ordered]),
        first.format,
    )
    joined.axis, joined.wavelength, joined.conditions = (
        first.axis,
        first.wavelength,
        first.conditions,
    )
    joined.rate = first.rate
    joined.notes = [*first.notes, *notes, f"{len(scans)} ranges joined"]
    joined.warnings = [*first.warnings, *warnings, *_jumps(ordered, not warnings)]
    return joined


def _parted(before: Scan, after: Scan, n: int) -> list[Scan]:
    """Two ranges that overlap a little, each cut in the middle of what both measured.

    Raises:
        PatternError: if they overlap by much, or differ there.
    """
    low, high = float(after.x[0]), float(before.x[-1])
    shorter = min(high - float(before.x[0]), float(after.x[-1]) - low)
    levels = [
        float(scan.intensity[(scan.x >= low) & (scan.x <= high)].mean()) for scan in (before, after)
    ]
    if high - low > _OVERLAP * shorter or not min(levels) > 0 or max(levels) > _LEVEL * min(levels):
        raise PatternError(
            f"{before.format}: {n} scans that overlap ({before.x[0]:g}–{high:g}° and {low:g}–"
            f"{after.x[-1]:g}°; means there: {levels[0]:.3g} and {levels[1]:.3g}); "
            "export the one that is meant to a file of its own"
        )
    middle = 0.5 * (low + high)
    kept = before.x <= middle, after.x > middle
    return [
        replace(scan, x=scan.x[part], intensity=scan.intensity[part])
        for scan, part in zip((before, after), kept, strict=True)
    ]


def _check_beam(scans: Sequence[Scan]) -> None:
    means = [scan.wavelength.mean for scan in scans if scan.wavelength is not None]
    if means and max(means) > (1.0 + _SAME_WAVELENGTH) * min(means):
        raise PatternError(
            f"{scans[0].format}: scans at different wavelengths ({min(means):.5f} and "
            f"{max(means):.5f} Å); export the one that is meant to a file of its own"
        )


def _check_conditions(scans: Sequence[Scan]) -> None:
    for name in sorted({name for scan in scans for name in scan.conditions}):
        values = [scan.conditions.get(name) for scan in scans]
        known = [value for value in values if value is not None]
        tolerance = (
            _SAME_TEMPERATURE
            if name == "temperature"
            else _SAME_CONDITION * max(abs(value) for value in known)
        )
        if len(known) == len(values) and max(known) - min(known) <= tolerance:
            continue
        listed = ", ".join("unknown" if value is None else f"{value:g}" for value in values[:6])
        raise PatternError(
            f"{scans[0].format}: {len(scans)} scans at different values of {name} ({listed}"
            f"{' …' if len(values) > 6 else ''}{' K' if name == 'temperature' else ''}), which are "
            "not averaged or joined; export the one that is meant to a file of its own"
        )


def _to_one_time(scans: Sequence[Scan]) -> tuple[list[str], list[str]]:
    """Brings counts to one counting time, in place; what was done, and what could not be."""
    counted = [scan for scan in scans if not scan.rate]
    if not counted:
        return [], []
    known = [scan.seconds for scan in counted if scan.seconds]
    if len(known) < len(counted):
        if len(counted) < len(scans):
            raise PatternError(
                f"{scans[0].format}: counts and counts per second in one file, without the "
                "counting times; export the ranges alike"
            )
        return [], [
            "ranges of one file are joined as they are: check that they have the same counting time"
        ]
    if len(counted) == len(scans) and max(known) <= 1.001 * min(known):
        return [], []
    # Into the longest time's counts; into a rate if some are rates already.
    target = 1.0 if len(counted) < len(scans) else max(known)
    for scan in counted:
        scan.intensity = scan.intensity * (target / (scan.seconds or target))
        scan.rate = len(counted) < len(scans)
    times = ", ".join(f"{seconds:g}" for seconds in sorted(set(known)))
    return [f"divided by the scans' counting times ({times} s a point)"], []


def _same_angles(scan: Scan, first: Scan) -> bool:
    return len(scan.x) == len(first.x) and float(np.abs(scan.x - first.x).max()) < _SAME_ANGLES


def _check_alike(scans: Sequence[Scan]) -> None:
    """Refuses repeats with different lines, whatever the file says about them.

    They are of another phase, temperature or sample.

    Raises:
        PatternError: naming the first that differs.
    """
    step = float(np.median(np.diff(scans[0].x))) if len(scans[0].x) > 1 else 0.0
    if not step > 0:
        return
    size = max(1, round(_BIN_DEGREES / step))
    n = len(scans[0].x) // size * size
    if n // size < 20:
        return
    binned = np.array([scan.intensity[:n].reshape(-1, size).mean(axis=1) for scan in scans])
    # Counting statistics: the variance grows with the level, as it is at the median level.
    variance = np.array([_noise(scan.intensity) ** 2 for scan in scans])[:, None] * (
        np.abs(binned) / np.maximum(np.median(np.abs(binned), axis=1, keepdims=True), 1e-300) / size
    )
    binned -= np.percentile(binned, 20, axis=1, keepdims=True)
    norms = np.linalg.norm(binned, axis=1)
    for i in range(1, len(scans)):
        if norms[0] == 0.0 or norms[i] == 0.0:
            continue
        cosine = float(binned[0] @ binned[i] / (norms[0] * norms[i]))
        scale = norms[0] / norms[i]
        spread = variance[0] + scale**2 * variance[i] + 1e-12 * norms[0] ** 2
        deviation = float(np.mean((binned[0] - scale * binned[i]) ** 2 / spread))
        if cosine < _ALIKE and deviation > _DEVIATION:
            raise PatternError(
                f"{scans[0].format}: scans 1 and {i + 1} of the same angles have different lines "
                f"(cosine {cosine:.2f}): another temperature, phase or sample? They are not "
                "averaged; export the one that is meant to a file of its own"
            )


def _noise(intensity: np.ndarray) -> float:
    """Standard deviation of the noise, from second differences (see `checks.check_signal`)."""
    return 1.4826 * float(np.median(np.abs(np.diff(intensity, 2)))) / np.sqrt(6.0)


def _jumps(ordered: Sequence[Scan], timed: bool) -> list[str]:
    """Where the background jumps between two ranges, in words.

    Args:
        ordered: Ranges by angle.
        timed: Whether the counting times are known, and applied.

    Raises:
        PatternError: if it jumps by more than can be left to a warning, and no times are known.
    """
    found = []
    for before, after in pairwise(ordered):
        if after.x[0] - before.x[-1] > _SEAM:
            continue
        near = (
            before.intensity[before.x > before.x[-1] - _SEAM],
            after.intensity[after.x < after.x[0] + _SEAM],
        )
        # Lines stand on the upper half.
        left, right = (float(np.percentile(part, 25)) for part in near)
        spread = 2.0 * (np.sqrt(max(abs(left), 1.0)) + np.sqrt(max(abs(right), 1.0)))
        ratio = max(left, right) / min(left, right) if min(left, right) > 0 else 1.0
        if ratio < _JUMP or abs(left - right) < spread:
            continue
        text = (
            f"the background jumps by a factor {ratio:.1f} where two ranges meet at "
            f"{after.x[0]:g}°: unequal counting times?"
        )
        if ratio > _LARGE_JUMP and not timed:
            raise PatternError(
                f"{before.format}: {text} The file does not say; export counts per second"
            )
        found.append(text)
    return found
