"""PANalytical's .xrdml."""

from __future__ import annotations

from xml.etree.ElementTree import Element

import numpy as np

from datamodules.measured.errors import PatternError
from datamodules.measured.ranges import combine
from datamodules.measured.readers.xml import find, find_all, local, number, parse, text_of
from datamodules.measured.scan import Scan, condition, is_condition, make_scan, weigh_by_time
from datamodules.measured.wavelength import (
    Wavelength,
    takes_kalpha2_away,
    tube_lines,
    used_line,
)

_WHAT = "xrdml"
#: Scan axes along which 2θ moves as in a powder pattern.
_AXES = {"gonio", "2theta", "2theta-omega", "omega-2theta"}


def read_xrdml(data: bytes) -> Scan:
    """Reads all scans of a file: repeats are averaged, ranges joined.

    Raises:
        PatternError: if it is damaged, holds no scan of 2θ, or scans that are not of one sample
            in one state.
    """
    root = parse(data, _WHAT)
    scans, other = [], set()
    for measurement in find_all(root, "xrdMeasurement"):
        wavelength, warnings = _wavelength(measurement), _slits(measurement)
        for element in find_all(measurement, "scan"):
            axis = element.get("scanAxis", "Gonio")
            if axis.lower() not in _AXES:
                other.add(axis)
                continue
            scan = _scan(element)
            scan.conditions = _conditions(element) or _conditions(measurement)
            if element.get("status", "Completed").lower() in ("aborted", "interrupted"):
                scan.warnings.append("the scan was aborted: its last angles may be wrong")
            scan.wavelength, scan.warnings = wavelength, [*scan.warnings, *warnings]
            scans.append(scan)
    if not scans:
        if other:
            raise PatternError(f"{_WHAT}: scans {', '.join(sorted(other))} only, not 2θ")
        raise PatternError(f"{_WHAT}: no scan in it")
    return combine(scans)


def _scan(element: Element) -> Scan:
    points = next((p for p in find_all(element, "dataPoints")), None)
    if points is None:
        raise PatternError(f"{_WHAT}: a scan without data points; it was not finished")
    values = _list(points, "intensities")
    if values is None:
        values = _list(points, "counts")
    if values is None or not len(values):
        raise PatternError(f"{_WHAT}: a scan without intensities; it was not finished")
    notes = []
    # `intensities` are corrected already; `counts` are as counted.
    counted = find(points, "intensities") is None
    factors = _list(points, "beamAttenuationFactors") if counted else None
    if factors is not None and len(factors) == len(values) and not np.allclose(factors, 1.0):
        values = values * factors
        notes.append("multiplied by the beam's attenuation factors")
    found = find(points, "intensities") if not counted else find(points, "counts")
    unit = "" if found is None else found.get("unit", "counts").lower()
    rate = unit in ("cps", "counts/s", "counts per second")
    seconds = number(text_of(points, "commonCountingTime"))
    times = _list(points, "countingTimes")
    if times is not None and len(times) and not rate:
        seconds = float(times.mean())
        values, done = weigh_by_time(values, times)
        notes += [done] if done else []
    scan = make_scan(_angles(points, len(values)), values, "PANalytical XRDML")
    scan.notes += notes
    scan.rate = rate
    scan.seconds = seconds if seconds and 0 < seconds < 1e9 else None
    return scan


def _conditions(element: Element) -> dict[str, float]:
    """Temperature and the like: the mean over the scan, by name."""
    found: dict[str, float] = {}
    for points in element.iter():
        reading = number(points.text) if is_condition(local(points)) else None
        if reading is not None and np.isfinite(reading):
            name, value = condition(local(points), reading, points.get("unit", ""))
            found.setdefault(name, value)
        if not local(points).lower().startswith("nonambient"):
            continue
        for values in points.iter():
            # Times of the readings stand beside them.
            if not local(values).lower().startswith("nonambientvalue"):
                continue
            kind = values.get("type") or points.get("type") or "temperature"
            readings = [number(word) for word in (values.text or "").split()]
            known = [reading for reading in readings if reading is not None]
            if known and np.all(np.isfinite(known)):
                unit = values.get("unit") or points.get("unit") or ""
                name, value = condition(kind, float(np.mean(known)), unit)
                found.setdefault(name, value)
    return found


def _angles(points: Element, n: int) -> np.ndarray:
    for positions in find_all(points, "positions"):
        if positions.get("axis", "").lower() != "2theta":
            continue
        listed = _list(positions, "listPositions")
        if listed is not None:
            return listed
        start = number(text_of(positions, "startPosition"))
        end = number(text_of(positions, "endPosition"))
        if start is not None and end is not None:
            return np.linspace(start, end, n)
    raise PatternError(f"{_WHAT}: a scan without the positions of 2θ")


def _list(element: Element, name: str) -> np.ndarray | None:
    text = text_of(element, name)
    if text is None:
        return None
    try:
        return np.array([float(word) for word in text.split()])
    except ValueError as error:
        raise PatternError(f"{_WHAT}: {name}: {error}; the file is damaged") from None


def _wavelength(measurement: Element) -> Wavelength | None:
    used = find(measurement, "usedWavelength")
    if used is None:
        return None
    alpha1, alpha2, beta = (number(text_of(used, f"k{x}")) for x in ("Alpha1", "Alpha2", "Beta"))
    ratio = number(text_of(used, "ratioKAlpha2KAlpha1"))
    # `intended` says K-Alpha 1 in files of Kα doublets too: it is the line that d is computed
    # with. Only a monochromator before the sample takes Kα2 away.
    line = "beta" if used_line(used.get("intended", "")) == "beta" else "alpha"
    incident = find(measurement, "incidentBeamPath")
    for child in [] if incident is None or line == "beta" else incident.iter():
        if local(child).lower().endswith("monochromator"):
            words = [child.get("name", ""), text_of(child, "crystal") or ""]
            hybrid = "hybrid" if child.get("hybrid", "").lower() == "true" else ""
            # A monochromator of which nothing is known is taken for one that does.
            if takes_kalpha2_away(" ".join([*words, hybrid])) is not False:
                line = "alpha1"
    return tube_lines(alpha1, alpha2, beta, ratio, line)


def _slits(measurement: Element) -> list[str]:
    incident = find(measurement, "incidentBeamPath")
    slits = [] if incident is None else list(find_all(incident, "divergenceSlit"))
    kinds = [value for slit in slits for key, value in slit.items() if key.endswith("}type")]
    if any("automatic" in kind.lower() for kind in kinds):
        return [
            "measured with an automatic divergence slit: intensities grow with the angle; convert "
            "to a fixed slit for better ones"
        ]
    return []
