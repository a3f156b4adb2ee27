"""Answers as text: the property with its interval, the evidence, and what is doubtful."""

import math
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datamodules.io.arguments import printable
from lightning_modules.inference.answers.known import known_table
from lightning_modules.inference.rows import (
    AGREEMENT,
    CANDIDATES,
    CONTRADICTION,
    ERROR,
    GIVEN,
    NEIGHBOURS,
    WARNINGS,
)

#: Columns of text where no terminal tells its width, as in a file.
_WIDE = 120
_NARROWEST = 40
#: What an answer was made from, in words.
FROM = {
    GIVEN["both"]: "from composition and pattern",
    GIVEN["composition"]: "from the composition alone",
    GIVEN["xrd"]: "from the pattern alone",
}
#: What each modality alone says: a mode, and its heading.
ALONE = {"composition": "composition alone", "xrd": "pattern alone"}

_VALUES = ("predicted", "low", "high")


def terminal_width() -> int:
    """Columns of the terminal; where there is none, as many as a table needs."""
    return max(_NARROWEST, shutil.get_terminal_size((_WIDE, 24)).columns)


def say(text: str) -> None:
    """Print; letters that the output's encoding lacks become question marks."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "replace").decode(encoding))


def decimals(low: float | None, high: float | None, value: float) -> int:
    """Digits after the point that mean something: two of the interval's half, or three of a value.

    Args:
        low: Lower end of the interval, or None.
        high: Upper end, or None.
        value: What lies between.
    """
    scale, digits = abs(value), 3
    if low is not None and high is not None and 0.0 < high - low < math.inf:
        scale, digits = (high - low) / 2.0, 2
    if not 0.0 < scale < math.inf:
        return 2
    return min(6, max(0, digits - 1 - math.floor(math.log10(scale))))


def describe(
    row: Mapping[str, Any], units: Mapping[str, str], confidence: float, width: int
) -> str:
    """A predicted row in words and figures.

    Args:
        row: As `Predictor` gives it.
        units: Unit by target.
        confidence: Of the intervals.
        width: Columns of text at most, where words allow it.
    """
    lines = textwrap.wrap(title_of(row), width)
    if row[ERROR]:
        return "\n".join([*lines, *_wrapped(f"not predicted: {row[ERROR]}", width)])
    lines.append(f"  {FROM[row[f'{next(iter(units))}_from']]}")
    lines += _figures(row, units, confidence, width)
    averaged = f"averaged over {row[CANDIDATES]}" if row.get(CANDIDATES) else ""
    warnings = [f"warning: {warning}" for warning in split_warnings(row[WARNINGS])]
    for said in (averaged, agreement(row), *warnings):
        lines += _wrapped(said, width)
    lines += _neighbours(row.get(NEIGHBOURS) or [], units, width)
    return "\n".join(lines)


def title_of(given: Mapping[str, Any]) -> str:
    """What a row is of, in one line: its scan, id and composition, as far as they are given."""
    names = (printable(str(given[x]), 200) for x in ("pattern", "id", "formula") if given.get(x))
    return " · ".join(names) or "(nothing)"


def brief(result: Mapping[str, Any], units: Mapping[str, str]) -> list[str]:
    """A line for each property that was predicted, with its interval."""
    lines = []
    for name, unit in units.items():
        value, low, high = (result.get(f"{name}_{x}") for x in ("predicted", "low", "high"))
        if value is not None:
            digits = decimals(low, high, value)
            line = f"{name.replace('_', ' ')} {value:.{digits}f} {unit}"
            if low is not None:
                line += f" ({between(low, high, digits)})"
            lines.append(line)
    return lines


def _neighbours(
    found: Sequence[Mapping[str, Any]], units: Mapping[str, str], width: int
) -> list[str]:
    """Known materials with their labels, a line each."""
    if not found:
        return []
    header, *known = known_table(found, "similarity", units, len(units))
    lines = ["  nearest known materials"]
    widths = [max(len(line[c]) for line in (header, *known)) for c in range(len(header))]
    if 4 + sum(widths) + 2 * (len(widths) - 1) <= width:
        for line in (header, *known):
            cells = [
                cell.ljust(size) if c < 2 else cell.rjust(size)
                for c, (cell, size) in enumerate(zip(line, widths, strict=True))
            ]
            lines.append(f"    {'  '.join(cells)}".rstrip())
        return lines
    for formula, identifier, *figures in known:
        told = (f"{name} {text}" for name, text in zip(header[2:], figures, strict=True))
        said = f"{formula}  {identifier}: {', '.join(told)}"
        lines += textwrap.wrap(said, width, initial_indent="    ", subsequent_indent="      ")
    return lines


def split_warnings(warnings: str | None) -> list[str]:
    """The warnings of a row, one by one."""
    return [part for part in (warnings or "").split("; ") if part]


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(
        printable(text, 2000), width, initial_indent="  ", subsequent_indent="    "
    )


def agreement(row: Mapping[str, Any]) -> str:
    """Whether a row's composition and pattern contradict each other; "" where nobody looked."""
    share = row.get(AGREEMENT)
    if share is None:
        return ""
    if row[CONTRADICTION] == "yes":
        return (
            "composition and pattern seem to contradict each other: of sound pairs only "
            f"{100 * share:.1f} % fit as badly"
        )
    return (
        "no contradiction seen between composition and pattern: of sound pairs "
        f"{100 * share:.0f} % fit no better"
    )


