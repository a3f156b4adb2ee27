"""Columns of numbers: which is the angle, which the intensity, and what else is applied to them."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from datamodules.measured.errors import PatternError
from datamodules.measured.readers.text.headings import names_of_columns, quantity, unit_of
from datamodules.measured.readers.text.numbers import (
    LONGEST_FIELD,
    Line,
    fields_of,
    notation_of,
    separator_of,
)
from datamodules.measured.readers.text.segments import COMMENT, Segment
from datamodules.measured.scan import Scan, is_elapsed, make_scan, weigh_by_time

MOST_RANGES = 200
_PLAIN = frozenset("0123456789.+-eE")
_LARGEST_Q = 15.0
"""Å⁻¹; beyond the Q of a powder pattern's lines, where a unit must be said."""


def scans_of_columns(segment: Segment, heading: list[str]) -> list[Scan]:
    """The ranges that some columns hold, one after the other.

    Args:
        segment: Lines of numbers.
        heading: What stands above them, or above the first ones of the file.

    Raises:
        PatternError: if a line is not understood, or the columns are no pattern over an angle, Q
            or d, or several.
    """
    lines = segment.lines
    separator = separator_of(lines)
    rows = [fields_of(line, separator) for line in lines]
    width = Counter(len(row) for row in rows).most_common(1)[0][0]
    if width < 2:
        raise PatternError(
            f"text: {len(rows)} lines of a single number and no start, step and end before them; "
            "give two columns (2θ and intensity)"
        )
    if len(rows[-1]) < width > 3 and all(len(row) == width for row in rows[:-1]):
        raise lines[-1].error(
            "shorter than the others: a file that is cut, or a list of counts, which needs start, "
            "step and number in its heading"
        )
    for row, line in zip(rows, lines, strict=True):
        if len(row) != width:
            raise line.error(
                f"{len(row)} columns where other lines have {width}; write thousands without "
                "separators and an empty field as nan, or take the line out"
            )
    notation = notation_of(rows, lines)
    _check_split_numbers(rows, lines, notation.decimal_comma)
    names = names_of_columns(heading, width, separator)
    chosen = _choose(names, width)

    def column(index: int) -> np.ndarray:
        fields = [row[index] for row in rows]
        plain = all(0 < len(item) <= LONGEST_FIELD for item in fields)
        if plain and index not in notation.dotted and set("".join(fields)) <= _PLAIN:
            # Nothing in it needs a notation; an error is looked for line by line below.
            with contextlib.suppress(ValueError):
                out = np.array([float(item) for item in fields])
                if np.isfinite(out).all():
                    return out
        out = np.empty(len(rows))
        for i, (row, line) in enumerate(zip(rows, lines, strict=True)):
            value = notation.read(row[index], index)
            if value is None or np.isinf(value) or not row[index]:
                raise line.error(
                    f"{row[index][:30]!r} is no number; mend it, write nan for what was not "
                    "measured, or take the line out"
                )
            out[i] = value
        return out

    x, axis, notes = _axis(column(chosen.x), chosen, names)
    _check_axis_values(x, heading, segment, named=chosen.axis is not None)
    y = column(chosen.y)
    for index in chosen.states:
        values = column(index)
        if names is not None and np.ptp(values) > max(2.0, 0.02 * float(np.abs(values).max())):
            raise PatternError(
                f"text: {names[index]!r} goes from {values.min():g} to {values.max():g}: scans at "
                "different conditions are not averaged or joined; give a file for each"
            )
    y, more = _scaled(y, chosen, column)
    notes += more
    if notation.decimal_comma:
        notes.append("decimal commas")
    if names is None and width > 2:
        third = column(2)
        if width > 3 and np.allclose(third, x, atol=1e-6):
            raise PatternError("text: several patterns in columns; give a file for each")
        known = np.allclose(third, np.sqrt(np.abs(y)), rtol=0.2, atol=1.5)
        notes.append(
            "third column (uncertainties) not used" if known else "columns after 2 not used"
        )
    scans = []
    for part in _restarts(x):
        scan = make_scan(x[part], y[part], f"text, {width} columns")
        scan.axis, scan.notes = axis, [*notes, *scan.notes]
        scan.rate = chosen.rate
        scans.append(scan)
    return scans


