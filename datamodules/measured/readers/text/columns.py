"""Plain text (.xy .xye .csv .txt .dat .asc .chi .mdi).

Columns with or without names, or lists of counts whose heading says where the angles are.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from datamodules.measured.errors import PatternError
from datamodules.measured.ranges import combine
from datamodules.measured.readers.text.counts import start_step_end, steps_of
from datamodules.measured.readers.text.headings import (
    check_axis,
    check_probe,
    conditions_of,
    names_of_columns,
    quantity,
    seconds_of,
    states_rate,
    unit_of,
)
from datamodules.measured.readers.text.numbers import (
    Line,
    begins_with_number,
    fields_of,
    notation_of,
    numbers,
    separator_of,
    split_lines,
)
from datamodules.measured.scan import Scan, is_elapsed, make_scan, weigh_by_time
from datamodules.measured.wavelength import Wavelength, heading_wavelength

Q_IN_ANGSTROM = "the heading speaks of Q: if the first column is Q, say --axis q"
Q_IN_NM = "the heading speaks of Q in nm⁻¹: if the first column is Q, say --axis q"
_LOOSE = re.compile(r"[\d\s.,;|+\-−eEdDnNaA\"'’ʼ‘_]+")
_Q_AXIS = re.compile(r"(?<![a-z])q\s*[\[(_ ]*(?:1/)?(å|a\b|ang|nm)", re.IGNORECASE)
_NEW_RANGE = re.compile(
    r"\b(range|scan|segment|group|block|data ?set)\b|^\W*#S\b|^\*", re.IGNORECASE
)
_COMMENT = "#;!%/*"
"""A point behind one of these was taken out on purpose."""
_LARGEST_Q = 15.0
"""Å⁻¹; beyond the Q of a powder pattern's lines, where a unit must be said."""
_MOST_RANGES = 200
_MOST_SEGMENTS = 5000


@dataclass
class _Segment:
    """Lines of numbers without other lines between them, and the lines around them."""

    heading: list[str] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    footer: list[str] = field(default_factory=list)


def read_text(text: str) -> Scan:
    """Reads columns, or a list of counts with start and step, whichever it is.

    Args:
        text: The file's content. Lines that do not begin with a number are headings or comments.

    Raises:
        PatternError: if there are no two columns of numbers, a line among them is not understood,
            or the columns are no pattern of X-rays over an angle, Q or d.
    """
    segments = _segments(split_lines(text))
    if not segments:
        raise PatternError("text: no line of numbers; a pattern has two or three columns")
    head = "\n".join(line[:1000] for line in segments[0].heading[:300])
    check_probe(head, "text")
    check_axis(head, "text")
    scans: list[Scan] = []
    for segment in segments:
        scans += _scans(segment, segments[0].heading)
    if len(scans) > _MOST_RANGES:
        raise PatternError(f"text: {len(scans)} ranges in one file; give single scans")
    wavelength, doubts = heading_wavelength(head)
    for scan in scans:
        scan.wavelength = scan.wavelength or wavelength
    scan = combine(scans)
    scan.warnings += doubts
    if scan.axis == "two_theta" and (match := _Q_AXIS.search(head)):
        scan.warnings.append(Q_IN_NM if match[1].lower() == "nm" else Q_IN_ANGSTROM)
    return scan


def _segments(lines: Sequence[str]) -> list[_Segment]:
    """The file cut where its ranges begin; comments within a range are taken out."""
    segments = [_Segment()]
    for number, raw in enumerate(lines, 1):
        text = raw.strip()
        if not text:
            continue
        last = segments[-1]
        if begins_with_number(text):
            if _LOOSE.fullmatch(text):
                last.lines.append(Line(number, text))
            elif last.lines:
                raise Line(number, text).error(
                    "among the data, and not a line of numbers; mend it, or begin comments with #"
                )
            else:
                last.heading.append(text)
        elif last.lines:
            segments.append(_Segment([text]))
            if len(segments) > _MOST_SEGMENTS:
                raise PatternError(f"text: over {_MOST_SEGMENTS} comments among the data")
        else:
            last.heading.append(text)
    if len(segments) > 1 and not segments[-1].lines:
        last = segments.pop()
        segments[-1].footer = last.heading
    return _merged([segment for segment in segments if segment.lines])


