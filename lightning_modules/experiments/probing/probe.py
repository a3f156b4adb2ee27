"""Judges the frozen vectors of one backbone; a study's runner starts it as a process of its own."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules.io.arguments import ArgumentParser
from datamodules.store.collection import Collection
from lightning_modules.experiments.probing.probes import (
    Judged,
    crystal_system,
    judge,
    linear_map,
    map_2d,
)
from lightning_modules.experiments.probing.vectors import VECTORS, Encoder, Vectors, encode
from lightning_modules.experiments.study.run import write_json
from lightning_modules.metrics.evaluation import families
from lightning_modules.metrics.retrieval import DIRECTIONS, RANKS, ranks_of_matches
from lightning_modules.metrics.within import pair_tolerance

CRYSTAL_SYSTEM = "crystal_system"


def recall(first: torch.Tensor, second: torch.Tensor, formula_key: np.ndarray) -> dict[str, float]:
    """recall@k both ways among all given materials, by formula.

    Args:
        first: Compositions, unit vectors, (N, W).
        second: Patterns, (N, W).
        formula_key: Hashes of their formulas, (N,).
    """
    key = torch.from_numpy(formula_key.astype(np.int64))
    match = key[:, None] == key
    similarity = first @ second.T
    found = {"pool_size": float(len(key))}
    for way, values in zip(DIRECTIONS, (similarity, similarity.T), strict=True):
        ranks = ranks_of_matches(values, match)
        found |= {f"{way}/recall_at_{k}": float((ranks < k).float().mean()) for k in RANKS}
    return found


def retrieval(train: Vectors, test: Vectors, formula_key: np.ndarray) -> dict[str, Any]:
    """Recall after a linear map fitted on the training split, and by the backbone's own heads."""
    fitted, there = linear_map(
        (train.by_name["composition"], train.by_name["xrd"]),
        (test.by_name["composition"], test.by_name["xrd"]),
    )
    mapped, true = torch.from_numpy(fitted).float(), torch.from_numpy(there).float()
    found = {"linear_map": recall(mapped, true, formula_key)}
    if test.projected is not None:
        found["own_projection"] = recall(*test.projected, formula_key)
    return found


def probe(
    encoder: Encoder,
    stores: Sequence[str],
    targets: Sequence[str],
    map_materials: int,
    seed: int,
) -> dict[str, Any]:
    """Everything that is judged; see `judge` and `recall`."""
    collection = Collection(stores)
    collection.check_targets(targets)
    labels = {name: collection.column(name).astype(float) for name in targets}
    systems = crystal_system(collection.column("space_group"))
    # Unknown, or all alike: nothing to tell apart.
    if len(np.unique(systems[np.isfinite(systems)])) > 1:
        labels[CRYSTAL_SYSTEM] = systems
    splits = {name: encode(encoder, stores, name) for name in ("train", "validation", "test")}
    formula, key = collection.column("formula"), collection.column("formula_key").view(np.int64)
    train, test = splits["train"], splits["test"]
    system = collection.column("system_key")
    judged = Judged(key[test.index], ~np.isin(system[test.index], system[train.index]), test.index)
    tolerances = {
        name: None
        if name == CRYSTAL_SYSTEM
        else pair_tolerance(
            name, collection.units.get(name, ""), float(np.nanstd(values[train.index]))
        )
        for name, values in labels.items()
    }

    def labelled(split: str, vector: str, target: str) -> tuple[np.ndarray, np.ndarray]:
        part = splits[split]
        return part.by_name[vector], labels[target][part.index]

    found = {
        vector: {
            target: judge(
                labelled("train", vector, target),
                labelled("validation", vector, target),
                labelled("test", vector, target),
                judged,
                tolerances[target],
            )
            for target in labels
        }
        for vector in VECTORS
    }
    shown = np.random.default_rng(seed).permutation(len(test.index))[:map_materials]
    elements = [
        torch.from_numpy(collection.material(row).elements).long() for row in test.index[shown]
    ]
    return {
        "probes": found,
        "units": {name: collection.units.get(name, "") for name in labels},
        "materials": {name: len(part.index) for name, part in splits.items()},
        "recall": retrieval(splits["train"], test, key[test.index]),
        "map": {
            "family": families(torch.nn.utils.rnn.pad_sequence(elements, batch_first=True)),
            "formula": formula[test.index[shown]].tolist(),
            **{
                vector: np.round(map_2d(test.by_name[vector][shown], seed), 2).tolist()
                for vector in VECTORS
            },
        },
    }


def main(args: Sequence[str]) -> int:
    """Judge, and write a JSON file."""
    parser = ArgumentParser(prog=f"python -m {__spec__.name}", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--weights", choices=["checkpoint", "untrained", "inputs"], required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--store", action="append", required=True)
    parser.add_argument("--target", action="append", default=[])
    parser.add_argument("--map-materials", type=int, default=1000)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_allow_task()
    given = parser.parse_args(args)
    encoder = Encoder(given.checkpoint, given.weights, given.seed, given.allow_task)
    found = probe(encoder, given.store, given.target, given.map_materials, given.seed)
    write_json(given.output, found)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
