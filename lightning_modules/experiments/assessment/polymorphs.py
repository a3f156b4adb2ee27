"""`xxact report polymorphs`: structures of one formula, told apart by their patterns.

The composition says the same of all structures of a formula. What a model knows of their
differences it takes from the pattern: how well it ranks them, how large its errors of their
differences are, and how both fare when each structure is given another one's pattern.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from datamodules.io.arguments import ArgumentParser
from datamodules.io.files import replace_table
from datamodules.randomness import Purpose, hash_uint64
from datamodules.store.splits import SPLITS
from lightning_modules.experiments.assessment.models import (
    check_output,
    check_units,
    common_split,
    load_regression,
    named_checkpoints,
)
from lightning_modules.experiments.assessment.split_batches import SplitBatches
from lightning_modules.experiments.report.tables import Report, span
from lightning_modules.inference.devices import choose_device
from lightning_modules.metrics.bootstrap import DRAWS, interval
from lightning_modules.metrics.predictions import Predictions, Table
from lightning_modules.metrics.within import (
    groups_with_several,
    pair_tolerance,
    pairs_of,
    ranked_rightly,
    within_formulas,
)
from lightning_modules.regression import Regression

ALL = "all"
#: What rows of the training split are called where all rows are judged, and what the others are.
TRAINING, HELD_OUT = "training split", "held out"
PAIRS = "pairs.csv"


@dataclass(frozen=True)
class Judged:
    """Predictions of one model.

    Attributes:
        name: The model's name.
        modes: What it was given, mode by mode.
        targets: Its targets.
        units: Their units.
        tolerances: How far apart labels must be for a pair to count, by target.
        table: Its predictions.
    """

    name: str
    modes: list[str]
    targets: list[str]
    units: list[str]
    tolerances: list[float]
    table: Table


def choose_rows(batches: SplitBatches, split: str, limit: int | None) -> np.ndarray:
    """Rows of a split whose formula has several structures in it, whole formulas up to a limit.

    Raises:
        ValueError: if there is none.
    """
    rows = batches.rows(split)
    formula = batches.collection.column("formula_key")[rows]
    _, group, size = np.unique(formula, return_inverse=True, return_counts=True)
    chosen = size > 1
    if limit is not None:
        # Formulas in an order by hash: a prefix of a store is no sample of it.
        order = np.argsort(hash_uint64(0, 0, int(Purpose.PAIR), np.unique(formula)))
        order = order[chosen[order]]
        kept = order[np.cumsum(size[order]) <= limit]
        chosen = np.isin(np.arange(len(size)), kept)
    if not chosen.any():
        where = ", ".join(str(store.folder) for store in batches.collection.stores)
        within = "rows" if split == ALL else f"{split} split"
        few = "" if limit is None else f" (with --limit {limit})"
        more = "use another store" if split == ALL else "use another store, or --split all"
        raise ValueError(f"{where}: no formula of the {within} has two structures{few}; {more}")
    return rows[chosen[group]]


@torch.no_grad()
def judge(
    name: str, task: Regression, batches: SplitBatches, rows: np.ndarray, chosen: dict[str, float]
) -> Judged:
    """Predict rows in every mode of a model.

    Args:
        name: The model's name.
        task: The model.
        batches: The stores.
        rows: Rows to predict.
        chosen: Tolerances by target, in place of the model's own.
    """
    task.to(batches.device)
    predictions = Predictions().to(batches.device)
    for batch in batches.batches(rows):
        task.collect(batch, predictions)
    targets = task.targets
    tolerances = [
        pair_tolerance(target, unit, float(std), (task.pair_tolerance or {}) | chosen)
        for target, unit, std in zip(targets.names, targets.units, targets.std, strict=True)
    ]
    modes = list(task.modes)
    return Judged(name, modes, targets.names, targets.units, tolerances, predictions.table())


def figures_of(model: Judged, rows: torch.Tensor, split: str) -> list[dict[str, Any]]:
    """Figures of some rows in every mode and target, with intervals over formulas."""
    table = model.table[rows]
    found: list[dict[str, Any]] = []
    for t, target in enumerate(model.targets):
        values, label = table.value[:, :, t].numpy(), table.target[:, t].numpy()
        formula, index = table.formula.numpy(), table.index.numpy()
        inside = within_formulas(values, label, formula, index, model.tolerances[t])
        if inside is None:
            continue
        judged = groups_with_several(formula, np.isfinite(label)) >= 0
        draws = inside.values(DRAWS)
        for m, mode in enumerate(model.modes):
            mae, pairs, shuffled = draws[:, :, m].T
            row: dict[str, Any] = {
                "target": target,
                "unit": model.units[t],
                "model": model.name,
                "given": mode,
                "split": split,
                "formulas": inside.counts.shape[1],
                "structures": inside.structures,
                "pairs_counted": int(inside.counts[1].sum()),
                "tolerance": model.tolerances[t],
                "mae": float(np.abs(values[judged, m] - label[judged]).mean()),
            }
            for key, figure in (
                ("within_mae", mae),
                ("pairs", pairs),
                ("shuffled_mae", shuffled),
                ("shuffled_gap", np.round(shuffled - mae, 9) + 0.0),  # rounding is no gap
            ):
                row[key] = float(figure[0])
                row[f"{key}_low"], row[f"{key}_high"] = interval(figure[1:])
            found.append(row)
    return found


def _shown(row: dict[str, Any], key: str) -> str:
    low, high = row[f"{key}_low"], row[f"{key}_high"]
    return "–" if np.isnan(row[key]) else f"{row[key]:.3g} {span(low, high)}"


def _tabled(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {key: row[key] for key in ("model", "given", "split", "formulas", "structures")}
        | {
            "pairs": row["pairs_counted"],
            "error": row["mae"],
            "error of differences": _shown(row, "within_mae"),
            "pairs ranked rightly": _shown(row, "pairs"),
            "error with patterns shuffled": _shown(row, "shuffled_mae"),
            "gap": _shown(row, "shuffled_gap"),
        }
        for row in rows
    ]


def pair_rows(
    models: Sequence[Judged], target: str, columns: dict[str, np.ndarray]
) -> list[dict[str, Any]]:
    """Every pair of structures of a formula with its true and its predicted differences.

    Args:
        models: Models that predict the target.
        target: The target.
        columns: `id`, `formula` and `split` of the rows, in the order of the tables.
    """
    t = models[0].targets.index(target)
    table = models[0].table
    label = table.target[:, t].numpy()
    group = groups_with_several(table.formula.numpy(), np.isfinite(label))
    pairs = pairs_of(group, table.index.numpy())
    true = label[pairs.first] - label[pairs.second]
    rows: dict[str, Any] = {
        "target": [target] * len(true),
        "formula": columns["formula"][pairs.first].tolist(),
        "first": columns["id"][pairs.first].tolist(),
        "second": columns["id"][pairs.second].tolist(),
        "first_split": columns["split"][pairs.first].tolist(),
        "second_split": columns["split"][pairs.second].tolist(),
        "true_difference": true.tolist(),
        "counted": (np.abs(true) > models[0].tolerances[t]).tolist(),
    }
    for model in models:
        t = model.targets.index(target)
        for m, mode in enumerate(model.modes):
            value = model.table.value[:, m, t].numpy()
            predicted = value[pairs.first] - value[pairs.second]
            right, _ = ranked_rightly(predicted, true, model.tolerances[t])
            rows[f"predicted_difference_{model.name}_{mode}"] = predicted.tolist()
            rows[f"ranked_rightly_{model.name}_{mode}"] = right.tolist()
    return [dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)]


def draw(models: Sequence[Judged], target: str, rows: Sequence[dict[str, Any]]) -> Figure:
    """Predicted against true differences from the formula's mean; a panel for each mode."""
    panels = [(model, m, mode) for model in models for m, mode in enumerate(model.modes)]
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(3.7 * columns, 3.6 * lines), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes, (model, m, mode) in zip(grid.flat, panels, strict=False):
        t = model.targets.index(target)
        label = model.table.target[:, t].numpy().astype(np.float64)
        group = groups_with_several(model.table.formula.numpy(), np.isfinite(label))
        judged, group = group >= 0, group[group >= 0]
        x, y = (
            values - (np.bincount(group, values) / np.bincount(group))[group]
            for values in (label[judged], model.table.value[judged, m, t].numpy().astype(float))
        )
        axes.axline((0.0, 0.0), slope=1.0, color="0.7", linewidth=0.8, zorder=0)
        if len(x) > 2000:
            axes.hexbin(x, y, gridsize=60, bins="log", cmap="viridis", mincnt=1)
        else:
            axes.scatter(x, y, s=6, alpha=0.5, linewidth=0)
        share = [r for r in rows if (r["model"], r["given"]) == (model.name, mode)]
        # Only what was held out may boast.
        text = "\n".join(f"pairs {r['pairs']:.3f}, {r['split']}" for r in share)
        axes.text(0.03, 0.97, text, transform=axes.transAxes, va="top", fontsize=8)
        axes.set_title(f"{model.name}, {mode}", fontsize=9, loc="left")
    unit = models[0].units[models[0].targets.index(target)]
    figure.supxlabel(f"true difference from the formula's mean ({unit})", fontsize=9)
    figure.supylabel(f"predicted ({unit})", fontsize=9)
    figure.suptitle(target, fontsize=10)
    return figure


