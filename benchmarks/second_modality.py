r"""What is the second modality worth, and where? Its gain against the variance within formulas.

    python benchmarks/second_modality.py run --folder runs/second_modality \
        --store mp=data/materials_project --store nrel=data/nrel [--seeds 0 1 2]
    python benchmarks/second_modality.py report --folder runs/second_modality --output report

`run` trains `configs/regression.yaml` (tiny model, from scratch) on every store alone, on all its
targets with enough labels and the volume per atom: given the composition, the pattern, and both,
each by itself for the same steps; then tests it once. Runs that are finished are kept, killed ones
continue when the command is given again, with more stores or seeds too. A quarter of the formulas
is held out for the test; `--by system` holds out a quarter of the chemical systems instead.

`report` writes a table, and the picture: 1 - error of both / error of the composition against the
share of the labels' variance that lies within formulas, a point for each store and target. Errors
are averaged over the seeds, material by material; intervals are 95 % of a bootstrap over the test
formulas, and say nothing of other seeds.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from datamodules.store.floor import composition_floor
from datamodules.store.store import Store
from lightning_modules.experiments.machine import Machine
from lightning_modules.experiments.recipes import Recipe
from lightning_modules.experiments.report.tables import Report, colours, span
from lightning_modules.experiments.study.pretraining import seeded
from lightning_modules.experiments.study.run import Run, Training, read_json, write_json
from lightning_modules.experiments.study.runner import Runner
from lightning_modules.metrics.bootstrap import DRAWS, drawn_sums, interval
from lightning_modules.metrics.within import WithinFormulas, pair_tolerance, within_formulas

MODALITIES: dict[str, Recipe] = {
    "composition": Recipe(["configs/modality/composition.yaml"]),
    "both": Recipe(),
    "xrd": Recipe(["configs/modality/xrd.yaml"]),
}
#: The answer from the pattern alone of the model that was trained with both.
PATTERN = "xrd, model of both"
SETS = "sets.json"
#: More than usual: intervals are over formulas, and few formulas have several structures.
TEST_SHARE = 0.25
#: Targets with fewer labels are left out.
FEWEST_LABELS = 1000


def targets_of(store: Store) -> list[str]:
    """Targets with enough labels that are not all alike, and the volume per atom."""
    labelled = [
        target.name
        for target in store.manifest.targets
        if target.count >= FEWEST_LABELS and target.std
    ]
    return [*labelled, "volume_per_atom"]


def training(name: str, folder: str, modality: str, seed: int, given: dict[str, Any]) -> Training:
    """One regression and its test."""
    store = Store(folder)
    steps = given["steps"]
    recipe = Recipe(
        ["configs/regression.yaml"],
        {
            "data.stores": [folder],
            "data.targets": targets_of(store),
            "data.global_batch_size": given["batch"],
            "data.max_elements": max(8, store.manifest.max_elements),
            "data.split.by": given["by"],
            "data.split.test": TEST_SHARE,
            "trainer.max_steps": steps,
            "trainer.val_check_interval": max(1, steps // 3),
            **({"trainer.precision": "bf16-mixed"} if given["bf16"] else {}),
        },
    )
    return Training(
        name=f"{name}/{given['by']}/{modality}/seed={seed}",
        factors={"set": name, "given": modality, "seed": seed},
        recipe=recipe + MODALITIES[modality] + seeded(seed),
        test="last",
    )


def make(given: argparse.Namespace) -> None:
    """Make the runs, whole seeds one after the other."""
    options = {"steps": given.steps, "batch": given.batch, "bf16": given.bf16, "by": given.by}
    sets = dict(word.split("=", 1) for word in given.store)
    known = read_json(given.folder / SETS) or {}
    write_json(given.folder / SETS, known | sets)

    def plan(results: dict[str, Any], failed: set[str]) -> Sequence[Run]:
        return [
            training(name, folder, modality, seed, options)
            for seed in given.seeds
            for name, folder in sets.items()
            for modality in given.modalities
        ]

    raise SystemExit(0 if Runner(plan, given.folder, Machine(jobs=given.jobs)).run() else 1)


def predictions(run: Path) -> dict[str, list[str]]:
    """Columns of the predictions of a tested run."""
    with (run / "predictions.test.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {name: [row[name] for row in rows] for name in rows[0]}


class Answers:
    """Test predictions of one set and target.

    Attributes:
        formula: Numbers of the formulas, (N,).
        label: Labels, NaN where missing, (N,).
        value: Predictions, (N, seeds), by what the model was given, and `PATTERN`.
    """

    def __init__(self, folder: Path, target: str) -> None:
        self.value: dict[str, np.ndarray] = {}
        for modality in MODALITIES:
            tables = [
                predictions(run)
                for run in sorted((folder / modality).glob("seed=*"))
                if (run / "result.json").is_file()
            ]
            if not tables:
                continue

            def stacked(column: str, tables: list[dict[str, list[str]]] = tables) -> np.ndarray:
                return np.stack([np.array(t[column], float) for t in tables], axis=1)

            self.value[modality] = stacked(f"{target}_{modality}")
            if modality == "both":
                self.value[PATTERN] = stacked(f"{target}_xrd")
            self.formula = np.unique(tables[0]["formula"], return_inverse=True)[1]
            self.label = np.array(tables[0][target], float)

    def errors(self) -> dict[str, np.ndarray]:
        """Absolute errors averaged over the seeds, of the materials with a label."""
        there = np.isfinite(self.label)
        return {
            name: np.abs(value - self.label[:, None])[there].mean(axis=1)
            for name, value in self.value.items()
        }

    def gain(self, over: str = "composition") -> tuple[float, float, float]:
        """1 - error of both over that of one modality, with its interval."""
        errors, there = self.errors(), np.isfinite(self.label)
        group = np.unique(self.formula[there], return_inverse=True)[1]
        sums = np.stack([np.bincount(group, errors[name]) for name in ("both", over)])
        both, one = drawn_sums(sums, DRAWS).T
        return float(1 - sums[0].sum() / sums[1].sum()), *interval(1 - both / one)

    def within(self, modality: str, tolerance: float) -> WithinFormulas | None:
        """Figures within formulas, one a seed."""
        return within_formulas(
            self.value[modality],
            self.label,
            self.formula,
            np.arange(len(self.label)),
            tolerance,
        )


def point(name: str, by: str, store: Store, folder: Path, target: str) -> dict[str, Any] | None:
    """Everything about one set and target; None where both or composition have not finished."""
    answers = Answers(folder, target)
    if not {"both", "composition"} <= answers.value.keys():
        return None
    whole = composition_floor(store.column("formula_key"), store.column(target))
    tested = composition_floor(answers.formula, answers.label)
    label = answers.label[np.isfinite(answers.label)]
    unit = store.target_units[target]
    tolerance = pair_tolerance(target, unit, float(label.std()))
    found: dict[str, Any] = {
        "set": name,
        "split by": by,
        "target": target,
        "unit": unit,
        "within share": whole.within_formula_share,
        "floor": tested.composition_floor_mae_all,
        "test materials": len(label),
        "seeds": min(answers.value[m].shape[1] for m in ("composition", "both")),
    }
    for modality, errors in answers.errors().items():
        found[modality] = float(errors.mean())
    found["gain"], found["gain_low"], found["gain_high"] = answers.gain()
    for modality in answers.value:
        inside = answers.within(modality, tolerance)
        if inside is None:
            continue
        drawn = inside.values(DRAWS).mean(axis=2)  # over the seeds
        for i, figure in enumerate(("within mae", "pairs", "shuffled mae")):
            found[f"{figure}, {modality}"] = float(drawn[0, i])
            if figure == "pairs":
                found[f"pairs interval, {modality}"] = interval(drawn[1:, i])
        found["formulas with several"] = inside.counts.shape[1]
    return found


def picture(points: list[dict[str, Any]]) -> Figure:
    """Gain, and pairs ranked rightly, against the share of the variance within formulas."""
    figure = Figure(figsize=(12.0, 5.0), layout="constrained")
    gains, pairs = figure.subplots(1, 2)
    sets = list(dict.fromkeys(p["set"] for p in points))
    targets = list(dict.fromkeys(p["target"] for p in points))
    markers = dict(zip(targets, cycle("osD^vP*XdhH8<>"), strict=False))
    colour = colours(sets)
    for p in points:
        style: dict[str, Any] = {
            "color": colour[p["set"]],
            "marker": markers[p["target"]],
            "mfc": colour[p["set"]] if p["split by"] == "formula" else "white",
            "markersize": 8,
            "capsize": 3,
            "linestyle": "none",
        }
        for axes, key, ends in (
            (gains, "gain", (p["gain_low"], p["gain_high"])),
            (pairs, "pairs, both", p.get("pairs interval, both")),
        ):
            if key in p and ends is not None:
                spread = np.abs([[p[key] - ends[0]], [ends[1] - p[key]]])
                axes.errorbar(p["within share"], p[key], yerr=spread, **style)
    for axes, nothing, label in (
        (gains, 0.0, "1 − error of both / error of the composition"),
        (pairs, 0.5, "pairs of a formula ranked rightly by both"),
    ):
        axes.axhline(nothing, color="0.5", lw=0.8, ls="--")
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:g} %"))
        axes.set(xlabel="share of the labels' variance within formulas", ylabel=label)
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.2, which="both")
    for name in sets:
        gains.plot([], [], "s", color=colour[name], label=name)
    for target, marker in markers.items():
        gains.plot([], [], marker, color="0.4", label=target)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return figure


def show(given: argparse.Namespace) -> None:
    """Write the report of what has finished."""
    points = []
    for name, folder in read_json(given.folder / SETS).items():
        store = Store(folder)
        for by in ("formula", "system"):
            for target in targets_of(store):
                found = point(name, by, store, given.folder / name / by, target)
                if found is not None:
                    points.append(found)
    if not points:
        raise SystemExit(f"{given.folder}: no set has both and composition finished")
    report = Report("What the second modality is worth", {"points": points})
    report.say(__doc__.split("\n\n")[-1].strip())
    columns = ("set", "split by", "target", "unit", "within share", "test materials", "seeds",
               "floor", "composition", "xrd", PATTERN, "both")  # fmt: skip
    report.table("errors", "Test errors, in the targets' units; floor: of any composition", [
        {key: p.get(key) for key in columns}
        | {"gain": f"{p['gain']:.3f} {span(p['gain_low'], p['gain_high'])}"}
        for p in points
    ])  # fmt: skip
    report.table("within", "Within formulas", [
        {key: p.get(key) for key in ("set", "split by", "target", "formulas with several")}
        | {
            "error, composition": p.get("within mae, composition"),
            "both": p.get("within mae, both"),
            "patterns shuffled": p.get("shuffled mae, both"),
            "pairs ranked rightly": f"{p['pairs, both']:.3f} {span(*p['pairs interval, both'])}",
            "… by the pattern alone": p.get("pairs, xrd", p.get(f"pairs, {PATTERN}")),
            "… by the composition": p.get("pairs, composition"),
        }
        for p in points if "pairs, both" in p
    ])  # fmt: skip
    report.figure(
        "gain", "Gain of the second modality, a point for each set and target.", picture(points)
    )
    written = report.write(given.output)
    print(written[0].read_text(encoding="utf-8"))
    print(json.dumps([str(path) for path in written]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    run = commands.add_parser("run")
    run.add_argument("--folder", type=Path, required=True)
    run.add_argument("--store", action="append", required=True, metavar="NAME=FOLDER")
    run.add_argument("--steps", type=int, default=600)
    run.add_argument("--batch", type=int, default=64)
    run.add_argument("--seeds", type=int, nargs="+", default=[0])
    run.add_argument("--modalities", nargs="+", default=list(MODALITIES), choices=MODALITIES)
    run.add_argument("--by", choices=("formula", "system"), default="formula")
    run.add_argument("--bf16", action="store_true", help="half the time where the CPU has it")
    run.add_argument("--jobs", type=int, default=1)
    run.set_defaults(do=make)
    report = commands.add_parser("report")
    report.add_argument("--folder", type=Path, required=True)
    report.add_argument("--output", type=Path, required=True)
    report.set_defaults(do=show)
    given = parser.parse_args()
    given.do(given)


if __name__ == "__main__":
    main()
