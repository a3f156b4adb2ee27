"""Numbers as programs and countries write them: decimal commas, thousands apart, separators."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from datamodules.measured.errors import PatternError

MAX_LINES = 1_000_000
LONGEST_FIELD = 64
"""Characters of a number."""
_LONGEST_LINE = 2**20

_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eEdD][+-]?\d{1,3})?")
_SEPARATORS = re.compile(r"[\s,;]+")
#: Blanks that are no separators of columns, apostrophes and low lines: between thousands.
_GAPS = " \u00a0\u2007\u2009\u202f'’ʼ‘_"
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(?:[,.]\d{3})+")
_LAKHS = re.compile(r"[+-]?\d{1,2}(?:,\d{2})+,\d{3}")
_GAPPED = re.compile(rf"[+-]?\d{{1,3}}(?:[{_GAPS}]\d{{3}})+(?:[.,]\d+)?")
_FIRST_FIELD = re.compile(rf"[\"']?[+-]?[\d.,][\d.,{_GAPS}]*(?:[eEdD][+-]?\d{{1,3}})?[\"']?")

#: What ends it; after an exponent no comma is decimal.
_FIRST_END = re.compile(
    r"[\t;|\"]|,(?=\D|$)|\s|(?<=[eEdD][+-]\d),|(?<=[eEdD][+-]\d\d),|(?<=[eEdD][+-]\d\d\d),"
    r"|(?<=[eEdD]\d),|(?<=[eEdD]\d\d),"
)


def split_lines(text: str) -> list[str]:
    """The lines of a file, of a length and number that a pattern can have.

    Raises:
        PatternError: if there are more or longer ones.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if text.count("\n") > MAX_LINES:
        raise PatternError(f"over {MAX_LINES} lines; no powder pattern has as many")
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        if len(line) > _LONGEST_LINE:
            raise PatternError(f"line {number} has {len(line)} characters; no pattern's has")
    return lines


def numbers(line: str) -> list[float] | None:
    """The numbers of a line of nothing but numbers; None for any other line."""
    words = [word for word in _SEPARATORS.split(line.strip()) if word]
    if not words or not all(
        len(word) <= LONGEST_FIELD and _NUMBER.fullmatch(word) for word in words
    ):
        return None
    return [float(word.replace("d", "e").replace("D", "e")) for word in words]


def leading_numbers(line: str) -> list[float]:
    """The numbers that a line begins with, before any word."""
    found = []
    for word in line.split():
        if len(word) > LONGEST_FIELD or not _NUMBER.fullmatch(word):
            break
        found.append(float(word.replace("d", "e").replace("D", "e")))
    return found


def begins_with_number(line: str) -> bool:
    """Whether the first field of a line could be a number, however it is written."""
    line = line.lstrip("\"' \t")
    head = _FIRST_END.split(line, maxsplit=1)[0]
    return bool(re.match(r"[+-]?[.,]?\d", line) and _FIRST_FIELD.fullmatch(head[:LONGEST_FIELD]))


@dataclass(frozen=True)
class Line:
    """A line of data.

    Attributes:
        number: In the file, from 1.
        text: As it stands there, without blanks at its ends.
    """

    number: int
    text: str

    def error(self, reason: str) -> PatternError:
        """The error that names the line."""
        return PatternError(f"text: line {self.number}, {self.text[:60]!r}: {reason}")


def separator_of(lines: Sequence[Line]) -> str:
    """What stands between the columns of most lines: tab, `;`, `|`, `,` or blanks (" ")."""
    found: Counter[str] = Counter()
    for line in lines[:5000]:
        text = line.text
        separator = next((mark for mark in "\t;|" if mark in text), None)
        if separator is None:
            words = text.split()
            commas = '"' in text or any(word[0] == "," or word[-1] == "," for word in words[:-1])
            separator = "," if commas or (len(words) == 1 and "," in text) else " "
        found[separator] += 1
    return found.most_common(1)[0][0]


def fields_of(line: Line, separator: str) -> list[str]:
    """The fields of a line, without quotation marks and blanks around them.

    Raises:
        PatternError: if the quotation marks are not closed.
    """
    text = line.text
    if separator == " ":
        # Other blanks (no-break, thin) stand within numbers, unless there are none but them.
        words = re.split(r"[ \t]+", text)
        return [word.strip("\"'") for word in (words if len(words) > 1 else text.split())]
    if '"' in text:
        try:
            row = next(csv.reader([text], delimiter=separator, skipinitialspace=True, strict=True))
        except (csv.Error, StopIteration):
            raise line.error("quotation marks that are not closed; write it without") from None
    else:
        row = text.split(separator)
    row = [item.strip() for item in row]
    # A separator at the end of a line is no column.
    return row[:-1] if len(row) > 1 and not row[-1] else row


