"""What frozen vectors know: probes, retrieval and maps, before and after each pretraining."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lightning_modules.experiments.report.tables import Report, colours, span
from lightning_modules.experiments.study.main import load_results, load_study
from lightning_modules.experiments.study.representation import INPUTS, UNTRAINED, Representation

VECTORS = ("composition", "xrd", "fused")
PROBES = {"linear": "linear", "neighbours": "k-NN"}
BESIDE = {
    "known_system": "error, chemical systems in training",
    "new_system": "error, new chemical systems",
    "pairs": "share of the pairs of structures of one formula ranked rightly",
}


def report(study_folder: Path) -> Report:
    """Everything that the finished runs show.

    Raises:
        ValueError: if no run has finished.
    """
    study: Representation = load_study(study_folder, "representation")
    results = load_results(study, study_folder)
    seeds = study.pretraining.seeds
    by_start = {
        start: [
            results[study.probe(start, seed).name]
            for seed in (seeds[:1] if start == INPUTS else seeds)
            if study.probe(start, seed).name in results
        ]
        for start in (INPUTS, UNTRAINED, *study.starts)
    }
    by_start = {start: runs for start, runs in by_start.items() if runs}
    if not by_start:
        raise ValueError(f"{study_folder}: no run of the representation study has finished yet")
    first = next(iter(by_start.values()))[0]
    out = Report("Representation")
    n = first["materials"]
    out.say(
        f"Frozen vectors; probes fitted on {n['train']} materials, their strength chosen on "
        f"{n['validation']}, judged on {n['test']} with other formulas. *inputs*: atomic fractions "
        "and the pattern's means over patches, without a network. Linear: ridge or logistic "
        "regression; k-NN: k nearest neighbours. Brackets: 95 % of a bootstrap over test formulas"
        + (f"; means over {len(seeds)} seeds of pretraining." if len(seeds) > 1 else ".")
    )
    for target in first["units"]:
        out.table(
            f"probes_{target}",
            _caption(target, first),
            _rows(by_start, target),
        )
        if target != "crystal_system":
            name, caption = f"rank_{target}", f"{target}: rank correlation with the label"
            out.table(name, caption, _plain_rows(by_start, target, "rank"))
        for key, shown in BESIDE.items():
            if rows := _plain_rows(by_start, target, key):
                out.table(f"{key}_{target}", f"{target}: {shown}", rows)
    out.table("recall", _recall_caption(first), _recall_rows(by_start))
    out.figure(
        "probes",
        "Error of linear probes (full) and k-NN (hatched) over that of a constant.",
        _bars(by_start, list(first["units"])),
    )
    out.figure(
        "maps",
        "Neighbourhoods of the vectors (t-SNE) of test materials, by chemistry.",
        _maps(by_start),
    )
    out.numbers = {
        start: [
            {key: run[key] for key in ("factors", "materials", "probes", "recall")} for run in runs
        ]
        for start, runs in by_start.items()
    }
    return out


def _caption(target: str, first: dict[str, Any]) -> str:
    constant = first["probes"]["fused"][target]["constant"]
    if target == "crystal_system":
        return (
            f"{target}: share of wrong answers (always the most frequent: {constant['error']:.3f}, "
            f"n = {constant['n']})"
        )
    unit = first["units"][target]
    return (
        f"{target}: mean absolute error, {unit} (the median for all: {constant['error']:.4g}, "
        f"n = {constant['n']})"
    )


def _plain_rows(
    by_start: dict[str, list[dict[str, Any]]], target: str, key: str
) -> list[dict[str, Any]]:
    """Means over the runs of a figure that has no interval, a row a kind of weights."""
    rows = []
    for start, runs in by_start.items():
        found = {
            f"{vector}, {shown}": [
                run["probes"][vector][target][probe][key]
                for run in runs
                if key in run["probes"][vector][target][probe]
            ]
            for vector in VECTORS
            for probe, shown in PROBES.items()
        }
        if all(found.values()):
            means = {column: float(np.mean(values)) for column, values in found.items()}
            rows.append({"weights": start, **means})
    return rows


def _mean(runs: Sequence[dict[str, Any]], vector: str, target: str, probe: str) -> dict[str, float]:
    found = [run["probes"][vector][target][probe] for run in runs]
    return {key: float(np.mean([x[key] for x in found])) for key in ("error", "low", "high")}


def _rows(by_start: dict[str, list[dict[str, Any]]], target: str) -> list[dict[str, Any]]:
    rows = []
    for start, runs in by_start.items():
        row: dict[str, Any] = {"weights": start}
        for vector in VECTORS:
            for probe, shown in PROBES.items():
                x = _mean(runs, vector, target, probe)
                row[f"{vector}, {shown}"] = f"{x['error']:.3g} {span(x['low'], x['high'])}"
        rows.append(row)
    return rows


def _recall_caption(first: dict[str, Any]) -> str:
    pool = first["recall"]["linear_map"]["pool_size"]
    return (
        f"Recall among {pool:.0f} test materials: composition and pattern of one find each other, "
        "after a linear map fitted on the training split, and by the pretraining's own projection"
    )


def _recall_rows(by_start: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    rows = []
    for start, runs in by_start.items():
        for how in runs[0]["recall"]:
            row: dict[str, Any] = {"weights": start, "by": how.replace("_", " ")}
            for way, shown in (
                ("composition_to_xrd", "composition → pattern"),
                ("xrd_to_composition", "pattern → composition"),
            ):
                for k in (1, 5, 10):
                    row[f"{shown} @{k}"] = float(
                        np.mean([run["recall"][how][f"{way}/recall_at_{k}"] for run in runs])
                    )
            rows.append(row)
    return rows


def _bars(by_start: dict[str, list[dict[str, Any]]], targets: Sequence[str]) -> Figure:
    figure = Figure(figsize=(3.1 * len(targets), 4.0), layout="constrained")
    axes = figure.subplots(1, len(targets), sharey=True, squeeze=False)[0]
    colour = colours(list(by_start))
    width = 0.8 / (2 * len(by_start))
    for ax, target in zip(axes, targets, strict=True):
        for s, (start, runs) in enumerate(by_start.items()):
            for p, probe in enumerate(PROBES):
                for v, vector in enumerate(VECTORS):
                    constant = runs[0]["probes"][vector][target]["constant"]["error"]
                    x = _mean(runs, vector, target, probe)
                    ax.bar(
                        v + (2 * s + p + 0.5) * width - 0.4,
                        x["error"] / constant,
                        width,
                        yerr=[
                            [max(0.0, x["error"] - x["low"]) / constant],
                            [max(0.0, x["high"] - x["error"]) / constant],
                        ],
                        error_kw={"lw": 0.7},
                        color=colour[start] if start != INPUTS else "0.6",
                        alpha=0.55 if p else 1.0,
                        hatch="///" if p else None,
                        label=start if v == p == 0 else None,
                    )
        ax.set_xticks(range(len(VECTORS)), VECTORS)
        ax.set_title(target.replace("_", " "), fontsize=10)
        ax.axhline(1.0, color="0.5", lw=0.8, ls="--")
    axes[0].set_ylabel("error / error of a constant")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6,
                  frameon=False)  # fmt: skip
    return figure


def _maps(by_start: dict[str, list[dict[str, Any]]]) -> Figure:
    figure = Figure(figsize=(3.0 * len(VECTORS), 2.9 * len(by_start)), layout="constrained")
    grid = figure.subplots(len(by_start), len(VECTORS), squeeze=False)
    families = sorted({f for runs in by_start.values() for f in runs[0]["map"]["family"]})
    colour = {family: colours(["", *families])[family] for family in families}
    for axes, (start, runs) in zip(grid, by_start.items(), strict=True):
        shown = runs[0]["map"]
        for ax, vector in zip(axes, VECTORS, strict=True):
            x = np.array(shown[vector])
            for family in families:
                chosen = np.array(shown["family"]) == family
                ax.scatter(*x[chosen].T, s=5, lw=0, color=colour[family], label=family)
            ax.set_xticks([])
            ax.set_yticks([])
            ax.set_title(f"{start}: {vector}", fontsize=9)
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3,
                  frameon=False, markerscale=3)  # fmt: skip
    return figure
