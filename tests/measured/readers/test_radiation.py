"""The radiation that files state: wavelengths in any unit and place, Kβ, monochromators, probes."""

from pathlib import Path

import numpy as np
import pytest

from datamodules.measured import Options, PatternError, Wavelength, convert, read_scan
from datamodules.measured.wavelength import heading_wavelength, parse_wavelength
from tests.measured import patterns
from tests.measured.patterns import angles, counts

X = angles(20, 60, 0.04)
Y = counts(X)
KBETA = 1.39225


def mean_of(heading: str) -> float | None:
    found, _ = heading_wavelength(heading)
    return None if found is None else found.mean


@pytest.mark.parametrize(
    ("heading", "expected"),
    [
        ("# Wavelength: 2.115e-11 m", 0.2115),
        ("# wavelength = 7.093200000000000e-11 m", 0.70932),
        ("# Wavelength: 4.066e-11", 0.4066),
        ("wavelength_m 2.115e-11", 0.2115),
        ("Wavelength (m): 1.5406e-10", 1.5406),
        ("Wavelength: 0.15406 nm", 1.5406),
        ("lambda=0.15406nm", 1.5406),
        ("λ [nm] = 0.070932", 0.70932),
        ("Wavelength: 154.06 pm", 1.5406),
        ("wavelength (pm),70.932", 0.70932),
        ("Wavelength, 1.5406, A", 1.5406),
        ("Wavelength 1,5406 Å", 1.5406),
        ("WAVELENGTH_ANGSTROM = 0.41398700000", 0.413987),
        ("# Calibrated wavelength (A) = 0.413980", 0.41398),
        ("Wavelength (Angstroms): 0.1672", 0.1672),
        ("Wellenlänge: 1,5418 Å", 1.5418),
        ("LA= 1.23966", 1.23966),
        ("Photon energy: 17.479 keV", 0.70933),
        ("Beam energy (keV): 30.0", 0.41328),
        ("Energy = 30000 eV", 0.41328),
        ('# "wavelength": 4.066e-11,', 0.4066),
        ("# wavelength 4.066d-11 m", 0.4066),
        ("# Wavelength: 0.40660(2) Å", 0.4066),
        ("Wavelength: CuKa1", 1.54059),
        ("Radiation: Mo Kα", 0.71075),
        ("Radiation,Cu K-beta", KBETA),
        ("K-Alpha1 wavelength,1.5405980\nK-Alpha2 wavelength,1.5444260", 1.541874),
        ("*WAVE_LENGTH1\t= 1.54056\n*WAVE_LENGTH2\t=  1.54439", 1.541837),
        (
            "Used wavelength,K-Beta\nK-Alpha1 wavelength,1.5405980\nK-Beta wavelength,1.3922500",
            KBETA,
        ),
        ("Wavelength of the laser: 633.0", None),
        ("Wavelength: 0.15406", None),
        ("Wavelength: 15.4 nm", None),
        ("Wavelength: 1.5406 A\nWavelength: 0.7093 A", None),
        ("Wavelength: 1.5406 A\nEnergy: 17.4 keV", None),
        ("PHD Lower Level = 7.24 (keV)", None),
        ("Threshold energy: 8.0 keV", None),
        ("Generator: 40 kV", None),
    ],
)
def test_headings_state_wavelengths_in_any_unit(heading: str, expected: float | None) -> None:
    found = mean_of(heading)
    assert found == (expected if expected is None else pytest.approx(expected, abs=2e-5))


def test_a_wavelength_that_is_not_used_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.xy"
    path.write_text("# wavelength 0.15406\n" + patterns.xy(X, Y).decode())
    scan = read_scan(path)
    assert scan.wavelength is None
    assert any("may be in nm" in warning for warning in scan.warnings)


