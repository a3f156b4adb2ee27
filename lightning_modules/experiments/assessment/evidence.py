"""`xxact report evidence`: what an aligned model's similarity is worth, measured and stored.

Sound pairs of the calibration split give the scale; the test split says how many contradictions
of each kind are found at that scale. Nothing here has been trained on: the split is that of the
training run, as its checkpoint says, whatever the store.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules import batch as keys
from datamodules.batch import Batch
from datamodules.composition import Stated, candidates_of
from datamodules.formula import parse_formula
from datamodules.io.arguments import ArgumentParser
from datamodules.rendering.augmentation import Augmentation, draw
from lightning_modules import checkpoints
from lightning_modules.experiments.assessment.contradictions import KINDS, Composition
from lightning_modules.experiments.assessment.recipe_augmentation import read_augmentation
from lightning_modules.experiments.assessment.split_batches import Change, SplitBatches
from lightning_modules.inference.devices import choose_device
from lightning_modules.inference.evidence import (
    MISREAD,
    POWER,
    AlignedModel,
    Calibration,
    digest,
    pad_compositions,
    weighed,
)

BANK = 2048
_SEED = 0
#: Materials by which the weights of formulas are tempered, and elements at most: more have ten
#: thousand formulas each, of which hardly one is likely.
_WEIGHED, _MOST_ELEMENTS = 300, 4
_POWERS = tuple(round(0.05 * n, 2) for n in range(2, 31))
_MISREAD = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)


def auc(sound: np.ndarray, wrong: np.ndarray) -> float:
    """Probability that a sound pair scores higher than a wrong one; ties count half."""
    order = np.sort(wrong)
    below = np.searchsorted(order, sound, side="left")
    not_above = np.searchsorted(order, sound, side="right")
    return float((below + not_above).mean() / (2 * len(wrong)))


def random_changes(augmentation: Augmentation) -> Change:
    """The augmentation's changes of each material, the same at each call."""

    def change(batch: Batch) -> Any:
        zero = torch.zeros((), dtype=torch.int64, device=batch[keys.INDEX].device)
        return draw(augmentation, zero + _SEED, zero, batch[keys.INDEX])

    return change


def harder(augmentation: Augmentation) -> Augmentation:
    """Faults about twice as strong, as real scans have beside those that training thought of."""

    def twice(value: float, most: float) -> float:
        return max(value, min(2.0 * value, most))

    fewest, largest = augmentation.noise
    return replace(
        augmentation,
        strain=twice(augmentation.strain, 0.05),
        zero_shift=twice(augmentation.zero_shift, 0.5),
        displacement=twice(augmentation.displacement, 0.002),
        line_jitter=twice(augmentation.line_jitter, 1.0),
        impurity=twice(augmentation.impurity, 0.45),
        impurity_probability=twice(augmentation.impurity_probability, 1.0),
        background=twice(augmentation.background, 0.5),
        noise=(fewest / 4.0, largest / 4.0),
    )


def fit_weights(
    model: AlignedModel, batches: SplitBatches, augmentation: Augmentation, limit: int | None = None
) -> tuple[float, float]:
    """How far the likelihood of compositions is to be trusted: `Calibration.power`, `misread`.

    Materials of the calibration split are looked at through faults that are `harder` than those of
    the training, with their elements alone given; the two numbers are those with which the right
    formulas are likeliest.

    Args:
        model: The aligned model.
        batches: Materials that it was not trained on.
        augmentation: Faults as in training.
        limit: Materials at most.
    """
    rows = batches.rows("calibration", min(limit or _WEIGHED, _WEIGHED))
    faults = harder(augmentation)
    xrd_NW = torch.cat(
        [
            model.patterns(batch[keys.XRD], batch[keys.MEASURED])
            for batch in batches.batches(rows, random_changes(faults), faults.has_impurity)
        ]
    )
    cases = []
    for xrd_W, formula in zip(xrd_NW, batches.collection.column("formula")[rows], strict=True):
        elements, fractions = parse_formula(formula)
        if not 2 <= len(elements) <= _MOST_ELEMENTS:
            continue
        allowed = candidates_of(Stated(formula, tuple(map(int, elements))))
        right = np.flatnonzero(np.abs(allowed.fractions - fractions).max(axis=1) < 1e-5)
        if len(right):
            numbers, shares = map(torch.from_numpy, allowed.padded())
            scores = model.compositions(numbers, shares) @ xrd_W / model.temperature
            cases.append((allowed.weights, scores.double().cpu().numpy(), int(right[0])))
    if not cases:
        return POWER, MISREAD

    def likelihood(numbers: tuple[float, float]) -> float:
        weights = (weighed(prior, scores, *numbers)[right] for prior, scores, right in cases)
        return sum(math.log(max(weight, 1e-300)) for weight in weights)

    return max(product(_POWERS, _MISREAD), key=likelihood)


