"""Curves from scratch and from each pretraining, and how much sooner the latter get there.

The threshold is, seed by seed, the lowest validation error that the model from scratch reaches.
Its steps to there over another start's steps to there, with the same seed, is the ratio: above 1,
pretraining is faster. A start that never gets there within the budget is *censored*: it would need
more steps than the budget, so its ratio is below that of the budget, which is used in its place.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lightning_modules.experiments.report.breakdown import breakdown
from lightning_modules.experiments.report.statistics import first_crossing
from lightning_modules.experiments.report.tables import Report, colours, logarithmic, span
from lightning_modules.experiments.study.convergence import Convergence, lowest
from lightning_modules.experiments.study.main import load_results, load_study
from lightning_modules.experiments.study.pretraining import SCRATCH
from lightning_modules.metrics.bootstrap import DRAWS, interval

#: What steps are also counted in: the key of a curve's line.
UNITS = {"steps": "step", "samples": "samples_seen", "seconds": "wall_time"}
#: A pretraining serves this many regressions.
TASKS = (1, 10, 100)
#: Errors to reach, from the first validation from scratch to its best, evenly on a log scale.
_LEVELS = 5


def report(study_folder: Path) -> Report:
    """Everything that the finished runs show.

    Raises:
        ValueError: if no start has a run to compare.
    """
    study: Convergence = load_study(study_folder, "convergence")
    results = load_results(study, study_folder)
    final = _final_runs(study, results)
    if not final.get(SCRATCH):
        raise ValueError(f"{study_folder}: no run from scratch has finished yet")
    out = Report("Convergence")
    out.numbers = {"metric": study.metric, "starts": {}}
    speed, errors = [], []
    for start, runs in final.items():
        numbers = _compare(study, start, final[SCRATCH], runs, results)
        out.numbers["starts"][start] = numbers
        speed.append(_speed_row(start, numbers))
        errors.append(_error_row(study, start, runs))
    out.say(
        f"Metric: `{study.metric}`; seeds {', '.join(map(str, study.seeds))}; learning rates "
        "tuned on the validation split with the first seed. Ratios above 1: pretraining is "
        "faster. The interval is a bootstrap over seeds: with three of them it can only be as wide "
        "as they are apart. ≤: never got there within the budget, the ratio of the budget instead. "
        "Seconds are wall time, which means something only on a machine that did nothing else."
    )
    out.table("speed", "Steps to the best validation error from scratch", speed)
    out.table("range", "Ratio of steps to reach an error", _range_rows(final))
    out.table("errors", "Errors", errors)
    out.table("tuning", "Lowest validation error by learning rate", _tuning_rows(study, results))
    out.figure("curves", "Validation error of every seed (thin) and their mean.", _curves(final))
    out.figure(
        "ratio",
        "Steps from scratch over steps of each start, to reach the same error; mean over seeds.",
        _ratio_figure(study, final),
    )
    for start in study.starts:
        missing = len(study.seeds) - len(final.get(start, {}))
        if missing:
            out.say(f"{start}: {missing} of {len(study.seeds)} seeds are missing.")
    return out


def _final_runs(study: Convergence, results: dict[str, Any]) -> dict[str, dict[int, Any]]:
    """Results at the tuned learning rate, by start and seed, with their curves as arrays."""
    final: dict[str, dict[int, Any]] = {}
    for start in study.starts:
        tried = {study.run(start, rate, study.seeds[0]).name for rate in study.rates(start)}
        rate = study.tuned(start, results, tried - results.keys())
        if rate is None:
            continue
        for seed in study.seeds:
            run = study.run(start, rate, seed)
            if run.name in results:
                result = results[run.name]
                final.setdefault(start, {})[seed] = result | {
                    "values": np.array([line[study.metric] for line in result["curve"]], float)
                }
    return final


def _reach(result: dict[str, Any], unit: str, threshold: float) -> tuple[float, bool]:
    """When a run reaches a threshold, and whether it does; else its end."""
    when = [line[UNITS[unit]] for line in result["curve"]]
    found = first_crossing(when, result["values"], threshold)
    return (when[-1], False) if found is None else (found, True)


def _compare(
    study: Convergence,
    start: str,
    scratch: dict[int, Any],
    runs: dict[int, Any],
    results: dict[str, Any],
) -> dict[str, Any]:
    """Ratios of a start, by what is counted, without and with the cost of pretraining."""
    seeds = sorted(scratch.keys() & runs.keys())
    numbers: dict[str, Any] = {
        "seeds": seeds,
        "learning_rate": next(iter(runs.values()))["factors"]["learning_rate"],
    }
    thresholds = {seed: float(np.nanmin(scratch[seed]["values"])) for seed in seeds}
    numbers["threshold"] = thresholds
    for unit in UNITS:
        cost = {s: _pretraining_cost(study, start, s, unit, results) for s in seeds}
        reached = {s: _reach(runs[s], unit, thresholds[s]) for s in seeds}
        reference = {s: _reach(scratch[s], unit, thresholds[s])[0] for s in seeds}
        alone = [reference[s] / reached[s][0] for s in seeds]
        numbers[unit] = {
            "from_scratch": [reference[s] for s in seeds],
            "needed": [reached[s][0] for s in seeds],
            "censored": [not reached[s][1] for s in seeds],
            "ratio": _mean_ratio(alone),
        }
        if unit != "steps":
            numbers[unit]["pretraining"] = [cost[s] for s in seeds]
            shared = {
                n: _mean_ratio([reference[s] / (reached[s][0] + cost[s] / n) for s in seeds])
                for n in TASKS
            }
            numbers[unit]["ratio_with_pretraining"] = shared[1]
            numbers[unit]["ratio_with_pretraining_for_tasks"] = shared
    return numbers


def _pretraining_cost(
    study: Convergence, start: str, seed: int, unit: str, results: dict[str, Any]
) -> float:
    """What pretraining cost, with all that came before it; nothing from scratch."""
    if unit == "steps":
        return 0.0
    names = [run.name for run in study.pretraining.chain(start, seed)]
    return sum(float(results[name]["final"][UNITS[unit]]) for name in names)


def _mean_ratio(ratios: Sequence[float]) -> dict[str, Any]:
    """Geometric mean with a bootstrap interval over seeds; one seed has none."""
    logs = np.log(ratios)
    drawn = np.random.default_rng(0).integers(0, len(logs), (DRAWS, len(logs)))
    low, high = interval(np.exp(logs[drawn].mean(axis=1))) if len(logs) > 1 else (np.nan, np.nan)
    return {"each": list(ratios), "mean": float(np.exp(logs.mean())), "low": low, "high": high}


def _shown(ratio: dict[str, Any], with_interval: bool = True) -> str:
    text = f"{ratio['mean']:.3g}"
    single = np.isnan(ratio["low"]) or not with_interval
    return text if single else f"{text} {span(ratio['low'], ratio['high'])}"


def _speed_row(start: str, numbers: dict[str, Any]) -> dict[str, Any]:
    steps, samples, seconds = (numbers[unit] for unit in UNITS)
    n_censored = sum(steps["censored"])

    def shown(ratio: dict[str, Any]) -> str:
        return f"{'≤ ' if n_censored else ''}{_shown(ratio, start != SCRATCH)}"

    return {
        "start": start,
        "learning rate": numbers["learning_rate"],
        "seeds": len(numbers["seeds"]),
        "never got there": n_censored,
        "steps": float(np.mean(steps["needed"])),
        "ratio of steps": shown(steps["ratio"]),
        **{
            f"ratio of samples, with pretraining for {n}": shown(ratio)
            for n, ratio in samples["ratio_with_pretraining_for_tasks"].items()
        },
        "ratio of seconds, with pretraining": shown(seconds["ratio_with_pretraining"]),
    }


def _range_rows(final: dict[str, dict[int, Any]]) -> list[dict[str, Any]]:
    """Ratios of steps at errors between those of the first validation from scratch and its best.

    The levels are each seed's own; a start has none where one of its seeds never gets there.
    """
    scratch = final[SCRATCH]
    rows = []
    for level in np.linspace(0.0, 1.0, _LEVELS):
        error = {
            seed: float(run["values"][0] ** (1 - level) * np.nanmin(run["values"]) ** level)
            for seed, run in scratch.items()
        }
        row: dict[str, Any] = {
            "error": float(np.mean(list(error.values()))),
            "steps from scratch": float(
                np.mean([_reach(run, "steps", error[seed])[0] for seed, run in scratch.items()])
            ),
        }
        for start in [name for name in final if name != SCRATCH]:
            seeds = sorted(scratch.keys() & final[start].keys())
            ratios = [_ratio_at(scratch[s], final[start][s], error[s]) for s in seeds]
            row[start] = "" if np.isnan(ratios).any() else _shown(_mean_ratio(ratios))
        rows.append(row)
    return rows


def _error_row(study: Convergence, start: str, runs: dict[int, Any]) -> dict[str, Any]:
    best = [float(np.nanmin(run["values"])) for run in runs.values()]
    last = [float(run["values"][-1]) for run in runs.values()]
    row = {
        "start": start,
        "best validation": float(np.mean(best)),
        "± seeds": float(np.std(best, ddof=1)) if len(best) > 1 else float("nan"),
        "last validation": float(np.mean(last)),
    }
    name = study.metric.replace("val/", "test/", 1)
    tests = [run["test"][name] for run in runs.values() if name in run.get("test", {})]
    row["test"] = float(np.mean(tests)) if tests else float("nan")
    row["± seeds of the test"] = float(np.std(tests, ddof=1)) if len(tests) > 1 else float("nan")
    # The metric is `val/MODE/TARGET/mae`, or one of all targets, which has no materials.
    return row | breakdown(runs.values(), "/".join(study.metric.split("/")[1:3]))


def _tuning_rows(study: Convergence, results: dict[str, Any]) -> list[dict[str, Any]]:
    rates = sorted({rate for start in study.starts for rate in study.rates(start)})
    rows = []
    for start in study.starts:
        row: dict[str, Any] = {"start": start}
        for rate in rates:
            found = results.get(study.run(start, rate, study.seeds[0]).name)
            row[f"{rate:g}"] = lowest(found["curve"], study.metric) if found else float("nan")
        rows.append(row)
    return rows


def _curves(final: dict[str, dict[int, Any]]) -> Figure:
    figure = Figure(figsize=(7.0, 4.4), layout="constrained")
    axes = figure.add_subplot()
    colour = colours(list(final))
    for start, runs in final.items():
        steps = [[line["step"] for line in run["curve"]] for run in runs.values()]
        for run, x in zip(runs.values(), steps, strict=True):
            axes.plot(x, run["values"], color=colour[start], lw=0.6, alpha=0.5)
        n = min(map(len, steps))
        mean = np.mean([run["values"][:n] for run in runs.values()], axis=0)
        rate = next(iter(runs.values()))["factors"]["learning_rate"]
        axes.plot(steps[0][:n], mean, color=colour[start], lw=2, label=f"{start} (rate {rate:g})")
    best = np.mean([np.nanmin(run["values"]) for run in final[SCRATCH].values()])
    axes.axhline(best, color="0.5", lw=0.8, ls="--")
    where = ("axes fraction", "data")
    axes.annotate("best from scratch", (0.01, best), xycoords=where, va="bottom", fontsize=8)
    axes.set(xlabel="steps", ylabel="validation error")
    logarithmic(axes.yaxis)
    axes.legend(frameon=False)
    axes.grid(alpha=0.2, which="both")
    return figure


def _ratio_figure(study: Convergence, final: dict[str, dict[int, Any]]) -> Figure:
    figure = Figure(figsize=(7.0, 4.0), layout="constrained")
    axes = figure.add_subplot()
    colour = colours(list(final))
    for start, runs in final.items():
        if start == SCRATCH:
            continue
        curves = []
        for seed in sorted(final[SCRATCH].keys() & runs.keys()):
            scratch = final[SCRATCH][seed]
            # From what the first validation from scratch finds down to its best.
            top, best = scratch["values"][0], np.nanmin(scratch["values"])
            thresholds = np.geomspace(top, best, 60)
            ratios = [_ratio_at(scratch, runs[seed], x) for x in thresholds]
            curves.append(ratios)
            axes.plot(thresholds, ratios, color=colour[start], lw=0.6, alpha=0.4)
        if curves:
            tops = [final[SCRATCH][s]["values"][0] for s in final[SCRATCH] if s in runs]
            bests = [np.nanmin(final[SCRATCH][s]["values"]) for s in final[SCRATCH] if s in runs]
            x = np.geomspace(np.mean(tops), np.mean(bests), 60)
            axes.plot(x, np.exp(np.mean(np.log(curves), axis=0)), color=colour[start], label=start)
    axes.axhline(1.0, color="0.5", lw=0.8, ls="--")
    axes.set(xlabel="validation error to reach", ylabel="steps from scratch / steps")
    logarithmic(axes.xaxis)
    logarithmic(axes.yaxis)
    axes.invert_xaxis()
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False)
    axes.grid(alpha=0.2, which="both")
    return figure


def _ratio_at(scratch: dict[str, Any], run: dict[str, Any], threshold: float) -> float:
    ours, reached = _reach(run, "steps", threshold)
    # NaN ends the line where the start never gets.
    return _reach(scratch, "steps", threshold)[0] / ours if reached else float("nan")