def test_the_order_of_lines_means_nothing() -> None:
    swapped = Wavelength(((1.54443, 0.5), (1.54059, 1.0)))
    assert swapped == Wavelength(((1.54059, 1.0), (1.54443, 0.5)))
    assert Wavelength.of_lines([(1.54443, None), (1.54059, None)], "") == Wavelength.doublet(
        1.54059, 1.54443, None, ""
    )
    # A remainder of Kβ is not counted into the mean.
    near = Wavelength.of_lines([(KBETA, 0.02), (1.54443, 0.5), (1.54059, 1.0)], "")
    assert near.mean == pytest.approx(1.54187, abs=1e-5)
    with pytest.raises(PatternError, match="different radiations"):
        Wavelength.of_lines([(0.7093, 1.0), (1.54059, 1.0)], "")
    assert parse_wavelength("CuKb").mean == KBETA


LOOP = """loop_
_diffrn_radiation_wavelength_id
_diffrn_radiation_wavelength
_diffrn_radiation_wavelength_wt
{}
"""
FIRST, SECOND = "1 1.54059 1.0", "2 1.54443 0.5"


def pattern(extra: str = "", name: str = "p", x: np.ndarray = X, y: np.ndarray = Y) -> str:
    rows = "\n".join(f"{a:.4f} {b:.0f}" for a, b in zip(x, y, strict=True))
    return f"data_{name}\n{extra}\nloop_\n_pd_meas_2theta_scan\n_pd_meas_counts_total\n{rows}\n"


def cif(folder: Path, text: str) -> Path:
    path = folder / "a.cif"
    path.write_text(text)
    return path


def test_kalpha2_is_stripped_whatever_the_order_of_the_loop(tmp_path: Path) -> None:
    options = Options(strip_kalpha2=True)
    found = []
    for rows in (f"{FIRST}\n{SECOND}", f"{SECOND}\n{FIRST}"):
        scan = read_scan(cif(tmp_path, pattern(LOOP.format(rows))))
        found.append(convert(scan, options=options).profile)
    np.testing.assert_array_equal(found[0], found[1])
    wrong = read_scan(cif(tmp_path, pattern(LOOP.format("1 1.54059 0.5\n2 1.54443 1.0"))))
    with pytest.raises(PatternError, match="no doublet of a strong"):
        convert(wrong, options=options)


