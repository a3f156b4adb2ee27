"""Measures cells of `benchmarks/gpu.py`, one after the other, in a process of its own.

Reads a JSON list of cells from standard input and prints a JSON line for each, begun with MARK, as
soon as it is measured. A cell that fails or needs too much memory says so in its line, and the next
one goes on; only what ends the process (a fault in a kernel) costs the others of its group.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import torch.nn.functional as F
from loops import BareLoop, Clock, endless, lightning_round, to
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from train import MEASURED, backbone_of, count_flops, make_task, peak_flops, peak_memory_mib

from datamodules.rendering.peaks import PeakShape
from datamodules.xrd_datamodule import XRDDataModule
from lightning_modules.experiments.assessment.recipe_augmentation import read_augmentation
from lightning_modules.training.callbacks.compilation import Compile

MARK = "cell: "
#: Batch for which matrix products are counted: they grow with the batch.
_COUNTED = 8
_POINTS = 4250


class Worker:
    """Measures cells with settings that all of them share.

    Args:
        settings: `device`, `store`, `steps`, `rounds`, `warm_up`, `workers`, `backend` (of
            `torch.compile`), `traces` (a folder, or nothing).
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = SimpleNamespace(**settings)
        self.device = torch.device(self.settings.device)

    def measure(self, cell: dict[str, Any]) -> dict[str, Any]:
        """The figures of a cell, or why there are none."""
        start = time.perf_counter()
        gc.collect()
        torch._dynamo.reset()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
        try:
            found = {"status": "measured", **getattr(self, f"of_{cell['kind']}")(cell)}
        except torch.OutOfMemoryError:
            found = {"status": "out of memory"}
        except Exception as error:
            text = f"{type(error).__name__}: {error}".strip().splitlines()
            found = {"status": "failed", "error": text[0][:300]}
        return found | {"seconds": round(time.perf_counter() - start, 1)}

    def data(self, task: str, batch: int, workers: int | None = None) -> XRDDataModule:
        """The store's materials, changed as measured patterns are."""
        return XRDDataModule(
            [self.settings.store],
            ["formation_energy"] if task == "Regression" else [],
            global_batch_size=batch,
            augmentation=read_augmentation(MEASURED),
            peaks=PeakShape(fwhm=0.5),
            num_workers=self.settings.workers if workers is None else workers,
            max_elements=8,
        )

    def synchronise(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def seconds(self, work: Callable[[], Any], repeats: int = 0) -> float:
        """Seconds of a call, median of rounds, after a warm-up."""
        clock = Clock(self.device)
        repeats = repeats or self.settings.steps
        for number in range(self.settings.rounds + 1):
            clock.start()
            for _ in range(repeats):
                work()
            if number:
                clock.stop(repeats)
        return clock.step

    def kernels(self, work: Callable[[], Any], name: str = "") -> dict[str, Any]:
        """How many kernels a call starts, and which take longest; writes its trace."""
        activities = [ProfilerActivity.CPU]
        if self.device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        self.synchronise()
        with profile(activities=activities) as profiled:
            work()
            self.synchronise()
        if name and self.settings.traces:
            folder = Path(self.settings.traces)
            folder.mkdir(parents=True, exist_ok=True)
            profiled.export_chrome_trace(str(folder / f"{name}.json.gz"))
        on_device = [
            event
            for event in profiled.events()
            if event.device_type != torch.autograd.DeviceType.CPU
            # Ranges that contain kernels.
            and not getattr(event, "is_user_annotation", False)
        ]
        times: Counter[str] = Counter()
        for event in on_device:
            times[event.name[:80]] += event.time_range.elapsed_us()
        total = sum(times.values())
        return {
            "kernels": len(on_device) or None,
            "longest_kernels": {
                kernel: round(spent / total, 3) for kernel, spent in times.most_common(6) if total
            },
        }

    def compiler(self, mode: str) -> Compile:
        """What compiles a task in a mode of the plan."""
        return Compile(self.settings.backend, None if mode == "compiled" else mode)

    def of_step(self, cell: dict[str, Any]) -> dict[str, Any]:
        """A training step of a task."""
        s, name, size, batch = self.settings, cell["task"], cell["size"], cell["batch"]
        bf16, mode = cell["precision"] == "bf16", cell["mode"]
        data = self.data(name, batch)
        task, compile_ = make_task(name, size, data), self.compiler(mode)
        loop = BareLoop(task, data, self.device, bf16, compile_.begin_batch)
        raw = [to(next(loop.batches), self.device) for _ in range(4)]
        rendered = data.renderer(raw[0], augment=True)
        few = {key: v[:_COUNTED] if v.ndim else v for key, v in rendered.items()}
        flops = count_flops(lambda: loop.step(few)) / len(few["index"])
        if mode != "eager":
            compile_.compile(task)
        start = time.perf_counter()
        loop.block(s.warm_up, None)
        self.synchronise()
        warm_up = time.perf_counter() - start
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        turns = iter(range(10**9))

        def from_device() -> None:
            loop.step(data.renderer(raw[next(turns) % len(raw)], augment=True))

        clock = Clock(self.device)
        for _ in range(s.rounds):
            loop.block(s.steps, clock)
        without_loading = self.seconds(from_device)
        rendering = self.seconds(lambda: data.renderer(raw[0], augment=True))
        peak = peak_flops(self.device, cell["precision"])
        memory = peak_memory_mib(self.device)
        trace = "-".join([name, size, mode, str(batch)]) if cell.get("trace") else ""
        return {
            "parameters": sum(p.numel() for p in task.parameters()),
            "step_ms": round(1e3 * clock.step, 3),
            "step_ms_best": round(1e3 * clock.best, 3),
            "materials_per_second": round(batch / clock.step),
            "waiting": round(max(0.0, 1 - without_loading / clock.step), 4),
            "rendering": round(rendering / clock.step, 4),
            "rendering_ms": round(1e3 * rendering, 3),
            "mfu": None if peak is None else round(flops * batch / clock.step / peak, 4),
            "gflop_per_material": round(flops / 1e9, 4),
            "tflop_per_second": round(flops * batch / clock.step / 1e12, 3),
            "peak_memory_mib": memory,
            "warm_up_seconds": round(warm_up, 1),
            **self.kernels(from_device, trace),
        }

    def of_lightning(self, cell: dict[str, Any]) -> dict[str, Any]:
        """What Lightning and this project's callbacks add to a step of a bare loop, in turns."""
        s, name = self.settings, cell["task"]
        bf16, data = cell["precision"] == "bf16", self.data(name, cell["batch"])
        bare, under = (make_task(name, cell["size"], data) for _ in range(2))
        if cell["mode"] != "eager":
            for task in (bare, under):
                self.compiler(cell["mode"]).compile(task)
        loop = BareLoop(bare, data, self.device, bf16)
        loop.block(s.warm_up, None)
        ours, lightning = Clock(self.device), Clock(self.device)
        for _ in range(s.rounds):
            loop.block(s.steps, ours)
            lightning_round(under, data, lightning, s.steps, s.warm_up, bf16)
        return {
            "bare_ms": round(1e3 * ours.step, 3),
            "lightning_ms": round(1e3 * lightning.step, 3),
            "overhead": round(lightning.step / ours.step - 1, 4),
        }

    def of_rendering(self, cell: dict[str, Any]) -> dict[str, Any]:
        """Drawing a batch alone, plain or with all changes."""
        data, augment = self.data("MaskedXRD", cell["batch"]), cell["augment"]
        batch = to(next(endless(data)), self.device)
        spent = self.seconds(lambda: data.renderer(batch, augment=augment))
        return {
            "ms": round(1e3 * spent, 3),
            "materials_per_second": round(cell["batch"] / spent),
            **self.kernels(lambda: data.renderer(batch, augment=augment)),
        }

    def of_loader(self, cell: dict[str, Any]) -> dict[str, Any]:
        """Gathering batches and copying them to the device, alone."""
        data = self.data("MaskedXRD", cell["batch"], cell["workers"])
        batches = endless(data, pin_memory=self.device.type == "cuda")
        n = 3 * self.settings.steps
        for _ in range(self.settings.warm_up):
            to(next(batches), self.device)
        self.synchronise()
        start = time.perf_counter()
        for _ in range(n):
            to(next(batches), self.device)
        self.synchronise()
        spent = (time.perf_counter() - start) / n
        return {"ms": round(1e3 * spent, 3), "materials_per_second": round(cell["batch"] / spent)}

    def of_yardstick(self, cell: dict[str, Any]) -> dict[str, Any]:
        """Another transformer of the same width, on as many tokens as a whole pattern has."""
        config, batch = backbone_of(cell["size"]), cell["batch"]
        layers = config.xrd_layers + config.composition_layers + config.fusion_layers
        tokens = 1 + _POINTS // config.patch_points
        width, heads, bf16 = config.width, config.heads, cell["precision"] == "bf16"
        if cell["model"] == "nn.TransformerEncoder":
            layer = nn.TransformerEncoderLayer(
                width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True
            )
            model: nn.Module = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
            given = torch.randn(batch, tokens, width, device=self.device)
        else:
            from timm.models.vision_transformer import VisionTransformer

            # One row of patches: the pattern's number of tokens, and the class token.
            model = VisionTransformer(
                img_size=(16, 16 * (tokens - 1)),
                patch_size=16,
                embed_dim=width,
                depth=layers,
                num_heads=heads,
                num_classes=width,
            )
            given = torch.randn(batch, 3, 16, 16 * (tokens - 1), device=self.device)
        model.to(self.device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

        def step(x: Tensor) -> None:
            optimizer.zero_grad()
            with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
                loss = model(x).float().square().mean()
            loss.backward()
            optimizer.step()

        flops = count_flops(lambda: step(given[:_COUNTED])) / len(given[:_COUNTED])
        if cell["mode"] != "eager":
            mode = None if cell["mode"] == "compiled" else cell["mode"]
            model.compile(backend=self.settings.backend, mode=mode, dynamic=False)
        spent = self.seconds(lambda: step(given))
        peak = peak_flops(self.device, cell["precision"])
        return {
            "parameters": sum(p.numel() for p in model.parameters()),
            "step_ms": round(1e3 * spent, 3),
            "materials_per_second": round(batch / spent),
            "tflop_per_second": round(flops * batch / spent / 1e12, 3),
            "mfu": None if peak is None else round(flops * batch / spent / peak, 4),
            "peak_memory_mib": peak_memory_mib(self.device),
            **self.kernels(lambda: step(given)),
        }

    def of_attention(self, cell: dict[str, Any]) -> dict[str, Any]:
        """Attention to padded compositions: with a mask, without, and masked by a feature."""
        config, batch = backbone_of(cell["size"]), cell["batch"]
        heads, channels = config.heads, config.width // config.heads
        dtype = torch.bfloat16 if cell["precision"] == "bf16" else torch.float32
        n_queries, n_keys = cell["queries"], cell["keys"]
        q, k, v = (
            torch.randn(batch, heads, n, channels, device=self.device, dtype=dtype).requires_grad_()
            for n in (n_queries, n_keys, n_keys)
        )
        real = torch.arange(n_keys, device=self.device) < 5
        mask = real.expand(batch, -1)
        ways: dict[str, Callable[[], Tensor]] = {
            "masked_ms": lambda: F.scaled_dot_product_attention(q, k, v, mask[:, None, None]),
            "by_feature_ms": lambda: attend_by_feature(q, k, v, mask),
            "unmasked_ms": lambda: F.scaled_dot_product_attention(q, k, v),
        }
        return {
            name: round(1e3 * self.seconds(lambda way=way: way().sum().backward()), 4)  # type: ignore[misc]
            for name, way in ways.items()
        }

    def of_device(self, cell: dict[str, Any]) -> dict[str, Any]:
        """The ceilings that the card reaches: a large product, and a large copy."""
        n, dtype = cell["n"], torch.bfloat16
        a, b = (torch.randn(n, n, device=self.device, dtype=dtype) for _ in range(2))
        product = self.seconds(lambda: a @ b)
        block = torch.empty(cell["copied_mib"] * 2**20, dtype=torch.uint8, device=self.device)
        into = torch.empty_like(block)
        copy = self.seconds(lambda: into.copy_(block))
        return {
            "bf16_tflop_per_second": round(2 * n**3 / product / 1e12, 1),
            "copied_gb_per_second": round(2 * block.numel() / copy / 1e9),
        }


def attend_by_feature(q: Tensor, k: Tensor, v: Tensor, real: Tensor) -> Tensor:
    """Masked attention without a mask, so that flash kernels apply: the mask is another feature.

    Queries get a one there, keys a zero, or where they only pad so much below it that nothing is
    left of their weight. Eight features are added, since the kernels take multiples of that.

    Args:
        q: Queries, (B, H, S, C).
        k: Keys, (B, H, T, C).
        v: Values, (B, H, T, C).
        real: Which keys may be attended to, (B, T) bool.

    Returns:
        Shape (B, H, S, C).
    """
    channels = q.shape[-1]
    away = (~real).to(k.dtype)[:, None, :, None] * -30_000.0
    q = F.pad(torch.cat((q, torch.ones_like(q[..., :1])), -1), (0, 7))
    k = F.pad(torch.cat((k, away.expand(*k.shape[:3], 1)), -1), (0, 7))
    attended = F.scaled_dot_product_attention(q, k, F.pad(v, (0, 8)), scale=channels**-0.5)
    return attended[..., :channels]


def describe(device: torch.device) -> dict[str, Any]:
    """The card and the software."""
    found = {"device": "CPU", "torch": torch.__version__, "cuda": torch.version.cuda}
    if device.type == "cuda":
        about = torch.cuda.get_device_properties(device)
        found |= {"device": about.name, "memory_mib": about.total_memory // 2**20}
        found["count"] = torch.cuda.device_count()
    return found


def main() -> None:
    logging.disable(logging.INFO)
    warnings.simplefilter("ignore")
    for logger in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    given = json.loads(sys.stdin.read())
    worker = Worker(given["settings"])
    print(MARK + json.dumps(describe(worker.device)), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # whatever writes beside it
        for cell in given["cells"]:
            print(MARK + json.dumps(worker.measure(cell)), flush=True)


if __name__ == "__main__":
    main()
