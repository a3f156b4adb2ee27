"""What the weights of formulas are worth where the elements alone are known.

    python benchmarks/stoichiometry_prior.py STORE [STORE …] [--skip 3000] [--n 3000]

For formulas of the stores (in an order of their hashes, the first `--skip` left out: by those the
weights were chosen): the mean logarithm of the weight of the right formula among the candidates,
with and without charge balance, and how often it is among the first 1, 10 and 256.
"""

import argparse
import hashlib

import numpy as np

from datamodules.composition import candidates, candidates_of, parse_composition
from datamodules.elements import SYMBOLS
from datamodules.formula import parse_formula
from datamodules.store.store import Store


def main():
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stores", nargs="+")
    parser.add_argument("--skip", type=int, default=3000)
    parser.add_argument("--n", type=int, default=3000)
    given = parser.parse_args()
    formulas = sorted(
        {name for store in given.stores for name in Store(store).column("formula").tolist()},
        key=lambda name: hashlib.blake2b(name.encode()).digest(),
    )[given.skip : given.skip + given.n]
    print(f"{'elements':<10}{'formulas':>9}{'outside':>9}{'log weight':>12}{'unbalanced':>12}"
          f"{'uniform':>10}{'first':>8}{'in 10':>8}{'in 256':>8}")  # fmt: skip
    found = {}
    for name in formulas:
        elements, fractions = parse_formula(name)
        if not 2 <= len(elements) <= 5:
            continue
        logs, places = [], []
        for neutral in (candidates.NEUTRAL, 1.0):
            balanced, candidates.NEUTRAL = candidates.NEUTRAL, neutral
            allowed = candidates_of(parse_composition(",".join(SYMBOLS[z] for z in elements)))
            candidates.NEUTRAL = balanced
            place = np.flatnonzero(np.abs(allowed.fractions - fractions).max(axis=1) < 1e-5)
            if len(place):
                logs.append(float(np.log(allowed.weights[place[0]])))
                places.append(int(place[0]))
        uniform = -float(np.log(len(allowed)))
        found.setdefault(len(elements), []).append((logs, places, uniform))
    found = dict(sorted(found.items()))
    found["all"] = [row for of_number in found.values() for row in of_number]
    for n, rows in found.items():
        inside = [row for row in rows if row[0]]
        log = np.array([row[0] for row in inside])
        place = np.array([row[1][0] for row in inside])
        print(f"{n:<10}{len(rows):>9}{1 - len(inside) / len(rows):>9.3f}{log[:, 0].mean():>12.3f}"
              f"{log[:, 1].mean():>12.3f}{np.mean([row[2] for row in inside]):>10.3f}"
              f"{np.sum(place < 1) / len(rows):>8.3f}{np.sum(place < 10) / len(rows):>8.3f}"
              f"{np.sum(place < 256) / len(rows):>8.3f}")  # fmt: skip


if __name__ == "__main__":
    main()
