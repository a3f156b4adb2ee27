"""PANalytical's .xrdml."""

from __future__ import annotations

from xml.etree.ElementTree import Element

import numpy as np

from datamodules.measured.readers.xml import find, find_all, local, number, parse
from datamodules.measured.scan import PatternError, Scan, Wavelength, combine, make_scan

_WHAT = "xrdml"
#: Scan axes along which 2θ moves as in a powder pattern.
_AXES = {"gonio", "2theta", "2theta-omega", "omega-2theta"}


def read_xrdml(data: bytes) -> Scan:
    """Reads all scans of a file: repeats are averaged, ranges joined.

    Raises:
        PatternError: if it is damaged or holds no scan of 2θ.
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
    times = _list(points, "countingTimes")
    if times is not None and len(times) == len(values) and np.ptp(times) > 0 and times.min() > 0:
        values = values * (times.mean() / times)
        notes.append("divided by the points' counting times")
    scan = make_scan(_angles(points, len(values)), values, "PANalytical XRDML")
    scan.notes += notes
    return scan


def _angles(points: Element, n: int) -> np.ndarray:
    for positions in find_all(points, "positions"):
        if positions.get("axis", "").lower() != "2theta":
            continue
        listed = _list(positions, "listPositions")
        if listed is not None:
            return listed
        start = number(_text(positions, "startPosition"))
        end = number(_text(positions, "endPosition"))
        if start is not None and end is not None:
            return np.linspace(start, end, n)
    raise PatternError(f"{_WHAT}: a scan without the positions of 2θ")


def _text(element: Element, name: str) -> str | None:
    found = find(element, name)
    return found.text if found is not None else None


def _list(element: Element, name: str) -> np.ndarray | None:
    text = _text(element, name)
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
    alpha1, alpha2 = number(_text(used, "kAlpha1")), number(_text(used, "kAlpha2"))
    ratio = number(_text(used, "ratioKAlpha2KAlpha1"))
    if not alpha1:
        return None
    # `intended` says K-Alpha 1 in files of Kα doublets too: it is the line that d is computed
    # with. Only a monochromator before the sample takes Kα2 away.
    incident = find(measurement, "incidentBeamPath")
    monochromatic = incident is not None and any(
        local(child).lower().endswith("monochromator") for child in incident.iter()
    )
    return Wavelength.doublet(alpha1, None if monochromatic else alpha2 or None, ratio)


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
