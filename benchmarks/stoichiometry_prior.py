"""What the weights of formulas are worth where the elements alone are known.

    python benchmarks/stoichiometry_prior.py STORE [STORE …] [--skip 3000] [--n 3000]

For formulas of the stores (in an order of their hashes, the first `--skip` left out: by those the
weights were chosen): the mean logarithm of the weight of the right formula among the candidates,
without charge balance, and with the same weights for all numbers of elements; the weight of the
heaviest, so and so, beside how often it is the right one; and how often that is among 10 and 256.
By the number of elements, and whether one of `candidates.ANIONS` is among them.
"""

import argparse
import hashlib
from dataclasses import replace
from unittest.mock import patch

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
    names = ("formulas", "outside", "log weight", "unbalanced", "one form", "uniform", "heaviest",
             "one form", "right", "in 10", "in 256")  # fmt: skip
    print(f"{'elements':<10}" + "".join(f"{name:>12}" for name in names))
    found = {}
    for name in formulas:
        elements, fractions = parse_formula(name)
        if not 2 <= len(elements) <= 5:
            continue
        logs, places, heaviest = [], [], []
        # As they are, without charge balance, and the same for all elements and numbers of them.
        own = candidates.FORMULA_WEIGHTS
        unbalanced = {key: replace(scale, neutral=1.0) for key, scale in own.items()}
        for used in (own, unbalanced, dict.fromkeys(own, candidates.FormulaWeights())):
            with patch.object(candidates, "FORMULA_WEIGHTS", used):
                allowed = candidates_of(parse_composition(",".join(SYMBOLS[z] for z in elements)))
            heaviest.append(float(allowed.weights[0]))
            place = np.flatnonzero(np.abs(allowed.fractions - fractions).max(axis=1) < 1e-5)
            if len(place):
                logs.append(float(np.log(allowed.weights[place[0]])))
                places.append(int(place[0]))
        uniform = -float(np.log(len(allowed)))
        anion = bool(candidates.ANIONS & set(elements.tolist()))
        kind = f"{len(elements)} {'anion' if anion else 'metals'}"
        found.setdefault(kind, []).append((logs, places, uniform, heaviest))
    found = dict(sorted(found.items()))
    found["all"] = [row for of_number in found.values() for row in of_number]
    for kind, rows in found.items():
        inside = [row for row in rows if row[0]]
        log = np.array([row[0] for row in inside]).mean(axis=0)
        place = np.array([row[1][0] for row in inside])
        heaviest = np.mean([row[3] for row in rows], axis=0)
        shares = [np.sum(place < most) / len(rows) for most in (1, 10, 256)]
        values = (1 - len(inside) / len(rows), *log, np.mean([row[2] for row in inside]),
                  heaviest[0], heaviest[2], *shares)  # fmt: skip
        print(f"{kind:<10}{len(rows):>12}" + "".join(f"{value:>12.3f}" for value in values))


if __name__ == "__main__":
    main()
