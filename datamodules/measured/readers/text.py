"""Plain text: two or three columns (.xy .xye .csv .txt .dat), FullProf's start–step–end, .uxd."""

from __future__ import annotations

import re

import numpy as np

from datamodules.measured.scan import MAX_POINTS, PatternError, Scan, Wavelength, make_scan

_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eEdD][+-]?\d{1,3})?")
_SEPARATORS = re.compile(r"[\s,;]+")
_DECIMAL_COMMA = re.compile(r"(?<=\d),(?=\d)")
_WAVELENGTH = re.compile(
    r"(?:wave[\s_-]?length|lambda|λ)[^0-9\n]{0,24}(\d*\.\d{2,8})(?!\d)(?:\s*nm)?", re.IGNORECASE
)
#: As PANalytical's .csv has them: `K-Alpha1 wavelength,1.5405980`, `Ratio K-Alpha2/K-Alpha1,0.5`.
_DOUBLET = re.compile(r"k-?alpha\s?([12])\s+wavelength[\s,;:=]+(\d\.\d{2,8})", re.IGNORECASE)
_RATIO = re.compile(r"k-?alpha\s?2\s?/\s?k-?alpha\s?1[\s,;:=]+(\d*\.?\d+)", re.IGNORECASE)
_Q_AXIS = re.compile(r"(?<![a-z])q\s*[\[(_ ]*(?:1/)?(å|a\b|ang|nm)", re.IGNORECASE)
_LINE_LENGTH = 4096
Q_IN_ANGSTROM = "the heading speaks of Q: if the first column is Q, say --axis q"
Q_IN_NM = "the heading speaks of Q in nm⁻¹: if the first column is Q, say --axis q"


def numbers(line: str) -> list[float] | None:
    """The numbers of a line of nothing but numbers; None for any other line."""
    words = [word for word in _SEPARATORS.split(line.strip()) if word]
    if not words or not all(_NUMBER.fullmatch(word) for word in words):
        return None
    return [float(word.replace("d", "e").replace("D", "e")) for word in words]


def _has_decimal_commas(lines: list[str]) -> bool:
    """Whether commas are decimal: another separator stands between the columns."""
    first = [line for line in lines if line and line[0] in "0123456789+-"][:20]
    return bool(first) and all(
        _DECIMAL_COMMA.search(line) and "." not in line and re.search(r"\d[;\s]+[\d+-]", line)
        for line in first
    )


def read_text(text: str) -> Scan:
    """Reads columns, or FullProf's form, whichever the numbers are.

    Args:
        text: The file's content. Lines that are not numbers alone are a heading or comments.

    Raises:
        PatternError: if there are no two columns of numbers.
    """
    lines = [line.strip()[:_LINE_LENGTH] for line in text.splitlines()]
    decimal_commas = _has_decimal_commas(lines)
    if decimal_commas:
        lines = [_DECIMAL_COMMA.sub(".", line) for line in lines]
    rows: list[list[float]] = []
    heading: list[str] = []
    for line in lines:
        row = numbers(line)
        if row is not None:
            rows.append(row)
        elif not rows:
            heading.append(line)
            # `5.00 0.02 90.0 some title`: FullProf's first line may go on.
            start = [float(x) for x in _leading_numbers(line)]
            if len(start) >= 3:
                rows.append(start[:3])
    if not rows:
        raise PatternError("text: no line of numbers; a pattern has two or three columns")
    scan = _start_step_end(rows) or _columns(rows, heading)
    head = "\n".join(heading[:50])
    scan.wavelength = _heading_wavelength(head)
    if match := _Q_AXIS.search(head):
        scan.warnings.append(Q_IN_NM if match[1].lower() == "nm" else Q_IN_ANGSTROM)
    if decimal_commas:
        scan.notes.append("decimal commas")
    return scan


def _heading_wavelength(head: str) -> Wavelength | None:
    source = "the file's heading"
    lines = {line: float(value) for line, value in _DOUBLET.findall(head)}
    if "1" in lines and 0.05 <= lines["1"] <= 5.0:
        ratio = _RATIO.search(head)
        return Wavelength.doublet(
            lines["1"], lines.get("2") or None, float(ratio[1]) if ratio else None, source
        )
    match = _WAVELENGTH.search(head)
    if not match:
        return None
    value = float(match[1]) * (10.0 if "nm" in match[0].lower() else 1.0)
    return Wavelength(((value, 1.0),), source) if 0.05 <= value <= 5.0 else None