@dataclass
class _Chosen:
    """Which columns are used."""

    x: int = 0
    y: int = 1
    axis: str | None = None
    rate: bool = False
    time: int | None = None
    monitor: int | None = None
    states: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def _choose(names: list[str] | None, width: int) -> _Chosen:
    """Which columns are angle, intensity, time and the sample's state, by their names.

    Raises:
        PatternError: if the names leave no pattern or several.
    """
    chosen = _Chosen()
    if names is None:
        return chosen
    kinds = [quantity(name) for name in names]
    listed = ", ".join(repr(name[:30]) for name in names)
    where = {kind: [i for i, k in enumerate(kinds) if k == kind] for kind in set(kinds)}
    if len(where.get("two_theta", [])) > 1 and len({names[i] for i in where["two_theta"]}) == 1:
        raise PatternError(f"text: several patterns in columns ({listed}); give a file for each")
    axis = next((kind for kind in ("two_theta", "theta", "q", "d") if where.get(kind)), None)
    if axis is not None:
        chosen.x, chosen.axis = where[axis][0], axis
    elif kinds[0] is not None:
        raise PatternError(
            f"text: the first column is {names[0][:30]!r} and none is an angle, Q or d ({listed}); "
            "name the columns, such as 2theta,counts"
        )
    if where.get("flight") and axis is None:
        raise PatternError(f"text: {listed}: give a pattern over 2θ")
    others = [i for i in range(width) if i != chosen.x]
    several = where.get("series", [])
    unnamed = [i for i in others if kinds[i] is None]
    if several and len(several) + len(unnamed) > 1:
        raise PatternError(
            f"text: {len(several) + len(unnamed)} columns of intensities ({listed}), at different "
            "conditions; give a file for each"
        )
    time = where.get("time", [])
    chosen.time = time[0] if time else None
    chosen.monitor = where["monitor"][0] if where.get("monitor") else None
    chosen.states = where.get("temperature", []) + where.get("pressure", [])
    ranks = ["rate", "intensity", "normalised"]
    if chosen.time is None:
        ranks = ["rate", "normalised", "intensity"]
    found = next((where[kind] for kind in ranks if where.get(kind)), several)
    if not found:
        found = unnamed[:1]
    if not found:
        raise PatternError(
            f"text: no column of intensities ({listed}); name it, such as counts or cps"
        )
    alike = {re.sub(r"[\W\d_]", "", names[i].lower()) for i in found}
    if len(found) > 1 and len(alike) == 1:
        raise PatternError(
            f"text: {len(found)} columns of intensities ({listed}); give a file for each"
        )
    chosen.y = found[0]
    chosen.rate = kinds[chosen.y] == "rate"
    if kinds[chosen.y] != "intensity":
        chosen.time = chosen.monitor = None
    if width > 2 or chosen.x != 0:
        chosen.notes.append(f"columns {names[chosen.x][:30]!r} and {names[chosen.y][:30]!r}")
    return chosen


def _axis(
    x: np.ndarray, chosen: _Chosen, names: list[str] | None
) -> tuple[np.ndarray, str, list[str]]:
    """The axis in degrees of 2θ or in Å⁻¹, its name, and what was done."""
    notes = list(chosen.notes)
    if names is None or chosen.axis is None:
        return x, "two_theta", notes
    unit = unit_of(names[chosen.x])
    if chosen.axis in ("two_theta", "theta"):
        if unit is not None and not 0.9 < unit < 1.1 and unit > 3.0:
            x = x * unit
            notes.append("radians turned into degrees")
        if chosen.axis == "theta":
            x = 2.0 * x
            notes.append("θ turned into 2θ")
        return x, "two_theta", notes
    if chosen.axis == "d":
        d = x * (unit or 1.0)
        if not np.all(d > 0):
            raise PatternError("text: d must be above 0")
        notes.append("d turned into Q = 2π/d")
        return 2.0 * np.pi / d, "q", notes
    largest = float(np.nanmax(x))
    if unit is None and largest > _LARGEST_Q:
        raise PatternError(
            f"text: Q up to {largest:g} without a unit; name the column Q (1/nm) or Q (1/A)"
        )
    if unit == 0.1:
        notes.append("the heading's nm⁻¹ turned into Å⁻¹")
    return x * (unit or 1.0), "q", notes


