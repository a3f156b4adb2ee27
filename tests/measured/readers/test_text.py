"""Text files: headings, notations of numbers, and lists of counts."""

from pathlib import Path

import numpy as np
import pytest

from datamodules.measured import PatternError, Scan, read_scan
from datamodules.measured.readers.text.headings import quantity, seconds_of
from tests.measured.patterns import counts

X = 10.0 + 0.04 * np.arange(1001)
Y = counts(X, top=2e6) + 53


def read(folder: Path, text: str, name: str = "a.csv", axis: str = "two_theta") -> Scan:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return read_scan(path, axis)


def table(heading: str, *columns: np.ndarray, separator: str = ",", digits: int = 4) -> str:
    rows = zip(*columns, strict=True)
    body = "\n".join(separator.join(f"{value:.{digits}f}" for value in row) for row in rows)
    return f"{heading}\n{body}\n"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("2Theta", "two_theta"),
        ("2-Theta (deg)", "two_theta"),
        ("2 theta", "two_theta"),
        ("2θ/°", "two_theta"),
        ("Two-Theta", "two_theta"),
        ("2th_deg", "two_theta"),
        ("tth", "two_theta"),
        ("Pos. [°2Th.]", "two_theta"),
        ("Winkel", "two_theta"),
        ("Angle", "two_theta"),
        ("theta", "theta"),
        ("θ (°)", "theta"),
        ("Q (1/nm)", "q"),
        ("q_A^-1", "q"),
        ("d (Å)", "d"),
        ("d-spacing [nm]", "d"),
        ("Intensity", "intensity"),
        ("Intensity_ESD", "error"),
        ("Intensität (Imp.)", "intensity"),
        ("I", "intensity"),
        ("I_obs", "intensity"),
        ("Yobs", "intensity"),
        ("Counts", "intensity"),
        ("Background-corrected intensity", "intensity"),
        ("Intensity (cps)", "rate"),
        ("counts/s", "rate"),
        ("Counts per second", "rate"),
        ("CPS", "rate"),
        ("Normalised intensity", "normalised"),
        ("Rel. Int. [%]", "normalised"),
        ("I/Imax", "normalised"),
        ("ESD", "error"),
        ("sigma(I)", "error"),
        ("σ", "error"),
        ("TimePerStep", "time"),
        ("Time per step (s)", "time"),
        ("Counting time", "time"),
        ("Messzeit", "time"),
        ("t (s)", "time"),
        ("T (K)", "temperature"),
        ("t", "time"),
        ("T", "temperature"),
        ("RT", "series"),
        ("Temperature", "temperature"),
        ("Monitor", "monitor"),
        ("I0", "monitor"),
        ("Ycalc", "other"),
        ("Background", "other"),
        ("Obs-Calc", "other"),
        ("log10(I)", "transformed"),
        ("TOF (us)", "flight"),
        ("25C", "series"),
        ("300 K", "series"),
        ("foo", None),
    ],
)
def test_names_of_columns_are_understood(name: str, expected: str | None) -> None:
    assert quantity(name) == expected


TIMES = 20.0 + 0.03 * np.arange(len(X)) % 7


@pytest.mark.parametrize(
    "heading",
    [
        "Angle,TimePerStep,Intensity,ESD",
        "2Theta (deg),Time per step (s),Counts,Error",
        "# 2theta, t (s), counts, sigma",
        "°2θ,Messzeit,Impulse,Fehler",
        "[Scan points]\nPos. [°2Th.],Counting time [s],Iobs [cts],Esd Iobs",
        "2theta,time,counts,esd\ndeg,s,cts,cts",
    ],
)
def test_counts_are_divided_by_the_column_of_times(heading: str, tmp_path: Path) -> None:
    scan = read(tmp_path, table(heading, X, TIMES, Y * TIMES, np.sqrt(Y)))
    np.testing.assert_allclose(scan.intensity, Y * TIMES.mean(), rtol=1e-5)
    assert any("counting times" in note for note in scan.notes)


def test_a_column_of_elapsed_time_divides_nothing(tmp_path: Path) -> None:
    elapsed = 2.0 * np.arange(1, len(X) + 1)
    scan = read(tmp_path, table("2theta,time,counts", X, elapsed, Y))
    np.testing.assert_allclose(scan.intensity, Y, atol=1e-3)