def make(
    models: dict[str, str],
    stores: Sequence[str],
    split: str,
    limit: int | None,
    tolerances: dict[str, float],
    device: torch.device,
    allow_tasks: Sequence[str] = (),
) -> tuple[Report, list[dict[str, Any]]]:
    """The report, and the table of pairs.

    Args:
        models: Checkpoints by name.
        stores: Folders of stores.
        split: A split of the checkpoints' runs, or `all`.
        limit: Structures at most; whole formulas.
        tolerances: By target, in place of the models' own.
        device: Where to predict.
        allow_tasks: Other tasks that checkpoints may name; see `checkpoints.load_task`.

    Raises:
        ValueError: if models and stores do not fit each other, or nothing is left to judge.
    """
    config = common_split(list(models.values()))
    judged: list[Judged] = []
    rows: np.ndarray | None = None
    for name, path in models.items():
        task, peaks = load_regression(path, allow_tasks)
        batches = SplitBatches(
            stores, task.grid, peaks, config, task.targets.names, device, any_target=True
        )
        check_units(path, task, batches.collection)
        rows = choose_rows(batches, split, limit) if rows is None else rows
        judged.append(judge(name, task, batches, rows, tolerances))
    known = {target for model in judged for target in model.targets}
    if unknown := sorted(tolerances.keys() - known):
        raise ValueError(
            f"--tolerance: no target {unknown[0]}; there are {', '.join(sorted(known))}"
        )
    assert rows is not None
    columns = {name: batches.collection.column(name)[rows] for name in ("id", "formula")}
    columns["split"] = batches.split_names()[rows]
    trained = torch.from_numpy(columns["split"] == "train")
    groups = {split: torch.ones_like(trained)}
    if split == ALL:
        groups = {TRAINING: trained, HELD_OUT: ~trained}
    report = Report("Structures of one formula, told apart by their patterns")
    report.say(
        f"{len(rows)} structures of {len(np.unique(columns['formula']))} formulas, "
        f"{int(trained.sum())} of them in the training split of the checkpoint "
        f"(by {config.by}, seed {config.seed}): a model that was trained on this store has seen "
        "them. Error of differences: from the formula's mean, prediction and label alike. Pairs: "
        "two structures of one formula; what knows the composition alone ranks half of them "
        "rightly. Shuffled: each structure with the patterns of the others of its formula; the gap "
        "is what the model takes from the pattern. Intervals: 95 % of a bootstrap over formulas."
    )
    found: list[dict[str, Any]] = []
    pairs: list[dict[str, Any]] = []
    for target in dict.fromkeys(t for model in judged for t in model.targets):
        those = [model for model in judged if target in model.targets]
        here = [
            row
            for model in those
            for name, chosen in groups.items()
            for row in figures_of(model, chosen, name)
            if row["target"] == target
        ]
        if not here:
            report.say(f"{target}: no formula has two structures with labels.")
            continue
        found += here
        pairs += pair_rows(those, target, columns)
        tolerance = f"pairs more than {here[0]['tolerance']:g} {here[0]['unit']} apart"
        report.table(f"polymorphs_{target}", f"{target}, {here[0]['unit']}; {tolerance}",
                     _tabled(here))  # fmt: skip
        report.figure(f"differences_{target}", f"{target}: predicted against true differences",
                      draw(those, target, here))  # fmt: skip
    if not found:
        raise ValueError(
            f"{', '.join(map(str, stores))}: no formula has two structures with labels of "
            f"{', '.join(sorted(known))}; use another store"
        )
    report.numbers = {"split": config.to_dict(), "rows": found}
    return report, pairs


