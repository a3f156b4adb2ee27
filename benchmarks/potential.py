"""Labels of hypothetical crystals against DFT within formulas; how well the scan finds the minimum.

    python benchmarks/potential.py nrel.csv.gz --label energy_per_atom --formulas 60

Reads a table with a CIF column, an identifier and DFT energies an atom, with several structures a
formula. Needs the extra `potential`. One thread.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections import defaultdict
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from datamodules.prepare.crystals.composition import reduced_formula
from datamodules.prepare.crystals.crystal import EntryError
from datamodules.prepare.hypothetical.evaluation import Evaluated, scan
from datamodules.prepare.hypothetical.potential import Chgnet
from datamodules.prepare.hypothetical.scan import bulk_modulus, scaled
from datamodules.prepare.sources.csv_cif import CsvSource
from datamodules.prepare.sources.source import Entry, Progress, Target

LARGEST = 30
"""Atoms in the cell."""
FINE = np.array([0.91, 0.94, 0.97, 1.0, 1.03, 1.06, 1.09])
"""Volumes around the minimum that was found, in units of its own."""


def formulas(path: Path, label: str, count: int, most: int) -> list[list[Entry]]:
    """Some formulas with at least three structures, and at most so many of each."""
    source = CsvSource((path,), labels=(Target(label, "energy", "eV/atom"),))
    found: dict[str, list[Entry]] = defaultdict(list)
    for part in source.parts():
        for position, record in enumerate(source.records(part, Progress())):
            try:
                entry = source.entry(record, position)
            except EntryError:
                continue
            if entry.targets["energy"] is not None and len(entry.crystal.numbers) <= LARGEST:
                found[reduced_formula(*entry.crystal.composition())].append(entry)
    several = [entries for _, entries in sorted(found.items()) if len(entries) > 2]
    random = np.random.default_rng(0)
    chosen = random.permutation(len(several))[:count]
    return [[several[i][j] for j in random.permutation(len(several[i]))[:most]] for i in chosen]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--label", default="energy_per_atom")
    parser.add_argument("--formulas", type=int, default=60)
    parser.add_argument("--most", type=int, default=6, help="structures of a formula")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    potential = Chgnet()
    groups = formulas(arguments.file, arguments.label, arguments.formulas, arguments.most)
    potential.energies([groups[0][0].crystal])
    started = time.process_time()
    scanned = [(group, scan([entry.crystal for entry in group], potential)) for group in groups]
    seconds = time.process_time() - started
    correlations, predicted, true, right, pairs = [], [], [], 0, 0
    kept: list[Evaluated] = []
    for group, outcomes in scanned:
        both = [
            (outcome.energy, float(entry.targets["energy"] or 0))
            for entry, outcome in zip(group, outcomes, strict=True)
            if isinstance(outcome, Evaluated)
        ]
        kept += [outcome for outcome in outcomes if isinstance(outcome, Evaluated)]
        if len(both) < 3:
            continue
        ours, dft = np.array(both).T
        correlations.append(spearmanr(ours, dft)[0])
        predicted += (ours - ours.mean()).tolist()
        true += (dft - dft.mean()).tolist()
        difference = (ours[:, None] - ours) * (dft[:, None] - dft)
        apart = np.triu(np.abs(dft[:, None] - dft) > 0.01)
        pairs += int(apart.sum())
        right += int((difference[apart] > 0).sum())
    count = sum(map(len, groups))
    print(f"{count} structures of {len(groups)} formulas, {len(kept)} with a minimum")
    print(f"{seconds / count:.4f} CPU s a structure")
    print(f"within formulas: Spearman {np.median(correlations):.2f} (median)", end=", ")
    print(f"Pearson of the differences {np.corrcoef(predicted, true)[0, 1]:.3f}", end=", ")
    error = np.abs(np.array(predicted) - true).mean()
    print(f"their mean error {error:.3f} of {np.std(true):.3f} eV/atom", end=", ")
    print(f"{right / pairs:.3f} of {pairs} pairs right")

    volumes, energies, moduli = [], [], []
    for outcome in kept[:100]:
        points = FINE * outcome.crystal.volume_per_atom
        values = potential.energies([scaled(outcome.crystal, volume) for volume in points])
        strain = FINE ** (-2 / 3)
        fit = np.polynomial.Polynomial.fit(strain, values, 4)
        between = np.linspace(strain[-1], strain[0], 4001)
        lowest = float(between[np.argmin(fit(between))])
        volume = outcome.crystal.volume_per_atom * lowest**-1.5
        volumes.append(abs(lowest**1.5 - 1))
        energies.append(outcome.energy - float(fit(lowest)))
        moduli.append(abs(outcome.bulk_modulus / bulk_modulus(volume, points, values) - 1))
    for name, found in (("volume", volumes), ("energy, eV/atom", energies), ("modulus", moduli)):
        print(f"{name} off the minimum: median, 90 %, largest", np.quantile(found, [0.5, 0.9, 1]))


if __name__ == "__main__":
    main()
