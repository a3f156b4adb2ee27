"""Archives: .rasx and .brml, which of their columns are used, and how much is unpacked."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from datamodules.measured import PatternError, read_scan
from datamodules.measured.readers import xml as xml_module
from tests.measured import patterns
from tests.measured.readers.test_ranges import X, Y, archive, rasx


def raw_data(text: str) -> bytes:
    """A .brml of one file of data."""
    return archive(**{"Experiment0__RawData0.xml": text})


def sound() -> str:
    """The data of a sound .brml."""
    with zipfile.ZipFile(io.BytesIO(patterns.brml(X, Y))) as source:
        return source.read("Experiment0/RawData0.xml").decode()


def test_a_rasx_is_read_with_its_line_and_attenuator(tmp_path: Path) -> None:
    path = tmp_path / "a.rasx"
    data = rasx([(X, Y, "<IntensityUnit>counts</IntensityUnit>")])
    path.write_bytes(data)
    found = read_scan(path)
    np.testing.assert_allclose(found.intensity, Y, atol=1e-3)
    assert found.wavelength is not None
    assert found.wavelength.mean == pytest.approx(1.541867, abs=1e-5)
    path.write_bytes(archive(Data0__Image0="x"))
    with pytest.raises(PatternError, match="no profile in it"):
        read_scan(path)
    omega = rasx([(X, Y, "")], axis="Omega")
    path.write_bytes(omega)
    with pytest.raises(PatternError, match="the scan moves Omega"):
        read_scan(path)


def test_reciprocal_space_and_monitors_are_no_axes_or_counts(tmp_path: Path) -> None:
    raw = sound()
    counted = '<RawDataView xsi:type="RecordedRawDataView" Start="4" Length="1"/>'
    assert counted in raw
    rows = raw.replace("</Datum>", "@</Datum>")
    for y in Y:
        rows = rows.replace(f",{y:.0f}@", f",0.001,0,0.11,{y:.0f},77", 1)
    views = (
        '<RawDataView xsi:type="VaryingRawDataView" Start="4" Length="3"/>'
        '<RawDataView xsi:type="RecordedRawDataView" Start="7" Length="1"/>'
        '<RawDataView xsi:type="RecordedRawDataView" Start="8" Length="1"/>'
    )
    path = tmp_path / "a.brml"
    path.write_bytes(raw_data(rows.replace(counted, views)))
    found = read_scan(path)
    np.testing.assert_allclose(found.x, X, atol=1e-4)
    np.testing.assert_allclose(found.intensity, Y)
    # Declared fields say where 2θ is, in whatever order the views stand.
    declared = (
        '<RawDataView xsi:type="VaryingRawDataView" Start="4" Length="3">'
        '<FieldDefinitions FieldName="Qx"/></RawDataView>'
        '<RawDataView xsi:type="VaryingRawDataView" Start="2" Length="2">'
        '<FieldDefinitions AxisId="TwoTheta"/><FieldDefinitions AxisId="Theta"/></RawDataView>'
        '<RawDataView xsi:type="RecordedRawDataView" Start="7" Length="1"/>'
    )
    plain = '<RawDataView xsi:type="VaryingRawDataView" Start="2" Length="2"/>'
    path.write_bytes(raw_data(rows.replace(plain, "").replace(counted, declared)))
    np.testing.assert_allclose(read_scan(path).x, X, atol=1e-4)


@pytest.mark.parametrize(
    "view",
    [
        '<RawDataView xsi:type="VaryingRawDataView" Start="4" Length="1" LogicName="NonAmbient"/>',
        '<RawDataView xsi:type="VaryingRawDataView" Start="4" Length="1"/>',
        '<RawDataView xsi:type="VaryingRawDataView" Start="4" Length="1"><FieldDefinitions '
        'FieldName="SampleTemperature"/></RawDataView>',
        '<RawDataView xsi:type="FixedRawDataView" Start="4" Length="1" LogicName="Temperature" '
        'Unit="K"/>',
    ],
)
def test_a_view_of_the_samples_state_before_the_axes_is_no_axis(view: str, tmp_path: Path) -> None:
    raw = sound()
    for y in Y:
        raw = raw.replace(f",{y:.0f}</Datum>", f",900,{y:.0f}<@/Datum>", 1)
    raw = raw.replace("<@", "<").replace('Start="4"', 'Start="5"')
    raw = raw.replace("<DataViews>", f"<DataViews>{view}")
    path = tmp_path / "a.brml"
    path.write_bytes(raw_data(raw))
    found = read_scan(path)
    np.testing.assert_allclose(found.x, X, atol=1e-4)
    np.testing.assert_allclose(found.intensity, Y)
    if "emperature" in view:
        assert found.conditions == {"temperature": 900.0}


def test_routes_of_one_file_at_different_temperatures_are_refused(tmp_path: Path) -> None:
    raw = sound()
    route = raw[raw.index("<DataRoute>") : raw.index("</DataRoute>") + len("</DataRoute>")]
    axis = '<FixedScanAxisInfo AxisId="Temperature"><Position>{}</Position></FixedScanAxisInfo>'
    two = "".join(
        route.replace("</ScanInformation>", axis.format(t) + "</ScanInformation>")
        for t in (300, 900)
    )
    path = tmp_path / "a.brml"
    path.write_bytes(raw_data(raw.replace(route, two)))
    with pytest.raises(PatternError, match=r"different values of temperature \(300, 900 K\)"):
        read_scan(path)


def test_what_is_unpacked_of_an_archive_is_limited_in_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(xml_module, "MAX_UNPACKED_BYTES", 300_000)
    path = tmp_path / "a.brml"
    filled = "<RawData>" + " " * 100_000 + "</RawData>"
    path.write_bytes(archive(**{f"Experiment0__RawData{i}.xml": filled for i in range(5)}))
    with pytest.raises(PatternError, match="unpacks to over"):
        read_scan(path)
    rows = "10 1 1\n" * 20_000
    path = tmp_path / "a.rasx"
    path.write_bytes(archive(**{f"Data{i}__Profile{i}.txt": rows for i in range(5)}))
    with pytest.raises(PatternError, match="unpacks to over"):
        read_scan(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_unusual_methods_of_packing_are_refused(method: int, tmp_path: Path) -> None:
    path = tmp_path / "a.brml"
    with zipfile.ZipFile(path, "w", method) as target:
        target.writestr("Experiment0/RawData0.xml", "<RawData/>")
    with pytest.raises(PatternError, match="unusual method"):
        read_scan(path)


def test_too_many_and_too_deep_elements_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.xrdml"
    path.write_text("<a>" * 5000 + "</a>" * 5000)
    with pytest.raises(PatternError, match="200 levels"):
        read_scan(path)
    monkeypatch.setattr(xml_module, "MAX_ELEMENTS", 1000)
    path.write_text("<a>" + "<b/>" * 2000 + "</a>")
    with pytest.raises(PatternError, match="over 1000 elements"):
        read_scan(path)


def test_too_many_and_too_long_lines_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.xy"
    path.write_text("1\n" * 1_100_000)
    with pytest.raises(PatternError, match="over 1000000 lines"):
        read_scan(path)
    path.write_text("10.0 1\n" + "9" * 2_000_000)
    with pytest.raises(PatternError, match="line 2 has 2000000 characters"):
        read_scan(path)
