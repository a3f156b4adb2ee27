"""Training speed: materials/s, step time, waiting, memory and counted model-FLOP utilisation.

    python benchmarks/train.py --store data/mp                          # CPU: tiny, all tasks
    python benchmarks/train.py --store data/mp --sizes tiny small base --compile --batch 512   # GPU

For each task, size and precision the same model and the same stream are trained by a bare torch
loop and by Lightning with this project's callbacks, in turns; medians of blocks of steps. On a CPU
the clock of a ratio is the process's CPU time, which other jobs on the machine disturb least.
Utilisation is counted: matrix products of forward and backward (`torch.utils.flop_counter`) over
the time of a step, over the GPU's peak for dense matrices of that precision.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import yaml
from loops import BareLoop, Clock, endless, lightning_round, to
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from datamodules.rendering.augmentation import Augmentation
from datamodules.rendering.peaks import PeakShape
from datamodules.xrd_datamodule import XRDDataModule
from lightning_modules import Contrastive, MaskedContrastive, MaskedXRD, Regression
from lightning_modules.backbone import BackboneConfig
from lightning_modules.base import OptimizerConfig, Task
from lightning_modules.experiments.assessment.recipe_augmentation import read_augmentation
from lightning_modules.training.callbacks.compilation import Compile

MEASURED = Path(__file__).parents[1] / "configs" / "augmentation" / "measured.yaml"
CONFIGS = Path(__file__).parents[1] / "configs" / "model"
TASKS = ("MaskedXRD", "Contrastive", "MaskedContrastive", "Regression")

#: Peak of dense matrices in TFLOP/s, bfloat16 and float32 (without TF32), by a part of the
#: device's name, the longer names first. Source: NVIDIA's data sheets of the products; those that
#: state bfloat16 with sparsity only are halved.
PEAKS = {
    "H200": (989.4, 66.9),
    "H100 PCIe": (756.0, 51.0),
    "H100 NVL": (835.0, 60.0),
    "H100": (989.4, 66.9),
    "A100": (312.0, 19.5),
    "L40S": (362.0, 91.6),
    "L4": (121.0, 30.3),
    "A10": (125.0, 31.2),
    "RTX 4090": (165.2, 82.6),
    "RTX 3090": (71.0, 35.6),
}


def peak_flops(device: torch.device, precision: str) -> float | None:
    """FLOP/s that the device can reach; None where it is not known (CPUs, other GPUs)."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    found = next((peak for part, peak in PEAKS.items() if part in name), None)
    return None if found is None else found[precision != "bf16"] * 1e12


def backbone_of(size: str) -> BackboneConfig:
    overlay = yaml.safe_load((CONFIGS / f"{size}.yaml").read_text())
    return BackboneConfig(**overlay["model"]["init_args"]["backbone"])


def make_task(name: str, size: str, data: XRDDataModule, mask_ratio: float = 0.5) -> Task:
    torch.manual_seed(0)
    config = backbone_of(size)
    optimizer = OptimizerConfig(schedule="constant")
    if name == "Regression":
        task = Regression(targets=tuple(data.target_names), backbone=config, optimizer=optimizer)
        task.targets.units = list(data.target_units)
        task.targets.fit(data.target_statistics())
        return task
    if name == "Contrastive":
        return Contrastive(backbone=config, optimizer=optimizer)
    kind = MaskedXRD if name == "MaskedXRD" else MaskedContrastive
    width = config.width
    return kind(backbone=config, optimizer=optimizer, mask_ratio=mask_ratio, decoder_width=width)


def count_flops(step: Callable[[], Any]) -> int:
    # By matrix products, which are counted on every device; flash kernels of CPUs are not.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def peak_memory_mib(device: torch.device) -> int:
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def measure(name: str, size: str, precision: str, compiled: bool, args: Any) -> dict[str, Any]:
    device = torch.device(args.device)
    data = make_data(name, args)
    bf16 = precision == "bf16"
    task = make_task(name, size, data)
    bare = BareLoop(task, data, device, bf16)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    flops = count_flops(lambda: bare.block(1, None))
    under = make_task(name, size, data)
    start = time.perf_counter()
    if compiled:
        for one in (task, under):
            Compile().compile(one)
    bare.block(args.warm_up, None)
    warm_up = time.perf_counter() - start
    clock, lightning = Clock(device), Clock(device)
    for _ in range(args.rounds):
        bare.block(args.steps, clock)
        lightning_round(under, data, lightning, args.steps, args.warm_up, bf16)
    peak = peak_flops(device, precision)
    rate = flops / clock.step
    return {
        "task": name,
        "size": size,
        "parameters": sum(p.numel() for p in task.parameters()),
        "precision": precision,
        "compiled": compiled,
        "batch": args.batch,
        "step_ms": round(1e3 * clock.step, 2),
        "step_ms_wall": round(1e3 * median(clock.wall), 2),
        "step_ms_best": round(1e3 * clock.best, 2),
        "materials_per_second": round(args.batch / clock.step),
        "lightning_overhead": round(lightning.step / clock.step - 1, 3),
        "waiting_for_data": round(clock.waiting / clock.total, 4),
        "rendering": round(clock.rendering / clock.total, 4),
        "peak_memory_mib": peak_memory_mib(device),
        "gflop_per_material": round(flops / args.batch / 1e9, 4),
        "gflop_per_second": round(rate / 1e9, 1),
        "mfu": None if peak is None else round(rate / peak, 3),
        "warm_up_seconds": round(warm_up, 1),
    }


