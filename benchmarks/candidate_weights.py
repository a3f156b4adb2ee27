"""Is the stated weight of a formula honest where the elements alone are known, and a pattern?

    python benchmarks/candidate_weights.py --aligned CKPT --store STORE
        [--augmentation configs/augmentation/measured.yaml] [--measured FOLDER/index.csv]

Held-out materials (test split of the aligned model's run, 2 to 4 elements), patterns with the
augmentation's faults and with faults twice as strong, and measured patterns. By turns the weights
of formulas are alike for all elements and numbers of them, or each kind's own; and the likelihood
that the aligned model gives is taken as it is, or as `xxact report evidence` found: the mean
logarithm of the right formula's weight, the stated weight of the heaviest beside how often it is
the right one, and both by the stated weight. Formulas that are not among the candidates count as
not right.
"""

import argparse
import csv
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch

from datamodules import batch as keys
from datamodules.composition import candidates, candidates_of, parse_composition
from datamodules.elements import SYMBOLS
from datamodules.formula import parse_formula
from datamodules.measured import Options, convert, read_scan
from datamodules.measured.wavelength import parse_wavelength
from datamodules.rendering.augmentation import Augmentation
from datamodules.rendering.renderer import Renderer
from lightning_modules import checkpoints
from lightning_modules.experiments.assessment.evidence import harder, random_changes
from lightning_modules.experiments.assessment.recipe_augmentation import read_augmentation
from lightning_modules.experiments.assessment.split_batches import SplitBatches
from lightning_modules.inference.evidence import Evidence, weighed

EDGES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.01)


def main():
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--aligned", required=True)
    parser.add_argument("--store", required=True)
    parser.add_argument("--augmentation", type=Path)
    parser.add_argument("--measured", type=Path)
    parser.add_argument("--n", type=int, default=300)
    given = parser.parse_args()
    torch.set_num_threads(1)
    evidence = Evidence(given.aligned)
    model, scale = evidence.model, evidence.calibration
    used = read_augmentation(given.augmentation) if given.augmentation else Augmentation()
    batches = SplitBatches(
        [given.store], model.grid, model.peaks, checkpoints.split_of(given.aligned)
    )
    rows = batches.rows("test", given.n)
    formulas = batches.collection.column("formula")[rows].tolist()
    patterns = {
        kind: [
            (batch[keys.XRD][i : i + 1], batch[keys.MEASURED][i : i + 1])
            for batch in batches.batches(rows, random_changes(faults), faults.has_impurity)
            for i in range(len(batch[keys.XRD]))
        ]
        for kind, faults in (("as in training", used), ("twice as strong", harder(used)))
    }
    found = defaultdict(list)
    for number, formula in enumerate(formulas):
        seen = {kind: some[number] for kind, some in patterns.items()}
        judge(evidence, formula, seen, found)
    if given.measured:
        for row in csv.DictReader(given.measured.open(encoding="utf-8")):
            seen = {"measured": read(model, given.measured.parent / row["file"], row)}
            judge(evidence, row["formula"], seen, found)
    settings = {
        "alike, as it is": ("alike", 1.0, 0.0),
        "own, as it is": ("own", 1.0, 0.0),
        "own, as found": ("own", scale.power, scale.misread),
    }
    print(f"as found: power {scale.power:g}, misread {scale.misread:g}")
    head = f"{'patterns':<17}{'weights, likelihood':<21}{'n':>4}{'log weight':>12}{'heaviest':>10}"
    print(
        f"{head}{'right':>7}" + "".join(f"{f'{a:g}-{min(b, 1):g}':>15}" for a, b in pairwise(EDGES))
    )
    for kind, cases in found.items():
        for name, (which, power, misread) in settings.items():
            log, stated, right = [], [], []
            for priors, scores, place in cases:
                weights = weighed(priors[which], scores, power, misread)
                best = int(weights.argmax())
                stated.append(weights[best])
                right.append(best == place)
                if place is not None:
                    log.append(np.log(weights[place]))
            stated, right = np.array(stated), np.array(right)
            line = f"{kind:<17}{name:<21}{len(cases):>4}{np.mean(log):>12.3f}"
            line += f"{stated.mean():>10.2f}{right.mean():>7.2f}"
            for low, high in pairwise(EDGES):
                there = (stated >= low) & (stated < high)
                told = "-"
                if there.any():
                    told = f"{there.sum()}: {stated[there].mean():.2f} {right[there].mean():.2f}"
                line += f"{told:>15}"
            print(line, flush=True)


def judge(evidence, formula, patterns, found):
    """Add a material's candidates and their scores for some patterns, by kind of pattern."""
    elements, fractions = parse_formula(formula)
    if not 2 <= len(elements) <= 4:
        return
    stated = parse_composition(",".join(SYMBOLS[z] for z in elements))
    own = candidates_of(stated)
    same = dict.fromkeys(candidates.FORMULA_WEIGHTS, candidates.FormulaWeights())
    with patch.object(candidates, "FORMULA_WEIGHTS", same):
        other = candidates_of(stated)
    # The same formulas in another order.
    order = np.lexsort(other.amounts.T)[np.argsort(np.lexsort(own.amounts.T))]
    priors = {"own": own.weights, "alike": other.weights[order]}
    places = np.flatnonzero(np.abs(own.fractions - fractions).max(axis=1) < 1e-5)
    place = int(places[0]) if len(places) else None
    numbers, shares = map(torch.from_numpy, own.padded())
    for kind, (xrd, measured) in patterns.items():
        scores = evidence.candidate_scores(numbers, shares, xrd, measured)
        found[kind].append((priors, scores, place))


def read(model, path, row):
    """A scan as the model sees it."""
    scan = read_scan(path)
    wavelength = None if scan.wavelength else parse_wavelength(row["wavelength_angstrom"])
    pattern = convert(scan, model.grid, Options(wavelength, fwhm=model.peaks.fwhm))
    profile = torch.from_numpy(pattern.profile)[None]
    index = torch.zeros(1, dtype=torch.int64)
    batch = Renderer(model.grid, model.peaks)(
        {keys.PROFILE: profile, keys.INDEX: index}, augment=False
    )
    return batch[keys.XRD], batch[keys.MEASURED]


if __name__ == "__main__":
    main()
