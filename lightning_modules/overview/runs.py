"""`xxact runs`: one table of all runs: state, changed keys, monitored value, main errors, time."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datamodules.io.arguments import ArgumentParser, printable
from datamodules.io.files import replace_table
from lightning_modules.overview.changes import changed
from lightning_modules.training.recipe_files import read_yaml
from lightning_modules.training.run_folder import (
    CHECKPOINTS,
    CONFIG,
    METRICS_FINAL,
    start_path,
    unfinished,
)
from lightning_modules.training.run_lock import TRAINING, holder

METRICS_LINES, FAILURE = "metrics.jsonl", "failure.json"

#: The metric that a task watches, for older runs, which do not tell; known here since importing the
#: task would import torch.
MONITORS = {
    "MaskedXRD": "val/loss",
    "MaskedContrastive": "val/loss",
    "Contrastive": "val/alignment/loss",
    "Regression": "val/standardised_mae",
}
#: Main errors: of properties, of reconstructions, of the alignment.
_MAIN = re.compile(r"val/(\w+/[^/]+/mae|masked/vs_mean_pattern|alignment/random/[^/]+/recall_at_1)")
#: Folders are looked through so deep: runs/STUDY/KIND/RUN/SEED.
_DEPTH = 5


@dataclass
class Row:
    """What is known of a run.

    Attributes:
        run: Its folder.
        task: The task's name.
        state: `running`, `finished`, `stopped` (a checkpoint is there: `--resume` goes on), or
            `failed` (nothing to go on from, or a study gave it up).
        step: The last step that is known.
        steps: How many there are to be; None where the steps do not end the run.
        recipes: The files that it was made from, in their order; empty if it does not tell.
        monitor: Name of the monitored metric.
        value: Its last value.
        best: Its best value.
        seconds: Of training, over all resumptions.
        changed: Keys in which the run differs from its recipe.
        errors: Main errors by name.
        wrong: What could not be read, or why the run failed.
    """

    run: Path
    task: str = ""
    state: str = "failed"
    step: int | None = None
    steps: int | None = None
    recipes: str = ""
    monitor: str = ""
    value: float | None = None
    best: float | None = None
    seconds: float | None = None
    changed: dict[str, Any] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    wrong: str = ""

    def plain(self) -> dict[str, Any]:
        """By column: what is known of any run, then its changed keys and main errors."""
        own = {name: value for name, value in vars(self).items() if not isinstance(value, dict)}
        text = {key: json.dumps(v) if isinstance(v, dict | list) else v for key, v in
                self.changed.items()}  # fmt: skip
        return own | text | self.errors


def find(folder: Path, depth: int = _DEPTH) -> Iterator[Path]:
    """The runs in a folder, and in the folders in it, by name."""
    names = {entry.name: entry for entry in _entries(folder)}
    if names.keys() & {CONFIG, METRICS_LINES, METRICS_FINAL, CHECKPOINTS}:
        yield folder
    elif depth:
        for name, entry in sorted(names.items()):
            if entry.is_dir(follow_symlinks=False):
                yield from find(folder / name, depth - 1)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        return list(os.scandir(folder))
    except OSError:
        return []


def read_run(folder: Path, configs: Path) -> Row:
    """What is known of a run, however old or damaged its folder is.

    Args:
        folder: The run's.
        configs: The folder of recipes.
    """
    row, wrong, newest = Row(folder), [], _newest_config(folder)
    config: dict[str, Any] = {}
    try:
        config = _keys_of(read_yaml(newest), CONFIG)
    except ValueError as error:
        wrong.append(str(error).removeprefix(f"{folder}/"))
    model, trainer = (_dictionary(config.get(group)) for group in ("model", "trainer"))
    row.task = str(model.get("class_path", "")).rpartition(".")[2]
    limit = trainer.get("max_steps")
    row.steps = limit if isinstance(limit, int) and limit > 0 else None
    made_from, monitor = _start(start_path(newest), wrong)
    row.recipes = ", ".join(made_from)
    row.changed = changed(config, configs, made_from) if config else {}

    lines, damage = _lines(folder / METRICS_LINES)
    final = {}
    if (folder / METRICS_FINAL).is_file():
        try:
            final = _keys_of(json.loads((folder / METRICS_FINAL).read_text()), METRICS_FINAL)
        except (OSError, ValueError) as error:
            damage = damage or f"{METRICS_FINAL}: {' '.join(str(error).split())}"
    if damage:
        wrong.append(damage)
    _measure(row, lines, final, monitor)
    row.state = _state(folder, config, wrong)
    row.wrong = "; ".join(wrong)
    return row


def _newest_config(folder: Path) -> Path:
    """The configuration of the last start: `config.yaml`, or `config.N.yaml` of a resumed run."""
    resumed = [p for p in folder.glob("config.*.yaml") if p.name.split(".")[1].isdigit()]
    return max(resumed, key=lambda p: int(p.name.split(".")[1]), default=folder / CONFIG)


def _start(path: Path, wrong: list[str]) -> tuple[list[str], str]:
    """Recipe files and monitored metric that a start has told; what it did not tell is empty."""
    try:
        told = _keys_of(json.loads(path.read_text(encoding="utf-8")), path.name)
    except FileNotFoundError:
        return [], ""
    except (OSError, ValueError, RecursionError) as error:
        wrong.append(f"{path.name}: {' '.join(str(error).removeprefix(f'{path.name}: ').split())}")
        return [], ""
    recipes, monitor = told.get("recipes"), told.get("monitor")
    files = [file for file in recipes if isinstance(file, str)] if isinstance(recipes, list) else []
    return files, monitor if isinstance(monitor, str) else ""


def _keys_of(content: Any, name: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ValueError(f"{name}: holds no keys")
    return content


def _dictionary(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _lines(path: Path) -> tuple[list[dict[str, Any]], str]:
    """The validations of a run, and what is wrong with their file."""
    try:
        texts = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return [], ""
    except OSError as error:
        return [], f"{path.name}: {error.strerror}"
    lines, broken = [], 0
    for text in texts:
        try:
            lines.append(_keys_of(json.loads(text), path.name))
        except ValueError:
            broken += 1
    return lines, f"{path.name}: {broken} of {len(texts)} lines unreadable" if broken else ""


def _measure(row: Row, lines: list[dict[str, Any]], final: dict[str, Any], monitor: str) -> None:
    """Fill in step, time, the monitored value and the main errors."""
    last = final or (lines[-1] if lines else {})
    step, seconds = _number(last.get("step")), _number(last.get("wall_time"))
    row.step = None if step is None else int(step)
    row.seconds = seconds
    row.monitor = monitor or MONITORS.get(row.task, "val/loss" if "val/loss" in last else "")
    row.value = _number(last.get(row.monitor))
    known = [_number(line.get(row.monitor)) for line in [*lines, final]]
    row.best = min((value for value in known if value is not None), default=None)
    numbers = {name: _number(value) for name, value in last.items() if _MAIN.fullmatch(name)}
    row.errors = {name: value for name, value in numbers.items() if value is not None}


def _number(value: Any) -> float | None:
    usable = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if usable and math.isfinite(value) else None


def _state(folder: Path, config: dict[str, Any], wrong: list[str]) -> str:
    """What the run is doing; why it failed goes to `wrong`."""
    if holder(folder, TRAINING):
        return "running"
    if (folder / FAILURE).is_file():
        wrong.append(f"given up by its study or sweep, see {FAILURE}")
        return "failed"
    try:
        if config and not unfinished(folder):
            return "finished"
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        wrong.append(f"{type(error).__name__}: {' '.join(str(error).split())}")
    if any((folder / CHECKPOINTS).glob("last*.ckpt")) or any(folder.glob("hpc_ckpt_*.ckpt")):
        return "stopped"
    wrong.append("no checkpoint to go on from")
    return "failed"


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict | list):
        value = json.dumps(value)
    return printable(str(value), 60)


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def _cells(row: Row) -> list[str]:
    step = "" if row.step is None else str(row.step)
    best = "" if row.best in (None, row.value) else f" (best {_value(row.best)})"
    name = row.monitor.removeprefix("val/")
    return [
        printable(str(row.run), 100),
        row.task,
        row.state,
        f"{step}/{row.steps}" if row.steps else step,
        _duration(row.seconds),
        "" if row.value is None else f"{name} {_value(row.value)}{best}",
        ", ".join(f"{n.removeprefix('val/')} {_value(v)}" for n, v in row.errors.items()),
        ", ".join(f"{key}={_value(value)}" for key, value in row.changed.items()),
        row.wrong and f"! {printable(row.wrong, 300)}",
    ]


_HEADS = ["run", "task", "state", "step", "time", "monitored", "main errors", "changed", ""]


def _print(rows: Sequence[Row]) -> None:
    """A table; of a run with much to tell the rest goes to lines of its own."""
    cells = [_HEADS, *map(_cells, rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(6)]
    total = shutil.get_terminal_size().columns if sys.stdout.isatty() else 10_000
    for line in cells:
        start = "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=False))
        rest = [text for text in line[6:] if text]
        whole = "  ".join([start, *rest]).rstrip()
        print(
            whole
            if len(whole) <= total
            else "\n".join([start.rstrip(), *(f"    {r}" for r in rest)])
        )


def _sorted(rows: list[Row], key: str, reverse: bool) -> list[Row]:
    """Rows by a column; those that have nothing there come last, whatever the direction."""
    column = {"time": "seconds", "monitored": "value"}.get(key, key)
    found = [(row.plain().get(column), row) for row in rows]
    known = [(value, row) for value, row in found if value not in (None, "")]
    if not known:
        names = sorted({name for row in rows for name in row.plain()})
        raise ValueError(f"--sort {key}: no run has it; there are {', '.join(names)}")
    if not all(isinstance(value, int | float) for value, _ in known):
        known = [(str(value), row) for value, row in known]
    known.sort(key=lambda pair: pair[0], reverse=reverse)
    return [row for _, row in known] + [row for value, row in found if value in (None, "")]


def table(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The same columns for all: those of any run, all changed keys, all main errors."""
    plain = [row.plain() for row in rows]
    columns = list(dict.fromkeys(name for line in plain for name in line))
    return [{name: line.get(name) for name in columns} for line in plain]


