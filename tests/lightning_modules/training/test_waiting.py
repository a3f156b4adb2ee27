"""No step waits for its device: not the rendering, not the masks, not the loss, not the optimizer.

On a GPU a step that reads a value back stops the queue of kernels that the host has written ahead.
`tests/gpu` proves the same on a GPU; here it is proven without one.
"""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from datamodules import batch as keys
from datamodules.batch import Batch
from datamodules.rendering.renderer import Renderer
from datamodules.xrd_datamodule import XRDDataModule
from lightning_modules.backbone import linear
from lightning_modules.base import Task
from lightning_modules.training.callbacks.averaging import EMAWeights
from lightning_modules.training.callbacks.console import LossBar
from lightning_modules.training.callbacks.every_run import MetricsWriter
from tests.datamodules import patterns
from tests.factories import make_store
from tests.lightning_modules.batches import GRID
from tests.lightning_modules.tasks import EVERY_OPTION, TASKS, make_task, task_batch
from tests.lightning_modules.training.accelerator import (
    DEVICE,
    NOT_DETERMINISTIC,
    Waits,
    move,
    on_fake_device,
    to_fake,
)

ALL_TASKS = (*TASKS, EVERY_OPTION)


def ragged_batch() -> Batch:
    """Lines, dense profiles and impurities, before they are rendered."""
    batch = patterns.add_impurity(patterns.random_batch(), 2, *patterns.one(33.0))
    profile = torch.zeros(1, patterns.GRID.n_points, dtype=torch.float16)
    batch[keys.PROFILE] = profile.expand(len(batch[keys.INDEX]), -1).clone()
    batch[keys.IMPURITY_PROFILE] = profile
    batch[keys.TARGETS] = torch.ones(len(batch[keys.INDEX]), 1)
    return batch


def full_renderer() -> Renderer:
    how = patterns.EVERYTHING
    return Renderer(patterns.GRID, augmentation=how, strain_powers=(3,), views=how)


def step(task: Task, batch: Batch, optimizer: torch.optim.Optimizer) -> Tensor:
    """A whole training step."""
    loss = task.training_step(batch, 0)
    assert isinstance(loss, Tensor)
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(task.parameters(), 1.0)
    optimizer.step()
    return loss


#: Operations that start a kernel in the forward pass of each task: a tenth more than there are.
#: With a hash for each draw of MXM there were 130 more.
FORWARD = {
    "MaskedXRD": 335,
    "Contrastive": 140,
    "MaskedContrastive": 390,
    "Regression": 415,
    EVERY_OPTION: 650,
}


@pytest.mark.parametrize("name", ALL_TASKS)
def test_no_step_reads_a_value_or_starts_a_kernel_for_each_weight(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear, "_KERNEL", None)  # as on a GPU
    task, batch = make_task(name), task_batch(unmeasured_after=30.0)
    optimizer = torch.optim.AdamW(task.parameters(), fused=True)
    step(task, batch, optimizer)  # moments are made once
    with Waits() as forward:
        loss = task.training_step(batch, 0)
    assert isinstance(loss, Tensor)
    with Waits() as backward:
        loss.backward()
    with Waits() as update, torch.no_grad():
        torch.nn.utils.clip_grad_norm_(task.parameters(), 1.0, foreach=True)
        optimizer.step()
    assert not (forward.counts | backward.counts | update.counts).keys() & NOT_DETERMINISTIC
    assert forward.n <= FORWARD[name], forward.counts
    assert update.n <= 20, update.counts


class Watched(Waits):
    """Notices what waits between two steps of a run, once it is switched on."""

    watching = False

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if self.watching:
            return super().__torch_dispatch__(function, types, args, kwargs)
        return function(*args, **(kwargs or {}))


