"""A text file cut where its ranges begin: headings, and the lines of numbers below them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from datamodules.measured.errors import PatternError
from datamodules.measured.readers.text.headings import conditions_of, seconds_of
from datamodules.measured.readers.text.numbers import Line, begins_with_number

COMMENT = "#;!%/*"
"""A point behind one of these was taken out on purpose."""
_LOOSE = re.compile(r"[\d\s.,;|+\-−eEdDnNaA\"'’ʼ‘_]+")
_NEW_RANGE = re.compile(
    r"\b(range|scan|segment|group|block|data ?set)\b|^\W*#S\b|^\*", re.IGNORECASE
)
_MOST_SEGMENTS = 5000


@dataclass
class Segment:
    """Lines of numbers without other lines between them, and the lines around them."""

    heading: list[str] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    footer: list[str] = field(default_factory=list)


def segments_of(lines: Sequence[str]) -> list[Segment]:
    """The file cut where its ranges begin; comments within a range are taken out.

    Args:
        lines: Of the file.

    Raises:
        PatternError: if a line among the data begins with a number and holds other things too, or
            stands in place of a point.
    """
    segments = [Segment()]
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
            segments.append(Segment([text]))
            if len(segments) > _MOST_SEGMENTS:
                raise PatternError(f"text: over {_MOST_SEGMENTS} comments among the data")
        else:
            last.heading.append(text)
    if len(segments) > 1 and not segments[-1].lines:
        last = segments.pop()
        segments[-1].footer = last.heading
    return _merged([segment for segment in segments if segment.lines])


def _merged(segments: list[Segment]) -> list[Segment]:
    """Joins what only comments part."""
    merged: list[Segment] = segments[:1]
    for segment in segments[1:]:
        before = merged[-1]
        head = "\n".join(segment.heading)
        a, b = first_number(before.lines[-1]), first_number(segment.lines[0])
        if (
            (a is not None and b is not None and not a < b)
            or any(_NEW_RANGE.search(line) for line in segment.heading)
            or seconds_of(head, 0.0) is not None
            or conditions_of(head)
        ):
            merged.append(segment)
            continue
        near = [first_number(line) for line in (*before.lines[-2:], *segment.lines[:2])]
        known = [value for value in near if value is not None]
        uncommented = [line for line in segment.heading if line[0] not in COMMENT]
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


def first_number(line: Line) -> float | None:
    """The first number of a line, roughly."""
    match = re.match(r"[\"']?([+-]?\d*[.,]?\d+(?:[eE][+-]?\d{1,3})?)", line.text)
    return float(match[1].replace(",", ".")) if match else None
