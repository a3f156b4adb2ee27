r"""Is one group of runs better than another? Paired bootstrap over formulas, on the test split.

    .venv/bin/python benchmarks/paired_bootstrap.py --target formation_energy \
        --first runs/composition_0 runs/composition_1 --first_mode composition \
        --second runs/both_0 runs/both_1 --second_mode both

Reads `predictions.test.csv` of runs that were tested with `xxact test`. Absolute errors are
averaged over the runs of a group (its seeds), material by material; whole formulas are drawn with
replacement. The interval says how the difference of the means would vary with other test
materials; the spread over seeds is printed beside it. The mean is over materials; `by_formula` is
the same with every formula counted once, however many structures it has, and `within` compares
errors of differences from the formula's mean, for formulas with several structures.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

from lightning_modules.metrics.bootstrap import drawn_sums, interval


def predictions(run: Path, target: str, mode: str) -> dict[str, tuple[str, float, float]]:
    """Formula, label and prediction by id, of the materials that have a label."""
    with (run / "predictions.test.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    found = {
        row["id"]: (row["formula"], float(row[target]), float(row[f"{target}_{mode}"]))
        for row in rows
    }
    return {name: value for name, value in found.items() if np.isfinite(value[1])}


def compared(
    errors: tuple[np.ndarray, np.ndarray], group: np.ndarray, weight: np.ndarray, draws: int
) -> dict[str, Any]:
    """Weighted mean errors of both sides and their difference, with its interval.

    Args:
        errors: Of the first and the second side, (runs, N) each.
        group: Numbers of the formulas, (N,).
        weight: Weights of the materials, (N,).
        draws: Of the bootstrap.
    """
    means = [side.mean(axis=0) for side in errors]
    sums = [np.bincount(group, weight * mean) for mean in means]
    sums.append(np.bincount(group, weight))
    first, second, size = drawn_sums(np.stack(sums), draws).T
    low, high = interval((second - first) / size)
    total = weight.sum()
    return {
        "first_mae": float((weight * means[0]).sum() / total),
        "first_by_run": (errors[0] @ weight / total).tolist(),
        "second_mae": float((weight * means[1]).sum() / total),
        "second_by_run": (errors[1] @ weight / total).tolist(),
        "second_minus_first": float((weight * (means[1] - means[0])).sum() / total),
        "interval_95": [low, high],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", required=True)
    for side in ("first", "second"):
        parser.add_argument(f"--{side}", type=Path, nargs="+", required=True)
        parser.add_argument(f"--{side}_mode", required=True)
    parser.add_argument("--draws", type=int, default=10_000)
    given = parser.parse_args()
    sides = [
        [predictions(run, given.target, given.first_mode) for run in given.first],
        [predictions(run, given.target, given.second_mode) for run in given.second],
    ]
    ids = sorted(set.intersection(*(set(run) for side in sides for run in side)))
    _, group, size = np.unique(
        [sides[0][0][i][0] for i in ids], return_inverse=True, return_counts=True
    )
    label = np.array([sides[0][0][i][1] for i in ids])
    values = [np.array([[run[i][2] for i in ids] for run in side]) for side in sides]

    def deviations(rows: np.ndarray) -> np.ndarray:
        mean = np.stack([np.bincount(group, row) for row in np.atleast_2d(rows)]) / size
        return rows - mean[:, group]

    errors = np.abs(values[0] - label), np.abs(values[1] - label)
    found: dict[str, Any] = {
        "target": given.target,
        "materials": len(ids),
        "formulas": len(size),
        **compared(errors, group, np.ones(len(ids)), given.draws),
        "by_formula": compared(errors, group, 1.0 / size[group], given.draws),
    }
    several = size[group] > 1
    if several.any():
        inside = [np.abs(deviations(side) - deviations(label))[:, several] for side in values]
        number = np.unique(group[several], return_inverse=True)[1]
        ones = np.ones(int(several.sum()))
        found["within"] = {"formulas": int(number.max()) + 1} | compared(
            (inside[0], inside[1]), number, ones, given.draws
        )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
