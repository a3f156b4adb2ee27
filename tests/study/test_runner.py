"""A study's runs: kept when finished, continued when killed, told when failed."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lightning_modules.experiments.arguments import make_folder
from lightning_modules.experiments.machine import Machine
from lightning_modules.experiments.study.run import FAILURE, RESULT, Run, Training
from lightning_modules.experiments.study.runner import Runner
from lightning_modules.training.run_folder import CHECKPOINTS
from lightning_modules.training.run_lock import Lock
from tests.study.fakes import FakeRun, append, eventually


def make(root: Path, runs: Sequence[Run], jobs: int = 1) -> tuple[bool, list[str]]:
    """Whether all finished, and what was said."""
    said: list[str] = []
    complete = Runner(lambda *_: runs, root, Machine(jobs), said.append).run()
    return complete, said


def fake(name: str, *code: str, needs: tuple[str, ...] = ()) -> FakeRun:
    commands = tuple((f"step {i}", c) for i, c in enumerate(code))
    return FakeRun(name=name, factors={"name": name}, needs=needs, code=commands)


def test_every_run_leaves_one_json_and_is_not_made_again(tmp_path: Path) -> None:
    runs = [fake("a/1", append("x"), append("y")), fake("b", append("z"))]
    assert make(tmp_path, runs, jobs=2)[0]
    result = json.loads((tmp_path / "a/1" / RESULT).read_text())
    assert (result["text"], result["factors"], result["needs"]) == ("xy", {"name": "a/1"}, [])
    complete, said = make(tmp_path, runs)
    assert complete
    assert said == []
    assert (tmp_path / "a/1/out").read_text() == "xy"


def test_a_failed_run_is_recorded_with_its_last_lines_and_the_rest_goes_on(tmp_path: Path) -> None:
    # Fails the first time only, and leaves a trace.
    code = append("x") + "; print('why'); exit(0 if (FOLDER / 'again').exists() else 7)"
    runs = [
        fake("bad", code),
        fake("needs_bad", append("n"), needs=("bad",)),
        fake("good", append("g")),
    ]
    complete, said = make(tmp_path, runs)
    assert not complete
    failure = json.loads((tmp_path / "bad" / FAILURE).read_text())
    assert failure == {"command": "step 0", "exit_status": 7, "last_lines": ["why"]}
    assert (tmp_path / "good" / RESULT).is_file()
    assert not (tmp_path / "needs_bad").exists()
    assert any(line.startswith("left out  needs_bad: needs bad") for line in said)
    # The same command tries it again.
    (tmp_path / "bad/again").touch()
    assert make(tmp_path, runs)[0]
    assert not (tmp_path / "bad" / FAILURE).exists()
    assert (tmp_path / "needs_bad" / RESULT).is_file()


def test_a_result_that_cannot_be_read_is_a_failure(tmp_path: Path) -> None:
    complete, said = make(tmp_path, [fake("silent", "pass"), fake("good", append("g"))])
    assert not complete
    assert any("FileNotFoundError" in line for line in said)
    assert (tmp_path / "good" / RESULT).is_file()
    # Its command is done: the next runner has only the result to make.
    complete, said = make(tmp_path, [fake("silent", "pass"), fake("later", append("l"))])
    assert not complete
    assert any("FileNotFoundError" in line for line in said)
    assert (tmp_path / "silent" / FAILURE).is_file()
    assert (tmp_path / "later" / RESULT).is_file()


def test_a_killed_runner_continues_after_the_last_finished_command(tmp_path: Path) -> None:
    runner = f"""
from pathlib import Path
from tests.study.test_runner import fake, make
from tests.study.fakes import append
wait = "import time; " + append("2") + "; (FOLDER / 'ready').touch(); time.sleep(0 if (FOLDER / 'again').exists() else 60)"
RUNS = [fake("run", append("1"), wait, append("3"))]
if __name__ == "__main__":
    make(Path({str(tmp_path)!r}), RUNS)