def calibrate(
    model: AlignedModel,
    batches: SplitBatches,
    augmentation: Augmentation | None = None,
    false_alarms: float = 0.05,
    limit: int | None = None,
) -> Calibration:
    """Measures scores of sound and of wrong pairs.

    Args:
        model: The aligned model.
        batches: Materials that it was not trained on, apart from the training split.
        augmentation: Changes under which patterns are drawn; None draws plain ones.
        false_alarms: Share of sound pairs to flag.
        limit: Materials of a split at most.

    Raises:
        ValueError: if there are too few sound pairs to flag any at that rate.
    """
    needed = math.ceil(1.0 / false_alarms - 1e-9) - 1
    if (n := len(batches.rows("calibration", limit))) < needed:
        raise ValueError(
            f"{n} materials for calibration: no pair could be flagged at a rate of "
            f"{false_alarms:g} with fewer than {needed}; use larger stores, a larger --limit or "
            "more --false-alarms"
        )
    random = np.random.default_rng(_SEED)
    train = batches.rows("train", BANK)
    formulas = batches.collection.column("formula")
    bank = sorted(set(formulas[train].tolist()))
    bank_KW = model.compositions(*pad_compositions([parse_formula(f) for f in bank]))
    change = random_changes(augmentation) if augmentation is not None else None
    impure = augmentation is not None and augmentation.has_impurity

    def embed(split: str) -> tuple[Tensor, list[Composition]]:
        rows = batches.rows(split, limit)
        xrd_NW = torch.cat(
            [
                model.patterns(batch[keys.XRD], batch[keys.MEASURED])
                for batch in batches.batches(rows, change, impure)
            ]
        )
        return xrd_NW, [parse_formula(formula) for formula in formulas[rows]]

    def score(compositions: Sequence[Composition], xrd_NW: Tensor) -> np.ndarray:
        embedded = model.compositions(*pad_compositions(compositions))
        return model.scores(embedded, xrd_NW, bank_KW).cpu().numpy()

    xrd_NW, compositions = embed("calibration")
    scale = np.sort(score(compositions, xrd_NW))
    result = Calibration(digest(model.path), bank, scale.tolist(), false_alarms, {}, {})
    xrd_NW, compositions = embed("test")
    sound = score(compositions, xrd_NW)
    wrong = {
        kind: [make(composition, random) for composition in compositions]
        for kind, make in KINDS.items()
    }
    # By one place: no material meets itself; neighbours of one formula are left out.
    wrong["shuffled"] = [
        other if not _same(composition, other) else None
        for composition, other in zip(
            compositions, compositions[1:] + compositions[:1], strict=True
        )
    ]
    flagged = result.agreement(sound) <= false_alarms
    result.kinds["sound"] = {"flagged": float(flagged.mean()), "n": len(sound)}
    for kind, made in wrong.items():
        there = [i for i, composition in enumerate(made) if composition is not None]
        if not there:
            continue
        scores = score([c for c in made if c is not None], xrd_NW[there])
        result.kinds[kind] = {
            "auc": auc(sound, scores),
            "detected": float((result.agreement(scores) <= false_alarms).mean()),
            "n": len(there),
        }
    return result


def _same(a: Composition, b: Composition) -> bool:
    return np.array_equal(a[0], b[0]) and np.allclose(a[1], b[1], atol=1e-3)


def main(argv: Sequence[str]) -> int:
    """Runs `xxact report evidence`."""
    parser = ArgumentParser(
        prog="xxact report evidence",
        description="Measure how well an aligned model tells that formula and pattern contradict "
        "each other, and store the scale beside the checkpoint for `xxact predict --aligned`.",
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="of an alignment")
    parser.add_argument("--store", action="append", required=True, help="repeatable")
    parser.add_argument(
        "--augmentation",
        type=Path,
        metavar="OVERLAY.yaml",
        help="draw patterns with its random changes, as configs/augmentation/measured.yaml",
    )
    parser.add_argument(
        "--false-alarms", type=float, default=0.05, help="share of sound pairs flagged (0.05)"
    )
    parser.add_argument("--limit", type=int, help="materials of a split at most")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, …")
    parser.add_allow_task()
    given = parser.parse_args(argv)
    if not 0.0 < given.false_alarms < 1.0:
        raise ValueError(f"--false-alarms {given.false_alarms}: must lie between 0 and 1")
    if given.limit is not None and given.limit < 2:
        raise ValueError(f"--limit {given.limit}: must be at least 2")
    device = choose_device(given.device)
    model = AlignedModel(given.checkpoint, device, given.allow_task)
    split = checkpoints.split_of(given.checkpoint)
    batches = SplitBatches(given.store, model.grid, model.peaks, split, device=device)
    augmentation = read_augmentation(given.augmentation) if given.augmentation else None
    result = calibrate(model, batches, augmentation, given.false_alarms, given.limit)
    result.power, result.misread = fit_weights(
        model, batches, augmentation or Augmentation(), given.limit
    )
    result.settings = {
        "stores": [Path(store).name for store in given.store],
        "split": split.to_dict(),
        "augmentation": None if given.augmentation is None else str(given.augmentation),
    }
    path = result.keep(model.path)
    print(f"{path}: scale of {len(result.scores)} sound pairs, bank of {len(result.bank)} formulas")
    told = f"likelihood to the power {result.power:g}, {result.misread:g} misread"
    print(f"  formulas where the elements alone are known: {told}")
    sound = result.kinds["sound"]
    print(f"  sound pairs flagged  {sound['flagged']:.3f} of {sound['n']}")
    for kind, values in result.kinds.items():
        if kind != "sound":
            print(
                f"  {kind:<16} AUC {values['auc']:.3f}, detected {values['detected']:.3f} "
                f"of {values['n']}"
            )
    return 0
