"""What a pattern is worth for the weights of formulas where the elements alone are known.

    python benchmarks/candidate_weights.py --aligned CKPT --store STORE
        [--augmentation configs/augmentation/measured.yaml]

Held-out materials (test split of the aligned model's run, 2 to 4 elements): for several powers of
the likelihood that the aligned model gives, the mean logarithm of the right formula's weight, and
how often it is the heaviest and among the first three. Power 0 is the prior; `predict` takes 1.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from datamodules import batch as keys
from datamodules.composition import candidates_of, parse_composition
from datamodules.elements import SYMBOLS
from datamodules.formula import parse_formula
from lightning_modules import checkpoints
from lightning_modules.experiments.assessment.evidence import random_changes
from lightning_modules.experiments.assessment.recipe_augmentation import read_augmentation
from lightning_modules.experiments.assessment.split_batches import SplitBatches
from lightning_modules.inference.evidence import Evidence

POWERS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)


def main():
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--aligned", required=True)
    parser.add_argument("--store", required=True)
    parser.add_argument("--augmentation", type=Path)
    parser.add_argument("--n", type=int, default=300)
    given = parser.parse_args()
    torch.set_num_threads(1)
    evidence = Evidence(given.aligned)
    model = evidence.model
    split = checkpoints.split_of(given.aligned)
    batches = SplitBatches([given.store], model.grid, model.peaks, split)
    rows = batches.rows("test", given.n)
    formulas = iter(batches.collection.column("formula")[rows].tolist())
    augmentation = read_augmentation(given.augmentation) if given.augmentation else None
    change = random_changes(augmentation) if augmentation else None
    log, place = [], []
    for batch in batches.batches(rows, change, bool(augmentation and augmentation.has_impurity)):
        for xrd, measured in zip(batch[keys.XRD], batch[keys.MEASURED], strict=True):
            elements, fractions = parse_formula(next(formulas))
            if not 2 <= len(elements) <= 4:
                continue
            allowed = candidates_of(parse_composition(",".join(SYMBOLS[z] for z in elements)))
            right = np.flatnonzero(np.abs(allowed.fractions - fractions).max(axis=1) < 1e-5)
            if not len(right):
                continue
            numbers, shares = map(torch.from_numpy, allowed.padded())
            judged = evidence.judge_candidates(numbers, shares, xrd[None], measured[None])
            weights = np.log(allowed.weights) + np.outer(POWERS, np.log(judged.likelihood))
            weights -= np.logaddexp.reduce(weights, axis=1)[:, None]
            log.append(weights[:, right[0]])
            place.append((weights > weights[:, right]).sum(axis=1))
    print(f"{len(log)} materials\n{'power':>6}{'log weight':>12}{'first':>8}{'in 3':>8}")
    for p, power in enumerate(POWERS):
        first, three = (np.mean([x[p] < k for x in place]) for k in (1, 3))
        print(f"{power:>6}{np.mean([x[p] for x in log]):>12.3f}{first:>8.3f}{three:>8.3f}")


if __name__ == "__main__":
    main()
