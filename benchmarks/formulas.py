"""How often an aligned model puts the right formula first, by the pattern alone and by elements.

    python benchmarks/formulas.py --aligned CHECKPOINT --store data/mp [--among 81] [--split test]
        [--augmentation configs/augmentation/measured.yaml]

One structure for each formula of a split, its pattern changed at random as the overlay says. Among
N: the right one and others of the same split, drawn anew for each pattern. Of all formulas of the
stores: by the pattern alone, and those made of the pattern's elements only. A JSON line.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from datamodules import batch as keys
from datamodules.formula import parse_formula
from lightning_modules import checkpoints
from lightning_modules.experiments.assessment.evidence import random_changes
from lightning_modules.experiments.assessment.recipe_augmentation import read_augmentation
from lightning_modules.experiments.assessment.split_batches import SplitBatches
from lightning_modules.inference.evidence import AlignedModel, pad_compositions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--aligned", required=True)
    parser.add_argument("--store", action="append", required=True)
    parser.add_argument("--augmentation", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--among", type=int, default=81)
    parser.add_argument("--limit", type=int, default=1000)
    given = parser.parse_args()
    model = AlignedModel(given.aligned)
    split = checkpoints.split_of(given.aligned)
    batches = SplitBatches(given.store, model.grid, model.peaks, split)
    augmentation = read_augmentation(given.augmentation) if given.augmentation else None
    change = random_changes(augmentation) if augmentation else None
    impure = augmentation is not None and augmentation.has_impurity
    formulas = batches.collection.column("formula")
    rows = batches.rows(given.split)
    rows = rows[np.sort(np.unique(formulas[rows], return_index=True)[1])]
    rows = rows[np.linspace(0, len(rows) - 1, min(given.limit, len(rows))).round().astype(int)]
    with torch.no_grad():
        patterns = torch.cat(
            [
                model.patterns(batch[keys.XRD], batch[keys.MEASURED])
                for batch in batches.batches(rows, change, impure)
            ]
        )
    names = np.unique(formulas)
    compositions = [parse_formula(name) for name in names]
    bank = model.compositions(*pad_compositions(compositions))
    right = np.searchsorted(names, formulas[rows])
    similar = (patterns @ bank.T).numpy()
    own = similar[np.arange(len(rows)), right]
    random = np.random.default_rng(0)
    elements = [frozenset(found.tolist()) for found, _ in compositions]
    few, few_within, within = [], [], []
    for row, place in enumerate(right):
        others = random.choice(np.delete(right, row), given.among - 1, replace=False)
        few.append(1 + int((similar[row, others] > own[row]).sum()))
        fitting = [i for i in others if elements[i] <= elements[place]]
        few_within.append(1 + int((similar[row, fitting] > own[row]).sum()))
        allowed = [i for i, other in enumerate(elements) if other <= elements[place]]
        within.append(1 + int((similar[row, allowed] > own[row]).sum()))
    every = 1 + (similar > own[:, None]).sum(axis=1)
    result = {"patterns": len(rows), "formulas": len(names)}
    ranked = {
        f"among {given.among}": few,
        f"among {given.among}, elements": few_within,
        "all": every,
        "all, elements": within,
    }
    for name, ranks in ranked.items():
        result[name] = {
            f"first {n}": round(float((np.array(ranks) <= n).mean()), 3) for n in (1, 5, 10)
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
