"""`xxact report curves`: validation error of any runs against steps and against time.

Steps of different models cost different time, so that what is better after equal steps may be worse
after equal time. The time is what `metrics.jsonl` recorded, validations included: CPU time of the
first process with all its threads, or the time that passed (on a GPU, and on a machine that does
nothing else).
"""

import json
import math
import re
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
#: Times that a run records.
CLOCKS = ("cpu_time", "wall_time")
_MAE = re.compile(r"val/[^/]+/([^/]+)/mae")
#: Times at which the runs are compared, evenly on a log scale.
_BUDGETS = 8


@dataclass(frozen=True)
class Curve:
    """A run's validations, V of them.

    Attributes:
        steps: Optimizer steps, (V,).
        seconds: Time since the beginning, (V,).
        errors: Validation errors, (V,).
        metric: Key of the errors.
        recorded: Whether the run recorded this time.
    """

    steps: np.ndarray
    seconds: np.ndarray
    errors: np.ndarray
    metric: str
    recorded: bool

    def at(self, budget: float) -> float:
        """The error at the last validation within so many seconds; NaN before the first."""
        within = np.flatnonzero(self.seconds <= budget)
        return float(self.errors[within[-1]]) if len(within) else math.nan


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _lines(path: Path) -> list[dict[str, Any]]:
    """A run's validations; a last line that a kill has cut is left out."""
    texts = path.read_text(encoding="utf-8").splitlines()
    lines = []
    for number, text in enumerate(texts, 1):
        try:
            line = json.loads(text)
        except ValueError:
            if number == len(texts):
                break
            line = None
        if not isinstance(line, dict):
            raise ValueError(f"{path}: line {number} is no JSON object; delete it")
        lines.append(line)
    return lines


def read(
    folder: Path, target: str, seconds_a_step: float | None = None, clock: str = CLOCKS[0]
) -> Curve:
    """The curve of a run.

    Args:
        folder: The run's.
        target: Whose mean absolute error is shown: of both modalities, else of the one it has.
        seconds_a_step: Seconds of a step, for a run that did not record this time.
        clock: Which time, of `CLOCKS`.

    Raises:
        ValueError: if the run has no such validations, or no time.
    """
    path = folder / METRICS_LINES
    if not path.is_file():
        raise ValueError(f"{folder}: has no {METRICS_LINES}; give the folder of a run")
    lines = _lines(path)
    candidates = [f"val/{mode}/{target}/mae" for mode in _MODES]
    metric = next((key for key in candidates if any(key in line for line in lines)), None)
    if metric is None:
        found = {_MAE.fullmatch(key) for line in lines for key in line}
        known = ", ".join(sorted({match[1] for match in found if match}))
        raise ValueError(
            f"{path}: has no error of {target!r}, "
            + (f"but of {known}" if known else "nor that of another target")
        )
    lines = [line for line in lines if _number(line.get(metric)) and _number(line.get("step"))]
    if not lines:
        raise ValueError(f"{path}: no validation has a number for {metric}")
    steps = np.array([line["step"] for line in lines], float)
    recorded = all(_number(line.get(clock)) for line in lines)
    if recorded:
        seconds = np.array([line[clock] for line in lines], float)
    elif seconds_a_step is not None:
        seconds = steps * seconds_a_step
    else:
        raise ValueError(
            f"{path}: has no {clock} (runs did not always record it); say what a step took with "
            "--seconds-a-step NAME=SECONDS"
        )
    errors = np.array([line[metric] for line in lines], float)
    return Curve(steps, seconds, errors, metric, recorded)


def report(
    runs: dict[str, list[Curve]], target: str, unit: str = "", clock: str = CLOCKS[0]
) -> Report:
    """Tables and a figure of named runs, several for a name where seeds differ."""
    time = _NAMES[clock]
    out = Report(f"Error against steps and {time}: {target}")
    estimated = [name for name, curves in runs.items() if not all(c.recorded for c in curves)]
    told = f" Of {'; '.join(estimated)}: steps times what a step was said to take."
    out.say(
        f"Validation errors; means of the runs of a name. {_MEANING[clock]} Validations are "
        "included, a pretraining is not." + (told if estimated else "")
    )
    out.table("runs", "Runs", [_row(name, curves, time) for name, curves in runs.items()])
    first = min(c.seconds[0] for curves in runs.values() for c in curves)
    last = max(c.seconds[-1] for curves in runs.values() for c in curves)
    budgets = [
        {f"{time}, s": f"{budget:.3g}"}
        | {name: float(np.mean([c.at(budget) for c in curves])) for name, curves in runs.items()}
        for budget in np.geomspace(max(first, 1e-3), max(last, 1e-3), _BUDGETS)
    ]
    caption = f"Error after equal {time} (–: before a first validation; ended runs keep their last)"
    out.table("budgets", caption, budgets)
    out.figure("curves", f"Validation error against steps and {time}.", _figure(runs, unit, time))
    out.numbers = {
        name: [
            {"metric": c.metric, "recorded": c.recorded, "steps": c.steps.tolist(),
             "seconds": c.seconds.tolist(), "errors": c.errors.tolist()}
            for c in curves
        ]
        for name, curves in runs.items()
    }  # fmt: skip
    return out


_NAMES = {"cpu_time": "CPU time", "wall_time": "wall time"}
_MEANING = {
    "cpu_time": "CPU time is that of the first process with all its threads.",
    "wall_time": "Wall time means something only on a machine that did nothing else.",
}


def _row(name: str, curves: Sequence[Curve], time: str) -> dict[str, Any]:
    return {
        "name": name,
        "answer": curves[0].metric,
        "runs": len(curves),
        "steps": float(np.mean([c.steps[-1] for c in curves])),
        f"{time}, s": float(np.mean([c.seconds[-1] for c in curves])),
        "ms a step": float(np.mean([1000 * c.seconds[-1] / c.steps[-1] for c in curves])),
        "best error": float(np.mean([np.nanmin(c.errors) for c in curves])),
        "last error": float(np.mean([c.errors[-1] for c in curves])),
    }


def _figure(runs: dict[str, list[Curve]], unit: str, time: str) -> Figure:
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
    for axes, label in ((left, "steps"), (right, f"{time}, s")):
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
        "--clock", choices=CLOCKS, default=CLOCKS[0], help="which time (default: cpu_time)"
    )
    parser.add_argument(
        "--seconds-a-step",
        action="append",
        default=[],
        metavar="NAME=SECONDS",
        help="what a step took, for runs that recorded no such time",
    )
    parser.add_argument("--output", type=Path, default=Path("curves"), help="folder to write")
    given = parser.parse_args(argv)
    if given.output.exists() and not given.output.is_dir():
        raise ValueError(f"{given.output}: is a file; give a folder with --output")
    named = [_pair("--run", word) for word in given.run]
    steps = dict(_pair("--seconds-a-step", word) for word in given.seconds_a_step)
    if strange := sorted(steps.keys() - {name for name, _ in named}):
        raise ValueError(f"--seconds-a-step {strange[0]}: no --run has this name")
    runs: dict[str, list[Curve]] = {}
    for name, folder in named:
        cost = _positive(name, steps[name]) if name in steps else None
        runs.setdefault(name, []).append(read(Path(folder), given.target, cost, given.clock))
    written = report(runs, given.target, given.unit, given.clock).write(given.output)
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
        raise ValueError(f"--seconds-a-step {name}={text}: give seconds above 0")
    return value
