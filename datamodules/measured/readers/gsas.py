"""GSAS powder data: constant-wavelength banks of type STD, ESD, FXYE and FXY."""

from __future__ import annotations

import re

import numpy as np

from datamodules.measured.scan import MAX_POINTS, PatternError, Scan, Wavelength, make_scan

_WHAT = "gsas"
_FIELD = 8
_BANK = re.compile(r"^\s*BANK\s", re.IGNORECASE)
#: Titles of many programs: `LA= 1.23966`, `LAMBDA=1.54`.
_TITLE_WAVELENGTH = re.compile(
    r"(?:\bLA|LAMBDA|wave\s?length)\s*[=:]?\s*(\d*\.\d{2,8})", re.IGNORECASE
)


def is_gsas(text: str) -> bool:
    """Whether one of the first lines begins a bank."""
    return any(_BANK.match(line) for line in text.splitlines()[:200])


def read_gsas(text: str) -> Scan:
    """Reads the first (and only) bank; angles are in hundredths of a degree.

    Raises:
        PatternError: if it is cut, has several banks, or is of time of flight.
    """
    lines = text.splitlines()
    banks = [i for i, line in enumerate(lines) if _BANK.match(line)]
    if not banks:
        raise PatternError(f"{_WHAT}: no line that begins with BANK")
    if len(banks) > 1:
        raise PatternError(f"{_WHAT}: {len(banks)} banks; give a file of one")
    words = lines[banks[0]].split()
    try:
        n_channels, binning = int(words[2]), words[4].upper()
        start, step = float(words[5]), float(words[6])
    except (IndexError, ValueError):
        raise PatternError(f"{_WHAT}: cannot read {lines[banks[0]].strip()[:60]!r}") from None
    if not (0 < n_channels <= MAX_POINTS):
        raise PatternError(f"{_WHAT}: {n_channels} channels; the file is damaged")
    kind = words[-1].upper() if words[-1].isalpha() else "STD"
    # CONST is equal steps of 2θ; FXYE lists its angles. The others bin time of flight.
    if binning != "CONST" and kind not in ("FXYE", "FXY"):
        raise PatternError(f"{_WHAT}: binning {binning} is not of equal steps in 2θ")
    if binning not in ("CONST", "CONQ", "FXYE", "FXY") or kind == "ALT":
        raise PatternError(f"{_WHAT}: {binning} {kind} is of time of flight; give a scan of 2θ")
    if kind not in ("FXYE", "FXY") and not (0 < step < 18000 and abs(start) < 36000):
        raise PatternError(
            f"{_WHAT}: start {start:g} and step {step:g} are no hundredths of degrees"
        )
    body = [line for line in lines[banks[0] + 1 :] if line.strip() and line[0] != "#"]
    if kind in ("FXYE", "FXY"):
        table = _table(body, 3 if kind == "FXYE" else 2)[:n_channels]
        x: np.ndarray = table[:, 0] / 100.0
        y: np.ndarray = table[:, 1]
    else:
        values = _fields(body, kind, n_channels)
        y = values[: 2 * n_channels : 2] if kind == "ESD" else values[:n_channels]
        x = (start + step * np.arange(len(y))) / 100.0
    if len(y) < n_channels:
        raise PatternError(f"{_WHAT}: {len(y)} of {n_channels} channels; the file is cut")
    scan = make_scan(x, y, f"GSAS {kind}")
    match = _TITLE_WAVELENGTH.search("\n".join(lines[: banks[0]])[:2000])
    if match and 0.05 <= float(match[1]) <= 5.0:
        scan.wavelength = Wavelength(((float(match[1]), 1.0),), "the file's title")
    return scan


def _table(body: list[str], width: int) -> np.ndarray:
    try:
        return np.array([[float(x) for x in line.split()[:width]] for line in body]).reshape(
            -1, width
        )
    except ValueError as error:
        raise PatternError(f"{_WHAT}: {error}; the file is damaged") from None


def _fields(body: list[str], kind: str, n_channels: int) -> np.ndarray:
    """Ten fields of eight characters a line; those of STD begin with a number of detectors."""
    needed = n_channels * (2 if kind == "ESD" else 1)
    try:
        words = [word for line in body for word in line.split()]
        # Hand-made files are separated by blanks; in others large counts touch each other.
        if needed <= len(words) <= needed + 10:
            return np.array([float(word) for word in words])
        fields = [
            line[i : i + _FIELD] for line in body for i in range(0, len(line.rstrip()), _FIELD)
        ]
        if kind == "STD":
            fields = [field[2:] for field in fields]
        return np.array([float(field) if field.strip() else 0.0 for field in fields])
    except ValueError as error:
        raise PatternError(f"{_WHAT}: {error}; the file is damaged") from None
