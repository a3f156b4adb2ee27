"""Error against training size, power laws, and whether two modalities gain more with more data.

Every run tests on the same materials. The bootstrap draws seeds and, the same for all runs, the
test formulas; each draw gives errors, exponents and gains, so all differences are paired.

Shapes: K draws, S sizes.
"""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lightning_modules.experiments.report.breakdown import breakdown
from lightning_modules.experiments.report.statistics import power_law
from lightning_modules.experiments.report.tables import Report, colours, logarithmic, span
from lightning_modules.experiments.study.main import load_results, load_study
from lightning_modules.experiments.study.pretraining import SCRATCH
from lightning_modules.experiments.study.scaling import Scaling
from lightning_modules.metrics.bootstrap import DRAWS, group_means, interval

#: A curve: what the model is given, and where its weights come from.
Condition = tuple[str, str]
#: Fewest sizes that a power law is fitted to.
_FEWEST = 3
STYLES, MARKERS = ("-", "--", ":", "-."), "os^D"


class Draws:
    """Bootstrapped test errors of the conditions that have finished.

    Args:
        study: The study.
        results: Its results.

    Attributes:
        sizes: Numbers of training materials by fraction.
        errors: Mean absolute errors by condition and fraction; the first is of the whole test
            split and all seeds, the others are draws, (1 + K,).
        seeds: Seeds that are there, by condition and fraction.
        beside: Errors by chemical system and within formulas, by condition and fraction.
    """

    def __init__(self, study: Scaling, results: dict[str, Any]) -> None:
        self.sizes: dict[float, int] = {}
        self.errors: dict[tuple[Condition, float], np.ndarray] = {}
        self.seeds: dict[tuple[Condition, float], list[int]] = {}
        found: dict[tuple[Condition, float], list[dict[str, Any]]] = {}
        by_seed: dict[tuple[Condition, float], list[np.ndarray]] = {}
        formulas: list[str] | None = None
        for size, start, modality, seed in product(
            study.sizes, study.starts, study.modalities, study.seeds
        ):
            result = results.get(study.run(modality, start, size, seed).name)
            if result is None:
                continue
            key = ((modality, start), size.fraction)
            name = f"{modality}/{study.target}"
            formulas = formulas or result["errors"]["formula"]
            if name not in result["errors"] or result["errors"]["formula"] != formulas:
                raise ValueError(
                    f"{result['name']}: was not tested on {name} with the same materials as the "
                    "others"
                )
            errors = np.array(result["errors"][name], float)
            there = np.isfinite(errors)
            means = group_means(errors[there][None], np.array(formulas)[there])[:, 0]
            by_seed.setdefault(key, []).append(np.concatenate(([errors[there].mean()], means)))
            self.sizes[size.fraction] = result["n_train"]
            self.seeds.setdefault(key, []).append(seed)
            found.setdefault(key, []).append(result)
        self.beside = {
            key: breakdown(runs, f"{key[0][0]}/{study.target}") for key, runs in found.items()
        }
        generator = np.random.default_rng(0)
        for key, columns in by_seed.items():
            values = np.stack(columns, axis=1)
            n = values.shape[1]
            # The seeds of a condition are drawn apart from those of others, the formulas are not.
            drawn = np.take_along_axis(values[1:], generator.integers(0, n, (DRAWS, n)), axis=1)
            self.errors[key] = np.concatenate((values[:1], drawn)).mean(axis=1)

    def fractions(self, *conditions: Condition) -> list[float]:
        """Fractions that all these conditions have, ascending."""
        return [f for f in sorted(self.sizes) if all((c, f) in self.errors for c in conditions)]

    def curve(self, condition: Condition, fractions: list[float]) -> np.ndarray:
        """Errors of a condition, (1 + K, S)."""
        return np.stack([self.errors[condition, f] for f in fractions], axis=1)

    def exponents(self, condition: Condition, fractions: list[float]) -> np.ndarray:
        """Exponents of the power law, (1 + K,)."""
        n_S = np.array([self.sizes[f] for f in fractions], float)
        return power_law(n_S, self.curve(condition, fractions))[1]


def report(study_folder: Path) -> Report:
    """Everything that the finished runs show.

    Raises:
        ValueError: if no run has finished.
    """
    study: Scaling = load_study(study_folder, "scaling")
    results = load_results(study, study_folder)
    draws = Draws(study, results)
    if not draws.errors:
        raise ValueError(f"{study_folder}: no run of the scaling study has finished yet")
    conditions = [c for c in product(study.modalities, study.starts) if draws.fractions(c)]
    out = Report("Scaling")
    out.say(
        f"Mean absolute test error of {study.target}. Intervals: 95 % of a bootstrap over "
        "seeds and test formulas, the formulas drawn alike for all runs; with one seed they say "
        "nothing about other seeds."
    )
    out.table("errors", "Errors by training size", _error_rows(draws, conditions))
    out.figure("scaling", "Test error against training size, with power laws.",
               _figure(study, draws, conditions))  # fmt: skip
    laws = {c: _law(draws, c) for c in conditions if len(draws.fractions(c)) >= _FEWEST}
    if laws:
        out.table("exponents", "Power laws: error ∝ n^(−exponent)", [
            {
                "given": given,
                "start": start,
                "exponent": law["exponent"],
                "interval": span(law["low"], law["high"]),
                "largest deviation": law["deviation"],
            }
            for (given, start), law in laws.items()
        ])  # fmt: skip
    gains = _gains(study, draws)
    if gains:
        out.say(
            "The claim *two modalities gain more with more data* is: the exponent of both is "
            "larger than that of one, the difference above 0. Gain: error of one over error of "
            "both."
        )
        out.table("gains", "Both against one modality", [_gain_row(g) for g in gains])
    starts = _pretraining(study, draws)
    if starts:
        out.table("pretraining", "Error from scratch over error pretrained", starts)
    out.numbers = {
        "sizes": draws.sizes,
        "errors": {
            "/".join(c): {f: float(draws.errors[c, f][0]) for f in draws.fractions(c)}
            for c in conditions
        },
        "power_laws": {"/".join(c): law for c, law in laws.items()},
        "gains": gains,
    }  # fmt: skip
    return out


