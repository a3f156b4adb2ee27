"""From a scan to the model's grid."""

from pathlib import Path

import numpy as np
import pytest

from datamodules.grid import Grid
from datamodules.measured import Options, PatternError, Scan, Wavelength, convert
from datamodules.measured.corrections.widths import typical_width
from datamodules.measured.wavelength import parse_wavelength
from lightning_modules.__main__ import main
from tests.measured.patterns import angles, counts, lines, simulate, write, xy

CU = Grid().wavelength
MO = 0.71073
PLAIN = Options(background=False)


def scan_at(wavelength: float, x: np.ndarray, y: np.ndarray) -> Scan:
    return Scan(x, y, wavelength=Wavelength(((wavelength, 1.0),)), format="made")


def scaled(y: np.ndarray, inside: np.ndarray | None = None) -> np.ndarray:
    return y / (y if inside is None else y[inside]).max()


@pytest.mark.parametrize(
    ("wavelength", "polarization"), [(MO, 1.0), (1.78900, 1.0), (2.28973, 0.8), (0.41, 0.0)]
)
def test_a_pattern_of_any_wavelength_equals_the_one_simulated_at_copper(
    wavelength: float, polarization: float
) -> None:
    size = 500.0
    x = angles(2.0, 120.0, 0.004)
    y = simulate(x, wavelength, size=size, polarization=polarization)
    found = convert(
        scan_at(wavelength, x, y), options=Options(background=False, polarization=polarization)
    )
    inside = np.isfinite(found.profile)
    expected = scaled(simulate(found.grid.two_theta(), CU, size=size), inside)
    assert inside.mean() > 0.6
    assert np.abs(found.profile - expected)[inside].max() < 0.01
    # A model trained on polarised patterns gets such.
    options = Options(background=False, polarization=polarization, model_polarization=0.0)
    polarised = convert(scan_at(wavelength, x, y), options=options)
    expected = simulate(found.grid.two_theta(), CU, size=size, polarization=0.0)
    assert np.abs(polarised.profile - scaled(expected, inside))[inside].max() < 0.01
    # And what is not converted is far off.
    naive = convert(scan_at(wavelength, x, y), options=PLAIN)
    if polarization != 1.0:
        unconverted = np.abs(naive.profile - found.profile)[inside].max()
        assert unconverted > 0.002


def test_a_scan_in_q_is_converted_too() -> None:
    q = np.arange(0.3, 6.0, 0.002)
    theta = np.arcsin(q * CU / (4 * np.pi))
    two_theta = np.degrees(2 * theta)
    # Density over Q: density over 2θ times d2θ/dQ.
    y = simulate(two_theta, CU, size=400.0) / np.cos(theta)
    found = convert(Scan(q, y, axis="q", format="text"), options=PLAIN)
    inside = np.isfinite(found.profile)
    expected = scaled(simulate(found.grid.two_theta(), CU, size=400.0), inside)
    assert np.abs(found.profile - expected)[inside].max() < 0.01
    assert any("--wavelength" in note for note in found.notes)
    # With the wavelength the measurement's Lorentz–polarization factor is known.
    theta_mo = np.arcsin(q * MO / (4 * np.pi))
    mo = simulate(np.degrees(2 * theta_mo), MO, size=400.0) / np.cos(theta_mo)
    options = Options(background=False, wavelength=Wavelength(((MO, 1.0),), "the user"))
    found = convert(Scan(q, mo, axis="q", format="text"), options=options)
    assert np.abs(found.profile - expected)[inside].max() < 0.01
    with pytest.raises(PatternError, match="matters of 2θ"):
        convert(Scan(q, y, axis="q", format="text"), options=Options(zero=0.1))


def test_what_was_not_measured_stays_unmeasured() -> None:
    x = angles(12.0, 60.0)
    x = x[(x < 30.0) | (x > 35.0)]
    pattern = convert(scan_at(CU, x, counts(x)))
    two_theta = pattern.grid.two_theta()
    measured = np.isfinite(pattern.profile)
    expected = ((two_theta > 11.985) & (two_theta < 30.0)) | (
        (two_theta > 35.0) & (two_theta < 60.015)
    )
    assert (measured != expected).sum() <= 2
    assert np.nanmax(pattern.profile) == 1.0
    assert np.isnan(pattern.raw[~measured]).all()


def test_zeros_that_pad_a_file_are_not_taken_for_measured() -> None:
    x = angles(12.0, 80.0)
    y = counts(x) + 50.0
    y[-400:] = 0.0
    pattern = convert(scan_at(CU, x, y))
    assert np.isnan(pattern.profile[pattern.grid.two_theta() > 72.1]).all()
    assert any("400 zeros" in note for note in pattern.notes)
    # Taking Kα2 off would turn few zeros into something else: 1 in 29 points here.
    y[-400:] = counts(x)[-400:] + 50.0
    y[-120:] = 0.0
    doublet = Wavelength(((1.54059, 1.0), (1.54443, 0.5)))
    scan = Scan(x, y, wavelength=doublet, format="made")
    pattern = convert(scan, options=Options(strip_kalpha2=True))
    assert np.isnan(pattern.profile[pattern.grid.two_theta() > 77.7]).all()


