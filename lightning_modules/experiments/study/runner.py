"""Works through a study's runs: several at a time, what is finished is kept, what fails is told."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_modules.experiments.machine import Machine
from lightning_modules.experiments.processes import Job, last_lines
from lightning_modules.experiments.study.run import (
    FAILURE,
    LOG,
    RESULT,
    STATE,
    Run,
    describe,
    fingerprint,
    finished,
    read_json,
    write_json,
)
from lightning_modules.training.run_lock import Lock

#: What runs there are, given the results so far (by name) and the names of those that failed.
Plan = Callable[[dict[str, Any], set[str]], Sequence[Run]]
_POLL = 0.2


@dataclass
class _Active:
    """A run that is being made."""

    run: Run
    lock: Lock
    commands: Iterator[tuple[str, list[str]]]
    began: float
    slot: int
    name: str = ""
    job: Job | None = None


class Runner:
    """Makes the runs of a plan.

    Args:
        plan: The runs, as far as they are known.
        root: The study's folder.
        machine: Runs at a time, and on what.
        say: Where to tell what happens.
    """

    def __init__(
        self,
        plan: Plan,
        root: Path,
        machine: Machine = Machine(),  # noqa: B008 (frozen)
        say: Callable[[str], None] = lambda line: print(line, flush=True),
    ) -> None:
        self.plan, self.root, self.machine, self.say = plan, root, machine, say
        self.results: dict[str, Any] = {}
        self.failed: set[str] = set()
        self._active: dict[str, _Active] = {}
        self._checked: set[str] = set()

    def run(self) -> bool:
        """Make everything.

        Returns:
            Whether all runs have finished.

        Raises:
            ValueError: if a run in the folder was made with other values.
        """
        try:
            while True:
                runs = self._known()
                open_ = [r for r in runs if r.name not in self.results.keys() | self.failed]
                startable = [r for r in open_ if all(n in self.results for n in r.needs)]
                for run in startable:
                    if len(self._active) < self.machine.jobs and run.name not in self._active:
                        self._start(run, len(runs))
                if not startable:
                    break
                time.sleep(_POLL)
                for active in list(self._active.values()):
                    self._step(active)
        finally:
            for active in self._active.values():
                if active.job is not None:
                    active.job.kill()
                active.lock.release()
        for run in open_:
            self.say(f"left out  {run.name}: needs {', '.join(run.needs)}")
        for name in sorted(self.failed):
            self.say(f"failed    {name}: see {self.root / name / LOG}")
        return not open_ and not self.failed

    def _known(self) -> Sequence[Run]:
        """The plan, once all that is finished has been read."""
        while True:
            runs = self.plan(self.results, self.failed)
            n = len(self.results)
            for run in runs:
                ready = all(needed in self.results for needed in run.needs)
                if run.name not in self.results.keys() | self._active.keys() and ready:
                    # A used folder is compared once; its result may come from another runner.
                    if run.name in self._checked:
                        result = read_json(self.root / run.name / RESULT)
                    else:
                        result = finished(run, self.root)
                        self._checked.add(run.name)
                    if result is not None:
                        self.results[run.name] = result
            if len(self.results) == n:
                return runs

    def _start(self, run: Run, n_runs: int) -> None:
        """Claim a run's folder and begin; nothing if another runner has it."""
        folder = self.root / run.name
        lock = Lock.take(folder)
        if lock is None:
            return
        state = read_json(folder / STATE)
        if state is None:
            write_json(
                folder / STATE,
                {"fingerprint": fingerprint(run, self.root), "done": [], **run.identity()},
            )
        (folder / FAILURE).unlink(missing_ok=True)
        taken = {active.slot for active in self._active.values()}
        slot = next(i for i in range(self.machine.jobs) if i not in taken)
        active = _Active(run, lock, run.commands(self.root), time.monotonic(), slot)
        self._active[run.name] = active
        how = "continues" if state else "starts"
        self._tell(f"{how:<9} {run.name} ({len(self.results)} of {n_runs} finished)")
        self._go_on(active)

    def _next(self, active: _Active) -> None:
        """Begin the next command that is not done, or end the run."""
        folder = self.root / active.run.name
        done = read_json(folder / STATE)["done"]
        for name, command in active.commands:
            if name not in done:
                active.name = name
                active.job = Job(
                    command, folder / LOG, self.machine.environment(active.slot), active.lock
                )
                return
        result = describe(active.run, self.root, active.began)
        write_json(folder / RESULT, result)
        self.results[active.run.name] = result
        self._end(active)
        self._tell(f"finished  {active.run.name} ({result['seconds']:.0f} s)")

    def _step(self, active: _Active) -> None:
        """Look after a run."""
        assert active.job is not None
        status = active.job.poll()
        if status is None:
            return
        folder = self.root / active.run.name
        if status == 0:
            state = read_json(folder / STATE)
            write_json(folder / STATE, state | {"done": [*state["done"], active.name]})
            self._go_on(active)
        else:
            self._fail(active, status, last_lines(folder / LOG))

    def _go_on(self, active: _Active) -> None:
        """Begin the next command; what the commands left may be no result."""
        try:
            self._next(active)
        except (ValueError, OSError, KeyError) as error:
            self._fail(active, 1, [f"{type(error).__name__}: {error}"])

    def _fail(self, active: _Active, status: int, lines: list[str]) -> None:
        """End a run without a result."""
        write_json(
            self.root / active.run.name / FAILURE,
            {"command": active.name, "exit_status": status, "last_lines": lines},
        )
        self.failed.add(active.run.name)
        self._end(active)
        reason = lines[-1] if lines else "no output"
        self._tell(f"failed    {active.run.name}: {active.name} exits with {status}: {reason}")

    def _end(self, active: _Active) -> None:
        del self._active[active.run.name]
        active.lock.release()

    def _tell(self, line: str) -> None:
        self.say(f"{time.strftime('%H:%M:%S')} {line}")


def main_exit(complete: bool) -> int:
    """The command's exit status."""
    if not complete:
        print("some runs failed; the same command tries them again", file=sys.stderr)
    return 0 if complete else 1