def _point(values: np.ndarray) -> tuple[float, float, float]:
    """The value, and its interval."""
    return float(values[0]), *interval(values[1:])


def _error_rows(draws: Draws, conditions: list[Condition]) -> list[dict[str, Any]]:
    rows = []
    for fraction, n in sorted(draws.sizes.items()):
        for condition in conditions:
            if (condition, fraction) in draws.errors:
                value, low, high = _point(draws.errors[condition, fraction])
                rows.append(
                    {
                        "materials": n,
                        "given": condition[0],
                        "start": condition[1],
                        "seeds": len(draws.seeds[condition, fraction]),
                        "error": value,
                        "interval": span(low, high),
                        **draws.beside[condition, fraction],
                    }
                )
    return rows


def _law(draws: Draws, condition: Condition) -> dict[str, float]:
    fractions = draws.fractions(condition)
    exponent, low, high = _point(draws.exponents(condition, fractions))
    n_S = np.array([draws.sizes[f] for f in fractions], float)
    curve = draws.curve(condition, fractions)[:1]
    factor = float(power_law(n_S, curve)[0][0])
    deviation = float(np.abs(np.log(curve[0] / (factor * n_S**-exponent))).max())
    return {"exponent": exponent, "low": low, "high": high, "factor": factor,
            "deviation": deviation}  # fmt: skip


def _gains(study: Scaling, draws: Draws) -> list[dict[str, Any]]:
    """Both against either modality, by start: gains by size, differences of exponents."""
    found = []
    for start, single in product(study.starts, ("composition", "xrd")):
        both, one = ("both", start), (single, start)
        fractions = draws.fractions(both, one)
        if len(fractions) < 2:
            continue
        gain = draws.curve(one, fractions) / draws.curve(both, fractions)
        entry: dict[str, Any] = {"start": start, "against": single, "gains": {}}
        for i, fraction in enumerate(fractions):
            value, low, high = _point(gain[:, i])
            entry["gains"][draws.sizes[fraction]] = {"value": value, "low": low, "high": high}
        if len(fractions) >= _FEWEST:
            difference = draws.exponents(both, fractions) - draws.exponents(one, fractions)
            value, low, high = _point(difference)
            entry["difference"] = {"value": value, "low": low, "high": high}
        found.append(entry)
    return found


def _gain_row(gain: dict[str, Any]) -> dict[str, Any]:
    row = {"start": gain["start"], "both against": gain["against"]}
    for n, value in gain["gains"].items():
        row[f"gain at {n}"] = f"{value['value']:.3g} {span(value['low'], value['high'])}"
    difference = gain.get("difference")
    if difference:
        low, high = difference["low"], difference["high"]
        row["difference of exponents"] = f"{difference['value']:.3f} {span(low, high)}"
        row["more with more data"] = "yes" if low > 0 else "no" if high < 0 else "not shown"
    return row


def _pretraining(study: Scaling, draws: Draws) -> list[dict[str, Any]]:
    rows = []
    for given, start in product(study.modalities, study.starts):
        fractions = draws.fractions((given, SCRATCH), (given, start))
        if start == SCRATCH or not fractions:
            continue
        ratio = draws.curve((given, SCRATCH), fractions) / draws.curve((given, start), fractions)
        row = {"given": given, "start": start}
        for i, fraction in enumerate(fractions):
            value, low, high = _point(ratio[:, i])
            row[f"at {draws.sizes[fraction]}"] = f"{value:.3g} {span(low, high)}"
        rows.append(row)
    return rows


def _figure(study: Scaling, draws: Draws, conditions: list[Condition]) -> Figure:
    figure = Figure(figsize=(7.0, 4.8), layout="constrained")
    axes = figure.add_subplot()
    colour = colours(list(study.modalities))
    styles = {start: STYLES[i % len(STYLES)] for i, start in enumerate(study.starts)}
    for given, start in conditions:
        fractions = draws.fractions((given, start))
        n_S = np.array([draws.sizes[f] for f in fractions], float)
        curve = draws.curve((given, start), fractions)
        low, high = np.quantile(curve[1:], [0.025, 0.975], axis=0)
        label = f"{given}, {start}"
        if len(fractions) >= _FEWEST:
            factor, exponent = (float(x[0]) for x in power_law(n_S, curve[:1]))
            label += f": n^−{exponent:.2f}"
            axes.plot(n_S, factor * n_S**-exponent, color=colour[given], ls=styles[start], lw=1.2)
        marker = MARKERS[list(study.starts).index(start) % len(MARKERS)]
        axes.errorbar(
            n_S,
            curve[0],
            yerr=np.abs([curve[0] - low, high - curve[0]]),
            color=colour[given],
            ls="none",
            capsize=3,
            marker=marker,
            mfc=colour[given] if start == SCRATCH else "white",
            label=label,
        )
    axes.set(xlabel="training materials", ylabel=f"mean absolute error, {study.target}")
    logarithmic(axes.xaxis)
    logarithmic(axes.yaxis)
    axes.legend(frameon=False, fontsize=8)
    axes.grid(alpha=0.2, which="both")
    return figure