class Watch(Callback):
    """Switches it on for some steps: those before compute what is computed once, the last logs."""

    def __init__(self, mode: Watched) -> None:
        self.mode, self.steps = mode, 0

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Switch."""
        self.mode.watching = 3 <= trainer.global_step < 7
        self.steps += self.mode.watching


@pytest.mark.parametrize("name", TASKS)
def test_lightning_reads_no_value_between_two_logs(name: str, tmp_path: Path) -> None:
    make_store(tmp_path / "store", 200)
    targets = ["density"] if name == "Regression" else []
    data = XRDDataModule([str(tmp_path / "store")], targets, global_batch_size=8, grid=GRID)
    task = make_task(name)
    del task.log  # those of the tests log nowhere
    mode = Watched()
    watch = Watch(mode)
    trainer = L.Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        max_steps=8,
        logger=TensorBoardLogger(tmp_path),
        callbacks=[watch, MetricsWriter(), LossBar(100)],
        log_every_n_steps=100,
        limit_val_batches=0,
        gradient_clip_val=1.0,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    with mode:
        trainer.fit(task, data)
    assert watch.steps == 4


def test_the_bar_shows_the_training_loss() -> None:
    run: Any = SimpleNamespace(
        callback_metrics={"train/loss": torch.tensor(0.5)}, progress_bar_metrics={}, loggers=[]
    )
    assert LossBar(10).get_metrics(run, make_task("MaskedXRD"))["train/loss"] == 0.5


@pytest.mark.parametrize("augment", [False, True])
def test_rendering_reads_no_value(augment: bool) -> None:
    with Waits() as waits:
        full_renderer()(ragged_batch(), augment=augment)
    assert not waits.counts.keys() & NOT_DETERMINISTIC


@pytest.mark.parametrize(
    "waiting",
    [
        lambda x: x.sum().item(),
        lambda x: bool((x > 0).all()),
        lambda x: x[x > 0],
        lambda x: x.index_put((x > 0,), torch.zeros(())),
        lambda x: x.nonzero(),
        lambda x: x.masked_select(x > 0),
        lambda x: x.long().unique(),
        lambda x: x.to("meta"),
    ],
)
def test_what_waits_is_noticed(waiting: Callable[[Tensor], Any]) -> None:
    with Waits(), pytest.raises(AssertionError, match="waits for the device"):
        waiting(torch.ones(3))


def fake_step(name: str) -> None:
    """A step of a task."""
    task, mode = make_task(name), FakeTensorMode()
    move(task, mode)
    batch = to_fake(task_batch(), mode)
    # A fused optimizer has no fake kernel for a device that torch does not know.
    optimizer = torch.optim.SGD(task.parameters(), foreach=True)
    with mode, Waits():
        loss = step(task, batch, optimizer)
        assert loss.device.type == DEVICE


def fake_average() -> None:
    """Updates of the averages, the first and another; their number stays on the CPU."""
    task, mode, average = make_task("Regression"), FakeTensorMode(), EMAWeights(0.9)
    run: Any = SimpleNamespace(ckpt_path=None, global_step=0)
    average.setup(run, task, "fit")
    assert average._average_model is not None
    for module in (task, average._average_model.module):
        move(module, mode)
    for run.global_step in (1, 2):
        with Waits(DEVICE) as waits:
            average.on_train_batch_end(run, task, None, None, 0)
    assert int(average._average_model.n_averaged) == 2
    assert waits.counts["_foreach_lerp_"] == 1


def fake_rendering(augment: bool) -> None:
    """Drawing a batch."""
    renderer, mode = full_renderer(), FakeTensorMode()
    batch = to_fake(ragged_batch(), mode)
    with mode:
        renderer(batch, augment=augment)  # its tables are copied once
        with Waits():
            rendered = renderer(batch, augment=augment)
    assert {value.device.type for value in rendered.values()} == {DEVICE}


def left_on_the_cpu() -> None:
    """What the fake device is there to notice."""
    with FakeTensorMode():
        torch.ones(3, device=DEVICE) * torch.arange(3)


def copied_to_the_device() -> None:
    """Likewise: a blocking copy."""
    with FakeTensorMode(), Waits():
        torch.ones(3).to(DEVICE)


@pytest.mark.skipif(
    not hasattr(torch.utils.backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this torch has no private device for Python",
)
def test_a_step_mixes_no_devices() -> None:
    asked: list[tuple[Callable[..., Any], tuple[Any, ...]]] = [
        # The others do what these do.
        *((fake_step, (name,)) for name in ("Contrastive", "Regression", EVERY_OPTION)),
        *((fake_rendering, (augment,)) for augment in (False, True)),
        (fake_average, ()),
        (left_on_the_cpu, ()),
        (copied_to_the_device, ()),
    ]
    *results, mixed, copied = on_fake_device(asked)
    for (_, arguments), (good, result) in zip(asked, results, strict=False):
        assert good, (arguments, result)
    assert "found at least two devices" in mixed[1]
    assert "waits for the device" in copied[1]
