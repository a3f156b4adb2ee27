"""Rigaku's .ras and .rasx."""

from __future__ import annotations

import re
from xml.etree.ElementTree import Element

import numpy as np

from datamodules.measured.errors import PatternError
from datamodules.measured.ranges import combine
from datamodules.measured.readers.text.numbers import numbers, split_lines
from datamodules.measured.readers.xml import Archive, find_all, number, parse, text_of
from datamodules.measured.scan import Scan, condition, is_condition, make_scan
from datamodules.measured.wavelength import (
    Wavelength,
    takes_kalpha2_away,
    tube_lines,
    used_line,
)

_ENTRY = re.compile(r'\*([A-Z0-9_-]+)\s+"(.*)"')
_PROFILE = re.compile(r"(^|/)Profile\d+\.txt$", re.IGNORECASE)
_CONDITIONS = re.compile(r"(^|/)Mea?surementConditions\d*\.xml$", re.IGNORECASE)
#: Internal names of the axes along which 2θ moves as in a powder pattern, without signs.
_AXES = {"twotheta", "twothetatheta", "twothetaomega", "2theta", "theta2theta", "2thetaomega"}
_AXES |= {"2thetatheta", "omega2theta", "thetatwotheta"}


def read_ras(text: str) -> Scan:
    """Reads all ranges of a .ras file.

    Raises:
        PatternError: if it is cut, or scans something else than 2θ.
    """
    header: dict[str, str] = {}
    rows: list[list[float]] | None = None
    scans: list[Scan] = []
    for line in split_lines(text):
        line = line.strip()
        if not line:
            continue
        if line.startswith("*RAS_HEADER_START"):
            header = {}
        elif line.startswith("*RAS_INT_START"):
            rows = []
        elif line.startswith("*RAS_INT_END"):
            if rows is None:
                raise PatternError("ras: an end of data without a start; the file is damaged")
            scans.append(_range(rows, header, "Rigaku RAS"))
            rows = None
        elif rows is not None:
            row = numbers(line)
            if row is None or len(row) not in (2, 3):
                raise PatternError(f"ras: {line[:40]!r} among the data; the file is damaged")
            rows.append(row)
        elif match := _ENTRY.match(line[:1000]):
            header[match[1]] = match[2]
    if rows is not None:
        raise PatternError("ras: the data have no end; the file is cut")
    if not scans:
        raise PatternError("ras: no data in it")
    return combine(scans)


def read_rasx(data: bytes) -> Scan:
    """Reads all ranges of a .rasx archive, each a text of rows and an XML of its conditions.

    Raises:
        PatternError: if it is damaged, holds no scan of 2θ, or more than it should.
    """
    archive = Archive(data, "rasx")
    scans = []
    for name in archive.names:
        if not _PROFILE.search(name):
            continue
        folder = name.rpartition("/")[0]
        described = [
            other
            for other in archive.names
            if other.rpartition("/")[0] == folder and _CONDITIONS.search(other)
        ]
        header: dict[str, str] = {}
        if described:
            header = _conditions(parse(archive.read(described[0]), f"rasx: {described[0]}"))
        rows = []
        for line in split_lines(archive.read(name).decode("utf-8-sig", "replace")):
            row = numbers(line) if line.strip() else None
            if row is not None and len(row) in (2, 3):
                rows.append(row)
            elif line.strip() and (rows or line.strip()[0].isdigit()):
                raise PatternError(f"rasx: {line[:40]!r} in {name}; the file is damaged")
        scans.append(_range(rows, header, "Rigaku RASX"))
    if not scans:
        raise PatternError(
            "rasx: no profile in it (detector images are no patterns); export the pattern as .ras"
        )
    return combine(scans)


#: Elements of a .rasx and the entries of a .ras that say the same.
_SAME = {
    "AxisName": "MEAS_SCAN_AXIS_X_INTERNAL",
    "Mode": "MEAS_SCAN_MODE",
    "Speed": "MEAS_SCAN_SPEED",
    "SpeedUnit": "MEAS_SCAN_SPEED_UNIT",
    "IntensityUnit": "MEAS_SCAN_UNIT_Y",
    "WavelengthKalpha1": "HW_XG_WAVE_LENGTH_ALPHA1",
    "WavelengthKalpha2": "HW_XG_WAVE_LENGTH_ALPHA2",
    "WavelengthKbeta": "HW_XG_WAVE_LENGTH_BETA",
    "WaveType": "MEAS_COND_XG_WAVE_TYPE",
}