def test_fine_steps_are_averaged_and_coarse_ones_interpolated() -> None:
    random = np.random.default_rng(0)
    fine = angles(10, 80, 0.002)
    noisy = random.poisson(100.0, len(fine)) + 0.02 * counts(fine)
    one = convert(scan_at(CU, fine, noisy), options=PLAIN)
    away = one.raw[np.isfinite(one.raw)]
    # Ten points each: the noise falls by their root.
    assert 1.4826 * np.median(np.abs(np.diff(away, 2))) / 6**0.5 == pytest.approx(3.2, rel=0.15)
    coarse = angles(10, 80, 0.04)
    two = convert(scan_at(CU, coarse, simulate(coarse, CU, fwhm=0.2)), options=PLAIN)
    inside = np.isfinite(two.profile)
    expected = scaled(simulate(two.grid.two_theta(), CU, fwhm=0.2), inside)
    assert np.abs(two.profile - expected)[inside].max() < 0.02
    assert two.profile[inside].min() >= 0.0


def test_a_background_with_a_hump_and_a_beam_tail_comes_off() -> None:
    x = angles(5.0, 89.98)
    tail = 4000 * np.exp(-(x - 5.0) / 1.0)
    hump = 500 * np.exp(-0.5 * ((x - 22.0) / 6.0) ** 2)
    y = counts(x, CU, top=3000) + tail + hump + 200.0
    found = convert(scan_at(CU, x, y))
    expected = scaled(counts(x, CU))
    assert np.nanmax(np.abs(found.profile - expected)) < 0.05
    # Only the lines are asked for: the background alone would be flat.
    away = found.grid.two_theta() > 8.0
    assert np.abs(found.background - (tail + hump + 200.0))[away].max() < 40.0
    kept = convert(scan_at(CU, x, y), options=PLAIN)
    assert np.nanmax(np.abs(kept.profile - expected)) > 0.5


def test_kalpha2_comes_off_on_request_only() -> None:
    alpha1, alpha2 = 1.54059, 1.54443
    x = angles(15.0, 89.98, 0.01)
    y = simulate(x, alpha1) + 0.5 * simulate(x, alpha2)
    doublet = Wavelength(((alpha1, 1.0), (alpha2, 0.5)))
    scan = Scan(x, y, wavelength=doublet, format="made")
    q, _ = lines()
    stripped = convert(scan, options=Options(background=False, strip_kalpha2=True))
    assert stripped.wavelength is not None
    assert stripped.wavelength.mean == alpha1
    single = convert(scan_at(alpha1, x, simulate(x, alpha1)), options=PLAIN)
    assert np.nanmax(np.abs(stripped.profile - single.profile)) < 0.02
    both = convert(scan, options=PLAIN)
    assert np.nanmax(np.abs(both.profile - single.profile)) > 0.03
    with pytest.raises(PatternError, match="Kα2 cannot be taken off"):
        convert(scan_at(1.5418, x, y), options=Options(strip_kalpha2=True))
    assert len(q) > 3


def test_lines_are_widened_to_the_models_and_no_further() -> None:
    x = angles()
    narrow = convert(
        scan_at(CU, x, simulate(x, CU, fwhm=0.3)), options=Options(background=False, fwhm=0.5)
    )
    expected = simulate(narrow.grid.two_theta(), CU, fwhm=0.5)
    inside = np.isfinite(narrow.profile)
    assert narrow.fwhm == pytest.approx(0.3, abs=0.02)
    assert np.abs(narrow.profile - scaled(expected, inside))[inside].max() < 0.03
    wide = convert(
        scan_at(CU, x, simulate(x, CU, fwhm=0.9)), options=Options(background=False, fwhm=0.5)
    )
    assert typical_width(np.nan_to_num(wide.profile), 0.02) == pytest.approx(0.95, abs=0.05)
    assert any("not widened" in note for note in wide.notes)


