"""Several scans in one file: counting times, conditions, overlaps; archives and their columns."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from datamodules.measured import PatternError, Scan, read_scan
from datamodules.measured.ranges import combine
from datamodules.measured.readers.rigaku import time_of_a_step
from tests.measured import patterns
from tests.measured.patterns import angles, counts

X = angles(20, 60, 0.04)
Y = counts(X, top=1e5) + 100.0
LOW, HIGH = X < 40, X >= 40


def archive(**members: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as target:
        for name, text in members.items():
            target.writestr(name.replace("__", "/"), text)
    return stream.getvalue()


def xrdml(scans: list[tuple[np.ndarray, np.ndarray, str]]) -> bytes:
    """Scans, each with what else stands in its points."""
    whole = patterns.xrdml(X, Y).decode()
    start, end = whole.index("  <scan "), whole.index("</scan>") + len("</scan>")
    parts = []
    for x, y, extra in scans:
        one = patterns.xrdml(x, y).decode()
        one = one[one.index("  <scan ") : one.index("</scan>") + len("</scan>")]
        parts.append(one.replace("<dataPoints>", f"<dataPoints>{extra}"))
    return (whole[:start] + "".join(parts) + whole[end:]).encode()


def ras(scans: list[tuple[np.ndarray, np.ndarray, str]]) -> bytes:
    parts = []
    for x, y, extra in scans:
        one = (
            patterns.ras(x, y)
            .decode("shift_jis")
            .replace("*RAS_HEADER_END", extra + "*RAS_HEADER_END")
        )
        parts.append(one.replace("*RAS_DATA_END", ""))
    return ("\r\n".join(parts) + "*RAS_DATA_END").encode("shift_jis")


def rasx(scans: list[tuple[np.ndarray, np.ndarray, str]], axis: str = "TwoThetaTheta") -> bytes:
    members = {}
    for i, (x, y, extra) in enumerate(scans):
        rows = "\n".join(f"{a:.4f}\t{b:.3f}\t1.0000" for a, b in zip(x, y, strict=True))
        members[f"Data{i}__Profile{i}.txt"] = "\ufeff" + rows + "\n"
        members[f"Data{i}__MesurementConditions{i}.xml"] = (
            "<MeasurementConditions><HWConfigurations><XrayGenerator><TargetName>Cu</TargetName>"
            "<WaveType>Ka</WaveType><WavelengthKalpha1>1.540593</WavelengthKalpha1>"
            "<WavelengthKalpha2>1.544414</WavelengthKalpha2><WavelengthKbeta>1.392246"
            "</WavelengthKbeta></XrayGenerator></HWConfigurations><ScanInformation>"
            f"<AxisName>{axis}</AxisName>{extra}</ScanInformation></MeasurementConditions>"
        )
    return archive(**members)


def brml(scans: list[tuple[np.ndarray, np.ndarray, str]]) -> bytes:
    """The extra is the time of a point, s, and perhaps a temperature, °C."""
    members = {}
    for i, (x, y, extra) in enumerate(scans):
        time, _, temperature = extra.partition(" ")
        raw = zipfile.ZipFile(io.BytesIO(patterns.brml(x, y))).read("Experiment0/RawData0.xml")
        text = raw.decode().replace("<Datum>19.2,", f"<Datum>{time},")
        if temperature:
            text = text.replace("</Datum>", f",{temperature}</Datum>").replace(
                "</DataViews>",
                '<RawDataView xsi:type="RecordedRawDataView" Start="5" Length="1">'
                '<Recording LogicName="SampleTemperature"><Unit Base="°C"/></Recording>'
                "</RawDataView></DataViews>",
            )
        members[f"Experiment0__RawData{i}.xml"] = text
    return archive(**members)


def uxd(scans: list[tuple[np.ndarray, np.ndarray, str]]) -> bytes:
    parts = []
    for i, (x, y, extra) in enumerate(scans):
        text = patterns.uxd(x, y).decode().replace("_DRIVE", f"{extra}\n_DRIVE")
        parts.append(text if i == 0 else text[text.index(extra) :])
    return "\n".join(parts).encode()


#: Suffix, writer, and how two counting times of 10 and 60 s are stated.
Writer = Callable[[list[tuple[np.ndarray, np.ndarray, str]]], bytes]
SPEEDS = [
    f'*MEAS_SCAN_SPEED "{speed}"\r\n*MEAS_SCAN_SPEED_UNIT "deg/min"\r\n' for speed in (6.0, 1.0)
]
TIMES: dict[str, tuple[Writer, list[str]]] = {
    ".xrdml": (xrdml, [f"<commonCountingTime>{t}</commonCountingTime>" for t in (10, 60)]),
    ".ras": (ras, SPEEDS),
    ".rasx": (
        rasx,
        [f"<Speed>{s}</Speed><SpeedUnit>deg/min</SpeedUnit>" for s in (6.0, 1.0)],
    ),
    ".brml": (brml, ["10", "60"]),
    ".uxd": (uxd, ["_STEPTIME=10", "_STEPTIME=60"]),
}


@pytest.mark.parametrize("suffix", TIMES)
def test_ranges_are_joined_by_the_counting_times_of_their_format(
    suffix: str, tmp_path: Path
) -> None:
    writer, extra = TIMES[suffix]
    path = tmp_path / f"a{suffix}"
    path.write_bytes(writer([(X[LOW], Y[LOW], extra[0]), (X[HIGH], 6 * Y[HIGH], extra[1])]))
    scan = read_scan(path)
    np.testing.assert_allclose(scan.x, X, atol=1e-4)
    np.testing.assert_allclose(scan.intensity, 6 * Y, rtol=1e-3, atol=6)
    assert not scan.warnings
    assert any("counting times" in note for note in scan.notes)
    # Repeats weigh by their times, too.
    path.write_bytes(writer([(X, Y, extra[0]), (X, 6 * Y, extra[1])]))
    np.testing.assert_allclose(read_scan(path).intensity, 6 * Y, rtol=1e-3, atol=6)
    # Equal times change nothing.
    path.write_bytes(writer([(X[LOW], Y[LOW], extra[0]), (X[HIGH], Y[HIGH], extra[0])]))
    same = read_scan(path)
    np.testing.assert_allclose(same.intensity, Y, rtol=1e-3, atol=1)
    assert not same.warnings


#: How 300 and 1300 K are stated, or 27 and 1027 °C.
STATES: dict[str, tuple[Writer, list[str]]] = {
    ".xrdml": (
        xrdml,
        [
            '<nonAmbientPoints type="Temperature"><timeRangeFromStart>0 60</timeRangeFromStart>'
            f'<nonAmbientValues unit="K">{t} {t}</nonAmbientValues></nonAmbientPoints>'
            for t in (300, 1300)
        ],
    ),
    ".ras": (
        ras,
        [
            '*MEAS_COND_AXIS_NAME_INTERNAL-40 "Temperature"\r\n*MEAS_COND_AXIS_UNIT-40 "C"\r\n'
            f'*MEAS_COND_AXIS_POSITION-40 "{t}"\r\n'
            for t in (27, 1027)
        ],
    ),
    ".rasx": (rasx, [f"<Temperature Unit='C'>{t}</Temperature>" for t in (27, 1027)]),
    ".brml": (brml, ["1 27", "1 1027"]),
    ".uxd": (uxd, ["_TEMPERATURE=27", "_TEMPERATURE=1027"]),
}


def test_an_element_named_temperature_is_one(tmp_path: Path) -> None:
    path = tmp_path / "a.xrdml"
    path.write_bytes(
        xrdml([(X, Y, f'<temperature unit="K">{t}</temperature>') for t in (300, 900)])
    )
    with pytest.raises(PatternError, match=r"temperature \(300, 900 K\)"):
        read_scan(path)


@pytest.mark.parametrize("suffix", STATES)
def test_scans_at_different_temperatures_are_never_put_together(
    suffix: str, tmp_path: Path
) -> None:
    writer, extra = STATES[suffix]
    path = tmp_path / f"a{suffix}"
    for scans in (
        [(X, Y, extra[0]), (X, Y, extra[1])],
        [(X[LOW], Y[LOW], extra[0]), (X[HIGH], Y[HIGH], extra[1])],
    ):
        path.write_bytes(writer(scans))
        with pytest.raises(
            PatternError, match=r"different values of temperature \(30.*, 130.* K\)"
        ):
            read_scan(path)
    path.write_bytes(writer([(X, Y, extra[0]), (X, Y, extra[0])]))
    assert "mean of 2 repeated scans" in read_scan(path).notes


def scan(x: np.ndarray, y: np.ndarray, **others: object) -> Scan:
    out = Scan(x, y.copy(), format="made")
    for name, value in others.items():
        setattr(out, name, value)
    return out


@pytest.mark.parametrize(
    ("name", "a", "b"),
    [("temperature", 300.0, None), ("pressure", 1.0, 12.0), ("temperature", 300.0, 310.0)],
)
def test_other_and_unknown_conditions_are_not_put_together_either(
    name: str, a: float, b: float | None
) -> None:
    other = {} if b is None else {name: b}
    with pytest.raises(PatternError, match=f"different values of {name}"):
        combine([scan(X, Y, conditions={name: a}), scan(X, Y, conditions=other)])
    assert combine([scan(X, Y, conditions={name: a})] * 2).conditions == {name: a}


def test_repeats_with_different_lines_are_refused_without_any_temperature() -> None:
    random = np.random.default_rng(0)
    other = counts(X * 1.06, top=1e5) + 100
    with pytest.raises(PatternError, match="different lines"):
        combine([scan(X, Y), scan(X, other)])
    # Weak repeats differ by noise alone.
    weak = 20.0 + Y / Y.max() * 30.0
    for _ in range(20):
        repeats = [scan(X, random.poisson(weak).astype(float)) for _ in range(3)]
        assert "mean of 3 repeated scans" in combine(repeats).notes


def test_scans_at_different_wavelengths_are_refused(tmp_path: Path) -> None:
    one = patterns.xrdml(X, Y).decode()
    start, end = one.index(" <xrdMeasurement "), one.index("</xrdMeasurements>")
    path = tmp_path / "a.xrdml"
    path.write_text(one[:end] + one[start:end].replace("1.54", "1.78") + one[end:])
    with pytest.raises(PatternError, match="different wavelengths"):
        read_scan(path)


def test_counts_and_rates_are_joined_by_the_times_or_refused() -> None:
    rates = scan(X[LOW], Y[LOW], rate=True)
    joined = combine([rates, scan(X[HIGH], 7 * Y[HIGH], seconds=7.0)])
    np.testing.assert_allclose(joined.intensity, Y)
    with pytest.raises(PatternError, match="counts and counts per second"):
        combine([scan(X[LOW], Y[LOW], rate=True), scan(X[HIGH], Y[HIGH])])


def test_a_jump_between_ranges_of_unknown_times_is_told() -> None:
    with pytest.raises(PatternError, match=r"jumps by a factor 6.*export counts per second"):
        combine([scan(X[LOW], Y[LOW]), scan(X[HIGH], 6 * Y[HIGH])])
    joined = combine([scan(X[LOW], Y[LOW]), scan(X[HIGH], 1.8 * Y[HIGH])])
    assert any("jumps by a factor 1.8" in warning for warning in joined.warnings)
    # Where the times are known, what remains is the sample's or an attenuator's.
    timed = [scan(X[LOW], Y[LOW], seconds=1.0), scan(X[HIGH], 6 * Y[HIGH], seconds=1.0)]
    assert any("jumps by a factor 6" in warning for warning in combine(timed).warnings)
    even = combine([scan(X[LOW], Y[LOW]), scan(X[HIGH], Y[HIGH])])
    assert not any("jumps" in warning for warning in even.warnings)
    assert any("counting time" in warning for warning in even.warnings)


def test_ranges_that_overlap_a_little_are_joined_where_they_agree() -> None:
    low, high = X < 41, X >= 39
    joined = combine([scan(X[low], Y[low]), scan(X[high], Y[high])])
    np.testing.assert_allclose(joined.x, X)
    np.testing.assert_allclose(joined.intensity, Y)
    with pytest.raises(PatternError, match="overlap"):
        combine([scan(X[low], Y[low]), scan(X[high], 3 * Y[high])])
    with pytest.raises(PatternError, match="overlap"):
        combine([scan(X[X < 50], Y[X < 50]), scan(X[X > 30], Y[X > 30])])


@pytest.mark.parametrize(
    ("speed", "unit", "expected"),
    [
        (2.0, "deg/min", 0.6),
        (2.0, "deg./min.", 0.6),
        (0.1, "deg/sec", 0.2),
        (5.0, "sec", 5.0),
        (5.0, "s/step", 5.0),
        (5.0, "furlongs", None),
    ],
)
def test_speeds_are_turned_into_times(speed: float, unit: str, expected: float | None) -> None:
    found = time_of_a_step(speed, unit, 0.02)
    assert found == (expected if expected is None else pytest.approx(expected))
