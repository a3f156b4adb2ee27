"""Training steps in blocks, timed: in a bare torch loop, and under Lightning; for benchmarks."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger

from datamodules.batch import Batch
from datamodules.xrd_datamodule import XRDDataModule
from lightning_modules.base import Task
from lightning_modules.objectives.parameter_groups import parameter_groups
from lightning_modules.training.callbacks.every_run import MetricsWriter


@dataclass
class Clock:
    """Times of blocks of steps, by the wall and by this process's CPU."""

    device: torch.device
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    waiting: float = 0.0
    rendering: float = 0.0
    total: float = 0.0
    _start: tuple[float, float] = (0.0, 0.0)

    def start(self) -> None:
        """Begin a block."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self._start = time.perf_counter(), time.process_time()

    def stop(self, steps: int) -> None:
        """End a block."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        wall = time.perf_counter() - self._start[0]
        self.total += wall
        self.wall.append(wall / steps)
        self.cpu.append((time.process_time() - self._start[1]) / steps)

    @property
    def step(self) -> float:
        """Seconds a step: CPU time on a CPU, wall time on a GPU."""
        return median(self.wall if self.device.type == "cuda" else self.cpu)

    @property
    def best(self) -> float:
        """Of the fastest block: what a machine without other jobs would come near."""
        return min(self.wall if self.device.type == "cuda" else self.cpu)


def to(batch: Batch, device: torch.device) -> Batch:
    return {key: value.to(device, non_blocking=True) for key, value in batch.items()}


def endless(data: XRDDataModule, pin_memory: bool = False) -> Iterator[Batch]:
    stream = data.stream("train", train=True, pin_memory=pin_memory)
    while True:
        yield from stream


class BareLoop:
    """The same model, data and optimizer without Lightning."""

    def __init__(
        self,
        task: Task,
        data: XRDDataModule,
        device: torch.device,
        bf16: bool,
        begin: Callable[[], None] = lambda: None,
    ) -> None:
        self.task, self.data, self.device, self.bf16 = task.to(device), data, device, bf16
        self.begin = begin
        self.task.log = lambda *_, **__: None  # type: ignore[method-assign]
        self.batches = endless(data, pin_memory=device.type == "cuda")
        config = task.optimizer_config
        self.optimizer = torch.optim.AdamW(
            parameter_groups(task, task.backbone.config, config.learning_rate, 1.0),
            lr=config.learning_rate,
            betas=(0.9, config.beta2),
            fused=True,
        )

    def block(self, steps: int, clock: Clock | None) -> None:
        """Train a block of steps."""
        if clock is not None:
            clock.start()
        for _ in range(steps):
            begin = time.perf_counter()
            batch = to(next(self.batches), self.device)
            fetched = time.perf_counter()
            batch = self.data.renderer(batch, augment=True)
            if clock is not None:
                clock.waiting += fetched - begin
                clock.rendering += time.perf_counter() - fetched
            self.step(batch)
        if clock is not None:
            clock.stop(steps)

    def step(self, batch: Batch) -> None:
        """Train on a rendered batch."""
        self.begin()
        self.optimizer.zero_grad()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            loss = self.task.training_step(batch, 0)
        assert isinstance(loss, torch.Tensor)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.task.parameters(), 1.0)
        self.optimizer.step()


class Blocks(Callback):
    """Times blocks of Lightning's steps, after a warm-up."""

    def __init__(self, clock: Clock, steps: int, warm_up: int) -> None:
        self.clock, self.steps, self.warm_up = clock, steps, warm_up

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """End a block and begin the next."""
        after = trainer.global_step - self.warm_up
        if after > 0 and after % self.steps == 0:
            self.clock.stop(self.steps)
        if after >= 0 and after % self.steps == 0:
            self.clock.start()


def lightning_round(
    task: Task, data: XRDDataModule, clock: Clock, steps: int, warm_up: int, bf16: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        trainer = L.Trainer(
            accelerator="gpu" if clock.device.type == "cuda" else "cpu",
            devices=1,
            precision="bf16-mixed" if bf16 else "32-true",
            max_steps=warm_up + steps,
            max_epochs=-1,
            limit_val_batches=0,
            gradient_clip_val=1.0,
            log_every_n_steps=20,
            use_distributed_sampler=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            default_root_dir=folder,
            logger=TensorBoardLogger(folder, name="", version=""),
            callbacks=[MetricsWriter(), Blocks(clock, steps, warm_up)],
        )
        trainer.fit(task, datamodule=data)