def main(args: Sequence[str]) -> int:
    """Run `xxact runs`."""
    parser = ArgumentParser(prog="xxact runs", description=__doc__)
    parser.add_argument("folder", nargs="*", type=Path, help="where to look (default: runs)")
    parser.add_argument(
        "--sort",
        default="run",
        metavar="KEY",
        help="run, task, state, step, time, monitored, a changed key or a metric",
    )
    parser.add_argument("--reverse", action="store_true", help="the largest first")
    parser.add_argument("--csv", action="store_true", help="a column for every key and metric")
    parser.add_argument("--output", type=Path, metavar="FILE.csv", help="write that there")
    parser.add_argument("--configs", type=Path, default=Path("configs"), help="folder of recipes")
    given = parser.parse_args(args)
    folders: list[Path] = given.folder or [Path("runs")]
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"{folder}: no such folder; name the one that your runs lie in")
    rows = [read_run(run, given.configs) for folder in folders for run in find(folder)]
    if not rows:
        raise ValueError(f"{', '.join(map(str, folders))}: holds no run")
    rows = _sorted(rows, given.sort, given.reverse)
    if given.output is not None:
        replace_table(given.output, table(rows))
        print(given.output)
    elif given.csv:
        lines = table(rows)
        writer = csv.DictWriter(sys.stdout, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    else:
        _print(rows)
    return 0
