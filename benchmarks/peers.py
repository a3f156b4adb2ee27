r"""What do published kinds of models reach on the same split with the same CPU time?

    .venv/bin/python benchmarks/peers.py --store data/nrel --target formation_energy \
        [--seconds 60] [--seeds 0 1 2] [--models resnet ours …] [--output peers.json]

Every model trains on the training split by the absolute error for so many seconds of CPU time (all
threads counted) and is judged once on the test split: error, error and pairs ranked rightly within
formulas, seconds, parameters. Nothing is tuned, for nobody: AdamW, batches of 64, one cycle up to
1e-3 (3e-4 for transformers of patterns) over the budget. Models:

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
                  ours          the tiny backbone: two encoders and cross-attention, from scratch

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
from typing import NamedTuple

import numpy as np
import torch
from baselines import boost, pattern_features
from plain_transformer import PlainTransformer
from torch import Tensor, nn

from datamodules import batch as keys
from datamodules.elements import SYMBOLS
from datamodules.grid import Grid
from datamodules.rendering.peaks import PeakShape
from datamodules.rendering.renderer import Renderer
from datamodules.store.splits import key_column, to_keys
from datamodules.xrd_datamodule import XRDDataModule
from lightning_modules.backbone import Backbone, BackboneConfig
from lightning_modules.metrics.within import figures, pair_tolerance

GRID, SHAPE = Grid(5.0, 90.0, 0.08), PeakShape(fwhm=0.3)
PATCH, WIDTH, BATCH = 21, 96, 64


class Inputs(NamedTuple):
    """Elements and fractions (N, E) and patterns (N, L)."""

    elements: Tensor
    fractions: Tensor
    xrd: Tensor

    def at(self, rows: Tensor) -> Inputs:
        """Some rows."""
        return Inputs(*(part[rows] for part in self))


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


class SetTransformer(nn.Module):
    """The composition alone."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = PlainTransformer()

    def forward(self, x: Inputs) -> Tensor:
        """Standardised values, (N,)."""
        value: Tensor = self.encoder(x.elements, x.fractions)
        return value


