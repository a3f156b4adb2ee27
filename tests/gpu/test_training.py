"""Runs on a GPU: what a step waits for under Lightning, clipping, averages, resuming, memory."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from datamodules import batch as keys
from datamodules.xrd_datamodule import XRDDataModule
from lightning_modules.base import Task
from lightning_modules.training.callbacks.averaging import EMAWeights
from lightning_modules.training.callbacks.compilation import Compile
from lightning_modules.training.callbacks.every_run import LastCheckpoint, MetricsWriter
from tests.datamodules.patterns import EVERYTHING
from tests.factories import make_store
from tests.lightning_modules.batches import GRID
from tests.lightning_modules.tasks import TASKS, make_task
from tests.lightning_modules.training.test_speed import BACKEND

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("store")
    make_store(folder, 400)
    return str(folder)


def data(store: str, name: str, workers: int = 0) -> XRDDataModule:
    return XRDDataModule(
        [store],
        ["density"] if name == "Regression" else [],
        global_batch_size=8,
        grid=GRID,
        augmentation=EVERYTHING,
        max_elements=6,
        num_workers=workers,
    )


def logging_task(name: str) -> Task:
    task = make_task(name)
    del task.log  # those of the tests log nowhere
    return task


def trainer(folder: Path, device: torch.device, *callbacks: Callback, **changes: Any) -> L.Trainer:
    return L.Trainer(
        default_root_dir=folder,
        callbacks=list(callbacks),
        **{
            "accelerator": "gpu" if device.type == "cuda" else "cpu",
            "devices": 1,
            "max_steps": 6,
            "max_epochs": -1,
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "enable_checkpointing": any(isinstance(c, LastCheckpoint) for c in callbacks),
            "num_sanity_val_steps": 0,
            "limit_val_batches": 0,
            "check_val_every_n_epoch": None,
            "log_every_n_steps": 1000,
            "gradient_clip_val": 1.0,
            **changes,
        },
    )


class NoWaiting(Callback):
    """From a step on, until the last one begins, what waits for the GPU raises.

    That is all between: the step itself, logging, averages, the next batch and its rendering.
    """

    def __init__(self, device: torch.device, first: int, last: int) -> None:
        self.device, self.first, self.last = device, first, last
        self.steps = 0

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Switch."""
        watched = self.first <= trainer.global_step < self.last
        self.steps += watched
        if self.device.type == "cuda":
            torch.cuda.set_sync_debug_mode("error" if watched else "default")


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("name", TASKS)
def test_no_step_of_a_run_waits_for_the_device(
    device: torch.device, name: str, precision: str, store: str, tmp_path: Path
) -> None:
    watch = NoWaiting(device, 3, 7)
    run = trainer(tmp_path, device, watch, EMAWeights(0.9), max_steps=8, precision=precision)
    run.fit(logging_task(name), data(store, name))
    assert watch.steps == 4
    assert run.global_step == 8