def _conditions(root: Element) -> dict[str, str]:
    """The conditions of a .rasx as entries of a .ras."""
    header = {}
    for name, entry in _SAME.items():
        if value := text_of(root, name):
            header[entry] = value
    for pair in find_all(root, "Pair"):
        key, value = text_of(pair, "Key"), text_of(pair, "Value")
        if key and value:
            header.setdefault(key, value)
    for i, axis in enumerate(find_all(root, "Axis")):
        for attribute, entry in (
            ("Name", "NAME_INTERNAL"),
            ("Unit", "UNIT"),
            ("Position", "POSITION"),
        ):
            header[f"MEAS_COND_AXIS_{entry}-{i}"] = axis.get(attribute, "")
    for element in root.iter():
        name = str(element.tag).rpartition("}")[2]
        if is_condition(name) and number(element.text) is not None:
            unit = element.get("Unit") or text_of(root, name + "Unit") or ""
            header.setdefault(name.upper(), element.text or "")
            header.setdefault(f"{name.upper()}_UNIT", unit)
    return header


def _range(rows: list[list[float]], header: dict[str, str], name: str) -> Scan:
    what = name.split()[-1].lower()
    axis = header.get("MEAS_SCAN_AXIS_X_INTERNAL") or header.get("MEAS_SCAN_AXIS_X") or "TwoTheta"
    if re.sub(r"[\s/_-]", "", axis).lower() not in _AXES:
        raise PatternError(f"{what}: the scan moves {axis}, not 2θ; it is no powder pattern")
    if not rows or len({len(row) for row in rows}) != 1:
        raise PatternError(f"{what}: rows of unequal lengths; the file is damaged")
    stated = number(header.get("MEAS_DATA_COUNT"))
    if stated is not None and stated > 0 and len(rows) != stated:
        raise PatternError(f"{what}: {len(rows)} of {stated:g} points; the file is cut")
    table = np.array(rows)
    intensity = table[:, 1]
    notes = []
    if table.shape[1] == 3 and not np.allclose(table[:, 2], 1.0):
        intensity = intensity * table[:, 2]
        notes.append("multiplied by the attenuator's factors (third column)")
    scan = make_scan(table[:, 0], intensity, name)
    scan.notes += notes
    scan.wavelength = _wavelength(header)
    scan.rate = "s" in header.get("MEAS_SCAN_UNIT_Y", "counts").lower().replace("counts", "")
    scan.seconds = _seconds(header, table[:, 0])
    scan.conditions = _state(header)
    return scan


def _seconds(header: dict[str, str], angles: np.ndarray) -> float | None:
    """Counting time of a point, from the speed: degrees in a time, or seconds a step."""
    speed = number(header.get("MEAS_SCAN_SPEED"))
    unit = header.get("MEAS_SCAN_SPEED_UNIT", "").lower()
    if speed is None or not 0 < speed < 1e9 or len(angles) < 2:
        return None
    return time_of_a_step(speed, unit, float(np.median(np.abs(np.diff(angles)))))


def time_of_a_step(speed: float, unit: str, step: float) -> float | None:
    """Counting time of a point, s.

    Args:
        speed: In `unit`, above 0.
        unit: Such as "deg/min" or "sec".
        step: Degrees.
    """
    unit = re.sub(r"[\s.]", "", unit.lower())
    if "/min" in unit or unit in ("dpm", "°pm"):
        return 60.0 * step / speed
    if re.search(r"(deg|°)\w*/s", unit):
        return step / speed
    if re.fullmatch(r"(s|sec|secs|second|seconds)(/(step|point|pt))?", unit):
        return speed
    return None


def _state(header: dict[str, str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for key, value in header.items():
        reading = number(value)
        if reading is not None and is_condition(key):
            name, reading = condition(key, reading, header.get(f"{key}_UNIT", ""))
            found.setdefault(name, reading)
        match = re.fullmatch(r"MEAS_COND_AXIS_NAME(?:_INTERNAL)?-(\d+)", key)
        if match and is_condition(value):
            position = number(header.get(f"MEAS_COND_AXIS_POSITION-{match[1]}"))
            if position is not None:
                unit = header.get(f"MEAS_COND_AXIS_UNIT-{match[1]}", "")
                name, reading = condition(value, position, unit)
                found.setdefault(name, reading)
    return found


def _wavelength(header: dict[str, str]) -> Wavelength | None:
    alpha1, alpha2, beta = (
        number(header.get(f"HW_XG_WAVE_LENGTH_{x}")) for x in ("ALPHA1", "ALPHA2", "BETA")
    )
    line = used_line(header.get("MEAS_COND_XG_WAVE_TYPE", "")) or "alpha"
    for key, value in header.items():
        match = re.fullmatch(r"MEAS_COND_AXIS_NAME_INTERNAL-(\d+)", key)
        if match and value == "IncidentMonochromator" and line == "alpha":
            position = header.get(f"MEAS_COND_AXIS_POSITION-{match[1]}", "")
            if takes_kalpha2_away(position):
                line = "alpha1"
    return tube_lines(alpha1, alpha2, beta, 0.5, line)
