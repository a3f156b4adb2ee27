"""`xxact predict`: a row never loses the table, and answers are written as they come."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest

from lightning_modules.__main__ import main
from lightning_modules.inference import rows as reading
from lightning_modules.inference.prediction import Predictor

CHECKPOINT = Path(__file__).parents[1] / "checkpoints/format_1/Regression.ckpt"


def predict(folder: Path, text: str, *more: str) -> tuple[int, list[dict[str, str]]]:
    given, output = folder / "t.csv", folder / "out.csv"
    given.write_text(text)
    limit = csv.field_size_limit(131_072)
    status = main(
        ["predict", f"--checkpoint={CHECKPOINT}", f"--input={given}", f"--output={output}",
         "--device=cpu", *more]
    )  # fmt: skip
    if not output.exists():
        return status, []
    assert csv.field_size_limit(10**6) == 131_072, "the module's own limit is as it was"
    with output.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    csv.field_size_limit(limit)
    return status, rows


@pytest.fixture
def target() -> str:
    return Predictor(CHECKPOINT, device="cpu").task.targets.names[0]


def test_whatever_a_row_names_the_others_are_predicted(tmp_path: Path, target: str) -> None:
    (tmp_path / "folder.xy").mkdir()
    status, rows = predict(
        tmp_path,
        f"formula,pattern\nNaCl,\nMnO,{'x' * 5000}\nMnO,folder.xy\nMnO,none.xy\nFe2O{'9' * 400},\n"
        f"KCl,\nKCl{'x' * 200_000},\n",
    )
    assert status == 0
    assert [bool(row[f"{target}_predicted"]) for row in rows] == [True, *[False] * 4, True, False]
    assert [bool(row["error"]) for row in rows] == [False, *[True] * 4, False, True]
    assert "File name too long" in rows[1]["error"]


def test_a_fault_of_ours_in_a_row_is_its_reason(
    tmp_path: Path, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parse = reading.parse_composition

    def faulty(formula: str) -> Any:
        return parse(formula) if formula != "KCl" else 1 / 0

    monkeypatch.setattr(reading, "parse_composition", faulty)
    status, rows = predict(tmp_path, "formula\nNaCl\nKCl\n")
    assert status == 0
    assert "ZeroDivisionError" in rows[1]["error"]
    assert rows[0][f"{target}_predicted"]


def test_a_row_that_the_model_cannot_answer_does_not_take_its_batch_with_it(
    target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict_ = Predictor._predict

    def fails(self: Predictor, rows: Any) -> None:
        if any(row.given["formula"] == "KCl" for row in rows):
            raise RuntimeError("too large")
        predict_(self, rows)
        for row in rows:
            if row.given["formula"] == "LiF":
                row.result[f"{target}_predicted"] = float("inf")

    monkeypatch.setattr(Predictor, "_predict", fails)
    rows = Predictor(CHECKPOINT, device="cpu")(["NaCl", "KCl", "LiF", "MgO"])
    assert [bool(row["error"]) for row in rows] == [False, True, True, False]
    assert "RuntimeError: too large" in rows[1]["error"]
    assert "is not finite" in rows[2]["error"]
    assert rows[2][f"{target}_predicted"] is None


def test_a_table_all_of_whose_rows_failed_exits_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, rows = predict(tmp_path, "formula\nXx\nYy\n")
    assert status == 1
    assert all(row["error"] for row in rows)
    assert "no row could be predicted" in capsys.readouterr().err


def test_rows_are_in_the_file_before_the_last_is_predicted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = Predictor.stream

    def interrupted(self: Predictor, rows: Any) -> Any:
        for number, row in enumerate(stream(self, rows)):
            if number == 4:
                assert len((tmp_path / "out.csv").read_text().splitlines()) == 1 + 4
                raise KeyboardInterrupt
            yield row

    monkeypatch.setattr(Predictor, "stream", interrupted)
    status, rows = predict(tmp_path, "formula\n" + "NaCl\n" * 10, "--batch-size=2")
    assert status == 130
    assert len(rows) == 4
    assert "out.csv has the first 4 of 10 rows" in capsys.readouterr().err


def test_a_full_disk_leaves_whole_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Full(io.FileIO):
        def write(self, data: Any) -> int:
            if (left := 2000 - self.tell()) <= 0:
                raise OSError(28, "No space left on device")
            return super().write(memoryview(data)[:left])

    path_open = Path.open

    def opened(path: Path, mode: str = "r", *args: Any, **more: Any) -> Any:
        return Full(path, "x") if mode == "xb" else path_open(path, mode, *args, **more)

    monkeypatch.setattr(Path, "open", opened)
    status, rows = predict(tmp_path, "formula\n" + "NaCl\n" * 100)
    said = capsys.readouterr().err
    assert status == 2
    assert f"xxact: error: {tmp_path / 'out.csv'}: No space left on device" in said
    assert 0 < len(rows) < 100
    assert f"has the first {len(rows)} of 100 rows" in said
    assert all(row["error"] == "" and None not in row.values() for row in rows)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.csv", "t.csv"]
