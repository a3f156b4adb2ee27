"""Sweeps: sampled, pruned, shared, stopped and continued; trainings are small programs."""

import _thread
import csv
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from lightning_modules.__main__ import main
from lightning_modules.experiments.arguments import parse
from lightning_modules.experiments.machine import Machine
from lightning_modules.experiments.recipes import Recipe
from lightning_modules.experiments.sweep.config import Dimension, Pruning, Sweep
from lightning_modules.experiments.sweep.main import write_best
from lightning_modules.experiments.sweep.worker import Worker, open_study, read_curve
from tests.study.fakes import eventually, exists

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs/sweep").glob("*.yaml"))
RATE = "model.optimizer.learning_rate"

#: In place of `xxact fit`: the metric falls to |rate - 0.3| in three steps of 10.
TRAINING = """
import json, os, sys, time
from pathlib import Path
values = dict(a[2:].split("=", 1) for a in sys.argv[2:])
rate, run = float(values["model.optimizer.learning_rate"]), Path(values["run"])
run.mkdir(parents=True, exist_ok=True)
(run / "starts").open("a").write(f"{os.getpid()}\\n")
(run / "config.yaml").write_text(f"run: {run}\\ntrainer: {{logger: false}}\\nrate: {rate}\\n")
hold = float(values.get("hold", "0"))
if rate == float(values.get("crash_at", "-1")):
    sys.exit("cannot train at this rate")
for step in (10, 20, 30):
    value = abs(rate - 0.3) + 3.0 / step
    if rate == float(values.get("diverge_at", "-1")):
        value = None
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": step, "val/error": value}) + "\\n")
    while step == 10 and hold and not (run.parent / "go_on").exists():
        time.sleep(0.02)
    if step == 10 and rate == float(values.get("ended_at", "-1")):
        sys.exit(0)
(run / "metrics.json").write_text(json.dumps({"step": 30}))
"""


@pytest.fixture(autouse=True)
def fake_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def command(*arguments: str) -> list[str]:
        return [sys.executable, "-I", "-c", TRAINING, *arguments]

    monkeypatch.setattr("lightning_modules.experiments.sweep.worker.xxact", command)


def sweep(folder: Path, **changes: Any) -> Sweep:
    values: dict[str, Any] = {
        "folder": str(folder),
        "recipe": Recipe(),
        "space": {RATE: Dimension(choices=[0.1, 0.2, 0.3, 0.4])},
        "metric": "val/error",
        "sampler": "grid",
        "pruning": Pruning("none"),
        "heartbeat": 1,
    }
    return Sweep(**values | changes)


def make(made: Sweep, jobs: int = 1) -> tuple[optuna.Study, list[str]]:
    study, said = open_study(made), []
    Worker(made, study, Machine(jobs), said.append).run()
    return study, said


def states(study: optuna.Study) -> dict[str, int]:
    found = [t.state.name for t in study.get_trials(deepcopy=False)]
    return {name: found.count(name) for name in sorted(set(found))}


def test_a_grid_tries_every_combination_once_and_finds_the_best(tmp_path: Path) -> None:
    space = {RATE: Dimension(choices=[0.1, 0.3]), "layers": Dimension(low=1, high=3)}
    study, _ = make(sweep(tmp_path, space=space))
    tried = [tuple(t.params.values()) for t in study.trials]
    assert sorted(tried) == [(r, n) for r in (0.1, 0.3) for n in (1, 2, 3)]
    assert study.best_trial.params[RATE] == 0.3
    assert study.best_value == pytest.approx(0.1)
    # Again: nothing is left to do.
    again, said = make(sweep(tmp_path, space=space))
    assert len(again.trials) == 6
    assert said == []


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_samplers_stay_in_the_ranges(sampler: str, tmp_path: Path) -> None:
    space = {
        RATE: Dimension(low=1e-3, high=1e-1, log=True),
        "layers": Dimension(low=2, high=8, step=2),
        "freeze": Dimension(choices=[[], ["backbone.xrd"]]),
    }
    study, _ = make(sweep(tmp_path, space=space, sampler=sampler, trials=4))
    assert states(study) == {"COMPLETE": 4}
    for trial in study.trials:
        assert 1e-3 <= trial.params[RATE] <= 1e-1
        assert trial.params["layers"] in (2, 4, 6, 8)
        assert trial.params["freeze"] in ("[]", '["backbone.xrd"]')