@pytest.mark.parametrize(
    ("heading", "used"),
    [
        ("2theta,counts,cps", 2),
        ("2theta,ESD,counts", 2),
        ("No.,2theta,counts", None),
        ("counts,2theta,error", None),
        ("2theta,counts,normalised", 2),
        ("2theta,Ycalc,Yobs", 2),
        ("2theta,temperature,I", 2),
        ("2theta,d,Intensity", 2),
        ("q_nm^-1,2th_deg,I", None),
    ],
)
def test_the_named_columns_are_used_wherever_they_stand(
    heading: str, used: int | None, tmp_path: Path
) -> None:
    other = np.full(len(X), 300.0)
    names = heading.split(",")
    columns = []
    for i, name in enumerate(names):
        if name in ("2theta", "2th_deg"):
            columns.append(X)
        elif used == i or (used is None and name in ("counts", "I")):
            columns.append(Y)
        else:
            columns.append(other)
    scan = read(tmp_path, table(heading, *columns))
    np.testing.assert_allclose(scan.x, X, atol=1e-6)
    np.testing.assert_allclose(scan.intensity, Y, atol=1e-3)


def test_names_apart_by_blanks_are_aligned_with_the_columns(tmp_path: Path) -> None:
    for heading in ("# 2Theta (deg)  Count time [s]  Intensity", "2Theta Time Counts"):
        scan = read(tmp_path, table(heading, X, TIMES, Y * TIMES, separator="  "), "a.xy")
        np.testing.assert_allclose(scan.intensity, Y * TIMES.mean(), rtol=1e-5)


@pytest.mark.parametrize(
    ("heading", "scale", "axis"),
    [
        ("theta,counts", 0.5, "two_theta"),
        ("2theta (rad),counts", np.pi / 180, "two_theta"),
        ("theta (rad),counts", np.pi / 360, "two_theta"),
        ("Q (1/A),I", 0.1, "q"),
        ("Q (nm^-1),I", 1.0, "q"),
    ],
)
def test_other_axes_are_turned_by_their_units(
    heading: str, scale: float, axis: str, tmp_path: Path
) -> None:
    scan = read(tmp_path, table(heading, scale * X, Y, digits=9))
    assert scan.axis == axis
    expected = 0.1 * X if axis == "q" else X
    np.testing.assert_allclose(scan.x, expected, atol=1e-6)


@pytest.mark.parametrize(("unit", "scale"), [("(Å)", 1.0), ("[nm]", 0.1), ("", 1.0), ("(pm)", 100)])
def test_d_becomes_q(unit: str, scale: float, tmp_path: Path) -> None:
    q = np.linspace(0.8, 5.0, 600)
    text = table(f"d {unit},counts", scale * 2 * np.pi / q, np.arange(600.0), digits=9)
    scan = read(tmp_path, text)
    assert scan.axis == "q"
    np.testing.assert_allclose(scan.x, q, atol=1e-6)
    np.testing.assert_allclose(scan.intensity, np.arange(600.0))


@pytest.mark.parametrize(
    ("heading", "said"),
    [
        ("TOF (us),counts", "speaks of 'TOF'"),
        ("Energy (keV),counts", "first column is 'Energy"),
        ("time,counts", "first column is 'time'"),
        ("2theta,time", "no column of intensities"),
        ("2theta,ESD", "no column of intensities"),
        ("2theta,log10(I)", "no column of intensities"),
        ("2theta,25C,300C", "2 columns of intensities .*at different conditions"),
        ("2theta,Intensity 1,Intensity 2", "2 columns of intensities"),
        ("2theta,RT,500C", "2 columns of intensities .*at different conditions"),
        ("2theta,RT,foo", "2 columns of intensities .*at different conditions"),
        ("2theta,I,2theta,I", "several patterns in columns"),
        ("Neutron diffraction\n2theta,counts", "speaks of 'Neutron'"),
        ("D20 time-of-flight\n2theta,counts", "speaks of 'time-of-flight'"),
        ("Scan axis,Omega\nAngle,Intensity", "the scan moves Omega"),
        ("Q,counts", "without a unit"),
    ],
)
def test_columns_that_are_no_pattern_of_x_rays_are_refused(
    heading: str, said: str, tmp_path: Path
) -> None:
    n = len(heading.splitlines()[-1].split(","))
    with pytest.raises(PatternError, match=said):
        read(tmp_path, table(heading, *([X, Y] * 2)[:n]))


