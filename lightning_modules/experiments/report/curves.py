"""`xxact report curves`: validation error of any runs against steps and against CPU time.

Steps of different models cost different time, so that what is better after equal steps may be worse
after equal time. The time is what `metrics.jsonl` recorded: that of the first process with all its
threads, validations included.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from datamodules.io.arguments import ArgumentParser
from lightning_modules.experiments.report.tables import Report, colours, logarithmic
from lightning_modules.training.callbacks.every_run import METRICS_LINES

#: Which answer of a run is shown, the first that it has.
_MODES = ("both", "composition", "xrd")
#: Times at which the runs are compared, evenly on a log scale.
_BUDGETS = 8


@dataclass(frozen=True)
class Curve:
    """A run's validations, V of them.

    Attributes:
        steps: Optimizer steps, (V,).
        seconds: CPU seconds, (V,).
        errors: Validation errors, (V,).
        metric: Key of the errors.
        recorded: Whether the run recorded its CPU time.
    """

    steps: np.ndarray
    seconds: np.ndarray
    errors: np.ndarray
    metric: str
    recorded: bool

    def at(self, budget: float) -> float:
        """The error at the last validation within so many CPU seconds; NaN before the first."""
        within = np.flatnonzero(self.seconds <= budget)
        return float(self.errors[within[-1]]) if len(within) else math.nan


def read(folder: Path, target: str, seconds_a_step: float | None) -> Curve:
    """The curve of a run.

    Args:
        folder: The run's.
        target: Whose mean absolute error is shown: of both modalities, else of the one it has.
        seconds_a_step: CPU seconds of a step, for a run that recorded no CPU time.

    Raises:
        ValueError: if the run has no such validations, or no time.
    """
    path = folder / METRICS_LINES
    if not path.is_file():
        raise ValueError(f"{folder}: has no {METRICS_LINES}; give the folder of a run")
    lines = []
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            lines.append(dict(json.loads(text)))
        except ValueError:
            raise ValueError(f"{path}: line {number} is no JSON; delete it") from None
    candidates = [f"val/{mode}/{target}/mae" for mode in _MODES]
    metric = next((key for key in candidates if any(key in line for line in lines)), None)
    if metric is None:
        known = sorted({key.split("/")[2] for line in lines for key in line if "/mae" in key})
        told = f"it has {', '.join(known)}" if known else "it has no regression's validation"
        raise ValueError(f"{path}: no error of {target!r}: {told}")
    lines = [line for line in lines if line.get(metric) is not None]
    steps = np.array([line["step"] for line in lines], float)
    recorded = all(line.get("cpu_time") is not None for line in lines)
    if recorded:
        seconds = np.array([line["cpu_time"] for line in lines], float)
    elif seconds_a_step is not None:
        seconds = steps * seconds_a_step
    else:
        raise ValueError(
            f"{path}: records no CPU time (made before it was recorded); say what a step took "
            "with --cpu-a-step NAME=SECONDS"
        )
    errors = np.array([line[metric] for line in lines], float)
    return Curve(steps, seconds, errors, metric, recorded)


def report(runs: dict[str, list[Curve]], target: str, unit: str = "") -> Report:
    """Tables and a figure of named runs, several for a name where seeds differ."""
    out = Report(f"Error against steps and CPU time: {target}")
    estimated = [name for name, curves in runs.items() if not all(c.recorded for c in curves)]
    told = f" Of {', '.join(estimated)}: steps times what a step was said to take."
    out.say(
        "Validation errors; means of the runs of a name. CPU time of the first process with all "
        "its threads, validations included; no pretraining is counted."
        + (told if estimated else "")
    )
    out.table("runs", "Runs", [_row(name, curves) for name, curves in runs.items()])
    first = min(c.seconds[0] for curves in runs.values() for c in curves)
    last = max(c.seconds[-1] for curves in runs.values() for c in curves)
    budgets = [
        {"CPU s": f"{budget:.3g}"}
        | {name: float(np.mean([c.at(budget) for c in curves])) for name, curves in runs.items()}
        for budget in np.geomspace(first, last, _BUDGETS)
    ]
    out.table(
        "budgets",
        "Error after equal CPU time (–: before a first validation; ended runs keep their last)",
        budgets,
    )
    out.figure("curves", "Validation error against steps and CPU time.", _figure(runs, unit))
    out.numbers = {
        name: [
            {"metric": c.metric, "recorded": c.recorded, "steps": c.steps.tolist(),
             "seconds": c.seconds.tolist(), "errors": c.errors.tolist()}
            for c in curves
        ]
        for name, curves in runs.items()
    }  # fmt: skip
    return out


def _row(name: str, curves: Sequence[Curve]) -> dict[str, Any]:
    return {
        "name": name,
        "answer": curves[0].metric,
        "runs": len(curves),
        "steps": float(np.mean([c.steps[-1] for c in curves])),
        "CPU s": float(np.mean([c.seconds[-1] for c in curves])),
        "CPU ms a step": float(np.mean([1000 * c.seconds[-1] / c.steps[-1] for c in curves])),
        "best error": float(np.mean([np.nanmin(c.errors) for c in curves])),
        "last error": float(np.mean([c.errors[-1] for c in curves])),
    }


def _figure(runs: dict[str, list[Curve]], unit: str) -> Figure:
    figure = Figure(figsize=(9.0, 4.0), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    colour = colours(list(runs))
    for name, curves in runs.items():
        for axes, kind in ((left, "steps"), (right, "seconds")):
            for i, curve in enumerate(curves):
                axes.plot(
                    getattr(curve, kind),
                    curve.errors,
                    color=colour[name],
                    lw=1.4,
                    marker="o",
                    ms=2.5,
                    alpha=0.8,
                    label=name if i == 0 else None,
                )
    for axes, label in ((left, "steps"), (right, "CPU seconds")):
        axes.set(xlabel=label)
        logarithmic(axes.xaxis)
        axes.grid(alpha=0.2, which="both")
    left.set(ylabel=f"validation error, {unit}" if unit else "validation error")
    logarithmic(left.yaxis)
    right.legend(frameon=False, fontsize=8)
    return figure


def main(argv: Sequence[str]) -> int:
    """Runs `xxact report curves`."""
    parser = ArgumentParser(prog="xxact report curves", description=__doc__)
    parser.add_argument(
        "--run",
        action="append",
        required=True,
        metavar="NAME=FOLDER",
        help="repeatable; runs of one name are seeds of one line",
    )
    parser.add_argument("--target", required=True, help="the target whose error is shown")
    parser.add_argument("--unit", default="", help="of the target, for the picture")
    parser.add_argument(
        "--cpu-a-step",
        action="append",
        default=[],
        metavar="NAME=SECONDS",
        help="CPU seconds of a step, for runs that recorded none",
    )
    parser.add_argument("--output", type=Path, default=Path("curves"), help="folder to write")
    given = parser.parse_args(argv)
    if given.output.exists() and not given.output.is_dir():
        raise ValueError(f"{given.output}: is a file; give a folder with --output")
    named = [_pair("--run", word) for word in given.run]
    steps = dict(_pair("--cpu-a-step", word) for word in given.cpu_a_step)
    if strange := sorted(steps.keys() - {name for name, _ in named}):
        raise ValueError(f"--cpu-a-step {strange[0]}: no --run has this name")
    runs: dict[str, list[Curve]] = {}
    for name, folder in named:
        cost = _positive(name, steps[name]) if name in steps else None
        runs.setdefault(name, []).append(read(Path(folder), given.target, cost))
    written = report(runs, given.target, given.unit).write(given.output)
    print(written[0].read_text(encoding="utf-8"))
    print("\n".join(map(str, written)))
    return 0


def _pair(flag: str, word: str) -> tuple[str, str]:
    name, sign, value = word.partition("=")
    if not (name and sign and value):
        raise ValueError(f"{flag} {word}: give NAME=VALUE")
    return name, value


def _positive(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (0 < value < math.inf):
        raise ValueError(f"--cpu-a-step {name}={text}: give seconds above 0")
    return value
