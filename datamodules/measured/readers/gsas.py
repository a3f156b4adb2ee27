"""GSAS powder data: constant-wavelength banks of type STD, ESD, FXYE and FXY."""

from __future__ import annotations

import re

import numpy as np

from datamodules.measured.errors import PatternError
from datamodules.measured.readers.text.headings import check_probe
from datamodules.measured.readers.text.numbers import split_lines
from datamodules.measured.scan import MAX_POINTS, Scan, make_scan
from datamodules.measured.wavelength import heading_wavelength

_WHAT = "gsas"
_FIELD = 8
_BANK = re.compile(r"^\s*BANK\s", re.IGNORECASE)
#: GSAS reads four letters; both spellings mean steps of 2θ in hundredths of a degree.
_CONSTANT = ("CONS", "CONST")
_LARGEST_ANGLE = 18000.0


def is_gsas(text: str) -> bool:
    """Whether one of the first lines begins a bank."""
    return any(_BANK.match(line) for line in text[:100_000].splitlines()[:200])


def read_gsas(text: str) -> Scan:
    """Reads the first (and only) bank; angles are in hundredths of a degree.

    Raises:
        PatternError: if it is cut, has several banks, or is of time of flight.
    """
    lines = split_lines(text)
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
    # The other binnings (SLOG, RALF, TIME_MAP, LPSD …) are of time of flight.
    if binning not in _CONSTANT or kind == "ALT":
        raise PatternError(
            f"{_WHAT}: {binning} {kind} is not of equal steps in 2θ but of time of flight; give a "
            "scan of 2θ"
        )
    if kind not in ("STD", "ESD", "FXYE", "FXY"):
        raise PatternError(f"{_WHAT}: data of type {kind}; give STD, ESD, FXY or FXYE")
    if kind in ("STD", "ESD") and not (0 < step < _LARGEST_ANGLE and abs(start) < _LARGEST_ANGLE):
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
    if len(x) and not float(np.abs(x).max()) < _LARGEST_ANGLE / 100.0:
        raise PatternError(
            f"{_WHAT}: {float(np.abs(x).max()) * 100:g} is no angle in hundredths of a degree; "
            "time of flight?"
        )
    title = "\n".join(line[:200] for line in lines[: banks[0]])[:8000]
    check_probe(title, _WHAT)
    scan = make_scan(x, y, f"GSAS {kind}")
    scan.wavelength, doubts = heading_wavelength(title, "the file's title")
    scan.warnings += doubts
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
