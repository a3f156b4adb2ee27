"""Tuning, crossings and their costs, on curves whose answer is known."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from lightning_modules.experiments.recipes import Recipe
from lightning_modules.experiments.report.convergence import report
from lightning_modules.experiments.study.convergence import Convergence
from lightning_modules.experiments.study.main import definition_path
from lightning_modules.experiments.study.pretraining import Pretraining
from lightning_modules.experiments.study.run import FAILURE, RESULT, Training, write_json

METRIC = "val/both/gap/mae"
STUDY: dict[str, Any] = {
    "folder": "runs/study",
    "pretraining": {"recipes": {"mxm": {"config": ["mxm.yaml"]}, "both": {"config": ["b.yaml"]}}},
    "regression": {"config": ["regression.yaml"]},
    "metric": METRIC,
    "starts": ["scratch", "mxm", "both"],
    "learning_rates": [0.1, 0.2],
    "seeds": [3, 4],
}


def study(**changes: Any) -> Convergence:
    values = STUDY | changes
    recipes = {k: Recipe(**v) for k, v in values["pretraining"]["recipes"].items()}
    return Convergence(
        **values
        | {
            "pretraining": Pretraining(recipes, values["pretraining"].get("after", {})),
            "regression": Recipe(**values["regression"]),
        }
    )


def result(run: Training, errors: list[float | None], test: float = 1.0) -> dict[str, Any]:
    """A run validated every 10 steps of 8 materials, a second each."""
    curve = [
        {"step": 10 * (i + 1), "samples_seen": 80 * (i + 1), "wall_time": 10.0 * (i + 1), METRIC: e}
        for i, e in enumerate(errors)
    ]
    return {
        "name": run.name,
        "factors": run.factors,
        "curve": curve,
        "final": {k: curve[-1][k] for k in ("step", "samples_seen", "wall_time")},
        "test": {"test/both/gap/mae": test},
    }


def names(runs: Any) -> list[str]:
    return [run.name for run in runs]


def test_every_start_is_tuned_with_one_seed_and_repeated_at_its_best_rate() -> None:
    made = study()
    first = made.plan({}, set())
    assert names(first) == [
        "pretraining/mxm/seed=0",
        "pretraining/both/seed=0",
        *(f"convergence/{s}/lr={r}/seed=3" for s in STUDY["starts"] for r in (0.1, 0.2)),
    ]
    assert first[4].needs == ("pretraining/mxm/seed=0",)
    assert first[2].needs == ()
    results = {
        made.run("scratch", 0.1, 3).name: result(made.run("scratch", 0.1, 3), [3.0, 1.0, 2.0]),
        made.run("scratch", 0.2, 3).name: result(made.run("scratch", 0.2, 3), [3.0, 2.0, 1.5]),
        made.run("mxm", 0.1, 3).name: result(made.run("mxm", 0.1, 3), [3.0, 2.0]),
    }
    # One of mxm's is still to come: it is not tuned yet.
    assert set(names(made.plan(results, set()))) - set(names(first)) == {
        "convergence/scratch/lr=0.1/seed=4"
    }
    # It failed: the other is the best.
    later = names(made.plan(results, {made.run("mxm", 0.2, 3).name}))
    assert "convergence/mxm/lr=0.1/seed=4" in later


def test_a_rate_that_diverges_is_not_the_best() -> None:
    made = study(starts=["scratch"])
    results = {
        (run := made.run("scratch", rate, 3)).name: result(run, errors)
        for rate, errors in ((0.1, [2.0, 1.9]), (0.2, [None, None]))
    }
    assert made.tuned("scratch", results, set()) == 0.1


def test_a_metric_that_no_run_has_is_told() -> None:
    made = study(metric="val/standard_mae")
    run = made.run("scratch", 0.1, 3)
    results = {made.run("scratch", r, 3).name: result(run, [1.0]) for r in (0.1, 0.2)}
    with pytest.raises(ValueError, match="metric 'val/standard_mae': the runs have val/both/gap"):
        made.plan(results, set())


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"starts": ["mxm"]}, "must contain scratch"),
        ({"starts": ["scratch", "mae"]}, "start 'mae': there are scratch and"),
        ({"seeds": []}, "seeds is"),
        ({"seeds": [1, 1]}, "seeds is"),
        ({"learning_rates": []}, "learning_rates is empty"),
    ],
)
def test_studies_that_show_nothing_are_refused(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        study(**changes)


def written(folder: Path, curves: dict[str, dict[int, list[float]]], **changes: Any) -> Path:
    """A finished study with these validation curves at rate 0.1, and worse ones at 0.2."""
    made = study(**changes)
    definition_path(folder, "convergence").write_text(yaml.safe_dump(STUDY | changes))
    for start, by_seed in curves.items():
        for seed, errors in by_seed.items():
            run = made.run(start, 0.1, seed)
            write_json(folder / run.name / RESULT, result(run, list(errors), test=errors[-1] + 1))
        run = made.run(start, 0.2, 3)
        worse = [e + 1 for e in by_seed[3]]
        write_json(folder / run.name / RESULT, result(run, worse))
    for start in ("mxm", "both"):
        run = made.pretraining.run(start)
        write_json(folder / run.name / RESULT, result(run, [1.0, 1.0]))
    return folder


SCRATCH = {3: [8.0, 4.0, 2.0, 1.0], 4: [9.0, 5.0, 3.0, 2.0]}


def test_ratios_are_seed_by_seed_with_and_without_pretraining(tmp_path: Path) -> None:
    # mxm reaches scratch's best (1 at step 40, 2 at step 40) at steps 20 and 10.
    mxm = {3: [2.0, 1.0, 0.5, 0.5], 4: [2.0, 1.5, 1.0, 1.0]}
    never = {3: [4.0, 3.0, 2.0, 1.5], 4: [4.0, 2.0, 2.0, 2.0]}
    numbers = report(written(tmp_path, {"scratch": SCRATCH, "mxm": mxm, "both": never})).numbers
    found = numbers["starts"]["mxm"]
    assert found["learning_rate"] == 0.1
    assert found["threshold"] == {3: 1.0, 4: 2.0}
    assert found["steps"]["needed"] == [20.0, 10.0]
    assert found["steps"]["ratio"]["each"] == [2.0, 4.0]
    assert found["steps"]["ratio"]["mean"] == pytest.approx(8**0.5)
    assert (found["steps"]["ratio"]["low"], found["steps"]["ratio"]["high"]) == pytest.approx(
        (2, 4)
    )
    # Pretraining took 20 steps of 8: 160 materials, 20 seconds.
    samples = found["samples"]
    assert samples["pretraining"] == [160.0, 160.0]
    assert samples["ratio_with_pretraining"]["each"] == [320 / (160 + 160), 320 / (80 + 160)]
    assert found["seconds"]["ratio_with_pretraining"]["each"] == [40 / 40, 40 / 30]
    for tasks in (1, 10, 100):
        shared = samples["ratio_with_pretraining_for_tasks"][tasks]["each"]
        assert shared == [320 / (160 + 160 / tasks), 320 / (80 + 160 / tasks)]
    assert numbers["starts"]["scratch"]["samples"]["ratio_with_pretraining"]["each"] == [1.0, 1.0]


def test_ratios_are_given_over_a_range_of_errors(tmp_path: Path) -> None:
    mxm = {3: [2.0, 1.0, 0.5, 0.5], 4: [2.0, 1.5, 1.0, 1.0]}
    never = {3: [4.0, 3.0, 2.0, 1.5], 4: [4.0, 2.0, 2.0, 2.0]}
    made = report(written(tmp_path, {"scratch": SCRATCH, "mxm": mxm, "both": never}))
    made.write(tmp_path / "out")
    with (tmp_path / "out/range.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5
    assert float(rows[0]["error"]) == pytest.approx((8.0 + 9.0) / 2)
    assert float(rows[0]["steps from scratch"]) == 10.0
    assert float(rows[-1]["error"]) == pytest.approx((1.0 + 2.0) / 2)
    assert float(rows[-1]["steps from scratch"]) == 40.0
    assert rows[-1]["mxm"].startswith("2.83"), "as the ratio at the best"
    assert rows[-1]["both"] == "", "one seed never gets there"


def test_what_came_before_a_pretraining_is_counted_too(tmp_path: Path) -> None:
    curves = {"scratch": SCRATCH, "mxm": SCRATCH, "both": SCRATCH}
    pretraining = STUDY["pretraining"] | {"after": {"both": "mxm"}}
    starts = report(written(tmp_path, curves, pretraining=pretraining)).numbers["starts"]
    assert starts["mxm"]["samples"]["pretraining"] == [160.0, 160.0]
    assert starts["both"]["samples"]["pretraining"] == [320.0, 320.0]


def test_runs_at_the_best_rate_count_where_another_rate_failed(tmp_path: Path) -> None:
    mxm = {3: [2.0, 1.0, 0.5, 0.5], 4: [2.0, 1.5, 1.0, 1.0]}
    folder = written(tmp_path, {"scratch": SCRATCH, "mxm": mxm})
    failed = folder / study().run("mxm", 0.2, 3).name
    (failed / RESULT).unlink()
    assert report(folder).numbers["starts"]["mxm"]["seeds"] == [3], "still to come"
    write_json(failed / FAILURE, {"exit_status": 1})
    assert report(folder).numbers["starts"]["mxm"]["seeds"] == [3, 4]


def test_a_start_that_never_gets_there_is_told_as_a_bound(tmp_path: Path) -> None:
    never = {3: [4.0, 3.0, 2.0, 1.5], 4: [4.0, 2.0, 2.0, 2.0]}
    made = report(written(tmp_path, {"scratch": SCRATCH, "mxm": never}))
    steps = made.numbers["starts"]["mxm"]["steps"]
    assert steps["censored"] == [True, False]
    assert steps["needed"] == [40.0, 20.0]
    made.write(tmp_path / "out")
    text = (tmp_path / "out/report.md").read_text()
    row = next(line for line in text.splitlines() if line.startswith("| mxm"))
    assert "| 1 | 30 | ≤ 1.41" in row
    assert "both: 2 of 2 seeds are missing." in text
    for name in ("speed.csv", "errors.csv", "tuning.csv", "numbers.json"):
        assert (tmp_path / "out" / name).stat().st_size > 50, name
    for name in ("curves.png", "ratio.png"):
        assert (tmp_path / "out" / name).stat().st_size > 10_000, name


def test_errors_are_means_over_seeds_and_the_test_is_of_the_same_metric(tmp_path: Path) -> None:
    made = report(written(tmp_path, {"scratch": SCRATCH}))
    made.write(tmp_path / "out")
    rows = (tmp_path / "out/errors.csv").read_text().splitlines()
    values = dict(zip(rows[0].split(","), rows[1].split(","), strict=True))
    assert float(values["best validation"]) == 1.5
    assert float(values["± seeds"]) == pytest.approx(np.std([1, 2], ddof=1))
    assert float(values["test"]) == 2.5


def test_half_a_study_is_reported_and_none_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no convergence study here"):
        report(tmp_path)
    folder = written(tmp_path, {})
    with pytest.raises(ValueError, match="no run from scratch has finished yet"):
        report(folder)
    assert report(written(tmp_path, {"scratch": SCRATCH})).numbers["starts"].keys() == {"scratch"}
