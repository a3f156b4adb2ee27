r"""How much faster is training on a CPU with the backbone's linear layers than with torch's own?

    .venv/bin/python benchmarks/linear.py --store data/prototypes [--steps 5] [--rounds 6]

Trains the tiny model on the same batches with both, in turns, and compares the CPU time of a step;
once in bf16 too, where torch's own product is used anyway. The last line is a JSON object with the
ratios. On a machine whose torch has no such kernel (not x86) they are 1.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from statistics import median

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import nn

from datamodules.batch import Batch
from datamodules.rendering.peaks import PeakShape
from datamodules.xrd_datamodule import XRDDataModule
from lightning_modules import MaskedXRD
from lightning_modules.backbone import linear


def step_time(task: MaskedXRD, batches: list[Batch], kernel: object, precision: str) -> float:
    """CPU seconds of a training step, the mean over the batches."""
    own, linear._KERNEL = linear._KERNEL, kernel
    optimizer = torch.optim.AdamW(task.parameters(), lr=1e-4, fused=True)
    try:
        start = time.process_time()
        for number, batch in enumerate(batches):
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                loss = task.training_step(batch, number)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(task.parameters(), 1.0)
            optimizer.step()
        return (time.process_time() - start) / len(batches)
    finally:
        linear._KERNEL = own


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", action="append", required=True)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=6)
    given = parser.parse_args()
    data = XRDDataModule(
        given.store,
        global_batch_size=given.batch,
        augment=False,
        peaks=PeakShape(fwhm=0.5),
        max_elements=8,
    )
    stream = iter(data.stream("train", train=True))
    batches = [data.on_after_batch_transfer(next(stream), 0) for _ in range(given.steps)]
    torch.manual_seed(0)
    task = MaskedXRD()
    task.log = lambda *_, **__: None  # type: ignore[method-assign,assignment]
    kernel = linear._KERNEL
    kinds = {"torch": (None, "fp32"), "ours": (kernel, "fp32"), "ours, bf16": (kernel, "bf16")}
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    for turn in range(given.rounds + 1):
        for kind, (which, precision) in kinds.items():
            seconds = step_time(task, batches, which, precision)
            if turn:  # the first turn warms up
                times[kind].append(seconds)
    medians = {kind: median(values) for kind, values in times.items()}
    for kind, seconds in medians.items():
        print(
            f"{kind}: {1e3 * seconds:.0f} ms CPU a step (best {1e3 * min(times[kind]):.0f}), "
            f"{given.batch / seconds:.0f} materials a CPU second",
            flush=True,
        )
    print(
        json.dumps(
            {
                "kernel": kernel is not None,
                "ms": {kind: round(1e3 * seconds, 1) for kind, seconds in medians.items()},
                "torch_over_ours": round(medians["torch"] / medians["ours"], 3),
                "torch_over_bf16": round(medians["torch"] / medians["ours, bf16"], 3),
            }
        )
    )


if __name__ == "__main__":
    main()
