"""Plain text (.xy .xye .csv .txt .dat .asc .chi .mdi).

Columns with or without names, or lists of counts whose heading says where the angles are.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from datamodules.measured.errors import PatternError
from datamodules.measured.ranges import combine
from datamodules.measured.readers.text.columns import MOST_RANGES, scans_of_columns
from datamodules.measured.readers.text.counts import start_step_end, steps_of
from datamodules.measured.readers.text.headings import (
    check_axis,
    check_probe,
    conditions_of,
    seconds_of,
    states_rate,
)
from datamodules.measured.readers.text.numbers import Line, numbers, split_lines
from datamodules.measured.readers.text.segments import Segment, first_number, segments_of
from datamodules.measured.scan import Scan, make_scan
from datamodules.measured.wavelength import Wavelength, heading_wavelength

Q_IN_ANGSTROM = "the heading speaks of Q: if the first column is Q, say --axis q"
Q_IN_NM = "the heading speaks of Q in nm⁻¹: if the first column is Q, say --axis q"
_Q_AXIS = re.compile(r"(?<![a-z])q\s*[\[(_ ]*(?:1/)?(å|a\b|ang|nm)", re.IGNORECASE)


def read_text(text: str) -> Scan:
    """Reads columns, or a list of counts with start and step, whichever it is.

    Args:
        text: The file's content. Lines that do not begin with a number are headings or comments.

    Raises:
        PatternError: if there are no two columns of numbers, a line among them is not understood,
            or the columns are no pattern of X-rays over an angle, Q or d.
    """
    segments = segments_of(split_lines(text))
    if not segments:
        raise PatternError("text: no line of numbers; a pattern has two or three columns")
    head = "\n".join(line[:1000] for line in segments[0].heading[:300])
    check_probe(head, "text")
    check_axis(head, "text")
    scans: list[Scan] = []
    for segment in segments:
        scans += _scans(segment, segments[0].heading)
    if len(scans) > MOST_RANGES:
        raise PatternError(f"text: {len(scans)} ranges in one file; give single scans")
    wavelength, doubts = heading_wavelength(head)
    for scan in scans:
        scan.wavelength = scan.wavelength or wavelength
    scan = combine(scans)
    scan.warnings += doubts
    if scan.axis == "two_theta" and (match := _Q_AXIS.search(head)):
        scan.warnings.append(Q_IN_NM if match[1].lower() == "nm" else Q_IN_ANGSTROM)
    return scan


def _scans(segment: Segment, first_heading: list[str]) -> list[Scan]:
    """What a segment holds: a list of counts, or columns of one or more ranges."""
    heading = segment.heading
    head = "\n".join(line[:1000] for line in heading[:300])
    counted = _list_of_counts(segment)
    scans = counted or scans_of_columns(segment, heading if heading else first_heading)
    for scan in scans:
        step = float(np.median(np.abs(np.diff(scan.x)))) if len(scan.x) > 1 else 0.0
        scan.seconds = scan.seconds or seconds_of(head, step)
        scan.rate = scan.rate or states_rate(head)
        scan.conditions = scan.conditions or conditions_of(head)
    return scans


def _list_of_counts(segment: Segment) -> list[Scan]:
    """The scan of counts whose angles follow from a heading; none where that is not the form."""
    heading, lines = segment.heading, segment.lines
    steps = steps_of(heading[-300:])
    for line, body in ((heading[-1] if heading else "", lines), (lines[0].text, lines[1:])):
        found = start_step_end(line) if steps is None or not steps.certain else None
        values = _values(body) if found is not None else None
        # Three columns of which the first line looks like this have three times as many numbers.
        if found is None or values is None or not -2 <= len(values) - found.count <= 10:
            continue
        n = min(len(values), found.count)
        x = found.start + found.step * np.arange(n)
        scan = make_scan(x, values[:n], f"text, {found.format}")
        if len(values) != found.count:
            scan.warnings.append(
                f"{len(values)} intensities where start, step and end say {found.count}: read from "
                "the start on"
            )
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
    first = [number for line in lines[:50] if (number := first_number(line)) is not None]
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