def _leading_numbers(line: str) -> list[str]:
    words = line.split()
    found = []
    for word in words:
        if not _NUMBER.fullmatch(word):
            break
        found.append(word.replace("d", "e").replace("D", "e"))
    return found


def _start_step_end(rows: list[list[float]]) -> Scan | None:
    """FullProf's INSTRM = 0 (and DBWS): start, step, end; then counts, any number a line."""
    if len(rows[0]) != 3:
        return None
    start, step, end = rows[0]
    if not (step > 0 and end > start and (end - start) / step < MAX_POINTS):
        return None
    expected = round((end - start) / step) + 1
    counts = [value for row in rows[1:] for value in row]
    # Three columns of which the first line looks like this have three times as many numbers.
    if not (expected - 2 <= len(counts) <= expected + 10 and expected > 3):
        return None
    n = min(expected, len(counts))
    scan = make_scan(start + step * np.arange(n), counts[:n], "text, start–step–end")
    if len(counts) != expected:
        scan.warnings.append(
            f"{len(counts)} intensities where start, step and end say {expected}: read from the "
            "start on"
        )
    return scan


def _columns(rows: list[list[float]], heading: list[str]) -> Scan:
    widths = np.bincount([min(len(row), 64) for row in rows])
    width = int(widths.argmax())
    kept = [row for row in rows if len(row) == width]
    if width < 2:
        raise PatternError(
            f"text: {len(rows)} lines of a single number and no start, step and end before them; "
            "give two columns (2θ and intensity)"
        )
    table = np.array(kept)
    scan = make_scan(table[:, 0], table[:, 1], f"text, {width} columns")
    if len(kept) < len(rows):
        scan.notes.append(f"left out {len(rows) - len(kept)} lines with other than {width} numbers")
    if width > 2:
        uncertainty = np.allclose(table[:, 2], np.sqrt(np.abs(table[:, 1])), rtol=0.2, atol=1.5)
        scan.notes.append(
            "third column (uncertainties) not used" if uncertainty else "columns after 2 not used"
        )
    return scan


def read_uxd(text: str) -> Scan:
    """Siemens/Bruker UXD: `_KEY=value` lines, then counts or pairs after `_COUNTS` and the like.

    Raises:
        PatternError: if it has no range, several ranges, or no 2θ.
    """
    values: dict[str, str] = {}
    data: list[float] = []
    kind = ""
    for line in text.splitlines():
        line = line.strip()[:_LINE_LENGTH]
        if not line or line.startswith(";"):
            continue
        if line.startswith("_"):
            key, _, value = line[1:].partition("=")
            key = key.strip().upper()
            if key in ("COUNTS", "CPS", "2THETACOUNTS", "2THETACPS"):
                if kind:
                    raise PatternError(
                        "uxd: several ranges in one file; export each to a file of its own"
                    )
                kind = key
            elif not kind or not data:
                values[key] = value.strip().strip("'\"")
            continue
        row = numbers(line)
        if row is not None and kind:
            data += row
    if not kind:
        raise PatternError("uxd: no _COUNTS, _CPS, _2THETACOUNTS or _2THETACPS; the file is cut")
    if kind.startswith("2THETA"):
        if len(data) % 2:
            raise PatternError("uxd: an odd number of values where pairs are said; the file is cut")
        pairs = np.array(data).reshape(-1, 2)
        x, y = pairs[:, 0], pairs[:, 1]
    else:
        drive = values.get("DRIVE", "COUPLED").upper()
        if drive not in ("COUPLED", "2THETA", "DETECTOR"):
            raise PatternError(f"uxd: the scan moves {drive}, not 2θ; it is no powder pattern")
        start = _float(values, "2THETA", _float(values, "START"))
        step = _float(values, "STEPSIZE")
        if start is None or step is None or not 0 < step < 180 or not abs(start) < 360:
            raise PatternError("uxd: no start or step of 2θ; export with 2θ in the file")
        x, y = start + step * np.arange(len(data)), np.array(data)
    scan = make_scan(x, y, "Siemens/Bruker UXD")
    alpha1 = _float(values, "WL1", _float(values, "RANGE_WL"))
    if alpha1:
        alpha2, ratio = _float(values, "WL2"), _float(values, "WLRATIO")
        scan.wavelength = Wavelength.doublet(alpha1, alpha2 or None, ratio)
    return scan


def _float(values: dict[str, str], key: str, default: float | None = None) -> float | None:
    try:
        return float(values[key])
    except (KeyError, ValueError):
        return default
