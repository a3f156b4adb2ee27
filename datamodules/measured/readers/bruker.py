"""Bruker's .brml, a ZIP archive of XML files, and Siemens/Bruker's .uxd."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from xml.etree.ElementTree import Element

import numpy as np

from datamodules.measured.errors import PatternError
from datamodules.measured.ranges import combine
from datamodules.measured.readers.text.numbers import numbers, split_lines
from datamodules.measured.readers.xml import Archive, find, find_all, local, number, parse, text_of
from datamodules.measured.scan import (
    Scan,
    condition,
    is_condition,
    make_scan,
    weigh_by_time,
)
from datamodules.measured.wavelength import Wavelength, takes_kalpha2_away, tube_lines, used_line

_WHAT = "brml"
_RAW_DATA = re.compile(r"(^|/)RawData\d+\.xml$", re.IGNORECASE)
#: Views of the sample's state, and of where a point lies in reciprocal space.
_OTHER_VIEW = re.compile("ambient|temperature|pressure|humidity|recip|hkl|^q", re.IGNORECASE)
_NAMES = ("WaveLengthAlpha1", "WaveLengthAlpha2", "WaveLengthRatio", "WaveLengthBeta")


def read_brml(data: bytes) -> Scan:
    """Reads all 2θ ranges of an archive: repeats are averaged, ranges joined.

    Raises:
        PatternError: if it is damaged, holds no scan of 2θ, or scans that are not of one sample
            in one state.
    """
    archive = Archive(data, _WHAT)
    scans: list[Scan] = []
    for name in archive.names:
        if _RAW_DATA.search(name):
            root = parse(archive.read(name), f"{_WHAT}: {name}")
            wavelength, state = _wavelength(root), _state(root)
            routes = list(find_all(root, "DataRoute"))
            # What was made of the measured data stands beside them as "Final".
            final = [route for route in routes if route.get("RouteFlag") == "Final"]
            for route in final or routes:
                if scan := _scan(route):
                    scan.wavelength = wavelength
                    scan.conditions = state | _state(route) | scan.conditions
                    scans.append(scan)
    if not scans:
        raise PatternError(
            f"{_WHAT}: no scan of 2θ in it (detector images and stills are no patterns); export "
            "the pattern as .xy"
        )
    scan = combine(scans)
    if scan.wavelength is None:
        # Newer versions describe the tube in the measurement, not in the data.
        for name in archive.names:
            if name.endswith("MeasurementContainer.xml"):
                root = parse(archive.read(name), f"{_WHAT}: {name}")
                scan.wavelength = scan.wavelength or _wavelength(root)
    return scan


@dataclass
class _Columns:
    """Which column of a row holds what; None where a row has none."""

    angle: int
    counts: int
    factor: int | None = None
    time: int | None = None
    rate: bool = False
    state: dict[int, tuple[str, str]] = field(default_factory=dict)


def _scan(route: Element) -> Scan | None:
    """One route of data; None if it does not scan 2θ."""
    axes = [info.get("AxisId", "") for info in find_all(route, "ScanAxisInfo")]
    if "TwoTheta" not in axes:
        return None
    rows = []
    for datum in find_all(route, "Datum"):
        try:
            rows.append([float(value) for value in (datum.text or "").split(",")])
        except ValueError:
            raise PatternError(f"{_WHAT}: {(datum.text or '')[:40]!r} among the data") from None
    if not rows:
        return None
    n_columns = len(rows[0])
    if any(len(row) != n_columns for row in rows):
        raise PatternError(f"{_WHAT}: rows of unequal lengths; the file is damaged")
    table = np.array(rows)
    columns = _layout(route, axes, n_columns)
    if not max(columns.angle, columns.counts) < n_columns:
        raise PatternError(f"{_WHAT}: {n_columns} columns where more are declared")
    intensity, notes = table[:, columns.counts], []
    if columns.factor is not None and not np.allclose(table[:, columns.factor], 1.0):
        intensity = intensity * table[:, columns.factor]
        notes.append("multiplied by the absorber's factors")
    seconds = number(text_of(route, "TimePerStepEffective") or text_of(route, "TimePerStep"))
    if columns.time is not None and not columns.rate:
        times = table[:, columns.time]
        intensity, done = weigh_by_time(intensity, times)
        notes += [done] if done else []
        if np.all(times > 0):
            seconds = float(times.mean())
    scan = make_scan(table[:, columns.angle], intensity, "Bruker BRML")
    scan.notes += notes
    scan.rate = columns.rate
    scan.seconds = seconds if seconds and 0 < seconds < math.inf else None
    for column, (name, unit) in columns.state.items():
        readings = table[:, column]
        if np.all(np.isfinite(readings)) and readings.any():
            key, value = condition(name, float(readings.mean()), unit)
            scan.conditions[key] = value
            if np.ptp(readings) > max(10.0, 0.02 * abs(value)):
                scan.warnings.append(
                    f"{key} changed from {readings.min():g} to {readings.max():g} in the scan"
                )
    return scan


def _layout(route: Element, axes: list[str], n_columns: int) -> _Columns:
    """What the columns are.

    `DataViews` declare them: fixed ones (time, factors), varying ones (the axes; others hold
    reciprocal space or the state of the sample), and recorded ones (the counter first, monitors
    after it). Files without have time, a flag, the axes, and the counts.
    """
    columns = _Columns(angle=2 + axes.index("TwoTheta"), counts=2 + len(axes))
    angle = counts = None
    for view in find_all(route, "RawDataView"):
        column = number(view.get("Start"))
        if column is None or not 0 <= column < n_columns:
            continue
        start, length = int(column), number(view.get("Length")) or len(axes)
        kind = next((v for k, v in view.items() if k.endswith("}type")), "")
        name = view.get("LogicName", "")
        fields = list(find_all(view, "FieldDefinitions"))
        ids = [item.get("AxisId") or item.get("FieldName") or "" for item in fields]
        if name == "AbsorptionFactor":
            columns.factor = start
        elif name in ("MeasuredTime", "PlannedTime"):
            if columns.time is None or name == "MeasuredTime":
                columns.time = start
        elif kind == "VaryingRawDataView":
            if "TwoTheta" in ids:
                angle = start + ids.index("TwoTheta")
            elif angle is None and not ids and not _OTHER_VIEW.search(name) and length >= len(axes):
                # Undeclared: the first that can hold the axes.
                angle = start + axes.index("TwoTheta")
            for offset, item in enumerate(fields):
                _add_state(columns, start + offset, ids[offset], _unit(item), n_columns)
            if not ids:
                _add_state(columns, start, name, view.get("Unit", ""), n_columns)
        elif kind == "RecordedRawDataView":
            recording = find(view, "Recording")
            word = name if recording is None else recording.get("LogicName", "") or name
            if is_condition(word):
                _add_state(columns, start, word, _unit(view), n_columns)
            elif counts is None:
                counts = start
                base = find(view, "Unit")
                unit = "" if base is None else base.get("Base", "")
                columns.rate = re.sub(r"\s", "", unit.lower()) in ("cps", "countspersecond")
        elif is_condition(name):
            _add_state(columns, start, name, view.get("Unit", ""), n_columns)
    columns.angle = columns.angle if angle is None else angle
    columns.counts = columns.counts if counts is None else counts
    return columns


def _add_state(columns: _Columns, column: int, name: str, unit: str, n_columns: int) -> None:
    if is_condition(name) and column < n_columns:
        columns.state[column] = (name, unit)


def _unit(element: Element) -> str:
    for child in element.iter():
        if unit := child.get("Unit"):
            return unit
        if local(child) == "Unit" and (base := child.get("Base")):
            return base
    return ""


def _state(root: Element) -> dict[str, float]:
    """Temperature and the like of a whole file: axes and settings that stood still."""
    found: dict[str, float] = {}
    for element in root.iter():
        # Statistics and limits of the drives stand elsewhere.
        name = next(
            (
                value
                for value in (
                    element.get("AxisId"),
                    element.get("Name"),
                    element.get("LogicName"),
                    local(element),
                )
                if value and is_condition(value)
            ),
            None,
        )
        if name is None or local(element) in ("RawDataView", "FieldDefinitions", "Recording"):
            continue
        reading = number(element.get("Value"))
        if reading is None:
            reading = number(text_of(element, "Position"))
        if reading is None:
            reading = number(element.text)
        if reading is not None and math.isfinite(reading):
            key, value = condition(name, reading, _unit(element))
            found.setdefault(key, value)
    return found


def _wavelength(root: Element) -> Wavelength | None:
    found: dict[str, float] = {}
    line = "alpha"
    for element in root.iter():
        name = local(element)
        if name in _NAMES:
            value = number(element.get("Value"))
        elif name == "Restrictions" and element.get("FieldName") in _NAMES:
            name = element.get("FieldName", "")
            value = _restricted(element)
        else:
            if "wavelength" in name.lower():
                word = element.get("Value") or element.text or ""
                line = used_line(word) or ("beta" if word.strip().lower() == "beta" else line)
            continue
        if value is not None:
            found.setdefault(name, value)
    track = find(root, "PrimaryTracks")
    for optic in [] if track is None or line != "alpha" else find_all(track, "InfoData"):
        words = " ".join(value for key, value in optic.items() if key != "BankPosition")
        words += " " + " ".join(text_of(optic, key) or "" for key in ("Crystal", "Material"))
        if "monochromator" in words.lower() and takes_kalpha2_away(words.replace("_", " ")):
            line = "alpha1"
    alpha1, alpha2, ratio, beta = (found.get(name) for name in _NAMES)
    return tube_lines(alpha1, alpha2, beta, ratio, line)


def _restricted(element: Element) -> float | None:
    """The value of a setting: what is set, else the default."""
    for name in ("Data", "DefaultValue"):
        child = find(element, name)
        if child is not None and (value := number(child.get("Value"))) is not None:
            return value
    return None


_UXD_DATA = ("COUNTS", "CPS", "2THETACOUNTS", "2THETACPS")


def read_uxd(text: str) -> Scan:
    """Siemens/Bruker UXD: `_KEY=value` lines, then counts or pairs after `_COUNTS` and the like.

    What stands before the first range holds for all of them.

    Raises:
        PatternError: if it has no range or no 2θ, or ranges that cannot be joined.
    """
    values: dict[str, str] = {}
    data: list[float] = []
    kind = ""
    scans: list[Scan] = []
    for position, line in enumerate(split_lines(text), 1):
        line = line.strip()
        if not line or line.startswith(";"):
            continue
        if line.startswith("_"):
            key, _, value = line[1:1000].partition("=")
            key = key.strip().upper()
            if kind and data:
                scans.append(_uxd_range(values, kind, data))
                kind, data = "", []
            if key in _UXD_DATA:
                kind = key
            else:
                values[key] = value.strip().strip("'\"")
            continue
        row = numbers(line)
        if kind and row is None:
            raise PatternError(f"uxd: line {position}, {line[:40]!r}, among the data is no number")
        if row is not None and kind:
            data += row
    if kind:
        scans.append(_uxd_range(values, kind, data))
    if not scans:
        raise PatternError("uxd: no _COUNTS, _CPS, _2THETACOUNTS or _2THETACPS; the file is cut")
    return combine(scans)


def _uxd_range(values: dict[str, str], kind: str, data: list[float]) -> Scan:
    if kind.startswith("2THETA"):
        if len(data) % 2:
            raise PatternError("uxd: an odd number of values where pairs are said; the file is cut")
        pairs = np.array(data).reshape(-1, 2)
        x, y = pairs[:, 0], pairs[:, 1]
    else:
        start = number(values.get("2THETA"))
        start = number(values.get("START")) if start is None else start
        step = number(values.get("STEPSIZE"))
        if start is None or step is None or not 0 < step < 180 or not abs(start) < 360:
            raise PatternError("uxd: no start or step of 2θ; export with 2θ in the file")
        x, y = start + step * np.arange(len(data)), np.array(data)
    drive = values.get("DRIVE", "COUPLED").upper()
    if drive not in ("COUPLED", "2THETA", "DETECTOR"):
        raise PatternError(f"uxd: the scan moves {drive}, not 2θ; it is no powder pattern")
    stated = number(values.get("STEPCOUNT"))
    if stated is not None and stated > 0 and stated != len(y):
        raise PatternError(f"uxd: {len(y)} of {stated:g} points; the file is cut")
    scan = make_scan(x, y, "Siemens/Bruker UXD")
    scan.rate = kind.endswith("CPS")
    seconds = number(values.get("STEPTIME"))
    scan.seconds = seconds if seconds and 0 < seconds < math.inf else None
    for key, text in values.items():
        reading = number(text)
        # -1 and the like stand for "none"; rates and delays are of the furnace's program.
        if re.fullmatch(r"TEMP(ERATURE)?|PRESSURE|HUMIDITY", key) and reading and reading > 0:
            unit = values.get(f"{key}_UNIT", "C" if key.startswith("TEMP") else "")
            name, value = condition(key, reading, unit)
            scan.conditions[name] = value
    scan.wavelength = _uxd_wavelength(values)
    return scan


def _uxd_wavelength(values: dict[str, str]) -> Wavelength | None:
    unit = {"NM": 10.0, "PM": 0.01}.get(values.get("WL_UNIT", "A").strip().upper(), 1.0)
    alpha1, alpha2, beta, used = (
        value * unit if (value := number(values.get(key))) else None
        for key in ("WL1", "WL2", "WL3", "RANGE_WL")
    )
    ratio = number(values.get("WLRATIO"))
    if not alpha1:
        return Wavelength(((used, 1.0),)) if used else None
    if used and beta and math.isclose(used, beta, rel_tol=1e-3):
        return tube_lines(alpha1, alpha2, beta, ratio, "beta")
    if used and not math.isclose(used, alpha1, rel_tol=5e-3):
        return Wavelength(((used, 1.0),))
    return tube_lines(alpha1, alpha2, beta, ratio, "alpha")
