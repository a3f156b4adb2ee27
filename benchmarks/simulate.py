"""Simulating powder patterns: our kernel against pymatgen's XRDCalculator, one core, one run.

    python benchmarks/simulate.py FILE.csv[.gz] [--sample 600] [--largest 60]

Takes a random sample of the file's structures and its largest cells, simulates each with both, and
compares times and profiles (Gaussian peaks of 0.1°, 5–90°): the kernel (`ours`), and what a user of
`Simulator` calls, a pymatgen `Structure` in and lines, or a profile of 4 250 points, out. CPU time,
so that a busy machine does not matter; compiling is not counted (it is cached on the disk). Prints
a table by cell size and, as the last line, JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"  # a claim about one core

import numpy as np
from pymatgen.analysis.diffraction.xrd import XRDCalculator
from pymatgen.core import Structure

from datamodules.grid import Grid
from datamodules.inspect import profile
from datamodules.prepare.crystals.cif import crystal_from_cif
from datamodules.prepare.crystals.diffraction import (
    TWO_THETA_MAX,
    TWO_THETA_MIN,
    WAVELENGTH,
    diffraction_lines,
)
from datamodules.prepare.simulation import Simulator
from datamodules.prepare.sources.csv_cif import CsvSource
from datamodules.prepare.sources.source import Progress
from datamodules.radiation import lorentz_polarization

T = TypeVar("T")
EDGES = (0, 5, 10, 20, 40, 10_000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--sample", type=int, default=600)
    parser.add_argument("--largest", type=int, default=60)
    parser.add_argument("--repeat", type=int, default=5, help="of ours; the median counts")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")

    source = CsvSource((arguments.file,))
    texts = [record[1] for record in source.records(source.parts()[0], Progress())]
    n_atoms = np.array([text.count("\n") for text in texts])  # P1: a line an atom
    random = np.random.default_rng(0)
    sample = random.permutation(len(texts))[: arguments.sample]
    largest = np.argsort(-n_atoms, kind="stable")[: arguments.largest]
    calculator = XRDCalculator()
    simulator, grid = Simulator(two_theta_range=(TWO_THETA_MIN, TWO_THETA_MAX)), Grid().two_theta()
    # Compiles, or loads what was compiled.
    simulator.profile(crystal_from_cif(texts[0]), two_theta=grid)

    def timed(function: Callable[[], T]) -> tuple[float, T]:
        times = []
        for _ in range(arguments.repeat):
            start = time.process_time()
            result = function()
            times.append(time.process_time() - start)
        return float(np.median(times)), result

    def both(index: int) -> tuple[int, float, float, float, float, float]:
        structure = Structure.from_str(texts[index], fmt="cif")
        crystal = crystal_from_cif(texts[index])
        kernel, (q, intensity) = timed(lambda: diffraction_lines(crystal))
        lines, _ = timed(lambda: simulator.lines(structure))
        drawn, _ = timed(lambda: simulator.profile(structure, two_theta=grid))
        start = time.process_time()
        pattern = calculator.get_pattern(structure, two_theta_range=(TWO_THETA_MIN, TWO_THETA_MAX))
        theirs = time.process_time() - start
        q_theirs = 4 * np.pi * np.sin(np.radians(np.array(pattern.x) / 2)) / WAVELENGTH
        y_theirs = np.array(pattern.y) / lorentz_polarization(
            np.sin(np.radians(np.array(pattern.x) / 2))
        )
        y = profile(q, intensity, Grid())[1]
        difference = np.abs(y - profile(q_theirs, y_theirs, Grid())[1]).max()
        return len(structure), kernel, theirs, float(difference), lines, drawn

    rows = np.array([both(int(i)) for i in sample])
    big = np.array([both(int(i)) for i in largest])

    def line(name: str, part: np.ndarray) -> None:
        ours, theirs, differ = part[:, 1], part[:, 2], part[:, 3]
        print(
            f"{name:>18} {len(part):>6} {1e3 * ours.mean():>9.4f} {1e3 * theirs.mean():>9.2f}"
            f" {theirs.sum() / ours.sum():>7.0f} {(theirs / ours).min():>7.0f}"
            f" {differ.max():>9.1e} {1e3 * part[:, 4].mean():>9.4f} {1e3 * part[:, 5].mean():>9.4f}"
        )

    print(
        f"{'atoms in the cell':>18} {'cells':>6} {'ours/ms':>9} {'theirs/ms':>9} {'ratio':>7}"
        f" {'lowest':>7} {'differ':>9} {'lines/ms':>9} {'profile':>9}"
    )
    for low, high in pairwise(EDGES):
        part = rows[(rows[:, 0] > low) & (rows[:, 0] <= high)]
        if len(part):
            line(f"{low + 1}–{high}" if high < 10_000 else f"over {low}", part)
    line("random sample", rows)
    line("largest cells", big)
    print(
        json.dumps(
            {
                "benchmark": "simulate",
                "ratio": round(float(rows[:, 2].sum() / rows[:, 1].sum()), 1),
                "ratio_largest_cells": round(float(big[:, 2].sum() / big[:, 1].sum()), 1),
                "ratio_lowest_of_all": round(
                    float(min((x[:, 2] / x[:, 1]).min() for x in (rows, big))), 1
                ),
                "ratio_lines_of_a_structure": round(float(rows[:, 2].sum() / rows[:, 4].sum()), 1),
                "ratio_profile_of_a_structure": round(
                    float(rows[:, 2].sum() / rows[:, 5].sum()), 1
                ),
                "ours_ms": round(1e3 * float(rows[:, 1].mean()), 4),
                "pymatgen_ms": round(1e3 * float(rows[:, 2].mean()), 2),
                "ours_ms_percentiles_5_50_95_100": [
                    round(1e3 * float(x), 4) for x in np.percentile(rows[:, 1], [5, 50, 95, 100])
                ],
                "largest_difference_of_profiles": float(max(rows[:, 3].max(), big[:, 3].max())),
                "structures": len(rows) + len(big),
                "machine": platform.machine(),
            }
        )
    )


if __name__ == "__main__":
    main()
