"""Do intervals hold when the composition is known with errors only, and how much wider are they?

    python benchmarks/uncertain_compositions.py --checkpoint CKPT --store STORE [--aligned ALIGNED]

Held-out materials (test split of the checkpoint's run) are stated as a laboratory would: their
atomic percentages with normal errors drawn here (a seed a material), or their elements alone. For
each statement: coverage, each formula counted once, mean width, mean absolute error, from both
modalities and from the composition alone, beside what the sharp formula gives and what one would
get by taking the erroneous percentages for sharp ones.
"""

import argparse

import numpy as np
import torch

from datamodules.composition.atoms import ATOMIC_WEIGHTS
from datamodules.elements import SYMBOLS
from lightning_modules import checkpoints
from lightning_modules.experiments.assessment.split_batches import SplitBatches
from lightning_modules.inference.prediction import Predictor
from lightning_modules.metrics.conformal import coverage


def stated(elements, fractions, error, unit, kind, seed):
    """Percentages with errors as a text; kind: independent, balance or sharp."""
    random = np.random.default_rng([7, seed])
    atoms = np.asarray(fractions, float)
    masses = np.array([ATOMIC_WEIGHTS[int(z)] for z in elements])
    share = 100 * (atoms * masses / (atoms @ masses) if unit == "wt%" else atoms / atoms.sum())
    drawn = np.clip(share + error * random.standard_normal(len(share)), 0.01, None)
    if kind == "balance":
        last = int(np.argmax(share))
        drawn[last] = max(0.01, 100 - np.delete(drawn, last).sum())
    else:
        drawn *= 100 / drawn.sum()
    errors = "" if kind == "sharp" else f"±{error}"
    parts = (f"{SYMBOLS[z]} {x:.6f}{errors}" for z, x in zip(elements, drawn, strict=True))
    return ", ".join(parts) + f" {unit}"


def main():
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--store", required=True)
    parser.add_argument("--aligned")
    parser.add_argument("--n", type=int, default=300)
    parser.add_argument("--elements", type=int, default=100, help="materials of elements alone")
    parser.add_argument("--target", default="formation_energy")
    given = parser.parse_args()
    torch.set_num_threads(1)
    task = checkpoints.load_task(given.checkpoint)
    batches = SplitBatches(
        [given.store], task.grid, checkpoints.peaks_of(given.checkpoint),
        checkpoints.split_of(given.checkpoint),
    )  # fmt: skip
    rows = batches.rows("test", given.n)
    materials = [batches.collection.material(int(row)) for row in rows]
    materials = [m for m in materials if len(m.elements) > 1]
    predictor = Predictor(given.checkpoint, [given.store], "cpu")
    predictors = {"": predictor}
    if given.aligned:
        predictors[" + aligned"] = Predictor(
            given.checkpoint, [given.store], "cpu", aligned=given.aligned
        )
    labels = torch.tensor(
        [
            m.volume_per_atom if given.target == "volume_per_atom" else m.targets[given.target]
            for m in materials
        ],
        dtype=torch.float64,
    )
    _, groups = np.unique([m.formula for m in materials], return_inverse=True)
    cases = {"formula": lambda m, i: m.formula}
    for error, unit, kind in (
        (1, "at%", "independent"), (2, "at%", "independent"), (2, "at%", "sharp"),
        (5, "at%", "independent"), (5, "at%", "sharp"), (5, "at%", "balance"),
        (2, "wt%", "independent"),
    ):  # fmt: skip
        cases[f"±{error} {unit}, {kind}"] = lambda m, i, e=error, u=unit, k=kind: stated(
            m.elements, m.fractions, e, u, k, i
        )
    cases["elements alone"] = lambda m, i: ",".join(SYMBOLS[z] for z in m.elements)
    print(f"{given.target}: {len(materials)} materials of {len(set(groups))} formulas")
    print(f"{'statement':<32}{'from':<13}{'coverage':>9}{'95 %':>16}{'width':>8}{'MAE':>8}{'n':>5}")
    for name, text in cases.items():
        n = len(materials) if name != "elements alone" else min(given.elements, len(materials))
        for extra, used in predictors.items():
            if extra and ("sharp" in name or name == "formula"):
                continue
            # Taken for sharp they are another composition than the store's: without its pattern.
            stored = "sharp" not in name
            answers = used(
                [
                    {"formula": text(m, i)} | ({"id": m.id} if stored else {})
                    for i, m in enumerate(materials[:n])
                ]
            )
            failed = [a["error"] for a in answers if a["error"]]
            for error in failed[:2]:
                print(f"  {name}: {len(failed)} not predicted, such as {error}")
            for source in ("", "composition_"):
                if (extra and source) or (not stored and not source):
                    continue
                keys = [f"{given.target}_{source}{x}" for x in ("predicted", "low", "high")]
                value, low, high = (
                    torch.tensor([np.nan if a[k] is None else a[k] for a in answers]) for k in keys
                )
                known = ~labels[:n].isnan() & ~value.isnan()
                found = coverage(
                    low[known], high[known], labels[:n][known], torch.tensor(groups[:n])[known]
                )
                mae = (value - labels[:n])[known].abs().mean()
                print(
                    f"{name + extra:<32}{source[:-1] or 'both':<13}{found['coverage']:>9.3f}"
                    f"  [{found['coverage_low']:.3f}, {found['coverage_high']:.3f}]"
                    f"{found['width']:>8.3f}{mae:>8.3f}{int(known.sum()):>5}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
