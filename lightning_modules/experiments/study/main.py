"""`xxact study convergence | representation | scaling`: makes runs; `xxact report` shows them."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import yaml

from datamodules.io.arguments import require
from datamodules.io.files import replace_file
from lightning_modules.experiments.arguments import make_folder, parse
from lightning_modules.experiments.machine import Machine
from lightning_modules.experiments.study.convergence import Convergence
from lightning_modules.experiments.study.representation import KIND, Representation
from lightning_modules.experiments.study.run import FAILURE, RESULT, STATE, Run, finished, read_json
from lightning_modules.experiments.study.runner import Runner, main_exit
from lightning_modules.experiments.study.scaling import Scaling

KINDS: dict[str, type[Convergence | Representation | Scaling]] = {
    "convergence": Convergence,
    "representation": Representation,
    "scaling": Scaling,
}


@dataclass(frozen=True)
class Choice(Machine):
    """How to work through the runs, and which.

    Attributes:
        jobs: Runs at a time. With several, each has one thread, unless OMP_NUM_THREADS is set.
        gpus: GPUs to share out, such as [0,1]: a run sees one, several runs may share one.
        only: Make only the runs whose names match, such as `pretraining/*`.
        dry_run: Only list the runs, with what is finished.
    """

    only: str = "*"
    dry_run: bool = False


def _recipe(kind: str) -> str | None:
    return None if kind == "representation" else "regression"


def _repeatable(words: list[str]) -> list[str]:
    """`--allow-task PACKAGE.TASK` in the spelling that adds to a list."""
    parts = [word.partition("=") for word in words]
    own = ("--allow-task", "--allow_task")
    return [("--allow_task+" if p[0] in own else p[0]) + p[1] + p[2] for p in parts]


def definition_path(folder: Path, kind: str) -> Path:
    """Where a study's folder says what the study was."""
    return folder / f"{kind}.yaml"


def load_study(folder: Path, kind: str) -> Any:
    """The study that the runs in a folder were made for.

    Raises:
        ValueError: if there is none.
    """
    path = definition_path(folder, kind)
    if not path.is_file():
        raise ValueError(f"{folder}: no {kind} study here; make one with `xxact study {kind}`")
    return parse(f"xxact study {kind}", KINDS[kind], [f"--config={path}"])[0]


def main(args: Sequence[str]) -> int:
    """Run `xxact study`."""
    words = list(args)
    if not words or words[0] in ("-h", "--help"):
        print(f"usage: xxact study {' | '.join(KINDS)} --config STUDY.yaml [--jobs N] …")
        return 0
    if words[0] not in KINDS:
        raise ValueError(f"no study {words[0]!r}; there are {', '.join(KINDS)}")
    kind, rest = words[0], words[1:]
    if kind == KIND:
        rest = _repeatable(rest)
    study, choice, text = parse(f"xxact study {kind}", KINDS[kind], rest, Choice, _recipe(kind))
    folder = Path(study.folder)
    if choice.dry_run:
        _list(study, folder)
        return 0
    if kind == "representation":
        require("sklearn", "probes", "xxact study representation")

    def plan(results: dict[str, Any], failed: set[str]) -> list[Run]:
        return [
            run
            for run in study.plan(results, failed)
            # What is finished may be needed by others.
            if fnmatch(run.name, choice.only) or (folder / run.name / RESULT).is_file()
        ]

    runner = Runner(plan, folder, choice)
    make_folder(folder)
    replace_file(definition_path(folder, kind), yaml.safe_dump(text, sort_keys=False))
    complete = runner.run()
    if complete:
        print(f"all runs finished; xxact report {kind} --study {folder}")
    return main_exit(complete)


def load_results(study: Any, folder: Path) -> dict[str, Any]:
    """Results of all runs of a study that have finished, by name."""
    results: dict[str, Any] = {}
    failed: set[str] = set()
    while True:
        runs = study.plan(results, failed)
        known = len(results) + len(failed)
        for run in runs:
            if run.name not in results and (result := read_json(folder / run.name / RESULT)):
                results[run.name] = result
        # A rate that failed is out of the race: the runs at the best of the others are known.
        failed = {r.name for r in runs if (folder / r.name / FAILURE).is_file()} - results.keys()
        if len(results) + len(failed) == known:
            return results


def _list(study: Any, folder: Path) -> None:
    results = load_results(study, folder)
    for run in study.plan(results, set()):
        print(f"{_state(run, folder):<9} {run.name}")


def _state(run: Run, folder: Path) -> str:
    """What the runner would find: `changed` is what it would refuse."""
    try:
        done = finished(run, folder) is not None
    except ValueError:
        return "changed"
    return "finished" if done else "begun" if (folder / run.name / STATE).is_file() else "to do"
