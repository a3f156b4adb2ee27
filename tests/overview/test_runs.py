"""`xxact runs` tells of every run, also of an old, a damaged and a running one."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import lightning_modules
from lightning_modules.__main__ import main
from lightning_modules.overview.changes import recipes
from lightning_modules.overview.runs import MONITORS
from lightning_modules.training.run_lock import TRAINING, Lock
from tests.commands import ROOT, error_of

RECIPE = {
    "model": {
        "class_path": "lightning_modules.Regression",
        "init_args": {"optimizer": {"learning_rate": 1e-3}, "decoder": "${.optimizer.width}"},
    },
    "trainer": {"max_steps": 100},
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    recipes.cache_clear()  # of another test's folder of the same name
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/regression.yaml").write_text(yaml.safe_dump(RECIPE))
    return tmp_path


def make_run(folder: Path, steps: list[int], errors: list[float], rate: float = 1e-3) -> Path:
    """A run with a validation at each of the steps."""
    (folder / "checkpoints").mkdir(parents=True)
    config = yaml.safe_load(yaml.safe_dump(RECIPE))
    config["model"]["init_args"]["optimizer"]["learning_rate"] = rate
    config["model"]["init_args"]["decoder"] = 5
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    lines = [
        {"step": step, "wall_time": 36.0 * step, "val/standardised_mae": error,
         "val/both/band_gap/mae": 2 * error, "val/both/band_gap/rmse": 9.0}
        for step, error in zip(steps, errors, strict=True)
    ]  # fmt: skip
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "checkpoints/last.ckpt").touch()
    if steps and steps[-1] >= 100:
        (folder / "metrics.json").write_text(json.dumps(lines[-1]))
    return folder


def listed(capsys: pytest.CaptureFixture[str], *more: str) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert main(["runs", "--csv", *more]) == 0
    return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))


def test_what_a_run_is_and_changed_and_reached(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(place / "runs/one", [50, 100], [0.2, 0.3], rate=5e-4)
    make_run(place / "runs/study/two/seed=0", [50], [0.1])
    one, two = listed(capsys)
    assert one["run"] == "runs/one"
    assert (one["task"], one["state"], one["step"], one["steps"]) == (
        "Regression", "finished", "100", "100",
    )  # fmt: skip
    assert (one["monitor"], one["value"], one["best"]) == ("val/standardised_mae", "0.3", "0.2")
    assert (one["seconds"], one["val/both/band_gap/mae"]) == ("3600.0", "0.6")
    # What is equal, or refers to what the run has, is no change.
    assert one["model.optimizer.learning_rate"] == "0.0005"
    assert not {"model.decoder", "trainer.max_steps", "val/both/band_gap/rmse"} & one.keys()
    assert (two["run"], two["state"]) == ("runs/study/two/seed=0", "stopped")
    assert two["model.optimizer.learning_rate"] == ""

    assert main(["runs"]) == 0
    head, first, _ = capsys.readouterr().out.splitlines()
    assert head.split()[:4] == ["run", "task", "state", "step"]
    for text in ("100/100", "1:00:00", "standardised_mae 0.3 (best 0.2)", "learning_rate=0.0005"):
        assert text in first


def test_a_run_tells_its_recipes_and_what_it_watches(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = yaml.safe_load(yaml.safe_dump(RECIPE))
    other["model"]["init_args"]["optimizer"]["learning_rate"] = 7.0
    (place / "configs/other.yaml").write_text(yaml.safe_dump(other))
    run = make_run(place / "runs/one", [50, 100], [0.2, 0.3])
    (untold,) = listed(capsys)
    assert (untold["recipes"], untold["monitor"]) == ("", "val/standardised_mae")
    assert "model.optimizer.learning_rate" not in untold

    told = {
        "recipes": ["configs/other.yaml", "my/overlay.yaml"],
        "monitor": "val/both/band_gap/mae",
    }
    (run / "start.json").write_text(json.dumps(told))
    (line,) = listed(capsys)
    assert line["recipes"] == "configs/other.yaml, my/overlay.yaml"
    assert (line["monitor"], line["value"]) == ("val/both/band_gap/mae", "0.6")
    # Against its own recipe, though another is nearer.
    assert line["model.optimizer.learning_rate"] == "0.001"

    (run / "config.2.yaml").write_text((run / "config.yaml").read_text())
    (run / "start.2.json").write_text(json.dumps(told | {"recipes": ["configs/regression.yaml"]}))
    assert listed(capsys)[0]["recipes"] == "configs/regression.yaml"


def test_defaults_come_from_the_schema(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(place / "runs/one", [100], [0.2])
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["trainer"] |= {"accelerator": "auto", "precision": "bf16-mixed"}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    assert "trainer.precision" not in listed(capsys)[0]
    (place / "configs/schemas").mkdir()
    known = {"accelerator": {"default": "auto"}, "precision": {"default": None}}
    schema = {"$defs": {}, "properties": {"trainer": {"properties": known}}}
    (place / "configs/schemas/recipe.json").write_text(json.dumps(schema))
    from lightning_modules.overview.changes import defaults

    defaults.cache_clear()
    (line,) = listed(capsys)
    assert line["trainer.precision"] == "bf16-mixed"
    assert "trainer.accelerator" not in line


def test_a_run_that_trains_is_running(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(place / "runs/one", [50], [0.2])
    lock = Lock.take(run, TRAINING)
    assert lock is not None
    assert listed(capsys)[0]["state"] == "running"
    lock.release()
    assert listed(capsys)[0]["state"] == "stopped"


@pytest.mark.parametrize(
    ("file", "content", "state", "wrong"),
    [
        ("config.yaml", "model: [", "stopped", "config.yaml: not a readable YAML file"),
        ("config.yaml", "- a list", "stopped", "config.yaml: holds no keys"),
        ("config.yaml", None, "stopped", "config.yaml: cannot be read"),
        ("config.yaml", "model: 5\ntrainer: []\ndata: x", "stopped", ""),
        ("metrics.jsonl", '{"step": 50}\n{"ste', "stopped", "1 of 2 lines unreadable"),
        ("metrics.jsonl", "\x00\x01", "stopped", "1 of 1 lines unreadable"),
        ("metrics.json", "{", "stopped", "metrics.json: "),
        ("metrics.json", "[]", "stopped", "metrics.json: holds no keys"),
        ("start.json", "{", "stopped", "start.json: "),
        ("start.json", "[" * 100_000, "stopped", "start.json: "),
        ("start.json", "[]", "stopped", "start.json: holds no keys"),
        ("start.json", '{"recipes": 5, "monitor": []}', "stopped", ""),
        ("failure.json", "{}", "failed", "given up by its study"),
        ("checkpoints/last.ckpt", None, "failed", "no checkpoint to go on from"),
    ],
)
def test_what_is_wrong_is_told_in_the_runs_line(
    file: str, content: str | None, state: str, wrong: str,
    place: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    run = make_run(place / "runs/one", [50], [0.2])
    make_run(place / "runs/two", [100], [0.2])
    if content is None:
        (run / file).unlink()
    else:
        (run / file).write_text(content)
    one, two = listed(capsys)
    assert one["state"] == state
    assert wrong in one["wrong"]
    assert (two["state"], two["wrong"]) == ("finished", "")
    assert main(["runs"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_sorting_and_output(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, error in (("a", 0.3), ("b", 0.1), ("c", 0.2)):
        make_run(place / f"runs/{name}", [100], [error])
    (place / "runs/d").mkdir()
    (place / "runs/d/config.yaml").write_text("{}")
    order = [line["run"][-1] for line in listed(capsys, "--sort", "val/both/band_gap/mae")]
    assert order == ["b", "c", "a", "d"]
    order = [line["run"][-1] for line in listed(capsys, "--sort=monitored", "--reverse")]
    assert order == ["a", "c", "b", "d"]
    assert "--sort nothing: no run has it" in error_of(
        capsys, lambda: main(["runs", "--sort", "nothing"])
    )
    assert main(["runs", "--output", "table.csv"]) == 0
    with (place / "table.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 4


def test_no_runs_are_told(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "runs: no such folder" in error_of(capsys, lambda: main(["runs"]))
    (place / "runs").mkdir()
    assert "runs: holds no run" in error_of(capsys, lambda: main(["runs"]))


@pytest.mark.parametrize("task", lightning_modules.TASKS)
def test_the_monitored_metric_is_the_tasks(task: str) -> None:
    assert MONITORS[task] == getattr(lightning_modules, task).monitor


def test_torch_is_not_imported(place: Path) -> None:
    make_run(place / "runs/one", [100], [0.2])
    code = (
        "import sys; from lightning_modules.__main__ import main; main(['runs']); "
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
