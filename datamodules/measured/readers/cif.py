"""Powder CIF: the IUCr's pdCIF dictionary."""

from __future__ import annotations

import re
from collections.abc import Iterator

import gemmi
import numpy as np

from datamodules.measured.errors import PatternError
from datamodules.measured.scan import MAX_POINTS, Scan, condition, make_scan, weigh_by_time
from datamodules.measured.wavelength import Wavelength

_WHAT = "cif"
MAX_CHARACTERS = 16 * 2**20
"""Tokens of a CIF take ten times the memory of their characters."""
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
_TIMES_OF_FLIGHT = ("_pd_meas_time_of_flight", "_pd_proc_time_of_flight")
_OTHER_PROBES = re.compile(r"neutron|electron|spallation|reactor|muon", re.IGNORECASE)
_WAVELENGTH = "_diffrn_radiation_wavelength"
_SYMBOL = "_diffrn_radiation_xray_symbol"


def read_cif(text: str) -> Scan:
    """Reads the first data block that has a pattern of X-rays.

    Raises:
        PatternError: if there is none (a CIF of a structure, of neutrons, …).
    """
    if len(text) > MAX_CHARACTERS:
        raise PatternError(f"{_WHAT}: larger than {MAX_CHARACTERS // 2**20} MB; give the pattern")
    try:
        document = gemmi.cif.read_string(text)
    except (ValueError, RuntimeError) as error:
        raise PatternError(f"{_WHAT}: {error}") from None
    refused: list[str] = []
    usable: list[tuple[gemmi.cif.Block, str]] = []
    for block in document:
        name = next((x for x in _INTENSITIES if len(_column(block, x)) >= 2), None)
        if name is None:
            continue
        if reason := _not_of_x_rays(block, document):
            refused.append(f"data_{block.name[:40]} is of {reason}")
        else:
            usable.append((block, name))
    if refused and not usable:
        raise PatternError(f"{_WHAT}: {'; '.join(refused)}; give a pattern of X-rays")
    if not usable:
        raise PatternError(
            f"{_WHAT}: no measured pattern in it (none of {', '.join(_INTENSITIES[:2])} …); "
            "structures go through `xxact prepare cif`"
        )
    block, name = usable[0]
    scan = _scan(block, name)
    try:
        scan.wavelength = _wavelength(block, document)
    except PatternError as error:
        # The user may give one.
        scan.warnings.append(f"the file's wavelength is not used: {error}")
    if name.endswith("_net"):
        scan.notes.append("background was taken off already (net intensities)")
    scan.notes += [f"left out: {reason}" for reason in refused]
    if len(usable) > 1:
        scan.warnings.append(
            f"{len(usable)} patterns in the file; the first, data_{block.name[:40]}, is read"
        )
    return scan


def _scan(block: gemmi.cif.Block, name: str) -> Scan:
    values = _column(block, name)
    axis, x = _axis(block, len(values))
    notes = []
    times = _column(block, "_pd_meas_step_count_time")
    if len(times) == len(values) and "meas_counts" in name:
        values, done = weigh_by_time(values, times)
        notes += [done] if done else []
    scan = make_scan(x, values, f"powder CIF, {name}")
    scan.axis = axis
    scan.notes += notes
    for tag in (
        "_diffrn_ambient_temperature",
        "_pd_prep_temperature",
        "_cell_measurement_temperature",
    ):
        reading = gemmi.cif.as_number(block.find_value(tag) or "?")
        if np.isfinite(reading):
            scan.conditions.update([condition("temperature", float(reading), "K")])
            break
    return scan


def _column(block: gemmi.cif.Block, name: str) -> np.ndarray:
    """Numbers of a loop's column; uncertainties in brackets are cut off, `?` becomes NaN."""
    return np.array([gemmi.cif.as_number(value) for value in block.find_loop(name)])


def _axis(block: gemmi.cif.Block, n: int) -> tuple[str, np.ndarray]:
    """The axis of a pattern, and its values at the points."""
    for axis, names in (("two_theta", _ANGLES), ("q", ("_pd_proc_recip_len_Q",))):
        for name in names:
            values = _column(block, name)
            if len(values) == n:
                return axis, values
    for name in _RANGES:
        low, high, step = (
            gemmi.cif.as_number(block.find_value(f"{name}_{end}") or "?")
            for end in ("min", "max", "inc")
        )
        if not np.isfinite(low) or n > MAX_POINTS:
            continue
        if np.isfinite(step) and step != 0:
            if np.isfinite(high) and abs(abs((high - low) / step) + 1.0 - n) > 1.5:
                raise PatternError(
                    f"{_WHAT}: {n} intensities where {low:g} to {high:g}° in steps of {step:g}° "
                    f"say {abs((high - low) / step) + 1.0:.0f}; the file is cut"
                )
            down = np.isfinite(high) and high < low
            return "two_theta", low + (-abs(step) if down else step) * np.arange(n)
        if np.isfinite(high) and high != low:
            return "two_theta", np.linspace(low, high, n)
    spacing = _column(block, "_pd_proc_d_spacing")
    if len(spacing) == n and np.all(spacing > 0):
        return "q", 2.0 * np.pi / spacing
    raise PatternError(
        f"{_WHAT}: intensities without 2θ (neither {_ANGLES[0]} nor {_RANGES[0]}_min and _inc)"
    )