@dataclass(frozen=True)
class Property:
    """What is said of a property, in figures.

    Attributes:
        name: In words.
        value: The answer.
        unit: Its unit.
        interval: Of the answer.
        alone: What each modality alone says, and its interval; "" where there is none.
    """

    name: str
    value: str
    unit: str
    interval: str
    alone: list[tuple[str, str]]


def properties_of(
    row: Mapping[str, Any], units: Mapping[str, str], confidence: float
) -> tuple[list[str], list[Property]]:
    """What the table of an answer says, wherever it is drawn.

    Args:
        row: As `Predictor` gives it, without an error.
        units: Unit by target.
        confidence: Of the intervals.

    Returns:
        Headings of the interval and of each of `alone`; and the properties.
    """
    modes = [
        mode
        for mode in ALONE
        if any(
            row.get(f"{name}_{mode}_predicted") is not None and row[f"{name}_from"] != GIVEN[mode]
            for name in units
        )
    ]
    found = []
    for name, unit in units.items():
        value, low, high = (row[f"{name}_{x}"] for x in _VALUES)
        digits = decimals(low, high, value)
        alone = []
        for mode in modes:
            one, start, end = (row[f"{name}_{mode}_{x}"] for x in _VALUES)
            has_interval = one is not None and start is not None
            alone.append(
                (
                    "" if one is None else f"{one:.{digits}f}",
                    between(start, end, digits) if has_interval else "",
                )
            )
        told = f"{value:.{digits}f}", unit, between(low, high, digits)
        found.append(Property(name.replace("_", " "), *told, alone))
    return [f"{100 * confidence:g} % interval", *(ALONE[mode] for mode in modes)], found


def _figures(
    row: Mapping[str, Any], units: Mapping[str, str], confidence: float, width: int
) -> list[str]:
    """The properties as a table, or below each other where it is too wide."""
    headings, properties = properties_of(row, units, confidence)
    header = ["", "answer", "", *headings]
    table = [header]
    for one in properties:
        alone = [f"{value} ({interval})" if interval else value for value, interval in one.alone]
        table.append([one.name, one.value, one.unit, one.interval, *alone])
    widths = [max(len(line[c]) for line in table) for c in range(len(header))]
    if 2 + sum(widths) + 2 * (len(widths) - 1) <= width:
        return [_aligned(line, widths) for line in table]
    lines = []
    for line in table[1:]:
        lines.append(f"  {line[0]}  {line[1]} {line[2]}".rstrip())
        evidence = zip(header[3:], line[3:], strict=True)
        lines += [f"    {heading:<17}  {text}" for heading, text in evidence if text]
    return lines


def _aligned(line: Sequence[str], widths: Sequence[int]) -> str:
    # Numbers end where they end above; all else begins where it begins above.
    cells = [
        cell.rjust(size) if c == 1 else cell.ljust(size)
        for c, (cell, size) in enumerate(zip(line, widths, strict=True))
    ]
    return f"  {cells[0]}  {cells[1]} {'  '.join(cells[2:])}".rstrip()


def between(low: float | None, high: float | None, digits: int) -> str:
    """An interval with so many digits after the point."""
    if low is None or high is None:
        return "none"
    if not (math.isfinite(low) and math.isfinite(high)):
        return "unbounded"
    return f"{low:.{digits}f} to {high:.{digits}f}"
