"""Errors of runs against CPU time: recorded, or told for runs that recorded none."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_modules.experiments.report.curves import read, report
from lightning_modules.experiments.report.main import main


def run(folder: Path, errors: list[float], mode: str = "both", a_step: float | None = 0.5) -> Path:
    """A run validated every ten steps."""
    folder.mkdir(parents=True)
    lines: list[dict[str, Any]] = [
        {"step": 10 * i, "wall_time": 99.0, f"val/{mode}/gap/mae": error}
        | ({} if a_step is None else {"cpu_time": 10 * i * a_step})
        for i, error in enumerate(errors, 1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_models_are_compared_after_equal_time(tmp_path: Path) -> None:
    """The cheap one makes four times the steps in the time of the dear one's first ten."""
    dear = read(run(tmp_path / "both", [0.4, 0.2], a_step=1.0), "gap", None)
    cheap = read(
        run(tmp_path / "composition", [0.6, 0.5, 0.3, 0.29], "composition", 0.25), "gap", None
    )
    assert (dear.metric, cheap.metric) == ("val/both/gap/mae", "val/composition/gap/mae")
    assert (dear.at(10.0), cheap.at(10.0)) == (0.4, 0.29)
    assert (dear.at(20.0), cheap.at(20.0)) == (0.2, 0.29)
    assert np.isnan(dear.at(9.9))
    numbers = report({"both": [dear, dear], "composition": [cheap]}, "gap").numbers
    assert [len(curves) for curves in numbers.values()] == [2, 1]


def test_a_run_without_recorded_time_is_told_what_a_step_took(tmp_path: Path) -> None:
    old = run(tmp_path / "old", [0.4, 0.2], a_step=None)
    with pytest.raises(ValueError, match="--seconds-a-step"):
        read(old, "gap", None)
    curve = read(old, "gap", 0.1)
    assert curve.seconds.tolist() == [1.0, 2.0]
    assert not curve.recorded


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--run", "here"], "give NAME=VALUE"),
        (["--run", "a=nowhere"], "give the folder of a run"),
        (["--run", "a=RUN", "--seconds-a-step", "b=1"], "no --run has this name"),
        (["--run", "a=RUN", "--seconds-a-step", "a=0"], "give seconds above 0"),
        (["--run", "a=CUT"], "line 1 is no JSON object"),
    ],
)
def test_mistakes_are_told_in_a_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    run(tmp_path / "RUN", [0.1])
    (tmp_path / "CUT").mkdir()
    (tmp_path / "CUT" / "metrics.jsonl").write_text('{"step": 1, "va\n{"step": 2}\n')
    words = [
        word.replace("=RUN", f"={tmp_path}/RUN").replace("=CUT", f"={tmp_path}/CUT")
        for word in arguments
    ]
    with pytest.raises(ValueError, match=message):
        main(["curves", *words, "--target", "gap", "--output", str(tmp_path / "out")])


def test_what_a_kill_or_a_failed_validation_left_is_no_point(tmp_path: Path) -> None:
    """The last line may be cut, and an error that is not finite is written as null."""
    folder = run(tmp_path / "run", [0.4, 0.3])
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 30, "val/both/gap/mae": null}\n{"step": 40, "va')
    assert read(folder, "gap").errors.tolist() == [0.4, 0.3]
    (folder / "metrics.jsonl").write_text('{"step": 10, "val/both/gap/mae": null}\n')
    with pytest.raises(ValueError, match="no validation has a number"):
        read(folder, "gap")


def test_the_clock_on_the_wall_may_be_read_instead(tmp_path: Path) -> None:
    curve = read(run(tmp_path / "run", [0.4, 0.2], a_step=None), "gap", clock="wall_time")
    assert curve.seconds.tolist() == [99.0, 99.0]
    assert "wall time" in report({"both": [curve]}, "gap", clock="wall_time").title


def test_an_unknown_target_names_those_that_are_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no error of 'volume', but of gap"):
        read(run(tmp_path / "run", [0.1]), "volume", None)


def test_the_command_writes_tables_and_a_picture(tmp_path: Path) -> None:
    words = ["curves", "--target", "gap", "--output", str(tmp_path / "out")]
    for name in ("both", "composition"):
        words += ["--run", f"{name}={run(tmp_path / name, [0.4, 0.2, 0.1], name)}"]
    assert main(words) == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"report.md", "numbers.json", "runs.csv", "budgets.csv", "curves.png"}