def _not_of_x_rays(block: gemmi.cif.Block, document: gemmi.cif.Document) -> str | None:
    """What else than X-rays a block's pattern is of; None where nothing says so."""
    for name in _TIMES_OF_FLIGHT:
        if len(_column(block, name)) or block.find_value(name):
            return "neutrons' time of flight"
    for near in _from_near(block, document):
        said = [value for one in near for value in _statements(one)]
        if not said:
            continue
        others = [other for one in near for other in _others(one)]
        x_rays = any(re.search(r"x-?ray|\bK\\?[ab]|synchrotron", v, re.IGNORECASE) for v in said)
        if others and x_rays and len(near) > 1:
            return f"{others[0]}s or X-rays, which its block does not say"
        return f"{others[0]}s" if others else None
    return None


def _others(block: gemmi.cif.Block) -> list[str]:
    """Probes other than X-rays that a block names."""
    found = (_OTHER_PROBES.search(value) for value in _statements(block))
    return [match[0].lower() for match in found if match]


def _statements(block: gemmi.cif.Block) -> Iterator[str]:
    for name in ("_diffrn_radiation_probe", "_diffrn_radiation_type", "_diffrn_source"):
        value = block.find_value(name)
        if value and value not in ("?", "."):
            yield gemmi.cif.as_string(value)
        yield from (gemmi.cif.as_string(v) for v in block.find_loop(name) if v not in ("?", "."))


def _from_near(
    block: gemmi.cif.Block, document: gemmi.cif.Document
) -> Iterator[list[gemmi.cif.Block]]:
    """Where a block's radiation may be stated, the nearest first.

    In itself, in blocks that it names or that name it, in blocks without a pattern. What blocks
    with a pattern say is of theirs.
    """
    yield [block]
    names = ("_pd_block_id", "_pd_block_diffractogram_id", "_pd_calib_std_external_block_id")

    def ids(one: gemmi.cif.Block) -> set[str]:
        found = {one.find_value(name) for name in names}
        found |= {value for name in names for value in one.find_loop(name)}
        return {value for value in found if value and value not in ("?", ".")}

    mine = ids(block)
    others = [one for one in document if one.name != block.name]
    yield [one for one in others if mine & ids(one)]
    yield [one for one in others if not _has_pattern(one)]


def _has_pattern(block: gemmi.cif.Block) -> bool:
    names = (*_INTENSITIES, *_TIMES_OF_FLIGHT)
    return any(len(block.find_loop(name)) >= 2 for name in names)


def _wavelength(block: gemmi.cif.Block, document: gemmi.cif.Document) -> Wavelength | None:
    for near in _from_near(block, document):
        x_rays = [one for one in near if not _others(one)]
        found = [found for one in x_rays if (found := _stated(one)) is not None]
        if not found:
            continue
        means = [wavelength.mean for wavelength in found]
        if max(means) > 1.001 * min(means):
            raise PatternError(
                f"blocks state {', '.join(f'{mean:g}' for mean in means[:6])} Å and none is of "
                f"data_{block.name[:40]}"
            )
        return found[0]
    return None


def _stated(block: gemmi.cif.Block) -> Wavelength | None:
    """The wavelength that a block states, as a single value or in a loop of any order."""
    single = block.find_value(_WAVELENGTH)
    values = [single] if single else list(block.find_loop(_WAVELENGTH))
    weights = list(block.find_loop(f"{_WAVELENGTH}_wt"))
    lines: list[tuple[float, float | None]] = []
    for i, value in enumerate(values):
        length = gemmi.cif.as_number(value)
        weight = gemmi.cif.as_number(weights[i]) if len(weights) == len(values) else float("nan")
        if np.isfinite(length):
            lines.append((float(length), float(weight) if np.isfinite(weight) else None))
    if not lines:
        return None
    if any(weight is None for _, weight in lines):
        lines = [(length, None) for length, _ in lines]
    return Wavelength.of_lines(lines, "the file")