def test_a_column_of_temperatures_that_changes_is_refused(tmp_path: Path) -> None:
    twice = np.concatenate([X, X])
    temperature = np.repeat([300.0, 1300.0], len(X))
    text = table("2theta,counts,T (K)", twice, np.concatenate([Y, Y]), temperature)
    with pytest.raises(PatternError, match="goes from 300 to 1300"):
        read(tmp_path, text)
    same = table("2theta,counts,T (K)", twice, np.concatenate([Y, Y]), 300.0 + 0 * temperature)
    assert "mean of 2 repeated scans" in read(tmp_path, same).notes


def group(value: float, mark: str) -> str:
    return f"{value:,.0f}".replace(",", mark)


@pytest.mark.parametrize("mark", [",", " ", "'", "’", "\u00a0", "\u202f", "\u2009", "."])
@pytest.mark.parametrize("separator", ["\t", ";", '"'])
def test_thousands_are_read_whatever_stands_between_them(
    mark: str, separator: str, tmp_path: Path
) -> None:
    between, quote = ("\t", "") if separator == "\t" else (";", "")
    if separator == '"':
        between, quote = ",", '"'
    rows = [f"{x:.2f}{between}{quote}{group(y, mark)}{quote}" for x, y in zip(X, Y, strict=True)]
    scan = read(tmp_path, "2Theta" + between + "Counts\n" + "\n".join(rows))
    np.testing.assert_allclose(scan.x, X, atol=1e-6)
    np.testing.assert_allclose(scan.intensity, Y)


@pytest.mark.parametrize(
    "row", ["{:.18e},{:.18e}", "{:.2f},{:.4e},0.5", "{:.3f},{:.3e},1.0e-01", "{:.4E}, {:.4E}"]
)
def test_commas_stand_between_numbers_with_exponents(row: str, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    x = np.linspace(10, 90, 400)
    path.write_text("2theta,intensity\n" + "\n".join(row.format(a, 100 + a) for a in x))
    scan = read_scan(path)
    assert scan.x == pytest.approx(x, rel=1e-3)
    assert scan.intensity == pytest.approx(100 + x, rel=1e-3)


def test_decimal_commas_with_points_between_thousands(tmp_path: Path) -> None:
    rows = [
        f"{x:.2f}".replace(".", ",") + ";" + group(y, ".") + ",50"
        for x, y in zip(X, Y, strict=True)
    ]
    scan = read(tmp_path, "Winkel;Intensität\n" + "\n".join(rows))
    np.testing.assert_allclose(scan.intensity, Y + 0.5)
    np.testing.assert_allclose(scan.x, X, atol=1e-6)
    # Three digits after the comma of an angle are no thousands.
    rows = [f"{x:.3f}\t{y:.0f}".replace(".", ",") for x, y in zip(X, Y, strict=True)]
    np.testing.assert_allclose(read(tmp_path, "\n".join(rows)).x, X, atol=1e-6)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("10.08,1,234", "3 columns where other lines have 2"),
        ("10.08", "1 columns where other lines have 2"),
        ("10.08,", "1 columns where"),
        ("10.08,n/a", "not a line of numbers"),
        ("10.08,****", "not a line of numbers"),
        ("10.08,<5", "not a line of numbers"),
        ("10.08,1.2.3", "'1.2.3' is no number"),
        ("10.08,1e999", "'1e999' is no number"),
        ("10.08,--5", "'--5' is no number"),
        ("10.08,12 34", "'12 34' is no number"),
        ("1O.08,53", "in place of a point"),
        ("x10.08,53", "in place of a point"),
        ('10.08,"53', "quotation marks"),
        ("10.08," + "9" * 100, "is no number"),
    ],
)
def test_a_line_that_is_not_understood_is_named(line: str, reason: str, tmp_path: Path) -> None:
    lines = ["2theta,counts", *(f"{x:.2f},{y:.0f}" for x, y in zip(X, Y, strict=True))]
    assert lines[3].startswith("10.08,")
    lines[3] = line
    with pytest.raises(PatternError, match=reason) as error:
        read(tmp_path, "\n".join(lines))
    assert "line 4" in str(error.value)
    # The first line of the data is one, too.
    if "place" not in reason and "." in line:
        first = ["2theta,counts", line.replace("10.08", "10.00"), *lines[2:3], *lines[4:]]
        with pytest.raises(PatternError, match="line"):
            read(tmp_path, "\n".join(first))