def _merged(segments: list[_Segment]) -> list[_Segment]:
    """Joins what only comments part."""
    merged: list[_Segment] = segments[:1]
    for segment in segments[1:]:
        before = merged[-1]
        head = "\n".join(segment.heading)
        a, b = _angle(before.lines[-1]), _angle(segment.lines[0])
        if (
            (a is not None and b is not None and not a < b)
            or any(_NEW_RANGE.search(line) for line in segment.heading)
            or seconds_of(head, 0.0) is not None
            or conditions_of(head)
        ):
            merged.append(segment)
            continue
        near = [_angle(line) for line in (*before.lines[-2:], *segment.lines[:2])]
        known = [value for value in near if value is not None]
        uncommented = [line for line in segment.heading if line[0] not in _COMMENT]
        if uncommented and len(known) > 2 and a is not None and b is not None:
            step = min(abs(after - earlier) for earlier, after in pairwise(known))
            if 1.5 * step < b - a < (len(segment.heading) + 1.5) * step:
                raise PatternError(
                    f"text: line {segment.lines[0].number - 1}, {uncommented[-1][:60]!r}: "
                    "stands in place of a point; mend it, or take the line out"
                )
        before.lines += segment.lines
        before.footer = segment.footer
    return merged


def _angle(line: Line) -> float | None:
    """The first number of a line, roughly."""
    match = re.match(r"[\"']?([+-]?\d*[.,]?\d+(?:[eE][+-]?\d{1,3})?)", line.text)
    return float(match[1].replace(",", ".")) if match else None


def _scans(segment: _Segment, first_heading: list[str]) -> list[Scan]:
    """What a segment holds: a list of counts, or columns of one or more ranges."""
    heading = segment.heading
    head = "\n".join(line[:1000] for line in heading[:300])
    counted = _list_of_counts(segment)
    scans = counted or _columns(segment, heading if heading else first_heading)
    for scan in scans:
        step = float(np.median(np.abs(np.diff(scan.x)))) if len(scan.x) > 1 else 0.0
        scan.seconds = scan.seconds or seconds_of(head, step)
        scan.rate = scan.rate or states_rate(head)
        scan.conditions = scan.conditions or conditions_of(head)
    return scans


def _list_of_counts(segment: _Segment) -> list[Scan]:
    """The scan of counts whose angles follow from a heading; none where that is not the form."""
    heading, lines = segment.heading, segment.lines
    steps = steps_of(heading[-300:])
    for line, body in ((heading[-1] if heading else "", lines), (lines[0].text, lines[1:])):
        values = _values(body) if steps is None or not steps.certain else None
        if values is not None and (found := start_step_end(line, len(values))) is not None:
            x, warning = found
            scan = make_scan(x, values[: len(x)], "text, start–step–end")
            scan.warnings += [warning] if warning else []
            return [scan]
    if steps is None:
        return []
    values = _values(lines)
    if values is None:
        if not steps.certain:
            return []
        bad = next(line for line in lines if numbers(line.text) is None)
        raise bad.error("is no list of counts; mend it")
    rows = len(lines)
    first = [number for line in lines[:50] if (number := _angle(line)) is not None]
    ascending = len(first) > 2 and bool(np.all(np.diff(first) > 0))
    # A heading of start, step and count also stands above columns.
    if rows == steps.count and len(values) > rows and (ascending or not steps.certain):
        return []
    if not steps.certain and len(values) != steps.count and rows < len(values) < 8 * rows:
        return []
    scan = make_scan(steps.angles(len(values)), values, f"text, counts of {steps.format}")
    scan.seconds = steps.seconds
    if steps.wavelength is not None:
        scan.wavelength = Wavelength(((steps.wavelength, 1.0),), "the file's heading")
    return [scan]


def _values(lines: Sequence[Line]) -> list[float] | None:
    """All numbers of some lines in their order; None if there are others than plain numbers."""
    values: list[float] = []
    for line in lines:
        row = numbers(line.text)
        if row is None:
            return None
        values += row
    return values


def _columns(segment: _Segment, heading: list[str]) -> list[Scan]:
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


def _scaled(y: np.ndarray, chosen: _Chosen, column: object) -> tuple[np.ndarray, list[str]]:
    """Counts divided by their times and monitor."""
    assert callable(column)
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
    x: np.ndarray, heading: Sequence[str], segment: _Segment, named: bool
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
        if line[0] in _COMMENT:
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
    if len(edges) - 1 > _MOST_RANGES or min(np.diff(edges)) < 10:
        return [slice(None)]
    return [slice(a, b) for a, b in pairwise(edges)]
