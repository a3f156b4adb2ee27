r"""What do published kinds of models reach on the same split with the same CPU time?

    python benchmarks/peers.py run peers.jsonl --store nrel=data/nrel --store mp=data/mp \
        [--target formation_energy] [--seconds 60] [--seeds 0 1 2] [--models resnet ours …] \
        [--split validation]
    python benchmarks/peers.py report peers.jsonl
    python benchmarks/peers.py steps [--models ours ours_coarse …]

`run` appends a line of JSON for every model, seed and store, and makes only those that are not
there yet: give the command again after a kill, or with more seeds. Several may run at once, of
different seeds. `report` prints a table for each store: means and ranges over the seeds. `steps`
tells what a step of a network costs, without any data.

Every model trains on the training split by the absolute error for so many seconds of CPU time (all
threads counted) and is judged once on the test split: error, error and pairs ranked rightly within
formulas, seconds, parameters, steps. Variants are compared by --split validation. Nothing is tuned,
for nobody: AdamW, batches of 64, one cycle up to 1e-3 (3e-4 for transformers of patterns) over the
budget. Models:

    composition   boosted       gradient boosting on statistics of elemental properties (as Magpie:
                                Ward et al., npj Comput. Mater. 2, 16028 (2016); properties are
                                pymatgen's)
                  set           transformer over the elements, an embedding and the fraction each
                  crabnet       CrabNet's network and loss (its package, where it is installed:
                                pip install --no-deps --ignore-requires-python crabnet==2.0.8;
                                its own optimiser and averages of weights are not taken)
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
                  ours_frozen     the encoder of the pattern is not trained (for `steps`: here,
                                  from scratch, it stays random); ours_coarse_frozen
                  ours_coarse_both_only

Patterns are square roots of the intensity at 1 063 points from 5 to 90°.
"""

from __future__ import annotations

import argparse
import json
import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

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
    "set": "composition", "crabnet": "composition", "boosted": "composition",
    "convolutions": "pattern", "resnet": "pattern", "patches": "pattern", "boosted_xrd": "pattern",
    "concatenated": "both", "boosted_both": "both", "ours": "both",
}  # fmt: skip
PEERS = [name for name in SEES if name in BOOSTED or name in NETWORKS]
VARIANTS = [name for name in NETWORKS if name not in SEES]
#: What tells one result from another.
KEY = ("store", "target", "split", "seconds", "model", "seed")


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


class Problem:
    """One target of one store: what all models see, and how they are judged."""

    def __init__(self, folder: str, target: str, split: str) -> None:
        data = XRDDataModule([folder], [target], grid=GRID, peaks=SHAPE, augment=False)
        self.collection = data.collection
        self.label = self.collection.column(target).astype(np.float32)
        self.train, self.judged = (
            rows[np.isfinite(self.label[rows])] for rows in (data.rows("train"), data.rows(split))
        )
        self.mean, self.spread = self.label[self.train].mean(), self.label[self.train].std()
        self.formulas = to_keys(self.collection.column(key_column("formula")))[self.judged]
        unit = self.collection.units.get(target, "")
        self.tolerance = pair_tolerance(target, unit, float(self.spread))
        self.x = inputs_of(data)
        self.tables: dict[str, np.ndarray] = {}

    def table(self, name: str) -> np.ndarray:
        """The numbers that gradient boosting sees, (N, F), made once."""
        if not self.tables:
            pattern = pattern_features(self.collection, np.arange(len(self.label)))
            self.tables = {"boosted": statistics(self.x), "boosted_xrd": pattern}
            self.tables["boosted_both"] = np.hstack(list(self.tables.values()))
        return self.tables[name]

    def answers(self, name: str, seed: int, seconds: float) -> tuple[np.ndarray, int, int]:
        """Values of the judged rows by a model trained anew, its parameters and its steps."""
        if name in BOOSTED:
            table = self.table(name)
            labels = self.label[self.train]
            return boost(table[self.train], labels, table[self.judged], seed, 1500), 0, 0
        build, rate = NETWORKS[name]
        scaled = torch.from_numpy((self.label - self.mean) / self.spread)
        rows = torch.from_numpy(self.train)
        model, steps = train(build, rate, self.x, scaled, rows, seconds, seed)
        with torch.no_grad():
            parts = [model(self.x.at(part)) for part in torch.from_numpy(self.judged).split(512)]
        value: np.ndarray = (torch.cat(parts) * self.spread + self.mean).numpy()
        return value, sum(p.numel() for p in model.parameters() if p.requires_grad), steps

    def judge(self, value: np.ndarray) -> dict[str, float]:
        """Errors of answers to the judged rows, and what is right within formulas."""
        true = self.label[self.judged].astype(np.float64)
        value = value.astype(np.float64)
        [within] = figures(value[:, None], true, self.formulas, self.judged, self.tolerance)
        return {
            "mae": float(np.abs(value - true).mean()),
            "within_mae": within.get("mae", math.nan),
            "pairs": within.get("pairs", math.nan),
        }


def results_in(path: Path) -> list[dict[str, Any]]:
    """What a file of results holds; a last line that a kill has cut is left out."""
    if not path.exists():
        return []
    lines = path.read_text().split("\n")
    return [json.loads(line) for line in lines[:-1] if line]