@pytest.mark.parametrize("place", [0, -1])
@pytest.mark.parametrize("mark", ["x", "~"])
def test_a_line_at_either_end_is_one_too(place: int, mark: str, tmp_path: Path) -> None:
    lines = [f"{x:.2f},{y:.0f}" for x, y in zip(X, Y, strict=True)]
    lines[place] = mark + lines[place]
    with pytest.raises(PatternError, match=r"(before|after) line \d+, .*not a line of numbers"):
        read(tmp_path, "\n".join(["2theta,counts", *lines]))


def test_comments_among_the_data_stay_comments(tmp_path: Path) -> None:
    lines = [f"{x:.2f} {y:.0f}" for x, y in zip(X, Y, strict=True)]
    lines[100:100] = ["# shutter", "", "! again", "#13.98 55"]
    scan = read(tmp_path, "\n".join([*lines, "", "END"]), "a.xy")
    np.testing.assert_allclose(scan.intensity, Y)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ("10,02,53", "decimal and separate"),
        ("27.40 1 034", "part of a number"),
        ("27;1,234", "can be decimal or part thousands"),
        ("27.1;1.234,5", "decimal in one place"),
    ],
)
def test_numbers_that_can_be_read_in_two_ways_are_refused(
    rows: str, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(PatternError, match=reason):
        read(tmp_path, "\n".join([rows] * 30))


@pytest.mark.parametrize("head", ["Temp: {} K", "# Temperature = {} K", "# scan at T={} K"])
def test_blocks_at_different_temperatures_are_refused(head: str, tmp_path: Path) -> None:
    parts = [table(head.format(value), X, Y, separator=" ") for value in (300, 1300)]
    with pytest.raises(PatternError, match=r"different values of temperature \(300, 1300 K\)"):
        read(tmp_path, "".join(parts), "a.xy")
    assert "mean of 2" in " ".join(read(tmp_path, parts[0] + parts[0], "a.xy").notes)


def test_named_points_in_any_order_are_sorted(tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(len(X))
    scan = read(tmp_path, table("2theta,counts", X[order], Y[order]))
    np.testing.assert_allclose(scan.intensity, Y, atol=1e-3)


def test_several_patterns_in_columns_without_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PatternError, match="several patterns"):
        read(tmp_path, table("", X, Y, X, Y[::-1]))


def test_a_first_column_that_is_no_axis_is_refused(tmp_path: Path) -> None:
    values = np.random.default_rng(0).poisson(50, 4000)
    rows = [", ".join(map(str, values[i : i + 4])) for i in range(0, 4000, 4)]
    with pytest.raises(PatternError, match="goes up and down"):
        read(tmp_path, "\n".join(rows))


def test_a_heading_with_steps_above_columns_leaves_columns(tmp_path: Path) -> None:
    head = f"Start: {X[0]:.2f}\nStep: 0.04\nPoints: {len(X)}\n"
    scan = read(tmp_path, head + table("2theta,counts", X, Y))
    np.testing.assert_allclose(scan.intensity, Y, atol=1e-3)


def test_ranges_in_text_are_joined_by_their_times(tmp_path: Path) -> None:
    a, b = X < 30, X >= 30
    head = 'Anode: "Cu" Scantype: "Coupled TwoTheta/Theta" TimePerStep: "{}"'
    text = table(head.format(1), X[a], Y[a], separator=" ")
    text += table(head.format(10), X[b], 10.0 * Y[b], separator=" ")
    scan = read(tmp_path, text, "a.xy")
    np.testing.assert_allclose(scan.intensity, 10.0 * Y, rtol=1e-5)


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ("Time per step: 10 s", 10.0),
        ("Time per step [s],40.29", 40.29),
        ("Step time = 500 ms", 0.5),
        ("Scan speed: 2 deg/min", 0.6),
        ("Scan speed: 0.1 °/s", 0.2),
        ("*SPEED = 4\n*SPEED_UNIT = deg/min", 0.3),
        ("Sample: time series 3", None),
    ],
)
def test_counting_times_are_read_from_headings(head: str, expected: float | None) -> None:
    assert seconds_of(head, 0.02) == (expected if expected is None else pytest.approx(expected))
