"""`xxact report polymorphs`: structures of one formula, ranked by their patterns."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.store.splits import SplitConfig
from datamodules.store.store import Material
from lightning_modules import checkpoints
from lightning_modules.__main__ import main
from lightning_modules.regression import Regression
from tests.commands import error_of
from tests.factories import make_material, make_store
from tests.measured import models


def polymorphs(n: int, each: int) -> list[Material]:
    """Structures of few formulas; `make_material` makes two of each."""
    rows = []
    for i in range(n):
        material, first = make_material(2 * (i // each)), make_material(i)
        for name in ("q", "intensity", "volume_per_atom", "density", "targets"):
            setattr(material, name, getattr(first, name))
        material.id = f"m{i}"
        rows.append(material)
    return rows


@pytest.fixture
def store(tmp_path: Path) -> Path:
    make_store(tmp_path / "store", materials=polymorphs(180, 3))
    return tmp_path / "store"


def report(checkpoint: Path, store: Path, output: Path, *more: str) -> Any:
    command = ["report", "polymorphs", f"--checkpoint={checkpoint}", f"--store={store}"]
    assert main([*command, f"--output={output}", *more]) == 0
    return json.loads((output / "numbers.json").read_text())["rows"]


def pairs(output: Path) -> list[dict[str, str]]:
    with (output / "pairs.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_test_split_of_the_checkpoint_is_judged_and_the_table_of_pairs_agrees(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = SplitConfig(test=0.3)
    checkpoint = models.regression(tmp_path / "runs/one/checkpoints/last.ckpt", split=split)
    rows = report(checkpoint, store, tmp_path / "out")
    assert "0 of them in the training split" in capsys.readouterr().out
    by_mode = {row["given"]: row for row in rows}
    assert by_mode.keys() == {"both", "composition", "xrd"}
    found = pairs(tmp_path / "out")
    assert {(row["first_split"], row["second_split"]) for row in found} == {("test", "test")}
    formulas = {row["formula"] for row in found}
    assert by_mode["both"]["formulas"] == len(formulas) > 5
    assert len(found) == 3 * len(formulas), "all pairs of three structures"
    counted = [row for row in found if row["counted"] == "True"]
    for mode, row in by_mode.items():
        right = [float(r[f"ranked_rightly_one_{mode}"]) for r in counted]
        assert row["pairs"] == pytest.approx(np.mean(right))
        assert row["pairs_counted"] == len(counted)
    assert by_mode["composition"]["pairs"] == 0.5
    assert by_mode["composition"]["shuffled_gap"] == 0.0
    assert by_mode["both"]["shuffled_gap"] != 0.0
    assert (tmp_path / "out/differences_formation_energy.png").stat().st_size > 10_000
    text = (tmp_path / "out/report.md").read_text()
    assert "pairs more than 0.001 eV/atom apart" in text


def test_all_rows_are_told_apart_by_whether_they_were_for_training(
    store: Path, tmp_path: Path
) -> None:
    checkpoint = models.regression(tmp_path / "one.ckpt")
    rows = report(checkpoint, store, tmp_path / "out", "--split=all")
    formulas = {r["split"]: r["formulas"] for r in rows if r["given"] == "both"}
    assert formulas.keys() == {"training split", "held out"}
    found = pairs(tmp_path / "out")
    assert sum(formulas.values()) == len({row["formula"] for row in found}) > 50
    assert formulas["training split"] > formulas["held out"]
    assert {row["first_split"] for row in found} >= {"train", "test"}
    few = report(checkpoint, store, tmp_path / "few", "--split=all", "--limit=30")
    assert sum(r["structures"] for r in few if r["given"] == "both") in range(24, 31)


def test_a_tolerance_leaves_pairs_out_and_is_told(store: Path, tmp_path: Path) -> None:
    checkpoint = models.regression(tmp_path / "one.ckpt")
    plain = report(checkpoint, store, tmp_path / "a", "--split=all")
    fewer = report(
        checkpoint, store, tmp_path / "b", "--split=all", "--tolerance=formation_energy=0.3"
    )
    assert sum(r["pairs_counted"] for r in fewer) < sum(r["pairs_counted"] for r in plain)
    assert {r["tolerance"] for r in fewer} == {0.3}


def test_a_model_is_judged_by_those_of_its_targets_that_the_store_has(
    store: Path, tmp_path: Path
) -> None:
    checkpoint = models.regression(tmp_path / "one.ckpt", "formation_energy", "elsewhere")
    rows = report(checkpoint, store, tmp_path / "out", "--split=all")
    assert {row["target"] for row in rows} == {"formation_energy"}


def test_what_cannot_be_judged_is_told_in_one_line(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = models.regression(tmp_path / "one.ckpt")
    singles = tmp_path / "singles"
    make_store(singles, materials=[make_material(2 * i) for i in range(40)])
    other = models.regression(tmp_path / "units.ckpt")
    saved = checkpoints.read(other)
    saved["state_dict"]["targets._extra_state"] = {"units": ["kJ/mol"]}
    checkpoints.write(other, saved)
    nothing = models.regression(tmp_path / "nothing.ckpt", "elsewhere")
    for arguments, message in (
        ([checkpoint, singles, "--split=all"], "no formula of the rows has two structures"),
        ([checkpoint, singles], "test split has two structures; use another store, or --split all"),
        ([other, store], "predicts formation_energy in kJ/mol"),
        ([nothing, store], "no target 'elsewhere'"),
        ([checkpoint, store, "--tolerance=density=1"], "no target density"),
        ([checkpoint, store, "--tolerance=formation_energy"], "give TARGET=VALUE"),
        ([checkpoint, store, "--limit=1"], "--limit 1: must be at least 2"),
        ([models.aligned(tmp_path / "aligned.ckpt"), store], "give a regression's"),
    ):
        path, folder, *more = arguments
        command = ["report", "polymorphs", f"--checkpoint={path}", f"--store={folder}"]
        assert main([*command, f"--output={tmp_path / 'x'}", *map(str, more)]) == 2, message
        assert message in capsys.readouterr().err
        assert not (tmp_path / "x").exists()


def test_whoever_reads_the_cell_from_the_pattern_ranks_rightly(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The labels follow from the cell, so a model that reads it is perfect within formulas."""
    from lightning_modules.objectives.targets import Prediction
    from lightning_modules.regression import Regression

    def read(self: Regression, batch: dict[str, torch.Tensor], mode: str | None = None) -> Any:
        label = batch["targets"]
        guess = label if mode == "both" else torch.zeros_like(label)
        return Prediction(guess, torch.ones_like(label))

    monkeypatch.setattr(Regression, "predict", read)
    checkpoint = models.regression(tmp_path / "one.ckpt")
    rows = report(checkpoint, store, tmp_path / "out", "--split=all")
    both = [row for row in rows if row["given"] == "both"]
    assert {row["pairs"] for row in both} == {1.0}
    assert all(row["within_mae"] < 1e-6 < row["shuffled_gap"] for row in both)


class Own(Regression):
    """A user's task."""


def test_a_task_of_the_users_own_is_judged_when_it_is_named(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = Own(("formation_energy",), models.SMALL, models.GRID)
    task.targets.units = ["eV/atom"]
    checkpoint = models.save(task, tmp_path / "runs/own/checkpoints/last.ckpt", SplitConfig())
    command = ["report", "polymorphs", f"--checkpoint={checkpoint}", f"--store={store}",
               f"--output={tmp_path / 'out'}", "--split=all", "--limit=12"]  # fmt: skip
    named = f"--allow-task={__name__}.Own"
    assert named.replace("=", " ") in error_of(capsys, lambda: main(command))
    assert main([*command, named]) == 0
    assert (tmp_path / "out/numbers.json").is_file()