"""  # noqa: E501
    script = tmp_path / "script.py"
    script.write_text(runner)
    process = subprocess.Popen([sys.executable, script], env={"PYTHONPATH": str(Path.cwd())})
    assert eventually(lambda: (tmp_path / "run/ready").exists())
    process.kill()
    process.wait()
    (tmp_path / "run/again").touch()
    scope: dict[str, Any] = {"__name__": "script"}
    exec(runner, scope)
    assert make(tmp_path, scope["RUNS"])[0]
    # The second command was cut off and made again, the first one was not.
    assert (tmp_path / "run/out").read_text() == "1223"


def test_runs_of_other_values_are_refused_and_kept(tmp_path: Path) -> None:
    assert make(tmp_path, [fake("pre", append("p")), fake("run", append("x"), needs=("pre",))])[0]
    with pytest.raises(ValueError, match="run: was made with other values"):
        make(tmp_path, [fake("pre", append("p")), fake("run", append("y"), needs=("pre",))])
    # Also where only what it starts from was made anew.
    for path in sorted((tmp_path / "pre").iterdir()):
        path.unlink()
    with pytest.raises(ValueError, match="run: was made with other values"):
        make(tmp_path, [fake("pre", append("q")), fake("run", append("x"), needs=("pre",))])
    assert (tmp_path / "run/out").read_text() == "x"


def test_a_plan_may_grow_with_the_results(tmp_path: Path) -> None:
    def plan(results: dict[str, Any], failed: set[str]) -> list[Run]:
        runs: list[Run] = [fake("first", append("second"))]
        return runs + [fake(r["text"], append("end")) for r in results.values() if r["name"] ==
                       "first"]  # fmt: skip

    assert Runner(plan, tmp_path, say=lambda _: None).run()
    assert json.loads((tmp_path / "second" / RESULT).read_text())["text"] == "end"


def test_as_many_runs_at_a_time_as_told_and_each_its_gpu(tmp_path: Path) -> None:
    # Each waits until the other is there, too.
    code = (
        "import os, time\n(FOLDER.parent / ('here_' + FOLDER.name)).touch()\n"
        "while len(list(FOLDER.parent.glob('here_*'))) < 2: time.sleep(0.01)\n"
        "(FOLDER / 'out').write_text(os.environ['CUDA_VISIBLE_DEVICES'])"
    )
    runs = [fake("a", code), fake("b", code)]
    runner = Runner(lambda *_: runs, tmp_path, Machine(2, ["4", "5"]), lambda _: None)
    assert runner.run()
    assert {runner.results[name]["text"] for name in "ab"} == {"4", "5"}


def test_another_runners_run_is_waited_for(tmp_path: Path) -> None:
    lock = Lock.take(tmp_path / "run")
    assert lock is not None
    said: list[str] = []
    looked = 0

    def plan(results: dict[str, Any], failed: set[str]) -> list[Run]:
        nonlocal looked
        looked += 1
        if looked == 3:
            assert not said, "began while another had the folder"
            lock.release()
        return [fake("run", append("x"))]

    assert Runner(plan, tmp_path, say=said.append).run()
    assert (tmp_path / "run/out").read_text() == "x"


def test_no_jobs_are_refused() -> None:
    with pytest.raises(ValueError, match="jobs is 0"):
        Machine(0)


def test_the_machine_is_told_on_the_command_line() -> None:
    from lightning_modules.experiments.arguments import parse
    from lightning_modules.experiments.study.convergence import Convergence

    values = ["--folder=x", "--metric=m", "--regression.config=[r.yaml]", "--pretraining.seeds=[0]"]
    flags = [*values, "--jobs=3", "--gpus=[0,1]", "--set=a.b=[1, x]", "--set=c=0.5"]
    study, machine, _ = parse("", Convergence, flags, Machine, "regression")
    assert [machine.environment(slot)["CUDA_VISIBLE_DEVICES"] for slot in range(3)] == list("010")
    assert study.regression.arguments() == ["--config=r.yaml", '--a.b=[1, "x"]', "--c=0.5"]
    with pytest.raises(ValueError, match="--set a: must be KEY=VALUE"):
        parse("", Convergence, [*values, "--set=a"], Machine, "regression")
    with pytest.raises(ValueError, match=r"--set a=\[: \[ is no YAML value"):
        parse("", Convergence, [*values, "--set=a=["], Machine, "regression")


def test_the_newest_of_the_best_checkpoints_is_tested(tmp_path: Path) -> None:
    # A kill between two deletes leaves an older one, whose name may come last.
    folder = tmp_path / "run" / CHECKPOINTS
    folder.mkdir(parents=True)
    for age, step in ((20, 50), (10, 100)):
        path = folder / f"best-step={step}.ckpt"
        path.touch()
        os.utime(path, (1_000_000 - age, 1_000_000 - age))
    commands = list(Training("run", test="best").commands(tmp_path))
    assert commands[1][1][-1] == f"--ckpt_path={folder / 'best-step=100.ckpt'}"


def test_a_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file/x: cannot be made a folder"):
        make_folder(tmp_path / "file/x")


def test_several_runs_have_one_thread_each_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert Machine(2).environment(0) == {"OMP_NUM_THREADS": "1"}
    assert Machine(1).environment(0) == {}
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert Machine(2).environment(0) == {}
