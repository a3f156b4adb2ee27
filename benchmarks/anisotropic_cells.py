"""Retrieval of materials whose cells differ from the library's by other amounts along each axis.

    python benchmarks/anisotropic_cells.py mp.csv.gz --store data/mp [--spread 0.01] [--n 60]

Held-out materials of the table get lattice parameters that differ from its own by independent
normal strains (equal axes stay equal), pymatgen computes their lines from the strained structure,
and they are measured by computer (texture of 20 %, zero shift of ±0.1°, lines of 0.1 to 0.25° at
low angles, background, noise) and read as files are. Rank of the right formula among all materials
of the store: by lines of the scan's own width alone, and as `xxact retrieve` answers.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas
import torch
from pymatgen.analysis.diffraction.xrd import XRDCalculator
from pymatgen.core import Lattice, Structure

from datamodules.grid import Grid
from datamodules.measured import PatternError, Scan
from datamodules.measured.wavelength import parse_wavelength
from datamodules.store.splits import SplitConfig, split_rows
from lightning_modules.inference.neighbours import Library
from lightning_modules.retrieval import Retriever

#: Materials before these chose how far lines are smeared.
SKIPPED = 60


def judged(retriever, scans):
    """Ranks of right formulas.

    Args:
        retriever: Of the library.
        scans: Pairs of a scan and the row of its material.

    Returns:
        Ranks by name of what ranked, and how many right and wrong answers were called confident.
    """
    formulas = retriever.library.collection.column("formula_key")
    everyone = np.arange(len(formulas))
    ranks, confident = {"own width alone": [], "as retrieve answers": []}, {True: 0, False: 0}
    for scan, row in scans:
        try:
            _, profile = retriever.read(scan)
        except PatternError:
            continue
        own = formulas == formulas[row]
        fits = retriever.fits(profile, everyone)
        answer, sure = retriever.answers(profile, everyone)
        if sure:
            confident[bool(own[answer.rows[0]])] += 1
        for found, there in zip(ranks.values(), (fits, answer), strict=True):
            found.append(rank(own[there.rows.numpy()]))
    return ranks, confident


def main():
    """Print recall at 1, 5 and 10."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path, help="CSV with columns material_id and cif")
    parser.add_argument("--store", type=Path, required=True, help="of the same table")
    parser.add_argument("--spread", type=float, default=0.01, help="σ of each axis' strain")
    parser.add_argument("--n", type=int, default=60)
    given = parser.parse_args()
    torch.set_num_threads(1)
    library = Library([given.store])
    table = pandas.read_csv(given.table)
    cifs = dict(zip(table["material_id"].astype(str), table["cif"], strict=True))
    rows = split_rows(library.collection, SplitConfig())["test"]
    rows = np.random.default_rng(11).permutation(rows)[SKIPPED : SKIPPED + given.n]
    random = np.random.default_rng(6)
    scans = (
        (measured(cifs[library.collection.material(int(row)).id], given.spread, random), row)
        for row in rows
    )
    ranks, confident = judged(Retriever(library), scans)
    n = len(ranks["own width alone"])
    print(f"{n} scans, strains of {given.spread:.1%}")
    print(f"called confident and right {confident[True]}, wrong {confident[False]}")
    for name, found in ranks.items():
        recall = " ".join(f"{np.mean(np.array(found) <= k):>7.3f}" for k in (1, 5, 10))
        print(f"{name:<22}{recall}")


def rank(right):
    """Place of the first that is right, from 1."""
    return int(right.argmax()) + 1 if right.any() else 10**9


def strained(structure, spread, random):
    """A structure with other lengths of its cell; equal ones stay equal."""
    lengths = np.array(structure.lattice.abc)
    strain = random.normal(0.0, spread, 3)
    for first, other in ((0, 1), (1, 2), (0, 2)):
        if abs(lengths[first] - lengths[other]) < 1e-3 * lengths[first]:
            strain[other] = strain[first]
    cell = Lattice.from_parameters(*(lengths * (1.0 + strain)), *structure.lattice.angles)
    return Structure(cell, structure.species_and_occu, structure.frac_coords)


def measured(cif, spread, random):
    """A scan of a structure with a strained cell."""
    structure = strained(Structure.from_str(cif, fmt="cif"), spread, random)
    grid = Grid()
    pattern = XRDCalculator(wavelength=grid.wavelength).get_pattern(structure, None, (5, 90))
    two_theta, width = grid.two_theta(), random.uniform(0.1, 0.25)
    heights = pattern.y * random.lognormal(0.0, 0.2, len(pattern.y))
    shift = random.uniform(-0.1, 0.1)
    profile = np.zeros(len(two_theta))
    for place, height in zip(pattern.x, heights, strict=True):
        fwhm = width * (1.0 + 0.5 * np.tan(np.radians(place / 2)))
        profile += height * np.exp(-4 * np.log(2) * ((two_theta - place - shift) / fwhm) ** 2)
    profile = profile / profile.max() + 0.03 * np.exp(-two_theta / 20)
    counts = 10 ** random.uniform(3, 5)
    noisy = random.poisson(profile * counts) * (1e4 / counts)
    return Scan(two_theta, noisy, wavelength=parse_wavelength("CuKa"), format="simulated")


if __name__ == "__main__":
    main()