def _scaled(
    y: np.ndarray, chosen: _Chosen, column: Callable[[int], np.ndarray]
) -> tuple[np.ndarray, list[str]]:
    """Counts divided by their times and monitor."""
    notes = []
    if chosen.time is not None:
        times = column(chosen.time)
        if not is_elapsed(times):
            y, done = weigh_by_time(y, times)
            notes += [done] if done else []
    if chosen.monitor is not None:
        monitor = column(chosen.monitor)
        if np.all(monitor > 0) and np.ptp(monitor) > 1e-3 * monitor.mean():
            y = y * (monitor.mean() / monitor)
            notes.append("divided by the monitor")
    return y, notes


def _check_split_numbers(
    rows: Sequence[Sequence[str]], lines: Sequence[Line], decimal_comma: bool
) -> None:
    """Refuses columns that are halves of numbers: `10,02,53` and `27.40 1 234`."""
    last = [row[-1] for row in rows]
    if len(rows[0]) > 2 and all(re.fullmatch(r"\d{3}", item) for item in last):
        bad = next((i for i, item in enumerate(last) if item[0] == "0"), None)
        if bad is not None:
            raise lines[bad].error(
                "its last column is part of a number; write it without separators"
            )
    first = [row[0] for row in rows]
    whole = len(rows) > 20 and all(row[0].isdigit() and row[1].isdigit() for row in rows)
    whole = whole and not decimal_comma and len(rows[0]) > 2
    if whole and len(set(first)) < 0.5 * len(first) and first == sorted(first, key=int):
        raise lines[0].error(
            "commas are decimal and separate columns as well; write decimal points"
        )


def _check_axis_values(
    x: np.ndarray, heading: Sequence[str], segment: Segment, named: bool
) -> None:
    """Refuses a first column that is no axis, and lines around the data that hide a point."""
    if len(x) < 20:
        return
    steps = np.diff(x)
    if not named and max(np.mean(steps >= 0), np.mean(steps <= 0)) < 0.8:
        raise PatternError(
            "text: the first column goes up and down and is no angle; a list of counts needs "
            "start, step and number in its heading, columns their names"
        )
    step = float(np.median(steps))
    near = [(line, x[0] - step, "before line", segment.lines[0]) for line in heading[-1:]]
    near += [(line, x[-1] + step, "after line", segment.lines[-1]) for line in segment.footer[:1]]
    for line, expected, where, neighbour in near:
        if line[0] in COMMENT:
            continue
        first = re.split(r"[\s,;|]", line.strip(), maxsplit=1)
        found = re.search(r"[+-]?\d+\.\d+" if len(first) > 1 else r"$^", first[0])
        if found and abs(float(found[0]) - expected) < 0.5 * abs(step):
            raise PatternError(
                f"text: {where} {neighbour.number}, {line[:60]!r}: not a line of numbers; mend it, "
                "or take it out"
            )


def _restarts(x: np.ndarray) -> list[slice]:
    """Parts of the axis that run one way: files that list one scan after the other."""
    steps = np.diff(x)
    if len(steps) < 20:
        return [slice(None)]
    sign = 1.0 if np.sum(steps > 0) >= np.sum(steps < 0) else -1.0
    size = float(np.median(np.abs(steps[steps != 0]))) if np.any(steps != 0) else 0.0
    cuts = np.flatnonzero(sign * steps < -5.0 * size) + 1
    edges = [0, *cuts.tolist(), len(x)]
    if len(edges) - 1 > MOST_RANGES or min(np.diff(edges)) < 10:
        return [slice(None)]
    return [slice(a, b) for a, b in pairwise(edges)]