@pytest.mark.parametrize("turned", [False, True])
def test_points_of_a_cif_may_stand_in_any_order(turned: bool, tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(len(X)) if not turned else np.arange(len(X))[::-1]
    scan = read_scan(cif(tmp_path, pattern(x=X[order], y=Y[order])))
    np.testing.assert_allclose(scan.x, X, atol=1e-6)
    np.testing.assert_allclose(scan.intensity, Y)


STRUCTURE = "data_phase\n_cell_length_a 4.2\n"


@pytest.mark.parametrize(
    "text",
    [
        pattern() + "data_details\n_diffrn_radiation_wavelength 1.54184\n",
        "data_publ\n_diffrn_radiation_wavelength 1.54184\n" + STRUCTURE + pattern(),
        pattern("_pd_block_id one") + "data_b\n_pd_block_diffractogram_id one\n"
        "_diffrn_radiation_wavelength 1.54184\ndata_c\n_diffrn_radiation_wavelength 0.7\n",
        pattern() + "data_d\n" + LOOP.format("1 1.54184 1"),
    ],
)
def test_the_wavelength_may_stand_in_another_block(text: str, tmp_path: Path) -> None:
    scan = read_scan(cif(tmp_path, text))
    assert scan.wavelength is not None
    assert scan.wavelength.mean == pytest.approx(1.54184)


def test_blocks_that_contradict_each_other_give_no_wavelength(tmp_path: Path) -> None:
    text = pattern()
    text += "".join(f"data_{w}\n_diffrn_radiation_wavelength 1.{w}\n" for w in (2, 5))
    scan = read_scan(cif(tmp_path, text))
    assert scan.wavelength is None
    assert any("none is of data_p" in warning for warning in scan.warnings)


@pytest.mark.parametrize(
    "said",
    [
        "_diffrn_radiation_probe neutron",
        "_diffrn_radiation_probe electron",
        "_diffrn_radiation_type 'constant wavelength neutrons'",
        "_diffrn_source 'nuclear reactor'",
        "_diffrn_source spallation",
        "loop_\n_diffrn_radiation_probe\nneutron",
    ],
)
def test_neutrons_and_electrons_are_refused(said: str, tmp_path: Path) -> None:
    for text in (pattern(said), pattern() + f"data_other\n{said}\n"):
        with pytest.raises(PatternError, match=r"neutrons|electrons|reactors|spallations"):
            read_scan(cif(tmp_path, text))
    # Of several data sets the X-rays' is read.
    both = pattern(said + "\n_diffrn_radiation_wavelength 2.4", "n", X, Y[::-1])
    both += pattern("_diffrn_radiation_probe x-ray\n_diffrn_radiation_wavelength 1.54", "x")
    scan = read_scan(cif(tmp_path, both))
    np.testing.assert_allclose(scan.intensity, Y)
    assert scan.wavelength is not None
    assert scan.wavelength.mean == 1.54
    assert any("data_n is of" in note for note in scan.notes)


def test_what_another_pattern_is_of_says_nothing_of_this_one(tmp_path: Path) -> None:
    neutron = "_diffrn_radiation_probe neutron\n_diffrn_radiation_wavelength 2.4"
    scan = read_scan(cif(tmp_path, pattern(name="x") + pattern(neutron, "n") + STRUCTURE))
    np.testing.assert_allclose(scan.intensity, Y)
    assert scan.wavelength is None


def test_time_of_flight_is_refused(tmp_path: Path) -> None:
    rows = "\n".join(f"{1000 + i} {i}" for i in range(200))
    text = f"data_t\nloop_\n_pd_meas_time_of_flight\n_pd_meas_counts_total\n{rows}\n"
    with pytest.raises(PatternError, match="time of flight"):
        read_scan(cif(tmp_path, text))


def test_a_range_whose_step_contradicts_the_number_of_points_is_refused(tmp_path: Path) -> None:
    rows = "\n".join(str(i) for i in range(200))
    text = "data_r\n_pd_meas_2theta_range_min 10\n_pd_meas_2theta_range_max 90\n"
    text += f"_pd_meas_2theta_range_inc 0.04\nloop_\n_pd_meas_counts_total\n{rows}\n"
    with pytest.raises(PatternError, match="200 intensities where 10 to 90° in steps"):
        read_scan(cif(tmp_path, text))


@pytest.mark.parametrize(
    ("intended", "monochromator", "expected"),
    [
        ("K-Alpha", "", (2, 1.541874)),
        ("K-Alpha 1", "", (2, 1.541874)),
        ("K-Beta", "", (1, KBETA)),
        ("K-Alpha 1", "<crystal>Ge</crystal>", (1, 1.540598)),
        ("K-Alpha", "<crystal>Si</crystal>", (1, 1.540598)),
        ("K-Alpha", "<crystal>C</crystal>", (2, 1.541874)),
        ("K-Alpha", "<crystal>Graphite</crystal>", (2, 1.541874)),
    ],
)
def test_the_line_of_an_xrdml_is_what_its_optics_leave(
    intended: str, monochromator: str, expected: tuple[int, float], tmp_path: Path
) -> None:
    text = patterns.xrdml(X, Y).decode().replace('"K-Alpha 1"', f'"{intended}"')
    text = text.replace("</kAlpha2>", f"</kAlpha2><kBeta>{KBETA}</kBeta>")
    if monochromator:
        optic = f"<monochromator name='m'>{monochromator}</monochromator>"
        text = text.replace("<xRayTube/>", f"<xRayTube/>{optic}")
    path = tmp_path / "a.xrdml"
    path.write_text(text)
    scan = read_scan(path)
    assert scan.wavelength is not None
    assert len(scan.wavelength.lines) == expected[0]
    assert scan.wavelength.mean == pytest.approx(expected[1], abs=1e-5)


def test_kbeta_without_a_wavelength_is_not_taken_for_kalpha(tmp_path: Path) -> None:
    path = tmp_path / "a.xrdml"
    path.write_bytes(patterns.xrdml(X, Y).replace(b'"K-Alpha 1"', b'"K-Beta"'))
    assert read_scan(path).wavelength is None


@pytest.mark.parametrize(("kind", "mean"), [("Ka", 1.541874), ("Ka1", 1.540598), ("Kb", KBETA)])
def test_the_line_of_a_ras_is_its_wave_type(kind: str, mean: float, tmp_path: Path) -> None:
    text = patterns.ras(X, Y).decode("shift_jis")
    text = text.replace('WAVE_TYPE "Ka"', f'WAVE_TYPE "{kind}"')
    text = text.replace("*MEAS_COND", f'*HW_XG_WAVE_LENGTH_BETA "{KBETA}"\r\n*MEAS_COND', 1)
    path = tmp_path / "a.ras"
    path.write_text(text, encoding="shift_jis")
    scan = read_scan(path)
    assert scan.wavelength is not None
    assert scan.wavelength.mean == pytest.approx(mean, abs=1e-5)


@pytest.mark.parametrize(
    ("keys", "mean"),
    [
        ("_WL3=1.39222\n_RANGE_WL=1.39222", 1.39222),
        ("_WL3=1.39222\n_RANGE_WL=1.540598", 1.541874),
        ("_RANGE_WL=0.7093", 0.7093),
    ],
)
def test_the_wavelength_of_a_uxd_is_its_ranges(keys: str, mean: float, tmp_path: Path) -> None:
    text = patterns.uxd(X, Y).decode().replace("_ANODE", f"{keys}\n_ANODE")
    path = tmp_path / "a.uxd"
    path.write_text(text)
    scan = read_scan(path)
    assert scan.wavelength is not None
    assert scan.wavelength.mean == pytest.approx(mean, abs=1e-5)


@pytest.mark.parametrize("binning", ["CONS", "CONST", "cons"])
@pytest.mark.parametrize("kind", ["STD", "ESD", "FXYE", "FXY"])
def test_constant_steps_of_gsas_are_read_in_both_spellings(
    binning: str, kind: str, tmp_path: Path
) -> None:
    y = np.minimum(Y, 9999)
    head = f"title\n# Calibrated wavelength = 0.458000\nBANK 1 {len(X)} {len(X)} {binning} "
    head += f"{X[0] * 100:.2f} 4.0 0 0 {kind}\n"
    rows = {
        "STD": lambda a, b: f" 1{b:6.0f}",
        "ESD": lambda a, b: f"{b:8.0f}{b**0.5:8.2f}",
        "FXYE": lambda a, b: f"{a * 100:10.4f} {b:.1f} {b**0.5:.2f}",
        "FXY": lambda a, b: f"{a * 100:10.4f} {b:.1f}",
    }[kind]
    path = tmp_path / "a.gsas"
    path.write_text(head + "\n".join(rows(a, b) for a, b in zip(X, y, strict=True)))
    scan = read_scan(path)
    np.testing.assert_allclose(scan.x, X, atol=1e-6)
    np.testing.assert_allclose(scan.intensity, y, atol=0.5)
    assert scan.wavelength is not None
    assert scan.wavelength.mean == 0.458


@pytest.mark.parametrize("binning", ["SLOG", "RALF", "TIME_MAP", "CONQ", "LPSD"])
@pytest.mark.parametrize("kind", ["STD", "FXYE"])
def test_times_of_flight_of_gsas_are_refused(binning: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.gsas"
    path.write_text(f"title\nBANK 1 3 3 {binning} 500 2 0 0 {kind}\n1 2 3\n4 5 6\n7 8 9\n")
    with pytest.raises(PatternError, match="time of flight"):
        read_scan(path)


def test_a_gsas_file_of_neutrons_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.gsas"
    path.write_bytes(patterns.gsas(X, Y).replace(b"a title", b"neutron"))
    with pytest.raises(PatternError, match="speaks of 'neutron'"):
        read_scan(path)
