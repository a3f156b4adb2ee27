"""Every format, read back; what cannot be read says what to do."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from datamodules.measured import Options, PatternError, convert, read_scan
from datamodules.measured.readers import files as files_module
from datamodules.measured.readers import xml as xml_module
from datamodules.measured.wavelength import parse_wavelength
from tests.measured import patterns
from tests.measured.patterns import CU_MEAN, FORMATS, angles, counts, write


@pytest.mark.parametrize("kind", FORMATS)
def test_a_pattern_of_every_format_reads_back_to_the_same_profile(
    kind: str, tmp_path: Path
) -> None:
    x = angles()
    y = counts(x)
    scan = read_scan(write(tmp_path, kind, x, y))
    assert len(scan.x) == len(x)
    np.testing.assert_allclose(scan.x, x, atol=6e-4)
    np.testing.assert_allclose(scan.intensity, y, atol=0.6)
    if FORMATS[kind][2]:
        assert scan.wavelength is not None
        assert scan.wavelength.mean == pytest.approx(CU_MEAN, abs=1e-5)
        wavelength = None
    else:
        assert scan.wavelength is None
        with pytest.raises(PatternError, match=r"wavelength is unknown .* --wavelength"):
            convert(scan)
        wavelength = parse_wavelength(str(CU_MEAN))
    found = convert(scan, options=Options(wavelength=wavelength, background=False))
    inside = np.isfinite(found.profile)
    assert inside.sum() == len(x)
    expected = patterns.simulate(found.grid.two_theta(), found.grid.wavelength)[inside]
    # At another wavelength lines are as much narrower: 0.12° at CU_MEAN is it at the grid's too.
    assert np.abs(found.profile[inside] - expected / expected.max()).max() < 0.01


def test_a_third_column_that_is_no_uncertainty_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.xy"
    x = angles()
    path.write_text("\n".join(f"{a:.2f}\t{b:.0f}\t2085" for a, b in zip(x, counts(x), strict=True)))
    assert "columns after 2 not used" in read_scan(path).notes


def test_three_columns_whose_first_row_looks_like_start_step_end_stay_columns(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.dat"
    path.write_text("\n".join(f"{5 + i * 0.5} {0.02 + i} {90 + i}" for i in range(200)))
    assert read_scan(path).format == "text, 3 columns"


@pytest.mark.parametrize(
    ("heading", "expected"),
    [
        ("Wavelength (Å): 1.5406", ((1.5406, 1.0),)),
        ("wavelength = 0.15406 nm", ((1.5406, 1.0),)),
        ("Wavelength [nm]: 0.070932", ((0.70932, 1.0),)),
        ("wavelength of the laser: 633.0", None),
        (
            "K-Alpha1 wavelength,1.5405980\nK-Alpha2 wavelength,1.5444260\n"
            "Ratio K-Alpha2/K-Alpha1,0.48",
            ((1.540598, 1.0), (1.544426, 0.48)),
        ),
    ],
)
def test_a_headings_wavelength_is_read_with_its_unit_and_lines(
    heading: str, expected: tuple[tuple[float, float], ...] | None, tmp_path: Path
) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"{heading}\nAngle,Intensity\n" + "\n".join(f"{i},{i}" for i in range(9)))
    wavelength = read_scan(path).wavelength
    if expected is None:
        assert wavelength is None
    else:
        assert wavelength is not None
        np.testing.assert_allclose(wavelength.lines, expected)


@pytest.mark.parametrize(
    ("unit", "scale"), [("q_A^-1", 1.0), ("q_nm^-1", 10.0), ("Q (1/nm)", 10.0)]
)
def test_q_is_read_in_the_headings_unit_and_keeps_other_warnings(
    unit: str, scale: float, tmp_path: Path
) -> None:
    path = tmp_path / "a.xy"
    q = np.arange(0.5, 2.5, 0.01)
    counted = " ".join(f"{i}" for i in range(len(q) - 1))
    path.write_text(f"# {unit} I\n" + "\n".join(f"{scale * a:.3f} {i}" for i, a in enumerate(q)))
    scan = read_scan(path, axis="q")
    np.testing.assert_allclose(scan.x, q, atol=1e-6)
    assert not scan.warnings
    named = read_scan(path)
    assert named.axis == "q"
    np.testing.assert_allclose(named.x, q, atol=1e-6)
    path.write_text(f"# over {unit} at beamline 7\n" + "\n".join(f"{a:.3f} 1 2" for a in q))
    assert any("--axis q" in warning for warning in read_scan(path).warnings)
    path.write_text(f"# {unit}\n{0.5 * scale} {0.01 * scale} {2.49 * scale:.3f}\n{counted}\n")
    listed = read_scan(path, axis="q")
    assert "199 intensities where" in listed.warnings[0]
    np.testing.assert_allclose(listed.x, q[:-1], atol=1e-6)


def test_points_counted_for_unequal_times_are_weighed_by_them(tmp_path: Path) -> None:
    x = angles(10, 50)
    y = counts(x)
    times = np.where(x < 30, 1.0, 3.0)
    text = patterns.xrdml(x, np.round(y * times)).decode()
    listed = " ".join(f"{time:g}" for time in times)
    tag = text.index("<intensities")
    path = tmp_path / "a.xrdml"
    path.write_text(f"{text[:tag]}<countingTimes>{listed}</countingTimes>{text[tag:]}")
    scan = read_scan(path)
    np.testing.assert_allclose(scan.intensity / times.mean(), y, atol=0.6)
    assert any("counting times" in note for note in scan.notes)


def test_a_kalpha1_monochromator_before_the_sample_leaves_one_line(tmp_path: Path) -> None:
    x = angles()
    data = patterns.xrdml(x, counts(x)).decode()
    path = tmp_path / "a.xrdml"
    path.write_text(data.replace("<xRayTube/>", "<xRayTube/><monochromator name='Ge111'/>"))
    scan = read_scan(path)
    assert scan.wavelength is not None
    assert scan.wavelength.lines == ((1.540598, 1.0),)


def test_repeated_scans_are_averaged_and_ranges_joined(tmp_path: Path) -> None:
    x = angles(10, 50)
    y = counts(x)
    one = patterns.xrdml(x, y).decode()
    start, end = one.index(" <xrdMeasurement "), one.index("</xrdMeasurements>")
    repeated = one[:end] + one[start:end].replace(" 0 0 0 ", " 2 2 2 ") + one[end:]
    path = tmp_path / "a.xrdml"
    path.write_text(repeated)
    scan = read_scan(path)
    assert "mean of 2 repeated scans" in scan.notes
    assert set(np.unique(scan.intensity - y)) == {0.0, 1.0}
    second = patterns.xrdml(angles(50.02, 80), counts(angles(50.02, 80))).decode()
    path.write_text(one[:end] + second[start : second.index("</xrdMeasurements>")] + one[end:])
    joined = read_scan(path)
    assert joined.x[-1] == pytest.approx(80)
    assert any("counting time" in warning for warning in joined.warnings)
    overlapping = patterns.xrdml(angles(40, 80), counts(angles(40, 80))).decode()
    path.write_text(
        one[:end] + overlapping[start : overlapping.index("</xrdMeasurements>")] + one[end:]
    )
    with pytest.raises(PatternError, match=r"2 scans that overlap"):
        read_scan(path)


def test_other_scans_than_of_two_theta_are_refused(tmp_path: Path) -> None:
    x = angles()
    (tmp_path / "a.xrdml").write_bytes(patterns.xrdml(x, counts(x)).replace(b"Gonio", b"Omega"))
    (tmp_path / "a.ras").write_bytes(patterns.ras(x, counts(x)).replace(b"TwoThetaTheta", b"Phi"))
    (tmp_path / "a.uxd").write_bytes(patterns.uxd(x, counts(x)).replace(b"COUPLED", b"PHI"))
    (tmp_path / "a.gsas").write_bytes(patterns.gsas(x, counts(x)).replace(b"CONST", b"SLOG "))
    for name, said in (("xrdml", "Omega"), ("ras", "Phi"), ("uxd", "PHI"), ("gsas", "SLOG")):
        with pytest.raises(PatternError, match=said):
            read_scan(tmp_path / f"a.{name}")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.raw", b"RAW1.01\0\1\0\0\0" + bytes(400), "Bruker RAW version 3.*xyconv"),
        ("a.raw", b"FI\0\0\0" + bytes(400), "Rigaku binary.*export it as"),
        ("a.rd", b"V5RD\0" + bytes(400), "Philips RD"),
        ("a.xy", bytes(range(256)), "binary file"),
        ("a.rasx", b"10 20\n", "not a readable ZIP"),
        ("a.xy", b"", "empty"),
        ("a.xy", b"two theta\ncounts\n", "no line of numbers"),
        ("a.xy", b"1\n2\n3\n", "single number"),
        ("a.xrdml", b"<a><b></a>", "not well-formed"),
        ("a.xrdml", b"<a/>", "no scan in it"),
        ("a.brml", b"PK\3\4 nothing", "not a readable ZIP"),
        ("a.ras", b"*RAS_INT_START\n1 2 1\n", "have no end"),
        ("a.gsas", b"title\nBANK 1 20 2 CONST 500 2 0 0 STD\n 1 2 3\n", "damaged"),
        ("a.gsas", b"title\nBANK 1 20 2 CONST 500 2 0 0 FXYE\n 1 2 3\n", "cut"),
        ("a.cif", b"data_NaCl\n_cell_length_a 5.6\n", "no measured pattern.*prepare cif"),
        ("a.cif", b"nothing of the kind", "cif"),
        ("a.uxd", b"_WL1=1.54\n", "the file is cut"),
        (
            "a.uxd",
            b"_START=5\n_STEPSIZE=1\n_WL1=1.5\n_WL2=1.6\n_WLRATIO=1e999\n_COUNTS\n1 2 3\n",
            "weight inf",
        ),
    ],
)
def test_what_cannot_be_read_says_why_and_what_to_do(
    name: str, content: bytes, said: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(PatternError, match=said) as error:
        read_scan(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_entities_and_archives_that_swell_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    laughs = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 20))
    bomb = tmp_path / "a.xrdml"
    bomb.write_text(f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY l0 "ha">{laughs}]><x>&l19;</x>')
    with pytest.raises(PatternError, match="defines entities or a DTD"):
        read_scan(bomb)
    # A harmless one is refused too: no diffractometer writes any.
    bomb.write_text('<?xml version="1.0"?><!DOCTYPE x [<!ENTITY l0 "ha">]><x>&l0;</x>')
    with pytest.raises(PatternError, match="defines entities or a DTD"):
        read_scan(bomb)
    monkeypatch.setattr(xml_module, "MAX_UNPACKED_BYTES", 1000)
    swelling = tmp_path / "a.brml"
    with zipfile.ZipFile(swelling, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("Experiment0/RawData0.xml", "<a>" + " " * 100_000 + "</a>")
    with pytest.raises(PatternError, match="unpacks to over"):
        read_scan(swelling)
    monkeypatch.setattr(files_module, "MAX_BYTES", 100)
    with pytest.raises(PatternError, match="larger than"):
        read_scan(swelling)


def test_points_are_put_in_order_and_those_of_one_angle_averaged(tmp_path: Path) -> None:
    path = tmp_path / "a.xy"
    path.write_text("10.2 4\n10.0 1\n10.1 2\n10.2 8\n10.3 nan\n10.3 5\n")
    scan = read_scan(path)
    assert scan.x.tolist() == [10.0, 10.1, 10.2, 10.3]
    assert scan.intensity.tolist() == [1.0, 2.0, 6.0, 5.0]
    assert any("averaged" in note for note in scan.notes)
    assert scan.warnings == ["1 points are marked as not measured (NaN) and left out"]
    path.write_text("12 1\n11 2\n10 3\n")
    scan = read_scan(path)
    assert scan.x.tolist() == [10.0, 11.0, 12.0]
    assert "measured downwards; turned round" in scan.notes


def test_missing_files_and_folders_are_told(tmp_path: Path) -> None:
    with pytest.raises(PatternError, match="no such file"):
        read_scan(tmp_path / "none.xy")
    with pytest.raises(PatternError, match="a folder"):
        read_scan(tmp_path)


@pytest.mark.parametrize("kind", FORMATS)
def test_damaged_files_are_refused_or_read_but_never_crash(kind: str, tmp_path: Path) -> None:
    x = angles(20, 24)
    suffix, writer, _ = FORMATS[kind]
    whole = writer(x, counts(x))
    random = np.random.default_rng(sum(map(ord, kind)))
    path = tmp_path / f"a{suffix}"
    refused = 0
    for _ in range(60):
        path.write_bytes(repack(whole, random) if kind == "brml" else damage(whole, random))
        try:
            scan = read_scan(path)
        except PatternError:
            refused += 1
            continue
        assert np.isfinite(scan.x).all()
        assert np.isfinite(scan.intensity).all()
        assert (np.diff(scan.x) > 0).all()
        try:
            pattern = convert(scan, options=Options(wavelength=parse_wavelength("CuKa")))
        except PatternError:
            continue
        assert np.nanmax(pattern.profile) == 1.0
    assert refused < 60


def repack(archive: bytes, random: np.random.Generator) -> bytes:
    """Damage within a sound archive, and now and then to the archive."""
    if random.random() < 0.2:
        return damage(archive, random)
    with zipfile.ZipFile(io.BytesIO(archive)) as source:
        raw = source.read("Experiment0/RawData0.xml")
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as target:
        target.writestr("Experiment0/RawData0.xml", damage(raw, random))
    return stream.getvalue()


def damage(data: bytes, random: np.random.Generator) -> bytes:
    """One to four random changes."""
    out = bytearray(data)
    for _ in range(int(random.integers(1, 5))):
        a, b = sorted(random.integers(0, len(out) + 1, 2).tolist())
        b = min(b, a + int(random.integers(1, 200)))
        match int(random.integers(0, 6)):
            case 0:
                out = out[: max(a, 1)]
            case 1:
                del out[a:b]
            case 2:
                out[a:b] = random.integers(0, 256, b - a).astype(np.uint8).tobytes()
            case 3:
                out[a:a] = out[a:b]
            case 4:
                words = [b"1e400", b"-1", b"nan", b"9" * 400, b"\n", b"<", b'"', b"0", b"1e-320"]
                out[a:a] = words[int(random.integers(0, len(words)))]
            case 5:
                out[a : a + 1] = b""
        if not out:
            out = bytearray(b" ")
    return bytes(out)