class Gradients(Callback):
    """Their norm after each step, and what the optimizer is."""

    def __init__(self) -> None:
        self.norms: list[float] = []
        self.fused: Any = None

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Look."""
        gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
        self.norms.append(float(torch.nn.utils.get_total_norm(gradients)))
        self.fused = trainer.optimizers[0].defaults["fused"]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("name", TASKS)
def test_gradients_are_clipped_in_every_precision(
    device: torch.device, name: str, precision: str, store: str, tmp_path: Path
) -> None:
    if precision == "16-mixed" and device.type != "cuda":
        pytest.skip("half precision needs a GPU")
    seen, highest = Gradients(), 1e-2
    run = trainer(
        tmp_path, device, seen, max_steps=12, precision=precision, gradient_clip_val=highest
    )
    task = logging_task(name)
    run.fit(task, data(store, name))
    # The first steps of half precision look for the scale.
    assert seen.norms[-1] <= highest * 1.01
    assert seen.norms[-1] >= highest * 0.5, "there was something to clip"
    assert bool(seen.fused) == (precision != "16-mixed")
    assert all(p.isfinite().all() for p in task.parameters())


@pytest.mark.parametrize("name", ["MaskedXRD", "Regression"])
def test_a_run_resumes_to_the_bit(
    device: torch.device, name: str, store: str, tmp_path: Path
) -> None:
    def fit(folder: Path, steps: int, resume: Path | None = None) -> dict[str, Any]:
        run = trainer(
            folder,
            device,
            EMAWeights(0.9),
            MetricsWriter(),
            LastCheckpoint(100),
            max_steps=steps,
            precision="bf16-mixed",
            deterministic=True,
        )
        task = logging_task(name)
        task.optimizer_config = type(task.optimizer_config)(schedule="constant")
        run.fit(task, data(store, name), ckpt_path=resume, weights_only=True)
        path = folder / "checkpoints/last.ckpt"
        return torch.load(path, weights_only=True, map_location="cpu")  # type: ignore[no-any-return]

    for folder in ("whole", "again", "cut"):
        (tmp_path / folder).mkdir()
    whole, again = fit(tmp_path / "whole", 8), fit(tmp_path / "again", 8)
    fit(tmp_path / "cut", 4)
    resumed = fit(tmp_path / "cut", 8, tmp_path / "cut/checkpoints/last.ckpt")
    for other in (again, resumed):
        for part in ("state_dict", "current_model_state"):
            for weight, value in whole[part].items():
                if isinstance(value, Tensor):
                    assert torch.allclose(other[part][weight], value, 0, 0, True), (part, weight)


def test_averages_lie_on_the_device_and_follow_the_weights(
    device: torch.device, store: str, tmp_path: Path
) -> None:
    average = EMAWeights(0.5)
    seen: list[Tensor] = []

    class Weights(Callback):
        def on_train_batch_end(
            self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any
        ) -> None:
            seen.append(next(pl_module.parameters()).detach().cpu().clone())

    run = trainer(tmp_path, device, Weights(), average, max_steps=5)
    run.fit(logging_task("Regression"), data(store, "Regression"))
    assert average._average_model is not None
    # Lightning copies the averages into the task at the end.
    averaged = next(run.lightning_module.parameters()).detach().cpu()
    expected = seen[0]
    for n, weight in enumerate(seen[1:], 1):
        expected = expected.lerp(weight, 1 - min(0.5, (1 + n) / (10 + n)))
    torch.testing.assert_close(averaged, expected, rtol=1e-4, atol=1e-6)
    devices = {p.device.type for p in average._average_model.module.parameters()}
    assert devices <= {device.type, "cpu"}


@pytest.mark.parametrize("mode", [None, "reduce-overhead"])
def test_a_compiled_run_trains_and_validates(
    device: torch.device, mode: str | None, store: str, tmp_path: Path
) -> None:
    if device.type != "cuda" and mode:
        pytest.skip("CUDA graphs need a GPU")
    # Writing code for the CPU takes a minute.
    compile_ = Compile(mode=mode) if device.type == "cuda" else Compile(BACKEND)
    name = "MaskedContrastive"
    run = trainer(
        tmp_path,
        device,
        compile_,
        EMAWeights(0.9),
        LastCheckpoint(4),
        max_steps=8,
        limit_val_batches=2,
        val_check_interval=4,
        precision="bf16-mixed",
    )
    run.fit(logging_task(name), data(store, name, workers=2))
    assert run.global_step == 8
    assert float(run.callback_metrics["val/loss"]) > 0


@pytest.mark.parametrize("name", TASKS)
def test_memory_is_flat_after_200_ragged_steps(device: torch.device, name: str, store: str) -> None:
    task, source = make_task(name).to(device), data(store, name)
    task.view_weight = 0.0  # type: ignore[assignment]
    optimizer = torch.optim.AdamW(task.parameters(), fused=True)
    steps = 200 if device.type == "cuda" else 10
    used, reserved, number = {}, {}, 0
    while number < steps:
        for batch in source.stream("train", train=True):
            moved = {key: value.to(device) for key, value in batch.items()}
            loss = task.training_step(source.renderer(moved, augment=True), 0)
            assert isinstance(loss, Tensor)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            number += 1
            del loss, moved, batch
            if device.type == "cuda" and number in (steps // 4, steps):
                torch.cuda.synchronize()
                used[number] = torch.cuda.memory_allocated()
                reserved[number] = torch.cuda.memory_reserved()
            if number == steps:
                break
    if device.type == "cuda":
        first, last = steps // 4, steps
        assert abs(used[last] - used[first]) < 2**20
        assert reserved[last] - reserved[first] <= 32 * 2**20


def test_batches_come_from_pinned_memory(device: torch.device, store: str, tmp_path: Path) -> None:
    pinned: list[bool] = []

    class Source(XRDDataModule):
        def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
            pinned.extend(value.is_pinned() for value in batch.values() if value.numel())
            return super().transfer_batch_to_device(batch, device, dataloader_idx)

    source = Source([store], global_batch_size=8, grid=GRID, max_elements=6)
    trainer(tmp_path, device, max_steps=2).fit(logging_task("MaskedXRD"), source)
    assert pinned
    assert all(pinned) == (device.type == "cuda")
    assert keys.LINE_Q in next(iter(source.stream("train", train=True)))