def test_a_trial_is_given_the_recipe_its_values_and_its_overlay(tmp_path: Path) -> None:
    recipe = Recipe(["a.yaml"], {"trainer.max_steps": 5, "kept": "x"})
    space = {"config": Dimension(choices=["b.yaml"]), "trainer.max_steps": Dimension(choices=[9])}
    made = sweep(tmp_path, recipe=recipe, space=space)
    fixed = optuna.trial.FixedTrial({"config": "b.yaml", "trainer.max_steps": 9})
    assert made.suggest(fixed).arguments() == [  # type: ignore[arg-type]
        "--config=a.yaml",
        "--config=b.yaml",
        "--trainer.max_steps=9",
        "--kept=x",
    ]


def test_a_crashed_trial_is_recorded_and_the_rest_goes_on(tmp_path: Path) -> None:
    study, said = make(sweep(tmp_path, recipe=Recipe(set={"crash_at": 0.2})))
    assert states(study) == {"COMPLETE": 3, "FAIL": 1}
    (failed,) = (t for t in study.trials if t.state.name == "FAIL")
    assert failed.params[RATE] == 0.2
    assert failed.user_attrs["exit_status"] == 1
    assert failed.user_attrs["last_lines"] == ["cannot train at this rate"]
    assert any("cannot train at this rate" in line for line in said)


def test_a_trial_that_diverges_is_ended(tmp_path: Path) -> None:
    study, _ = make(sweep(tmp_path, recipe=Recipe(set={"diverge_at": 0.4})))
    assert states(study) == {"COMPLETE": 3, "PRUNED": 1}


def test_a_trial_without_the_metric_has_failed(tmp_path: Path) -> None:
    study, said = make(sweep(tmp_path, metric="val/eror", trials=1))
    assert states(study) == {"FAIL": 1}
    assert any("no val/eror in metrics.jsonl" in line for line in said)


def test_a_bad_trial_is_pruned_and_its_process_ended(tmp_path: Path) -> None:
    # After one good trial, worse ones are ended at their first look; they would wait for ever.
    good = sweep(tmp_path, space={RATE: Dimension(choices=[0.3, 9.0])}, sampler="random", seed=0)
    made = Sweep(**{**vars(good), "trials": 4, "pruning": Pruning("median", 0, 1)})
    study = open_study(made)
    study.enqueue_trial({RATE: 0.3})
    for _ in range(3):
        study.enqueue_trial({RATE: 9.0})
    made = Sweep(**{**vars(made), "recipe": Recipe()})
    Worker(made, study, say=lambda _: None).run()
    assert states(study) == {"COMPLETE": 1, "PRUNED": 3}
    for trial in study.trials[1:]:
        assert trial.last_step == 10
        starts = (tmp_path / trial.user_attrs["folder"] / "starts").read_text().split()
        assert not any(exists(int(pid)) for pid in starts)


def test_two_workers_share_the_trials(tmp_path: Path) -> None:
    made = sweep(tmp_path, recipe=Recipe(set={"hold": 1}))
    code = f"""
from pathlib import Path
from lightning_modules.experiments.sweep import worker
from tests.sweep.test_sweep import TRAINING, make, sweep
from lightning_modules.experiments.recipes import Recipe
import sys
worker.xxact = lambda *a: [sys.executable, "-I", "-c", TRAINING, *a]
make(sweep(Path({str(tmp_path)!r}), recipe=Recipe(set={{"hold": 1}})))
"""
    open_study(made)  # the table is there before both look
    workers = [
        subprocess.Popen([sys.executable, "-c", code], env={"PYTHONPATH": str(ROOT)})
        for _ in range(2)
    ]
    # Each trial waits after its first step: two that have begun are two at a time.
    assert eventually(lambda: len(list(tmp_path.glob("trial_*/metrics.jsonl"))) == 2)
    (tmp_path / "go_on").touch()
    assert [w.wait(60) for w in workers] == [0, 0]
    study = open_study(made)
    assert states(study) == {"COMPLETE": 4}
    assert sorted(t.params[RATE] for t in study.trials) == [0.1, 0.2, 0.3, 0.4]
    for folder in tmp_path.glob("trial_*"):
        assert len((folder / "starts").read_text().split()) == 1