def make_data(name: str, args: Any) -> XRDDataModule:
    return XRDDataModule(
        [args.store],
        [args.target] if name == "Regression" else [],
        global_batch_size=args.batch,
        augmentation=read_augmentation(MEASURED) if args.augment else Augmentation(),
        peaks=PeakShape(fwhm=0.5),
        num_workers=args.workers,
        max_elements=args.max_elements,
    )


def yardstick(size: str, precision: str, args: Any) -> dict[str, Any]:
    """`nn.TransformerEncoder` on as many tokens of that width as a whole pattern has."""
    device, config, bf16 = torch.device(args.device), backbone_of(size), precision == "bf16"
    layers = config.xrd_layers + config.composition_layers + config.fusion_layers
    layer = nn.TransformerEncoderLayer(
        config.width, config.heads, 4 * config.width, 0.0, "gelu", batch_first=True, norm_first=True
    )
    model = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    tokens = torch.randn(args.batch, 1 + 4250 // config.patch_points, config.width, device=device)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss = model(tokens).float().square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    flops = count_flops(step)
    clock = Clock(device)
    for number in range(args.rounds + 1):
        clock.start()
        for _ in range(args.steps):
            step()
        if number:
            clock.stop(args.steps)
    return {
        "yardstick": "nn.TransformerEncoder",
        "size": size,
        "precision": precision,
        "layers": layers,
        "step_ms": round(1e3 * clock.step, 2),
        "step_ms_best": round(1e3 * clock.best, 2),
        "gflop_per_second": round(flops / clock.step / 1e9, 1),
    }


def mask_ratios(size: str, precision: str, args: Any) -> dict[str, Any]:
    """MXM's step by mask ratio, in turns, with the FLOPs of the pattern's encoder."""
    device, data = torch.device(args.device), make_data("MaskedXRD", args)
    batch = data.renderer(to(next(endless(data)), device), augment=True)
    ratios = (0.15, 0.5, 0.75)
    loops, clocks, flops = {}, {}, {}
    for ratio in ratios:
        task = make_task("MaskedXRD", size, data, ratio)
        loop = BareLoop(task, data, device, precision == "bf16")
        loops[ratio], clocks[ratio] = loop, Clock(device)
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            loop.step(batch)
        parts = counter.get_flop_counts()
        name = "MaskedXRD.backbone.xrd"
        flops[ratio] = (counter.get_total_flops(), sum(parts[name].values()))
    for _ in range(args.rounds):
        for ratio in ratios:
            clocks[ratio].start()
            for _ in range(args.steps):
                loops[ratio].step(batch)
            clocks[ratio].stop(args.steps)
    least = ratios[0]
    return {
        "claim": "MXM's step by mask ratio, over that at 0.15",
        "size": size,
        "precision": precision,
        "step_ms": {r: round(1e3 * clocks[r].step, 2) for r in ratios},
        "step": {r: round(clocks[r].step / clocks[least].step, 3) for r in ratios},
        "flops": {r: round(flops[r][0] / flops[least][0], 3) for r in ratios},
        "encoder_flops": {r: round(flops[r][1] / flops[least][1], 3) for r in ratios},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    on_gpu = torch.cuda.is_available()
    parser.add_argument("--store", required=True)
    parser.add_argument("--target", default="formation_energy", help="label for the regression")
    parser.add_argument("--device", default="cuda" if on_gpu else "cpu")
    parser.add_argument("--tasks", nargs="*", default=list(TASKS), choices=TASKS)
    parser.add_argument("--sizes", nargs="*", default=["base"] if on_gpu else ["tiny"])
    parser.add_argument("--precisions", nargs="*", default=["fp32", "bf16"])
    parser.add_argument("--compile", action="store_true", help="compiled, too")
    parser.add_argument("--augment", action="store_true", help="with random changes")
    parser.add_argument("--batch", type=int, default=512 if on_gpu else 64)
    parser.add_argument("--workers", type=int, default=4 if on_gpu else 0)
    parser.add_argument("--max-elements", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20 if on_gpu else 5, help="steps of a block")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--warm-up", type=int, default=10 if on_gpu else 2)
    args = parser.parse_args()
    for logger in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    for size in args.sizes:
        for precision in args.precisions:
            standard = yardstick(size, precision, args)
            print(json.dumps(standard), flush=True)
            print(json.dumps(mask_ratios(size, precision, args)), flush=True)
            for name in args.tasks:
                for compiled in (False, True) if args.compile else (False,):
                    found = measure(name, size, precision, compiled, args)
                    share = found["gflop_per_second"] / standard["gflop_per_second"]
                    found["flops_over_yardstick"] = round(share, 2)
                    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
