"""Bruker's .brml: a ZIP archive of XML files."""

from __future__ import annotations

import re
from xml.etree.ElementTree import Element

import numpy as np

from datamodules.measured.readers.xml import (
    find,
    find_all,
    local,
    member,
    number,
    open_archive,
    parse,
)
from datamodules.measured.scan import PatternError, Scan, Wavelength, combine, make_scan

_WHAT = "brml"
_RAW_DATA = re.compile(r"(^|/)RawData\d+\.xml$", re.IGNORECASE)
_NAMES = ("WaveLengthAlpha1", "WaveLengthAlpha2", "WaveLengthRatio")


def read_brml(data: bytes) -> Scan:
    """Reads all 2θ ranges of an archive: repeats are averaged, ranges joined.

    Raises:
        PatternError: if it is damaged or holds no scan of 2θ.
    """
    archive = open_archive(data, _WHAT)
    names = sorted(archive.namelist())
    scans: list[Scan] = []
    wavelength: Wavelength | None = None
    for name in names:
        if _RAW_DATA.search(name):
            root = parse(member(archive, name, _WHAT), f"{_WHAT}: {name}")
            wavelength = wavelength or _wavelength(root)
            scans += [scan for route in find_all(root, "DataRoute") if (scan := _scan(route))]
    if not scans:
        raise PatternError(
            f"{_WHAT}: no scan of 2θ in it (detector images and stills are no patterns); export "
            "the pattern as .xy"
        )
    if wavelength is None:
        # Newer versions describe the tube in the measurement, not in the data.
        for name in names:
            if name.endswith("MeasurementContainer.xml"):
                root = parse(member(archive, name, _WHAT), f"{_WHAT}: {name}")
                wavelength = wavelength or _wavelength(root)
    scan = combine(scans)
    scan.wavelength = wavelength
    return scan


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
    start, factor, counts = _layout(route, len(axes), n_columns)
    angle = start + axes.index("TwoTheta")
    if not max(angle, counts) < n_columns:
        raise PatternError(f"{_WHAT}: {n_columns} columns where more are declared")
    intensity, notes = table[:, counts], []
    if factor is not None and not np.allclose(table[:, factor], 1.0):
        intensity = intensity * table[:, factor]
        notes.append("multiplied by the absorber's factors")
    scan = make_scan(table[:, angle], intensity, "Bruker BRML")
    scan.notes += notes
    return scan


def _layout(route: Element, n_axes: int, n_columns: int) -> tuple[int, int | None, int]:
    """Columns of the first axis, of the absorption factor and of the counts.

    `DataViews` declare them; files without have time, a flag, the axes, and the counts.
    """
    start, factor, counts = 2, None, 2 + n_axes
    for view in find_all(route, "RawDataView"):
        column = number(view.get("Start"))
        if column is None or not 0 <= column < n_columns:
            continue
        kind = next((v for k, v in view.items() if k.endswith("}type")), "")
        if view.get("LogicName") == "AbsorptionFactor":
            factor = int(column)
        elif kind == "VaryingRawDataView":
            start = int(column)
        elif kind == "RecordedRawDataView":
            counts = int(column)
            break
    return start, factor, counts


def _wavelength(root: Element) -> Wavelength | None:
    found: dict[str, float] = {}
    for element in root.iter():
        name = local(element)
        if name in _NAMES:
            value = number(element.get("Value"))
        elif name == "Restrictions" and element.get("FieldName") in _NAMES:
            name = element.get("FieldName", "")
            value = _restricted(element)
        else:
            continue
        if value is not None:
            found.setdefault(name, value)
    if not found.get(_NAMES[0]):
        return None
    return Wavelength.doublet(found[_NAMES[0]], found.get(_NAMES[1]) or None, found.get(_NAMES[2]))


def _restricted(element: Element) -> float | None:
    """The value of a setting: what is set, else the default."""
    for name in ("Data", "DefaultValue"):
        child = find(element, name)
        if child is not None and (value := number(child.get("Value"))) is not None:
            return value
    return None
