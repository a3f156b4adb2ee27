r"""What do models without deep learning reach on the same split? Mean, and gradient boosting.

    python -m venv .venv-bench
    .venv-bench/bin/pip install -e . matminer scikit-learn
    .venv-bench/bin/python benchmarks/baselines.py --store data/materials_project \
        [--target band_gap …] [--run runs/regression]

Trains on the training split of `XRDDataModule` (its defaults, or those of `--run`), judges on the
test split: the training median, gradient boosting on Magpie's composition statistics (matminer),
on the pattern in bins of 2θ, and on both. `--run` adds the row of a run that was tested with
`xxact test`, from its `predictions.test.csv`, on the same materials. Each line is one result; the
last is a JSON object with all.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.radiation import CU_K_ALPHA, lorentz_polarization
from datamodules.store.collection import Collection
from datamodules.store.splits import SplitConfig, assign, key_column, to_keys

#: Bins of the pattern: 1° from 5° to 90°, as the tokens of the model.
EDGES = np.arange(5.0, 91.0, 1.0)


def magpie_features(formulas: np.ndarray) -> np.ndarray:
    """Statistics of elemental properties, shape (n, 132); equal formulas are computed once."""
    from matminer.featurizers.composition import ElementProperty
    from pymatgen.core import Composition

    featurizer = ElementProperty.from_preset("magpie", impute_nan=True)
    unique, inverse = np.unique(formulas, return_inverse=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = [featurizer.featurize(Composition(formula)) for formula in unique]
    return np.array(rows, np.float32)[inverse]


def pattern_features(collection: Collection, rows: np.ndarray) -> np.ndarray:
    """Square root of the summed intensity with Lorentz-polarization in each bin, (n, bins)."""
    from datamodules.batch import LINE_INTENSITY, LINE_OFFSETS, LINE_Q
    from datamodules.store.gathering import Gatherer

    lines = Gatherer(collection.stores, [], collection.max_elements).gather(rows)
    sine = np.minimum(lines[LINE_Q] * CU_K_ALPHA / (4 * np.pi), 0.999)
    theta = np.arcsin(sine)
    row = np.repeat(np.arange(len(rows)), np.diff(lines[LINE_OFFSETS]))
    bin_ = np.digitize(np.degrees(2 * theta), EDGES) - 1
    inside = (bin_ >= 0) & (bin_ < len(EDGES) - 1)
    table = np.zeros((len(rows), len(EDGES) - 1))
    np.add.at(
        table,
        (row[inside], bin_[inside]),
        (lines[LINE_INTENSITY] * lorentz_polarization(sine))[inside],
    )
    return np.sqrt(table / table.max(axis=1, keepdims=True).clip(1e-12)).astype(np.float32)


def scores(target: str, value: np.ndarray, label: np.ndarray) -> dict[str, float]:
    """Errors on the materials that have a label."""
    from sklearn.metrics import mean_absolute_error, r2_score, roc_auc_score

    there = np.isfinite(label) & np.isfinite(value)
    value, label = value[there], label[there]
    found = {
        "n": int(there.sum()),
        "mae": float(mean_absolute_error(label, value)),
        "r2": float(r2_score(label, value)),
    }
    if target == "band_gap":
        gapped = label > 0
        found["mae_nonmetals"] = float(np.abs(value - label)[gapped].mean())
    if target == "hull_distance" and 0 < (label <= 0).sum() < len(label):
        found["stable_auc"] = float(roc_auc_score(label <= 0, -value))
    return found


def boost(
    train: np.ndarray, labels: np.ndarray, test: np.ndarray, seed: int, iterations: int
) -> np.ndarray:
    """Gradient boosting of the absolute error, stopped early on a part of the training split."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    model = HistGradientBoostingRegressor(
        loss="absolute_error",
        learning_rate=0.05,
        max_iter=iterations,
        max_leaf_nodes=63,
        min_samples_leaf=10,
        early_stopping=True,
        n_iter_no_change=30,
        random_state=seed,
    )
    there = np.isfinite(labels)
    model.fit(train[there], labels[there])
    predicted: np.ndarray = model.predict(test)
    return predicted


def of_a_run(run: Path, target: str, ids: np.ndarray) -> dict[str, np.ndarray]:
    """Predictions of a tested run by mode, in the order of `ids`; NaN where it has none."""
    path = run / "predictions.test.csv"
    if not path.is_file():
        raise SystemExit(f"{path}: not there; make it with `make evaluate CKPT=…`")
    with path.open(encoding="utf-8") as file:
        rows = {row["id"]: row for row in csv.DictReader(file)}
    some = next(iter(rows.values()))
    modes = [m for m in ("both", "composition", "xrd") if f"{target}_{m}" in some]
    return {
        mode: np.array([float(rows[i][f"{target}_{mode}"]) if i in rows else np.nan for i in ids])
        for mode in modes
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", action="append", required=True)
    parser.add_argument("--target", action="append")
    parser.add_argument("--run", type=Path, action="append", default=[])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--iterations", type=int, default=1500)
    given = parser.parse_args()
    collection = Collection(given.store)
    split = SplitConfig()
    rows = assign(to_keys(collection.column(key_column(split.by))), split)
    train, test = rows["train"], rows["test"]
    formulas, ids = collection.column("formula"), collection.column("id")
    start = time.perf_counter()
    composition = magpie_features(formulas[np.concatenate([train, test])])
    pattern = pattern_features(collection, np.concatenate([train, test]))
    seconds = time.perf_counter() - start
    print(f"features of {len(train)} + {len(test)} materials: {seconds:.0f} s", flush=True)
    features = {
        "boosted Magpie": composition,
        "boosted pattern": pattern,
        "boosted Magpie + pattern": np.hstack([composition, pattern]),
    }
    table: list[dict[str, Any]] = []

    def add(target: str, model: str, value: np.ndarray, label: np.ndarray) -> None:
        table.append({"target": target, "model": model, **scores(target, value, label)})
        print(json.dumps(table[-1]), flush=True)

    for target in given.target or [
        "formation_energy",
        "band_gap",
        "hull_distance",
        "volume_per_atom",
    ]:
        labels = collection.column(target).astype(np.float64)
        label = labels[test]
        add(target, "median", np.full(len(test), np.nanmedian(labels[train])), label)
        for name, x in features.items():
            value = boost(
                x[: len(train)], labels[train], x[len(train) :], given.seed, given.iterations
            )
            if target != "formation_energy":
                value = value.clip(0)
            add(target, name, value, label)
        for run in given.run:
            for mode, value in of_a_run(run, target, ids[test]).items():
                add(target, f"{run.name} ({mode})", value, label)
    print(json.dumps({"train": len(train), "test": len(test), "table": table}))


if __name__ == "__main__":
    main()
