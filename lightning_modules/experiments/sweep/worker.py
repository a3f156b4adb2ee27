"""Makes a sweep's trials, one `xxact fit` each; several workers may share a storage."""

import json
import math
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import optuna
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.trial import FrozenTrial, TrialState

from lightning_modules.experiments.arguments import make_folder
from lightning_modules.experiments.machine import Machine
from lightning_modules.experiments.processes import Job, last_lines, xxact
from lightning_modules.experiments.recipes import Recipe
from lightning_modules.experiments.study.run import LOG, METRICS, PLAIN
from lightning_modules.experiments.sweep.config import Sweep
from lightning_modules.training.run_folder import unfinished
from lightning_modules.training.run_lock import Lock

_POLL = 0.2
#: Heartbeats without which a trial counts as abandoned.
_MISSED = 2
NAME = "xxact"
_IDENTITY = "identity"


class CrashedError(Exception):
    """A trial's training ended with an error."""


class StoppedError(Exception):
    """The worker is to stop; the trial is not at its end."""


def open_study(sweep: Sweep) -> optuna.Study:
    """Open the sweep's storage, or make it.

    Raises:
        ValueError: if it cannot be opened, or holds trials of another sweep.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    make_folder(Path(sweep.folder))
    try:
        storage = RDBStorage(
            sweep.url(),
            heartbeat_interval=sweep.heartbeat,
            grace_period=_MISSED * sweep.heartbeat,
            heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(),
        )
        study = optuna.create_study(
            storage=storage,
            study_name=NAME,
            direction=sweep.direction,
            load_if_exists=True,
            sampler=_sampler(sweep),
            pruner=_pruner(sweep),
        )
    except Exception as error:
        # Whatever the database's driver raises; Optuna imports drivers by name.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"storage {sweep.url()}: cannot be opened ({reason})") from error
    known = study.user_attrs.get(_IDENTITY)
    if known is None:
        study.set_user_attr(_IDENTITY, sweep.identity())
    elif known != sweep.identity():
        raise ValueError(
            f"{sweep.url()}: holds trials of another recipe, space or metric; choose another "
            "--folder, or delete it"
        )
    return study


def _sampler(sweep: Sweep) -> optuna.samplers.BaseSampler:
    if sweep.sampler == "grid":
        return optuna.samplers.GridSampler(sweep.grid(), seed=sweep.seed)
    if sweep.sampler == "random":
        return optuna.samplers.RandomSampler(seed=sweep.seed)
    # Workers must not all try the same promising place.
    return optuna.samplers.TPESampler(seed=sweep.seed, constant_liar=True)


def _pruner(sweep: Sweep) -> optuna.pruners.BasePruner:
    pruning = sweep.pruning
    if pruning.kind == "median":
        return optuna.pruners.MedianPruner(pruning.startup_trials, pruning.warmup_steps)
    if pruning.kind == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=max(1, pruning.warmup_steps))
    return optuna.pruners.NopPruner()


class Worker:
    """Makes trials until there are enough, several at a time.

    Args:
        sweep: The sweep.
        study: Its opened storage.
        machine: Trials at a time, and on what.
        say: Where to tell what happens.
    """

    def __init__(
        self,
        sweep: Sweep,
        study: optuna.Study,
        machine: Machine = Machine(),  # noqa: B008 (frozen)
        say: Callable[[str], None] = lambda line: print(line, flush=True),
    ) -> None:
        self.sweep, self.study, self.machine, self._say = sweep, study, machine, say
        self._gate = threading.Lock()
        self._stop = threading.Event()
        self._errors: list[BaseException] = []

    def run(self) -> None:
        """Make trials; on return there are enough, of this or other workers."""
        # Events, not `join`: interrupted once, it takes a thread for ended (Python 3.11).
        ended = [threading.Event() for _ in range(self.machine.jobs)]
        for slot, event in enumerate(ended):
            threading.Thread(target=self._work, args=(slot, event)).start()
        try:
            # With a limit, so that an interruption is noticed at once.
            while not all(event.wait(_POLL) for event in ended):
                pass
        finally:
            self._stop.set()
            for event in ended:
                event.wait()
        if self._errors:
            raise self._errors[0]

    def _work(self, slot: int, ended: threading.Event) -> None:
        try:
            while not self._stop.is_set() and self._next(slot):
                pass
        except BaseException as error:
            self._errors.append(error)
            self._stop.set()
        finally:
            ended.set()

    def _next(self, slot: int) -> bool:
        """Make one trial, or wait for those of others; False when all are there."""
        # Between counting and asking for a trial no other thread may count.
        self._gate.acquire()
        held = True

        def begun() -> None:
            nonlocal held
            if held:
                held = False
                self._gate.release()

        try:
            fail_stale_trials(self.study)
            running = self._count(TrialState.RUNNING)
            if self._count(TrialState.WAITING) or self._made() + running < self.sweep.n_trials:
                self.study.optimize(
                    lambda trial: self._trial(trial, slot, begun), n_trials=1, catch=(CrashedError,)
                )
                return True
        except StoppedError:
            return False
        finally:
            begun()
        if running:
            # They may yet be abandoned.
            self._stop.wait(1.0)
        return bool(running)

    def _count(self, state: TrialState) -> int:
        return len(self.study.get_trials(deepcopy=False, states=(state,)))

    def _made(self) -> int:
        """Trials that ended, but for those that are made again."""
        ended = self.study.get_trials(
            deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
        )
        return sum(t.state != TrialState.FAIL or "exit_status" in t.user_attrs for t in ended)

    def _trial(self, trial: optuna.Trial, slot: int, begun: Callable[[], None]) -> float:
        """Train with a trial's values.

        Raises:
            optuna.TrialPruned: if it does worse than others at the same step.
            CrashedError: if the training fails.
        """
        recipe = Recipe(set=PLAIN) + self.sweep.suggest(trial)
        # A trial that is made again continues in the folder of the first attempt.
        folder = Path(trial.user_attrs.get("folder", f"trial_{trial.number:04d}"))
        trial.set_user_attr("folder", str(folder))
        begun()
        folder = Path(self.sweep.folder) / folder
        lock = self._claim(folder)
        command = xxact("fit", *recipe.arguments(), f"--run={folder}", "--resume=auto")
        job = Job(command, folder / LOG, self.machine.environment(slot), lock)
        shown = ", ".join(f"{key} {_short(value)}" for key, value in trial.params.items())
        self._tell(f"starts    {folder.name}: {shown}")
        try:
            value = self._watch(trial, job, folder)
        except StoppedError:
            # The next worker begins with it, where it stopped.
            RetryHeartbeatStaleTrialCallback()(self.study, self._frozen(trial))
            raise
        finally:
            job.kill()
            lock.release()
        self._tell(f"finished  {folder.name}: {self.sweep.metric} {value:.6g}")
        return value

    def _frozen(self, trial: optuna.Trial) -> FrozenTrial:
        return self.study.get_trials()[trial.number]

    def _claim(self, folder: Path) -> Lock:
        """Wait until processes of a worker that died have left the folder."""
        while (lock := Lock.take(folder)) is None:
            if self._stop.wait(_POLL):
                raise StoppedError
        return lock

    def _watch(self, trial: optuna.Trial, job: Job, folder: Path) -> float:
        """Report a training's metrics to Optuna, until it ends or is ended."""
        seen: dict[int, float] = {}
        while True:
            # First the status, then the metrics: the last line is there before the end.
            status = job.poll()
            for step, value in read_curve(folder / METRICS, self.sweep.metric).items():
                if step in seen:
                    continue
                seen[step] = value
                if not math.isfinite(value):
                    self._prune(folder, f"diverged at step {step}")
                trial.report(value, step)
                if trial.should_prune():
                    self._prune(folder, f"ended at step {step}: {value:.6g}")
            if status == 0:
                if reason := unfinished(folder):
                    self._crash(trial, folder, 0, [reason])
                if not seen:
                    self._crash(trial, folder, 0, [f"no {self.sweep.metric} in {METRICS}"])
                best = min if self.sweep.direction == "minimize" else max
                last = seen[max(seen)]
                return best(seen.values()) if self.sweep.judge_by == "best" else last
            if status is not None:
                self._crash(trial, folder, status, last_lines(folder / LOG))
            if self._stop.wait(_POLL):
                raise StoppedError

    def _crash(self, trial: optuna.Trial, folder: Path, status: int, lines: list[str]) -> NoReturn:
        trial.set_user_attr("exit_status", status)
        trial.set_user_attr("last_lines", lines)
        reason = lines[-1] if lines else "no output"
        self._tell(f"failed    {folder.name}: exits with {status}: {reason}")
        raise CrashedError(reason)

    def _prune(self, folder: Path, why: str) -> None:
        self._tell(f"pruned    {folder.name}: {why}")
        raise optuna.TrialPruned(why)

    def _tell(self, line: str) -> None:
        self._say(f"{time.strftime('%H:%M:%S')} {line}")


def read_curve(path: Path, metric: str) -> dict[int, float]:
    """A metric by step; NaN where the run found no finite one, nothing where it has none."""
    if not path.is_file():
        return {}
    curve = {}
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            break  # being written
        if metric in line:
            value = line[metric]
            curve[int(line["step"])] = math.nan if value is None else float(value)
    return curve


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def rows(study: optuna.Study) -> list[dict[str, Any]]:
    """A row a trial."""
    keys = sorted({key for t in study.get_trials(deepcopy=False) for key in t.params})
    return [
        {
            "trial": t.number,
            "folder": t.user_attrs.get("folder", ""),
            "state": t.state.name.lower(),
            "value": t.value if t.state == TrialState.COMPLETE else None,
            "last_step": t.last_step,
            **{key: t.params.get(key) for key in keys},
            "reason": _reason(t),
        }
        for t in study.get_trials(deepcopy=False)
    ]


def _reason(trial: FrozenTrial) -> str:
    if trial.state != TrialState.FAIL:
        return ""
    if "exit_status" not in trial.user_attrs:
        return "worker died; made again"
    lines = trial.user_attrs.get("last_lines") or ["no output"]
    return f"exit status {trial.user_attrs['exit_status']}: {lines[-1]}"
