"""Lists of counts without angles: the heading says where they start and how far apart they are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from datamodules.measured.errors import PatternError
from datamodules.measured.readers.text.numbers import leading_numbers
from datamodules.measured.scan import MAX_POINTS

_KEY = re.compile(
    r"^\W*(?P<key>[^\W\d][\w .()/°-]{0,40}?)(?:\s*[:=,;\t]+\s*|\s+)"
    r"(?P<value>[+-]?\d*\.?\d+)(?![\w.])"
)
#: `Scan range: 10 - 90`, and Philips' `DataAngleRange, 5.0, 90.0,/`.
_RANGE = re.compile(
    r"^\W*(?:scan|data|angle|2-?theta)[\w ]*range\W+(?P<start>\d*\.?\d+)\s*(?:[-–,;]|to|\s)\s*"
    r"(?P<stop>\d*\.?\d+)(?![\w.])",
    re.IGNORECASE,
)
_START = re.compile(
    r"^(scan|data|angle|range|2theta)?(start|begin|first|from|low)(angle|2theta|pos\w*|deg|theta)?$"
)
_STOP = re.compile(
    r"^(scan|data|angle|range|2theta)?(stop|end|last|finish|final|to|high)(angle|2theta|pos\w*|deg|theta)?$"
)
_STEP = re.compile(
    r"^(scan)?(step|stepsize|stepwidth|increment|inc|interval|delta)(size|width|deg|angle)?(deg|2theta)?$"
)
_COUNT = re.compile(
    r"^(data)?count$|(points|npts|nopts|numpts)$|^(n|no|num|number)(of)?(data|counts|steps|channels)$"
)
#: Jade's second line: start, step, time, anode, wavelength, stop, number.
_JADE = re.compile(
    r"\s*(?P<start>-?[\d.]+)\s+(?P<step>[\d.]+)\s+(?P<time>[\d.]+)\s+(?P<anode>[A-Za-z]{1,2})\s+"
    r"(?P<wavelength>[\d.]+)\s+(?P<stop>[\d.]+)\s+(?P<count>\d+)\s*"
)


@dataclass(frozen=True)
class Steps:
    """Equal steps that a heading states.

    Attributes:
        start: First angle, degrees.
        step: Degrees; below 0 where the scan ran downwards.
        count: Number of points.
        format: What writes such headings, in words.
        certain: Whether the heading belongs to a format of lists, so that what follows is one.
        seconds: Counting time of a point; None if it is not stated.
        wavelength: Å; None if it is not stated.
    """

    start: float
    step: float
    count: int
    format: str
    certain: bool
    seconds: float | None = None
    wavelength: float | None = None

    def angles(self, n: int) -> np.ndarray:
        """Angles of a list.

        Args:
            n: Its length.

        Raises:
            PatternError: if it is not the heading's number.
        """
        if n != self.count:
            raise PatternError(
                f"text: {n} intensities where the heading says {self.count} from {self.start:g}° "
                f"in steps of {self.step:g}° ({self.format}); the file is cut, or give two columns"
            )
        return self.start + self.step * np.arange(n)


def steps_of(heading: Sequence[str]) -> Steps | None:
    """The steps that a heading states; None if it states none.

    Raises:
        PatternError: if start, step, stop and number contradict each other.
    """
    for line in heading:
        if match := _JADE.fullmatch(line[:200]):
            try:
                start, step, seconds, wavelength, stop = (
                    float(match[key]) for key in ("start", "step", "time", "wavelength", "stop")
                )
            except ValueError:
                continue
            return _checked(
                start, step, stop, int(match["count"][:9]), "Jade", True, seconds, wavelength
            )
    values: dict[str, float] = {}
    starred = 0
    for line in heading:
        if match := _RANGE.match(line[:200]):
            values |= {"start": float(match["start"]), "stop": float(match["stop"])}
            continue
        found = _KEY.match(line[:200])
        if not found:
            continue
        key = re.sub(r"[\W_]", "", re.sub(r"[(\[].*", "", found["key"])).lower()
        for name, pattern in (
            ("start", _START),
            ("stop", _STOP),
            ("step", _STEP),
            ("count", _COUNT),
        ):
            if pattern.search(key):
                values[name] = float(found["value"])
                starred += line.lstrip().startswith("*")
    if "start" not in values or "step" not in values:
        return None
    certain = starred >= 3
    name = "Rigaku" if certain else "start, step and count in the heading"
    return _checked(
        values["start"], values["step"], values.get("stop"), values.get("count"), name, certain
    )


def _checked(
    start: float,
    step: float,
    stop: float | None,
    count: float | None,
    name: str,
    certain: bool,
    seconds: float | None = None,
    wavelength: float | None = None,
) -> Steps | None:
    if stop is not None and stop < start:
        step = -abs(step)
    sound = 0 < abs(step) < 180 and abs(start) < 360 and (stop is None or abs(stop) < 360)
    expected = None if stop is None or not sound else round((stop - start) / step) + 1
    if not sound or (expected is None and count is None) or (expected or count or 0) > MAX_POINTS:
        if certain:
            raise PatternError(
                f"text: start {start:g}, step {step:g} and stop {stop} of the heading ({name}) are "
                "no scan of 2θ; the file is damaged"
            )
        return None
    if expected is not None and count is not None and abs(expected - count) > 1:
        if certain:
            raise PatternError(
                f"text: {start:g} to {stop:g}° in steps of {step:g}° are {expected} points, and "
                f"the heading says {count:g} ({name}); the file is damaged"
            )
        return None
    number = int(count if count is not None else expected or 0)
    return Steps(start, step, number, name, certain, seconds or None, wavelength or None)


def start_step_end(line: str) -> Steps | None:
    """FullProf's INSTRM = 0 (and DBWS): start, step, end; then counts, any number a line.

    Args:
        line: The one that may hold start, step and end, and a title after them.

    Returns:
        None if it does not.
    """
    begin = leading_numbers(line)[:3]
    if len(begin) != 3:
        return None
    start, step, end = begin
    if not (step > 0 and end > start and (end - start) / step < MAX_POINTS):
        return None
    count = round((end - start) / step) + 1
    return Steps(start, step, count, "start–step–end", certain=False) if count > 3 else None
