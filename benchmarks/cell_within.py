r"""How much of what differs within formulas follows from the cell alone? No pattern, no network.

    .venv/bin/python benchmarks/cell_within.py --store data/nrel --target formation_energy

Gradient boosting predicts each structure's difference from its formula's mean from volume, density,
space group, Bravais class, sites and reciprocal metric: what a perfect reading of a pattern's lines
would give, without their intensities. It is fitted on the training formulas and judged on those of
validation and calibration; the test split stays shut. Beside it stands the volume alone.
"""

from __future__ import annotations

import argparse
import json

import numpy as np
from sklearn.ensemble import HistGradientBoostingRegressor

from datamodules.store.collection import Collection
from datamodules.store.splits import SplitConfig, split_rows
from datamodules.store.structure import STRUCTURE_TARGETS
from lightning_modules.metrics import within


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", required=True)
    parser.add_argument("--target", required=True)
    given = parser.parse_args()
    collection = Collection([given.store])
    label = collection.column(given.target).astype(float)
    key = collection.column("formula_key")
    cell = np.stack([collection.column(name).astype(float) for name in STRUCTURE_TARGETS], axis=1)
    splits = split_rows(collection, SplitConfig(), 1.0, None)
    groups = {
        "train": splits["train"],
        "judged": np.concatenate((splits["validation"], splits["calibration"])),
    }
    data = {}
    for name, rows in groups.items():
        group = within.groups_with_several(key[rows], np.isfinite(label[rows]))
        rows, group = rows[group >= 0], group[group >= 0]
        size = np.bincount(group)
        deviation = label[rows] - (np.bincount(group, label[rows]) / size)[group]
        volume = np.log(cell[rows, 0])
        relative = volume - (np.bincount(group, volume) / size)[group]
        data[name] = rows, np.column_stack((cell[rows], relative)), deviation
    rows, features, deviation = data["judged"]
    predicted = []
    for columns in ([-1], slice(None)):
        model = HistGradientBoostingRegressor(loss="absolute_error", max_iter=200, random_state=0)
        model.fit(data["train"][1][:, columns], data["train"][2])
        predicted.append(model.predict(features[:, columns]))
    unit = collection.units[given.target]
    tolerance = within.pair_tolerance(given.target, unit, float(np.nanstd(label)))
    found = within.figures(
        np.stack(predicted, axis=1), label[rows], key[rows].view(np.int64), rows, tolerance
    )
    constant = float(np.abs(deviation).mean())
    print(json.dumps({"constant": constant, "volume": found[0], "cell": found[1]}))


if __name__ == "__main__":
    main()