@dataclass(frozen=True)
class Notation:
    """How the numbers of a file are written.

    Attributes:
        decimal_comma: Whether commas are decimal; else they part thousands.
        dotted: Columns in which points part thousands.
    """

    decimal_comma: bool = False
    dotted: frozenset[int] = frozenset()

    def read(self, field: str, column: int) -> float | None:
        """A number; NaN for "nan" and an empty field, None for what is no number."""
        plain = field.replace("−", "-")
        if plain.lower() in ("", "nan"):
            return float("nan")
        if len(plain) > LONGEST_FIELD:
            return None
        if any(mark in plain for mark in _GAPS):
            if not _GAPPED.fullmatch(plain):
                return None
            plain = re.sub(f"[{_GAPS}]", "", plain)
        if column in self.dotted or (self.decimal_comma and "." in plain and "," in plain):
            whole, comma, rest = plain.partition(",")
            if "." in rest or ("." in whole and not _THOUSANDS.fullmatch(whole)):
                return None
            plain = whole.replace(".", "") + comma + rest
        if "," in plain:
            if self.decimal_comma:
                plain = plain.replace(",", ".", 1)
            else:
                whole, point, rest = plain.partition(".")
                if not (_THOUSANDS.fullmatch(whole) or _LAKHS.fullmatch(whole)):
                    return None
                plain = whole.replace(",", "") + point + rest
        if not _NUMBER.fullmatch(plain):
            return None
        return float(plain.replace("d", "e").replace("D", "e"))


def notation_of(rows: Sequence[Sequence[str]], lines: Sequence[Line]) -> Notation:
    """How the numbers of some rows are written.

    Args:
        rows: Fields.
        lines: Their lines, for messages.

    Raises:
        PatternError: if commas or points can be decimal as well as part thousands.
    """
    decimal: Line | None = None
    thousands: Line | None = None
    unclear: Line | None = None
    points = bare = False
    for row, line in zip(rows, lines, strict=True):
        for column, field in enumerate(row):
            if "," not in field:
                points |= "." in field
                bare |= column > 0 and field.isdigit() and len(field) <= 3
                continue
            whole, point, _ = field.partition(".")
            if point and "," in whole:
                thousands = thousands or line
            elif point or not (_THOUSANDS.fullmatch(field) or _LAKHS.fullmatch(field)):
                decimal = decimal or line
            elif field.count(",") > 1:
                thousands = thousands or line
            elif column == 0 or field.startswith("0"):
                # No angle has thousands of degrees.
                decimal = decimal or line
            else:
                unclear = unclear or line
    if decimal is not None and (thousands is not None or (points and not _german(rows))):
        other = thousands or decimal
        raise other.error(
            "commas are decimal in one place and points or thousands' commas in another; write "
            "all numbers with decimal points and without thousands' separators"
        )
    if decimal is None and unclear is not None and not (points or thousands or bare):
        raise unclear.error(
            "its comma can be decimal or part thousands; write numbers with decimal points and "
            "without thousands' separators"
        )
    return Notation(decimal is not None, _dotted(rows, lines, decimal is not None))


def _german(rows: Sequence[Sequence[str]]) -> bool:
    """Whether every point among decimal commas parts thousands, as in 1.234 and 1.234,5."""
    return all(
        _THOUSANDS.fullmatch(field.partition(",")[0])
        for row in rows
        for field in row
        if "." in field
    )


def _dotted(
    rows: Sequence[Sequence[str]], lines: Sequence[Line], decimal_comma: bool
) -> frozenset[int]:
    """Columns in which points part thousands.

    That is among decimal commas; in 1.234.567; and in 53 and 1.230 in one column (a decimal part
    would have its noughts left off, or be there in all).

    Raises:
        PatternError: if both readings make sense.
    """
    found = set()
    for column in range(1, min(len(rows[0]), 64) if rows else 0):
        fields = [
            (row[column], line) for row, line in zip(rows, lines, strict=True) if len(row) > column
        ]
        dotted = [(field, line) for field, line in fields if "." in field]
        if not dotted or not all(
            _THOUSANDS.fullmatch(field.partition(",")[0]) for field, _ in dotted
        ):
            continue
        several = any(field.count(".") > 1 for field, _ in dotted)
        if decimal_comma or several:
            found.add(column)
        elif len(dotted) < len(fields) and all(
            field.isdigit() for field, _ in fields if "." not in field
        ):
            if sum(field.endswith("0") for field, _ in dotted) == 0 and len(dotted) < 10:
                raise dotted[0][1].error(
                    "its point can be decimal or part thousands; write numbers with decimal points "
                    "and without thousands' separators"
                )
            found.add(column)
    return frozenset(found)
