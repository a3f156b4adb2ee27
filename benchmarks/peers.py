r"""What do published kinds of models reach on the same split with the same CPU time?

    .venv/bin/python benchmarks/peers.py --store data/nrel --target formation_energy \
        [--seconds 60] [--seeds 0 1 2] [--models resnet ours …] [--split validation] \
        [--output peers.json]

Every model trains on the training split by the absolute error for so many seconds of CPU time (all
threads counted) and is judged once on the test split: error, error and pairs ranked rightly within
formulas, seconds, parameters, steps. Variants are compared by --split validation. Nothing is tuned,
for nobody: AdamW, batches of 64, one cycle up to 1e-3 (3e-4 for transformers of patterns) over the
budget. Models:

    composition   boosted       gradient boosting on statistics of elemental properties (as Magpie:
                                Ward et al., npj Comput. Mater. 2, 16028 (2016); properties are
                                pymatgen's)
                  set           transformer over the elements, an embedding and the fraction each
                                (the kind of CrabNet; its package does not install beside today's
                                torch)
    pattern       convolutions  fully convolutional network with a global mean (the kind used for
                                powder patterns)
                  resnet        residual network in one dimension (He et al., CVPR 2016)
                  patches       transformer over patches (as ViT: Dosovitskiy et al., ICLR 2021)
                  boosted_xrd   gradient boosting on the pattern in bins of 1°
    both          concatenated  the set transformer and the convolutions side by side, joined by a
                                perceptron (the kind of XRayPro)
                  boosted_both  gradient boosting on both tables
                  ours          the task Regression of configs/regression.yaml with the tiny
                                backbone, from scratch

Only where --models names them, variants that tell which part of ours matters:

                  ours_both_only  the task without its losses for one modality alone
                  ours_bare       the backbone, a linear head, the absolute error
                  ours_coarse     half as many patches, twice as wide
                  ours_unfused    our two encoders side by side, joined by a perceptron

Patterns are square roots of the intensity at 1 063 points from 5 to 90°. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from baselines import boost, pattern_features
from peer_networks import GRID, NETWORKS, Inputs, Network
from torch import Tensor, nn

from datamodules import batch as keys
from datamodules.elements import SYMBOLS
from datamodules.rendering.peaks import PeakShape
from datamodules.rendering.renderer import Renderer
from datamodules.store.splits import key_column, to_keys
from datamodules.xrd_datamodule import XRDDataModule
from lightning_modules.metrics.within import figures, pair_tolerance

SHAPE, BATCH = PeakShape(fwhm=0.3), 64


def inputs_of(data: XRDDataModule) -> Inputs:
    """What all models see, of all rows of the store."""
    renderer, found, order = Renderer(GRID, SHAPE), [], []
    for batch in data.stream("all"):
        there = batch[keys.WEIGHT] > 0
        drawn = renderer(batch, augment=False)
        names = (keys.ELEMENTS, keys.FRACTIONS, keys.XRD)
        found.append([drawn[name][there] for name in names])
        order.append(batch[keys.INDEX][there])
    place = torch.cat(order).argsort()
    return Inputs(*(torch.cat(parts)[place] for parts in zip(*found, strict=True)))


BOOSTED = ("boosted", "boosted_xrd", "boosted_both")
SEES = {
    "boosted": "composition", "set": "composition", "convolutions": "pattern",
    "resnet": "pattern", "patches": "pattern", "boosted_xrd": "pattern",
    "concatenated": "both", "boosted_both": "both", "ours": "both",
}  # fmt: skip
VARIANTS = [name for name in NETWORKS if name not in SEES]


def train(
    build: Callable[[], Network], rate: float, x: Inputs, labels: Tensor, rows: Tensor,
    seconds: float, seed: int,
) -> tuple[Network, int]:  # fmt: skip
    """Trains a network for some seconds of CPU time; gives it and its steps."""
    torch.manual_seed(seed)
    model = build()
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.05)
    start, steps, queue = time.process_time(), 0, torch.empty(0, dtype=torch.long)
    while (spent := (time.process_time() - start) / seconds) < 1:
        warm = min(1.0, spent / 0.06)
        for group in optimizer.param_groups:
            group["lr"] = rate * warm * 0.5 * (1 + math.cos(math.pi * spent))
        if len(queue) < BATCH:
            queue = rows[torch.randperm(len(rows))]
        drawn, queue = queue[:BATCH], queue[BATCH:]
        loss = model.loss(x.at(drawn), labels[drawn], steps)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        steps += 1
    return model.eval(), steps


def elemental_properties() -> np.ndarray:
    """Properties of the elements as pymatgen has them, (119, P); NaN where it has none."""
    from pymatgen.core import Element

    names = ("Z", "X", "row", "group", "atomic_mass", "atomic_radius", "mendeleev_no",
             "electron_affinity", "ionization_energy", "melting_point", "molar_volume",
             "average_ionic_radius", "van_der_waals_radius")  # fmt: skip
    table = np.full((len(SYMBOLS), len(names) + 4), np.nan)
    for number in range(1, 104):
        element = Element.from_Z(number)
        for column, name in enumerate(names):
            value = getattr(element, name, None)
            table[number, column] = np.nan if value is None else float(value)
        for shell, kind in enumerate("spdf"):
            filled = [n for _, letter, n in element.full_electronic_structure if letter == kind]
            table[number, len(names) + shell] = filled[-1] if filled else 0
    return table


def statistics(x: Inputs) -> np.ndarray:
    """Mean, mean deviation, least, largest and range of each property, and norms; (N, F)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of properties that pymatgen does not have
        table = elemental_properties()
    values = table[x.elements.numpy()]  # (N, E, P)
    weight = x.fractions.double().numpy()[..., None]
    there = (x.elements.numpy() > 0)[..., None]
    mean = np.nansum(values * weight, 1)
    deviation = np.nansum(np.abs(values - mean[:, None]) * weight, 1)
    least = np.nanmin(np.where(there, np.nan_to_num(values), np.inf), 1)
    largest = np.nanmax(np.where(there, np.nan_to_num(values), -np.inf), 1)
    norms = [(weight[..., 0] ** p).sum(1)[:, None] ** (1 / p) for p in (2, 3, 5)]
    count = there.sum(1)
    return np.hstack([mean, deviation, least, largest, largest - least, *norms, count])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", action="append", required=True)
    parser.add_argument("--target", default="formation_energy")
    parser.add_argument("--seconds", type=float, default=120.0, help="of CPU time a model")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--models", nargs="+", choices=[*SEES, *VARIANTS], default=list(SEES))
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    parser.add_argument("--output", type=Path, help="a JSON file, written after every model")
    given = parser.parse_args()
    torch.set_num_threads(1)
    data = XRDDataModule(given.store, [given.target], grid=GRID, peaks=SHAPE, augment=False)
    collection = data.collection
    label = collection.column(given.target).astype(np.float32)
    split = {
        name: torch.from_numpy(rows[np.isfinite(label[rows])])
        for name in ("train", given.split)
        for rows in [data.rows(name)]
    }
    labels, judged_on = torch.from_numpy(label), split[given.split]
    mean, spread = labels[split["train"]].mean(), labels[split["train"]].std()
    formulas = to_keys(collection.column(key_column("formula")))[judged_on.numpy()]
    unit = collection.units.get(given.target, "")
    tolerance = pair_tolerance(given.target, unit, float(spread))
    x = inputs_of(data)
    tables = {}
    if set(given.models) & set(BOOSTED):
        pattern = pattern_features(collection, np.arange(len(labels)))
        tables = {"boosted": statistics(x), "boosted_xrd": pattern}
        tables["boosted_both"] = np.hstack(list(tables.values()))
    results = []
    print(f"{'sees':>12} {'model':>13} seed      MAE  within  pairs  CPU s  parameters   steps")
    for name in given.models:
        for seed in given.seeds:
            start = time.process_time()
            if name in BOOSTED:
                rows = split["train"].numpy()
                table = tables[name]
                value = boost(table[rows], label[rows], table[judged_on.numpy()], seed, 1500)
                size, steps = 0, 0
            else:
                build, rate = NETWORKS[name]
                scaled = (labels - mean) / spread
                model, steps = train(build, rate, x, scaled, split["train"], given.seconds, seed)
                with torch.no_grad():
                    parts = [model(x.at(rows)) for rows in judged_on.split(512)]
                value = (torch.cat(parts) * spread + mean).numpy()
                size = sum(p.numel() for p in model.parameters())
            spent = time.process_time() - start
            true = label[judged_on.numpy()].astype(np.float64)
            [judged] = figures(
                value[:, None].astype(np.float64), true, formulas, judged_on.numpy(), tolerance
            )
            results.append(
                {
                    "model": name, "sees": SEES.get(name, "both"), "seed": seed,
                    "mae": float(np.abs(value - true).mean()),
                    "within_mae": judged.get("mae", math.nan),
                    "pairs": judged.get("pairs", math.nan),
                    "cpu_seconds": round(spent, 1), "parameters": size, "steps": steps,
                }
            )  # fmt: skip
            one = results[-1]
            told = f"{one['sees']:>12} {name:>13} {seed:>4} {one['mae']:>8.4f} "
            told += f"{one['within_mae']:>7.4f} {one['pairs']:>6.3f} {spent:>6.0f}"
            print(f"{told} {size:>11} {steps:>7}", flush=True)
            if given.output:
                given.output.write_text(json.dumps(results, indent=1))
    print(
        json.dumps(
            {"store": given.store, "target": given.target, "split": given.split, "results": results}
        )
    )


if __name__ == "__main__":
    main()