def _tolerances(words: Sequence[str]) -> dict[str, float]:
    found = {}
    for word in words:
        name, _, value = word.partition("=")
        try:
            found[name] = float(value)
        except ValueError:
            raise ValueError(f"--tolerance {word}: give TARGET=VALUE") from None
        if not 0.0 <= found[name] < float("inf"):
            raise ValueError(f"--tolerance {word}: must be 0 or more")
    return found


def main(argv: Sequence[str]) -> int:
    """Runs `xxact report polymorphs`."""
    parser = ArgumentParser(
        prog="xxact report polymorphs",
        description="How well models tell structures of one formula apart: errors of their "
        "differences, pairs ranked rightly, and what is left when patterns are shuffled.",
    )
    parser.add_argument(
        "--checkpoint",
        action="append",
        required=True,
        metavar="[NAME=]CHECKPOINT",
        help="of a regression; repeatable, to compare models",
    )
    parser.add_argument("--store", action="append", required=True, help="repeatable")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument(
        "--split",
        choices=(*SPLITS, ALL),
        default="test",
        help="rows to judge, as the checkpoint's run split them (test); all tells those of the "
        "training split from the others",
    )
    parser.add_argument(
        "--tolerance",
        action="append",
        default=[],
        metavar="TARGET=VALUE",
        help="pairs whose labels are not further apart do not count (by unit: docs/tasks.md); "
        "repeatable",
    )
    parser.add_argument("--limit", type=int, help="structures at most; whole formulas")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, …")
    parser.add_allow_task()
    given = parser.parse_args(argv)
    if given.limit is not None and given.limit < 2:
        raise ValueError(f"--limit {given.limit}: must be at least 2")
    check_output(given.output)
    models, tolerances = named_checkpoints(given.checkpoint), _tolerances(given.tolerance)
    device = choose_device(given.device)
    report, pairs = make(
        models, given.store, given.split, given.limit, tolerances, device, given.allow_task
    )
    written = report.write(given.output)
    replace_table(given.output / PAIRS, pairs)
    print(written[0].read_text(encoding="utf-8"))
    print("\n".join(map(str, [*written, given.output / PAIRS])))
    return 0