def test_jobs_run_at_a_time_in_one_worker(tmp_path: Path) -> None:
    made = sweep(tmp_path, recipe=Recipe(set={"hold": 1}))
    study = open_study(made)
    worker = Worker(made, study, Machine(2), lambda _: None)
    thread = threading.Thread(target=worker.run)
    thread.start()
    assert eventually(lambda: len(list(tmp_path.glob("trial_*/metrics.jsonl"))) == 2)
    (tmp_path / "go_on").touch()
    thread.join(60)
    assert states(study) == {"COMPLETE": 4}


def test_a_killed_sweep_ends_its_trial_and_continues_it_later(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from lightning_modules.experiments.sweep import worker
from tests.sweep.test_sweep import TRAINING, make, sweep
from lightning_modules.experiments.recipes import Recipe
import sys
worker.xxact = lambda *a: [sys.executable, "-I", "-c", TRAINING, *a]
make(sweep(Path({str(tmp_path)!r}), recipe=Recipe(set={{"hold": 1}})))
"""
    process = subprocess.Popen([sys.executable, "-c", code], env={"PYTHONPATH": str(ROOT)})
    assert eventually(lambda: (tmp_path / "trial_0000/metrics.jsonl").is_file())
    process.kill()
    process.wait()
    pid = int((tmp_path / "trial_0000/starts").read_text())
    assert eventually(lambda: not exists(pid)), "the training outlived its sweep"
    (tmp_path / "go_on").touch()
    # It counts as abandoned after two heartbeats of a second; until then nobody takes it.
    study, _ = make(sweep(tmp_path, recipe=Recipe(set={"hold": 1})))
    assert states(study) == {"COMPLETE": 4, "FAIL": 1}
    complete = [t for t in study.trials if t.state.name == "COMPLETE"]
    assert sorted(t.params[RATE] for t in complete) == [0.1, 0.2, 0.3, 0.4]
    # In the folder of the first attempt.
    assert len((tmp_path / "trial_0000/starts").read_text().split()) == 2
    assert len(list(tmp_path.glob("trial_*"))) == 4


def test_an_interrupted_sweep_ends_its_trials_and_continues_at_once(tmp_path: Path) -> None:
    made = sweep(tmp_path, recipe=Recipe(set={"hold": 1}))
    study = open_study(made)
    worker = Worker(made, study, Machine(2), lambda _: None)

    def interrupt() -> None:
        eventually(lambda: len(list(tmp_path.glob("trial_*/metrics.jsonl"))) == 2)
        _thread.interrupt_main()

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        worker.run()
    thread.join()
    pids = [int(p.read_text()) for p in tmp_path.glob("trial_*/starts")]
    assert len(pids) == 2
    assert not any(exists(pid) for pid in pids)
    assert states(study) == {"FAIL": 2, "WAITING": 2}
    (tmp_path / "go_on").touch()
    study, _ = make(made)
    complete = [t.params[RATE] for t in study.trials if t.state.name == "COMPLETE"]
    assert sorted(complete) == [0.1, 0.2, 0.3, 0.4]
    assert len(list(tmp_path.glob("trial_*"))) == 4


def test_trials_of_another_sweep_are_refused(tmp_path: Path) -> None:
    make(sweep(tmp_path, trials=1))
    with pytest.raises(ValueError, match="holds trials of another recipe, space or metric"):
        open_study(sweep(tmp_path, recipe=Recipe(set={"trainer.max_steps": 3})))
    # More trials, another sampler: the same sweep.
    study, _ = make(sweep(tmp_path, trials=2, sampler="random"))
    assert len(study.trials) == 2


def test_a_storage_that_cannot_be_opened_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"storage nonsense://x: cannot be opened"):
        open_study(sweep(tmp_path, storage="nonsense://x"))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, "low is None"),
        ({"low": 2, "high": 1}, "low below high"),
        ({"low": 0.0, "high": 1.0, "log": True}, "must be above 0"),
        ({"low": 1, "high": 4, "choices": [1]}, "either choices"),
        ({"choices": []}, "either choices"),
        ({"low": 0.0, "high": 1.0, "step": -1}, "step is -1"),
    ],
)
def test_ranges_that_are_none_are_refused(values: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        Dimension(**values)


def test_a_grid_of_a_continuous_range_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a grid needs choices or a step"):
        sweep(tmp_path, space={RATE: Dimension(low=0.1, high=0.2)})
    assert Dimension(low=0.1, high=0.5, step=0.2).grid("x") == pytest.approx([0.1, 0.3, 0.5])


def test_a_line_that_is_being_written_is_left_for_later(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "a": 2.0}\n{"step": 2, "b": 1}\n{"step": 3, "a"')
    assert read_curve(path, "a") == {1: 2.0}
    assert read_curve(tmp_path / "none", "a") == {}


def test_the_command_writes_all_trials_and_the_best_as_a_recipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    definition = tmp_path / "sweep.yaml"
    definition.write_text(
        yaml.safe_dump(
            {
                "folder": str(tmp_path / "out"),
                "recipe": {"set": {"crash_at": 0.2}},
                "space": {RATE: {"choices": [0.1, 0.2, 0.3]}},
                "metric": "val/error",
                "sampler": "grid",
            }
        )
    )
    assert main(["sweep", f"--config={definition}", "--jobs=2"]) == 0
    with (tmp_path / "out/trials.csv").open() as file:
        rows = {float(row[RATE]): row for row in csv.DictReader(file)}
    assert rows[0.3]["state"] == "complete"
    assert float(rows[0.3]["value"]) == pytest.approx(0.1)
    assert "cannot train at this rate" in rows[0.2]["reason"]
    best = yaml.safe_load((tmp_path / "out/best.yaml").read_text())
    assert best["rate"] == 0.3
    assert best["run"] == f"{tmp_path}/out_best"
    assert "xxact fit --config" in capsys.readouterr().out


def test_a_sweep_in_which_all_crash_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    definition = tmp_path / "sweep.yaml"
    values = {
        "folder": str(tmp_path / "out"),
        "recipe": {"set": {"crash_at": 0.2}},
        "space": {RATE: {"choices": [0.2]}},
        "metric": "val/error",
        "sampler": "grid",
    }
    definition.write_text(yaml.safe_dump(values))
    assert main(["sweep", f"--config={definition}"]) == 2
    assert "no trial ran to its end" in capsys.readouterr().err
    assert not (tmp_path / "out/best.yaml").exists()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_sweep_in_configs_gives_arguments_that_fit_takes(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    made = parse("", Sweep, [f"--config={path}", f"--folder={tmp_path}"])[0]
    trial = open_study(made).ask()
    recipe = made.suggest(trial)
    with pytest.raises(SystemExit) as exit_:
        main(["fit", *recipe.arguments(), "--print_config"])
    output = capsys.readouterr()
    assert exit_.value.code == 0, output.err
    # What best.yaml would be is a recipe, too.
    (tmp_path / "config.yaml").write_text(output.out)
    write_best(tmp_path / "config.yaml", tmp_path / "best.yaml", "runs/best")
    with pytest.raises(SystemExit) as exit_:
        main(["fit", f"--config={tmp_path}/best.yaml", "--print_config"])
    output = capsys.readouterr()
    assert exit_.value.code == 0, output.err
    config = yaml.safe_load(output.out)
    assert config["run"] == "runs/best"
    rate = config["model"]["init_args"]["optimizer"]["learning_rate"]
    assert rate == trial.params[RATE]


def test_the_function_in_the_documentation_trains_and_returns_the_metric(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "docs/sweeps.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    scope: dict[str, Any] = {}
    exec(code, scope)
    asked: list[list[str]] = []

    def run(command: list[str], check: bool) -> None:
        assert check
        assert main(["fit", *command[2:], "--print_config"]) == 0

    def fit(command: list[str], check: bool) -> None:
        with pytest.raises(SystemExit) as exit_:
            run(command, check)
        assert exit_.value.code == 0
        asked.append(command)
        folder = tmp_path / next(x for x in command if x.startswith("--run="))[6:]
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text('{"val/loss": 0.5}')

    monkeypatch.setattr("subprocess.run", fit)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    assert scope["objective"]({RATE: 1e-3, "data.targets": ["density"]}) == 0.5
    assert asked[0][:2] == ["xxact", "fit"]
