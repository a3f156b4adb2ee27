"""Is rendering at least 10 times as fast as the tiny model trains, on the same device?

    python benchmarks/rendering.py --store STORE [--device cuda] [--batch 128] [--threads 1]

Prints one JSON line: materials a second of rendering (plain, and with the
changes of `configs/augmentation/measured.yaml`), of training
steps of `configs/model/tiny.yaml` on batches that are already rendered, and ratios.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
import yaml

from datamodules import XRDDataModule
from lightning_modules import MaskedXRD
from lightning_modules.backbone import BackboneConfig
from lightning_modules.base import OptimizerConfig
from lightning_modules.experiments.assessment.recipe_augmentation import read_augmentation

ROOT = Path(__file__).parents[1]


def rate(work: Callable[[], Any], materials: int, device: torch.device, seconds: float) -> float:
    """Median materials a second over runs of about a tenth of the time, after a warm-up."""

    def timed(n: int) -> float:
        start = time.perf_counter()
        for _ in range(n):
            work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    timed(3)
    n = max(1, round(seconds / 10 / (timed(3) / 3)))
    return statistics.median(n * materials / timed(n) for _ in range(10))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5.0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    how = read_augmentation(ROOT / "configs" / "augmentation" / "measured.yaml")
    data = XRDDataModule([args.store], global_batch_size=args.batch, augmentation=how)
    stream = data.stream("train", train=True)
    raw = [
        {key: value.to(device) for key, value in batch.items()}
        for batch, _ in zip(stream, range(8), strict=False)
    ]
    turn = iter(range(10**9))

    def next_batch() -> Any:
        return raw[next(turn) % len(raw)]

    tiny = yaml.safe_load((ROOT / "configs" / "model" / "tiny.yaml").read_text())
    settings = tiny["model"]["init_args"]["backbone"]
    names = {f.name for f in fields(BackboneConfig)}
    config = BackboneConfig(**{k: v for k, v in settings.items() if k in names})
    model = MaskedXRD(backbone=config, grid=data.grid, optimizer=OptimizerConfig()).to(device)
    model.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)
    ready = data.renderer(raw[0], augment=True)

    def train() -> None:
        optimizer.zero_grad()
        model.training_step(ready, 0).backward()
        optimizer.step()

    with torch.no_grad():
        plain = rate(
            lambda: data.renderer(next_batch(), augment=False), args.batch, device, args.seconds
        )
        augmented = rate(
            lambda: data.renderer(next_batch(), augment=True), args.batch, device, args.seconds
        )
    trained = rate(train, args.batch, device, args.seconds)
    print(
        json.dumps(
            {
                "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
                "threads": args.threads,
                "batch": args.batch,
                "render_plain_per_second": round(plain),
                "render_augmented_per_second": round(augmented),
                "tiny_trains_per_second": round(trained),
                "plain_over_training": round(plain / trained, 1),
                "augmented_over_training": round(augmented / trained, 1),
            }
        )
    )


if __name__ == "__main__":
    main()