def append(path: Path, result: dict[str, Any]) -> None:
    """Adds a line to a file of results, in place of one that a kill has cut."""
    with path.open("a+b") as file:
        file.seek(0)
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            file.truncate(whole)
        file.write(json.dumps(result).encode() + b"\n")


def run(given: argparse.Namespace) -> None:
    """Makes what is not there yet, whole seeds one after the other."""
    torch.set_num_threads(1)
    known = {tuple(one[key] for key in KEY) for one in results_in(given.results)}
    problems: dict[str, Problem] = {}
    for seed in given.seeds:
        for store, folder in (word.split("=", 1) for word in given.store):
            for name in given.models:
                key = (store, given.target, given.split, given.seconds, name, seed)
                if key in known:
                    continue
                if store not in problems:
                    problems[store] = Problem(folder, given.target, given.split)
                problem = problems[store]
                if name in BOOSTED:
                    problem.table(name)  # not a part of the time of the first that asks for it
                start = time.process_time()
                value, size, steps = problem.answers(name, seed, given.seconds)
                result = dict(zip(KEY, key, strict=True)) | problem.judge(value)
                result |= {"sees": SEES.get(name, "both"), "parameters": size, "steps": steps}
                result["cpu_seconds"] = round(time.process_time() - start, 1)
                append(given.results, result)
                print(json.dumps(result), flush=True)


def costs(models: list[str], rounds: int) -> dict[str, float]:
    """CPU milliseconds of a step: medians over rounds in which all take turns, two to warm up."""
    torch.manual_seed(0)
    elements = torch.randint(1, 90, (BATCH, 4))
    fractions = torch.rand(BATCH, 4)
    x = Inputs(
        elements, fractions / fractions.sum(1, keepdim=True), torch.rand(BATCH, GRID.n_points)
    )
    labels = torch.randn(BATCH)
    networks = {name: NETWORKS[name][0]() for name in models}
    optimizers = {
        name: torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
        for name, model in networks.items()
    }
    spent: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(rounds + 2):
        for name, model in networks.items():
            start = time.process_time()
            loss = model.loss(x, labels, turn)
            optimizers[name].zero_grad()
            loss.backward()
            optimizers[name].step()
            spent[name].append(1000 * (time.process_time() - start))
    return {name: float(np.median(times[2:])) for name, times in spent.items()}


def tell_costs(given: argparse.Namespace) -> None:
    """Prints a table."""
    torch.set_num_threads(1)
    print("| model | CPU ms a step |\n|---|---|")
    for name, milliseconds in costs(given.models, given.rounds).items():
        print(f"| {name} | {milliseconds:.0f} |")


def across(values: Iterable[float], digits: int) -> str:
    """The mean of seeds and, of several, their range."""
    values = list(values)
    mean = f"{np.mean(values):.{digits}f}"
    if len(values) == 1:
        return mean
    return f"{mean} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def tables_of(results: list[dict[str, Any]]) -> Iterator[str]:
    """Lines of a Markdown table for each store, target, split and budget."""
    order = [*SEES, *VARIANTS]

    def problem(one: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(one[key] for key in KEY[:4])

    for (store, target, split, seconds), ones in groupby(sorted(results, key=problem), problem):
        yield f"{store}, {target}, {split} split, {seconds:g} CPU seconds a network"
        yield ""
        heads = ("sees", "model", "seeds", "MAE", "MAE within formulas", "pairs ranked rightly",
                 "CPU s", "parameters", "steps")  # fmt: skip
        yield "| " + " | ".join(heads) + " |"
        yield "|---" * len(heads) + "|"
        of_model: dict[str, list[dict[str, Any]]] = {}
        for one in ones:
            of_model.setdefault(one["model"], []).append(one)
        for name in sorted(of_model, key=lambda name: [*order, name].index(name)):
            found = of_model[name]
            words = [found[0]["sees"], name, str(len(found))]
            words += [across((one["mae"] for one in found), 4)]
            words += [across((one["within_mae"] for one in found), 4)]
            words += [across((one["pairs"] for one in found), 3)]
            words += [f"{np.mean([one[key] for one in found]):.0f}"
                      for key in ("cpu_seconds", "parameters", "steps")]  # fmt: skip
            yield "| " + " | ".join(words) + " |"
        yield ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    runs = commands.add_parser("run", help="train and judge what is not there yet")
    runs.add_argument("results", type=Path, help="a file of JSON lines")
    runs.add_argument("--store", action="append", required=True, metavar="NAME=FOLDER")
    runs.add_argument("--target", default="formation_energy")
    runs.add_argument("--seconds", type=float, default=60.0, help="of CPU time a network")
    runs.add_argument("--seeds", type=int, nargs="+", default=[0])
    runs.add_argument("--models", nargs="+", choices=[*PEERS, *VARIANTS], default=PEERS)
    runs.add_argument("--split", choices=("validation", "test"), default="test")
    runs.set_defaults(do=run)
    report = commands.add_parser("report", help="print the tables")
    report.add_argument("results", type=Path)
    report.set_defaults(do=lambda given: print("\n".join(tables_of(results_in(given.results)))))
    steps = commands.add_parser("steps", help="what a step costs, batches of 64, one thread")
    steps.add_argument("--models", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    steps.add_argument("--rounds", type=int, default=7)
    steps.set_defaults(do=tell_costs)
    given = parser.parse_args()
    given.do(given)


if __name__ == "__main__":
    main()