class Convolutions(nn.Module):
    """Strided convolutions with a global mean: (N, L) to (N, 192)."""

    out = 192

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 1
        for width, kernel in ((32, 15), (64, 9), (96, 7), (128, 5), (self.out, 5)):
            layers += [nn.Conv1d(before, width, kernel, 2, kernel // 2)]
            layers += [nn.BatchNorm1d(width), nn.ReLU()]
            before = width
        self.layers = nn.Sequential(*layers)

    def forward(self, xrd: Tensor) -> Tensor:
        """Vectors, (N, D)."""
        vector: Tensor = self.layers(xrd[:, None]).mean(dim=-1)
        return vector


class Residual(nn.Module):
    """Two convolutions beside an identity."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(before, width, 5, stride, 2, bias=False),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Conv1d(width, width, 5, 1, 2, bias=False),
            nn.BatchNorm1d(width),
        )
        self.beside = nn.Conv1d(before, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, L) to (N, C', L')."""
        return torch.relu(self.body(x) + self.beside(x))


class OfPattern(nn.Module):
    """A value of the pattern alone: an encoder (N, L) to (N, D), and a head."""

    def __init__(self, encoder: nn.Module, width: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Sequential(nn.Linear(width, WIDTH), nn.GELU(), nn.Linear(WIDTH, 1))

    def forward(self, x: Inputs) -> Tensor:
        """Standardised values, (N,)."""
        value: Tensor = self.head(self.encoder(x.xrd))[:, 0]
        return value


class ResNet(nn.Sequential):
    """A residual network of eight convolutions in four stages: (N, L) to (N, 192)."""

    def __init__(self) -> None:
        super().__init__(
            nn.Unflatten(1, (1, -1)),
            nn.Conv1d(1, 32, 15, 4, 7),
            Residual(32, 32, 1),
            Residual(32, 64, 2),
            Residual(64, 128, 2),
            Residual(128, 192, 2),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
        )


class Patches(nn.Module):
    """A transformer over patches of the pattern: (N, L) to (N, WIDTH)."""

    def __init__(self) -> None:
        super().__init__()
        self.n = GRID.n_points // PATCH
        self.token = nn.Linear(PATCH, WIDTH)
        self.place = nn.Parameter(0.02 * torch.randn(self.n, WIDTH))
        layer = nn.TransformerEncoderLayer(
            WIDTH, 4, 4 * WIDTH, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, 4, nn.LayerNorm(WIDTH), False)

    def forward(self, xrd: Tensor) -> Tensor:
        """Vectors, (N, D)."""
        patches = xrd[:, : self.n * PATCH].unflatten(1, (self.n, PATCH))
        vector: Tensor = self.encoder(self.token(patches) + self.place).mean(dim=1)
        return vector


class Concatenated(nn.Module):
    """Both encoders' vectors side by side, and a perceptron."""

    def __init__(self) -> None:
        super().__init__()
        self.composition, self.pattern = PlainTransformer(), Convolutions()
        width = self.composition.summary.shape[0]
        self.composition.head = nn.Identity()
        self.head = nn.Sequential(
            nn.Linear(width + Convolutions.out, 128), nn.GELU(), nn.Linear(128, 1)
        )

    def forward(self, x: Inputs) -> Tensor:
        """Standardised values, (N,)."""
        vectors = (self.composition.vector(x.elements, x.fractions), self.pattern(x.xrd))
        value: Tensor = self.head(torch.cat(vectors, dim=1))[:, 0]
        return value


class Ours(nn.Module):
    """The tiny backbone of configs/model/tiny.yaml and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        grid = Grid(5.0, 5.0 + GRID.step * PATCH * (GRID.n_points // PATCH), GRID.step)
        config = BackboneConfig(
            width=WIDTH, heads=4, composition_layers=2, xrd_layers=3, fusion_layers=1,
            patch_points=PATCH,
        )  # fmt: skip
        self.backbone, self.head = Backbone(config, grid), nn.Linear(WIDTH, 1)

    def forward(self, x: Inputs) -> Tensor:
        """Standardised values, (N,)."""
        xrd = x.xrd[:, : self.backbone.grid.n_points]
        measured = torch.ones_like(xrd, dtype=torch.bool)
        value: Tensor = self.head(self.backbone(x.elements, x.fractions, xrd, measured).fused)[:, 0]
        return value


NETWORKS: dict[str, tuple[Callable[[], nn.Module], float]] = {
    "set": (SetTransformer, 1e-3),
    "convolutions": (lambda: OfPattern(Convolutions(), Convolutions.out), 1e-3),
    "resnet": (lambda: OfPattern(ResNet(), 192), 1e-3),
    "patches": (lambda: OfPattern(Patches(), WIDTH), 3e-4),
    "concatenated": (Concatenated, 1e-3),
    "ours": (Ours, 1e-3),
}
"""Networks and the highest rates of their schedules."""
BOOSTED = ("boosted", "boosted_xrd", "boosted_both")
SEES = {
    "boosted": "composition", "set": "composition", "convolutions": "pattern",
    "resnet": "pattern", "patches": "pattern", "boosted_xrd": "pattern",
    "concatenated": "both", "boosted_both": "both", "ours": "both",
}  # fmt: skip


def train(
    build: Callable[[], nn.Module], rate: float, x: Inputs, labels: Tensor, rows: Tensor,
    seconds: float, seed: int,
) -> tuple[nn.Module, int]:  # fmt: skip
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
        loss = (model(x.at(drawn)) - labels[drawn]).abs().mean()
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
    parser.add_argument("--models", nargs="+", choices=SEES, default=list(SEES))
    parser.add_argument("--output", type=Path, help="a JSON file, written after every model")
    given = parser.parse_args()
    torch.set_num_threads(1)
    data = XRDDataModule(given.store, [given.target], grid=GRID, peaks=SHAPE, augment=False)
    collection = data.collection
    label = collection.column(given.target).astype(np.float32)
    split = {
        name: torch.from_numpy(rows[np.isfinite(label[rows])])
        for name in ("train", "test")
        for rows in [data.rows(name)]
    }
    labels, test = torch.from_numpy(label), split["test"]
    mean, spread = labels[split["train"]].mean(), labels[split["train"]].std()
    formulas = to_keys(collection.column(key_column("formula")))[test.numpy()]
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
                value = boost(table[rows], label[rows], table[test.numpy()], seed, 1500)
                size, steps = 0, 0
            else:
                build, rate = NETWORKS[name]
                scaled = (labels - mean) / spread
                model, steps = train(build, rate, x, scaled, split["train"], given.seconds, seed)
                with torch.no_grad():
                    parts = [model(x.at(rows)) for rows in test.split(512)]
                value = (torch.cat(parts) * spread + mean).numpy()
                size = sum(p.numel() for p in model.parameters())
            spent = time.process_time() - start
            true = label[test.numpy()].astype(np.float64)
            [judged] = figures(
                value[:, None].astype(np.float64), true, formulas, test.numpy(), tolerance
            )
            results.append(
                {
                    "model": name, "sees": SEES[name], "seed": seed,
                    "mae": float(np.abs(value - label[test.numpy()]).mean()),
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
    print(json.dumps({"store": given.store, "target": given.target, "results": results}))


if __name__ == "__main__":
    main()
