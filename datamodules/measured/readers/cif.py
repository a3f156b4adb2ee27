"""Powder CIF: the IUCr's pdCIF dictionary."""

from __future__ import annotations

import gemmi
import numpy as np

from datamodules.measured.scan import MAX_POINTS, PatternError, Scan, Wavelength, make_scan

_WHAT = "cif"
#: In the order of preference: as counted first, processed last.
_INTENSITIES = (
    "_pd_meas_counts_total",
    "_pd_meas_intensity_total",
    "_pd_meas_counts_net",
    "_pd_meas_intensity_net",
    "_pd_proc_intensity_total",
    "_pd_proc_intensity_net",
)
_ANGLES = ("_pd_meas_2theta_scan", "_pd_proc_2theta_corrected", "_pd_meas_angle_2theta")
_RANGES = ("_pd_meas_2theta_range", "_pd_proc_2theta_range")


def read_cif(text: str) -> Scan:
    """Reads the first data block that has a pattern.

    Raises:
        PatternError: if there is none (a CIF of a structure, for instance).
    """
    try:
        document = gemmi.cif.read_string(text)
    except (ValueError, RuntimeError) as error:
        raise PatternError(f"{_WHAT}: {error}") from None
    for block in document:
        for name in _INTENSITIES:
            values = _column(block, name)
            if len(values) < 2:
                continue
            scan = make_scan(_angles(block, len(values)), values, f"powder CIF, {name}")
            scan.wavelength = _wavelength(block) or _wavelength(document[0])
            if name.endswith("_net"):
                scan.notes.append("background was taken off already (net intensities)")
            return scan
    raise PatternError(
        f"{_WHAT}: no measured pattern in it (none of {', '.join(_INTENSITIES[:2])} …); "
        "structures go through `xxact prepare cif`"
    )


def _column(block: gemmi.cif.Block, name: str) -> np.ndarray:
    """Numbers of a loop's column; uncertainties in brackets are cut off, `?` becomes NaN."""
    return np.array([gemmi.cif.as_number(value) for value in block.find_loop(name)])


def _angles(block: gemmi.cif.Block, n: int) -> np.ndarray:
    for name in _ANGLES:
        values = _column(block, name)
        if len(values) == n:
            return values
    for name in _RANGES:
        low, high, step = (
            gemmi.cif.as_number(block.find_value(f"{name}_{end}") or "?")
            for end in ("min", "max", "inc")
        )
        if np.isfinite(low) and np.isfinite(step) and step > 0 and n <= MAX_POINTS:
            return low + step * np.arange(n)
        if np.isfinite(low) and np.isfinite(high) and high > low:
            return np.linspace(low, high, n)
    raise PatternError(
        f"{_WHAT}: intensities without 2θ (neither {_ANGLES[0]} nor {_RANGES[0]}_min and _inc)"
    )


def _wavelength(block: gemmi.cif.Block) -> Wavelength | None:
    name = "_diffrn_radiation_wavelength"
    single = block.find_value(name)
    values = [gemmi.cif.as_number(single)] if single else _column(block, name).tolist()
    weights = _column(block, f"{name}_wt").tolist()
    lines = [
        (value, weights[i] if len(weights) == len(values) else 1.0 / (i + 1))
        for i, value in enumerate(values)
        if np.isfinite(value)
    ]
    if not lines:
        return None
    lines = [(x, w if np.isfinite(w) else 1.0 / (i + 1)) for i, (x, w) in enumerate(lines)]
    return Wavelength(tuple(lines))
