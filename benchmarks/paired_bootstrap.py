r"""Is one group of runs better than another? Paired bootstrap over formulas, on the test split.

    .venv/bin/python benchmarks/paired_bootstrap.py --target formation_energy \
        --first runs/composition_0 runs/composition_1 --first_mode composition \
        --second runs/both_0 runs/both_1 --second_mode both

Reads `predictions.test.csv` of runs that were tested with `xxact test`. Absolute errors are
averaged over the runs of a group (its seeds), material by material; whole formulas are drawn with
replacement. The interval says how the difference of the means would vary with other test
materials; the spread over seeds is printed beside it.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import numpy as np


def errors(run: Path, target: str, mode: str) -> dict[str, tuple[str, float]]:
    """Formula and absolute error by id, of the materials that have a label."""
    with (run / "predictions.test.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    found = {
        r["id"]: (r["formula"], abs(float(r[f"{target}_{mode}"]) - float(r[target]))) for r in rows
    }
    return {name: value for name, value in found.items() if np.isfinite(value[1])}


def group_errors(runs: list[Path], target: str, mode: str) -> list[dict[str, tuple[str, float]]]:
    return [errors(run, target, mode) for run in runs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", required=True)
    for side in ("first", "second"):
        parser.add_argument(f"--{side}", type=Path, nargs="+", required=True)
        parser.add_argument(f"--{side}_mode", required=True)
    parser.add_argument("--draws", type=int, default=10_000)
    given = parser.parse_args()
    sides = [
        group_errors(given.first, given.target, given.first_mode),
        group_errors(given.second, given.target, given.second_mode),
    ]
    ids = sorted(set.intersection(*(set(run) for side in sides for run in side)))
    table = [np.array([[run[i][1] for i in ids] for run in side]) for side in sides]
    first, second = (side.mean(axis=0) for side in table)
    _, formula = np.unique([sides[0][0][i][0] for i in ids], return_inverse=True)
    n_formulas = int(formula.max()) + 1
    size = np.bincount(formula)
    difference = np.bincount(formula, weights=second - first)
    generator = np.random.default_rng(0)
    drawn = generator.integers(0, n_formulas, (given.draws, n_formulas))
    means = difference[drawn].sum(axis=1) / size[drawn].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    print(
        json.dumps(
            {
                "target": given.target,
                "materials": len(ids),
                "formulas": n_formulas,
                "first_mae": float(first.mean()),
                "first_by_run": table[0].mean(axis=1).tolist(),
                "second_mae": float(second.mean()),
                "second_by_run": table[1].mean(axis=1).tolist(),
                "second_minus_first": float((second - first).mean()),
                "interval_95": [float(low), float(high)],
            }
        )
    )


if __name__ == "__main__":
    main()