def test_the_zero_moves_the_lines() -> None:
    x = angles()
    moved = convert(
        scan_at(CU, x + 0.3, counts(x, CU)), options=Options(background=False, zero=0.3)
    )
    straight = convert(scan_at(CU, x, counts(x, CU)), options=PLAIN)
    both = np.isfinite(moved.profile) & np.isfinite(straight.profile)
    assert np.abs(moved.profile - straight.profile)[both].max() < 1e-3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x, y: (x[:50], y[:50]), "50 points"),
        (lambda x, y: (x[::20], y[::20]), "too coarse"),
        (lambda x, y: (x, np.full_like(y, 7.0)), "flat: all"),
        (lambda x, y: (x, np.random.default_rng(0).poisson(100.0, len(y)) * 1.0), "flat: the high"),
        (lambda x, y: (x, y - np.median(y) - 0.3 * y.max()), "are negative"),
        (lambda x, y: (x, np.minimum(y, np.percentile(y, 85))), "saturated: 15"),
        (lambda x, y: (x[x < 18], y[x < 18]), r"only 8\.0° of the model's window"),
        (lambda x, y: (x + 170, y), "ends at 180"),
    ],
)
def test_useless_data_is_refused_with_the_reason(change, said: str) -> None:  # type: ignore[no-untyped-def]
    x = angles()
    y = counts(x) + 10.0
    with pytest.raises(PatternError, match=said):
        convert(scan_at(CU, *change(x, y)))


@pytest.mark.parametrize(("wavelength", "step"), [(CU, 0.03), (CU, 0.05), (MO, 0.01), (MO, 0.02)])
def test_noise_alone_is_no_pattern_whatever_its_steps(wavelength: float, step: float) -> None:
    x = angles(5.0, 89.0 if wavelength == CU else 60.0, step)
    y = np.random.default_rng(0).poisson(1e4, len(x)).astype(float)
    with pytest.raises(PatternError, match="flat: the highest point"):
        convert(scan_at(wavelength, x, y))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x, y: (x[::5], y[::5]), "coarse"),
        (lambda x, y: (x, np.where(np.arange(len(x)) % 50, y, -5.0)), "2.0% of the intensities"),
        (lambda x, y: (x, np.minimum(y, 0.5 * y.max())), "saturated"),
        (lambda x, y: (x[x < 35], y[x < 35]), "only 25.0°"),
        (lambda x, y: (x, y + np.random.default_rng(0).normal(0, y.max() / 9, len(y)) + y.max()),
         "weak: the highest line"),
    ],
)  # fmt: skip
def test_doubtful_data_is_used_with_a_warning(change, said: str) -> None:  # type: ignore[no-untyped-def]
    x = angles()
    pattern = convert(scan_at(CU, *change(x, counts(x) + 10.0)))
    assert any(said in warning for warning in pattern.warnings), pattern.warnings


def test_a_scan_is_not_changed_by_its_conversion() -> None:
    x = angles()
    scan = scan_at(CU, x.copy(), counts(x))
    before = scan.intensity.copy()
    convert(scan, options=Options(fwhm=0.5, zero=0.1))
    assert (scan.x == x).all()
    assert (scan.intensity == before).all()
    assert not scan.notes


@pytest.mark.parametrize(
    ("text", "mean", "n"),
    [("1.5418", 1.5418, 1), ("CuKa", 1.541870, 2), ("Mo Kα", 0.710750, 2), ("co-ka1", 1.789, 1)],
)
def test_wavelengths_are_given_as_numbers_or_names(text: str, mean: float, n: int) -> None:
    wavelength = parse_wavelength(text)
    assert wavelength.mean == pytest.approx(mean, abs=1e-5)
    assert len(wavelength.lines) == n


@pytest.mark.parametrize("text", ["copper", "", "-1.54", "154.18", "nan", "CuKc"])
def test_impossible_wavelengths_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="wavelength"):
        parse_wavelength(text)


def test_inspect_says_what_was_done_and_draws(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    x = angles()
    path = write(tmp_path, "xrdml", x, counts(x))
    assert main(["inspect", str(path)]) == 0
    said = capsys.readouterr().out
    for text in ("4000 points", "mean of 1.54060 × 1, 1.54443 × 0.5", "background", "widened"):
        assert text in said
    assert (tmp_path / "pattern.xrdml.pattern.png").stat().st_size > 20_000
    assert main(["inspect", str(path), "--fwhm", "0", "--picture", "new/a.png"]) == 0
    assert "widened" not in capsys.readouterr().out
    assert (tmp_path / "new/a.png").is_file()
    for picture, reason in (("a.foo", "give a .png"), (f"{path}/a.png", "cannot be written")):
        assert main(["inspect", str(path), "--picture", picture]) == 2
        assert reason in capsys.readouterr().err


def test_inspect_of_a_file_without_wavelength_fails_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.xy"
    x = angles()
    path.write_bytes(xy(x, counts(x)))
    assert main(["inspect", str(path)]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"xxact: error: {path}: the wavelength is unknown")
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("factor", [10.0, 60.0, 100.0, 1000.0])
def test_angles_in_other_units_than_degrees_are_refused(factor: float) -> None:
    x = angles()
    with pytest.raises(PatternError, match="2θ in degrees ends at 180"):
        convert(scan_at(CU, factor * x, counts(x)))
