"""Answers that are printed: few of them, aligned, in any width and any encoding."""

import csv
import io
import sys
from pathlib import Path
from typing import Any

import pytest

from lightning_modules.__main__ import main
from lightning_modules.inference.answers.printed import decimals, describe
from tests.commands import error_of
from tests.factories import make_material
from tests.measured import models
from tests.measured.patterns import angles, counts, xy

ROW: dict[str, Any] = {
    "pattern": "a.xy",
    "formula": "Fe2O3",
    "gap_predicted": 2.1234,
    "gap_low": 1.9,
    "gap_high": 2.34,
    "gap_from": "composition+xrd",
    "gap_composition_predicted": 2.0,
    "gap_composition_low": 1.5,
    "gap_composition_high": 2.5,
    "gap_xrd_predicted": 3.0,
    "gap_xrd_low": -1.0,
    "gap_xrd_high": float("inf"),
    "agreement": 0.63,
    "contradiction": "no",
    "warnings": "only 25.1° were measured; automatic slit",
    "error": "",
}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return models.regression(tmp_path / "regression.ckpt", "formation_energy", "band_gap")


def test_an_answer_has_its_interval_and_what_each_modality_alone_says() -> None:
    lines = describe(ROW, {"gap": "eV"}, 0.9, 120).splitlines()
    assert lines[:2] == ["a.xy · Fe2O3", "  from composition and pattern"]
    assert lines[2].split("  ")[-1] == "pattern alone"
    figures = " ".join(lines[3].split())
    assert figures == "gap 2.12 eV 1.90 to 2.34 2.00 (1.50 to 2.50) 3.00 (unbounded)"
    assert lines[4].endswith("of sound pairs 63 % fit no better")
    assert lines[5:] == ["  warning: only 25.1° were measured", "  warning: automatic slit"]
    # The answers of several properties end where the others do.
    larger = {name.replace("gap", "modulus"): value for name, value in ROW.items()} | {
        "modulus_predicted": 212.34
    }
    two = describe(ROW | larger, {"gap": "eV", "modulus": "GPa"}, 0.9, 120).splitlines()
    assert two[3].index("2.12 eV") + 4 == two[4].index("212.34 GPa") + 6
    # Headings stand above what they head.
    for heading, cell in (("90 % interval", "1.90 to"), ("composition alone", "2.00 (")):
        assert lines[2].index(heading) == lines[3].index(cell)


def test_a_narrow_terminal_has_the_same_figures_below_each_other() -> None:
    text = describe(ROW, {"gap": "eV"}, 0.9, 50)
    assert max(map(len, text.splitlines())) <= 50
    wide = describe(ROW, {"gap": "eV"}, 0.9, 120)
    assert sorted(text.split()) == sorted(wide.replace("answer", "").split())


def test_contradictions_and_failures_are_said_in_words() -> None:
    row = ROW | {"contradiction": "yes", "agreement": 0.01}
    assert "contradict each other: of sound pairs only 1.0 %" in describe(
        row, {"gap": "eV"}, 0.9, 200
    )
    failed = {"formula": "Xx\x1b[31m", "error": "unknown element", "warnings": ""}
    assert (
        describe(failed, {"gap": "eV"}, 0.9, 80) == "Xx\\x1b[31m\n  not predicted: unknown element"
    )


@pytest.mark.parametrize(
    ("low", "high", "value", "expected"),
    [
        (1.9, 2.3, 2.1, 2),
        (-40.0, 60.0, 3.0, 0),
        (0.0, 0.003, 0.001, 4),
        (None, None, 11.37, 1),
        (2.0, 2.0, 2.0, 2),
        (0.0, float("inf"), 0.5, 3),
        (None, None, 0.0, 2),
    ],
)
def test_figures_have_as_many_digits_as_the_interval_is_worth(
    low: float | None, high: float | None, value: float, expected: int
) -> None:
    assert decimals(low, high, value) == expected


def test_a_formula_alone_is_answered_without_a_table(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["predict", f"--checkpoint={checkpoint}", "--formula=Fe2O3"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("Fe2O3\n  from the composition alone\n")
    assert "formation energy" in said.out
    assert said.err == ""
    assert list(tmp_path.iterdir()) == [checkpoint]


@pytest.mark.parametrize("name", ["scan.xy", "scan.csv", "scan.txt"])
def test_a_scan_alone_or_with_its_formula_is_answered(
    name: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x = angles()
    (tmp_path / name).write_bytes(xy(x, counts(x)))
    command = ["predict", f"--checkpoint={checkpoint}", "--wavelength=CuKa"]
    command.append(f"--input={tmp_path / name}")
    assert main(command) == 0
    assert f"{name}\n  from the pattern alone\n" in capsys.readouterr().out
    formula = make_material(4).formula
    assert main([*command, f"--formula={formula}"]) == 0
    said = capsys.readouterr().out
    assert f"{name} · {formula}\n  from composition and pattern\n" in said
    assert "no guarantee" in said


def test_few_answers_are_written_too_where_asked_and_many_need_a_table(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, output = tmp_path / "t.csv", tmp_path / "out.csv"
    table.write_text("formula\n" + "NaCl\n" * 20)
    command = ["predict", f"--checkpoint={checkpoint}", f"--input={table}"]
    assert main([*command, f"--output={output}"]) == 0
    assert capsys.readouterr().out.count("NaCl\n") == 20
    with output.open() as file:
        assert len(list(csv.DictReader(file))) == 20
    table.write_text("formula\n" + "NaCl\n" * 21)
    message = error_of(capsys, lambda: main(command))
    assert "21 rows are too many to print" in message
    assert "--output FILE.csv" in message
    assert main([*command, f"--output={tmp_path / 'second.csv'}"]) == 0
    assert "NaCl\n" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "nothing to predict; give --input, --formula or both"),
        (["--formula= "], "--formula: is empty"),
        (["--formula=NaCl", "--formula-from-name"], "--formula-from-name: is for scans"),
        (["--formula=NaCl", "--input=t.csv"], "--formula: is for scans; in the table t.csv"),
        (["--formula=NaCl", "--input=none.xy"], "none.xy: no such file"),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(
    words: list[str],
    expected: str,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t.csv").write_text("formula\nNaCl\n")
    command = ["predict", f"--checkpoint={checkpoint}", *words]
    assert expected in error_of(capsys, lambda: main(command))


def test_an_output_that_lacks_letters_gets_question_marks(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", ascii_only)
    checkpoint = models.regression(checkpoint.with_name("volume.ckpt"), "volume_per_atom")
    assert main(["predict", f"--checkpoint={checkpoint}", "--formula=Fe₂O₃"]) == 0
    ascii_only.seek(0)
    said = ascii_only.read()
    assert "Fe?O?" in said
    assert "??" in said.splitlines()[3]
