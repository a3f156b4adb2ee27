"""Rigaku's .ras."""

from __future__ import annotations

import re

import numpy as np

from datamodules.measured.readers.text import numbers
from datamodules.measured.scan import PatternError, Scan, Wavelength, combine, make_scan

_WHAT = "ras"
_ENTRY = re.compile(r'\*([A-Z0-9_-]+)\s+"(.*)"')
#: Internal names of the axes along which 2θ moves as in a powder pattern.
_AXES = {"twotheta", "twothetatheta", "twothetaomega", "2-theta", "theta/2-theta", "2-theta/omega"}


def read_ras(text: str) -> Scan:
    """Reads all ranges of a file.

    Raises:
        PatternError: if it is cut, or scans something else than 2θ.
    """
    header: dict[str, str] = {}
    rows: list[list[float]] | None = None
    scans: list[Scan] = []
    for line in text.splitlines():
        line = line.strip()
        if line.startswith("*RAS_HEADER_START"):
            header = {}
        elif line.startswith("*RAS_INT_START"):
            rows = []
        elif line.startswith("*RAS_INT_END"):
            if rows is None:
                raise PatternError(f"{_WHAT}: an end of data without a start; the file is damaged")
            scans.append(_range(rows, header))
            rows = None
        elif rows is not None:
            row = numbers(line)
            if row is None or len(row) not in (2, 3):
                raise PatternError(f"{_WHAT}: {line[:40]!r} among the data; the file is damaged")
            rows.append(row)
        elif match := _ENTRY.match(line[:1000]):
            header[match[1]] = match[2]
    if rows is not None:
        raise PatternError(f"{_WHAT}: the data have no end; the file is cut")
    if not scans:
        raise PatternError(f"{_WHAT}: no data in it")
    return combine(scans)


def _range(rows: list[list[float]], header: dict[str, str]) -> Scan:
    axis = header.get("MEAS_SCAN_AXIS_X_INTERNAL") or header.get("MEAS_SCAN_AXIS_X") or "TwoTheta"
    if axis.strip().lower() not in _AXES:
        raise PatternError(f"{_WHAT}: the scan moves {axis}, not 2θ; it is no powder pattern")
    if not rows or len({len(row) for row in rows}) != 1:
        raise PatternError(f"{_WHAT}: rows of unequal lengths; the file is damaged")
    table = np.array(rows)
    intensity = table[:, 1]
    notes = []
    if table.shape[1] == 3 and not np.allclose(table[:, 2], 1.0):
        intensity = intensity * table[:, 2]
        notes.append("multiplied by the attenuator's factors (third column)")
    scan = make_scan(table[:, 0], intensity, "Rigaku RAS")
    scan.notes += notes
    scan.wavelength = _wavelength(header)
    return scan


def _wavelength(header: dict[str, str]) -> Wavelength | None:
    def value(key: str) -> float | None:
        try:
            return float(header[key])
        except (KeyError, ValueError):
            return None

    alpha1, alpha2 = value("HW_XG_WAVE_LENGTH_ALPHA1"), value("HW_XG_WAVE_LENGTH_ALPHA2")
    if not alpha1:
        return None
    monochromatic = header.get("MEAS_COND_XG_WAVE_TYPE", "Ka").strip().lower() in ("ka1", "kα1")
    return Wavelength.doublet(alpha1, None if monochromatic else alpha2 or None, 0.5)
