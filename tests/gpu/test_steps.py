"""A step of every task on a GPU: the CPU's loss, whole graphs, no waiting, no compiling anew."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules import batch as keys
from datamodules.batch import Batch
from datamodules.xrd_datamodule import XRDDataModule
from lightning_modules.base import Task
from lightning_modules.training.callbacks.compilation import Compile
from tests.factories import make_store
from tests.gpu.conftest import no_waiting
from tests.lightning_modules.batches import GRID
from tests.lightning_modules.tasks import EVERY_OPTION, TASKS, make_task, task_batch
from tests.lightning_modules.training.test_speed import BACKEND

pytestmark = pytest.mark.gpu

ALL_TASKS = (*TASKS, EVERY_OPTION)
MODES = ("eager", "compiled", "reduce-overhead")


def compiler(device: torch.device, mode: str) -> Compile:
    """The callback; on a CPU without writing code, which takes a minute a task."""
    if device.type != "cuda":
        return Compile(BACKEND)
    return Compile(mode=None if mode == "compiled" else mode)


def on(device: torch.device, batch: Batch) -> Batch:
    return {key: value.to(device) for key, value in batch.items()}


def losses_and_gradient(
    task: Task, batches: list[Batch], bf16: bool, begin: Callable[[], None] = lambda: None
) -> tuple[Tensor, Tensor]:
    """Losses of the batches and the last one's gradient, on the CPU; weights stay as they are."""
    device = next(task.parameters()).device
    losses = []
    for batch in batches:
        begin()
        task.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss = task.training_step(on(device, batch), 0)
        assert isinstance(loss, Tensor)
        assert loss.dtype == torch.float32
        loss.backward()
        losses.append(loss.detach().clone())
    gradient = [p.grad.flatten() for p in task.parameters() if p.grad is not None]
    return torch.stack(losses).cpu(), torch.cat(gradient).float().cpu()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", ALL_TASKS)
def test_losses_and_gradients_are_the_cpus(
    device: torch.device, name: str, bf16: bool, mode: str
) -> None:
    if mode == "reduce-overhead" and (device.type != "cuda" or not bf16):
        pytest.skip("CUDA graphs need a GPU, and are tried in bfloat16")
    # Three times, since a CUDA graph is recorded at the second time and replayed at the third.
    batches = [task_batch(seed, unmeasured_after=30.0) for seed in (0, 1, 2)]
    expected, direction = losses_and_gradient(make_task(name), batches, bf16=False)
    task, compile_ = make_task(name).to(device), compiler(device, mode)
    if mode != "eager":
        compile_.compile(task)  # fullgraph: a break would raise
    losses, gradient = losses_and_gradient(task, batches, bf16, compile_.begin_batch)
    tolerance = {"rtol": 0.03, "atol": 1e-3} if bf16 else {"rtol": 1e-3, "atol": 1e-5}
    torch.testing.assert_close(losses, expected, **tolerance)
    assert F.cosine_similarity(gradient, direction, dim=0) > (0.98 if bf16 else 0.9999)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", TASKS)
def test_a_validation_between_steps_keeps_its_results(
    device: torch.device, name: str, mode: str
) -> None:
    """What is collected over batches must not lie in memory that a graph writes again."""
    if mode == "reduce-overhead" and device.type != "cuda":
        pytest.skip("CUDA graphs need a GPU")
    batches = [task_batch(seed) for seed in range(4)]

    def validated(task: Task, begin: Callable[[], None]) -> dict[str, Tensor]:
        collected = {}
        losses_and_gradient(task, batches[:3], False, begin)
        task.eval()
        with torch.no_grad():
            for batch in batches:
                begin()
                task.validation_step(on(next(task.parameters()).device, batch), 0)
        for metric_name, part in task.named_modules():
            for key in getattr(part, "_defaults", {}):
                value = getattr(part, key)
                value = torch.cat(value) if isinstance(value, list) and value else value
                if isinstance(value, Tensor) and value.is_floating_point():
                    collected[f"{metric_name}.{key}"] = value.float().cpu()
        return collected

    task, compile_ = make_task(name).to(device), compiler(device, mode)
    if mode != "eager":
        compile_.compile(task)
    expected = validated(make_task(name), lambda: None)
    got = validated(task, compile_.begin_batch)
    assert got.keys() == expected.keys()
    assert got
    for key, value in expected.items():
        assert torch.allclose(got[key], value, rtol=1e-2, atol=1e-3, equal_nan=True), key


@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", ALL_TASKS)
def test_a_step_waits_for_nothing(device: torch.device, name: str, bf16: bool) -> None:
    """Copying a pinned batch, forward, backward, clipping, optimizer."""
    task = make_task(name).to(device)
    optimizer = torch.optim.AdamW(task.parameters(), fused=True)
    batch = task_batch(unmeasured_after=30.0)
    if device.type == "cuda":
        batch = {key: value.pin_memory() for key, value in batch.items()}

    def step() -> None:
        moved = {key: value.to(device, non_blocking=True) for key, value in batch.items()}
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss = task.training_step(moved, 0)
        assert isinstance(loss, Tensor)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(task.parameters(), 1.0)
        optimizer.step()

    step()
    step()
    with no_waiting(device):
        step()


def test_waiting_is_noticed(device: torch.device) -> None:
    value = torch.ones(3, device=device)
    with no_waiting(device), pytest.raises((RuntimeError, AssertionError)):
        value.sum().item()


@pytest.mark.parametrize("name", TASKS)
def test_ten_ragged_batches_compile_nothing_anew(
    device: torch.device, name: str, tmp_path: Path
) -> None:
    make_store(tmp_path / "store", 200)
    data = XRDDataModule(
        [str(tmp_path / "store")],
        ["density"] if name == "Regression" else [],
        global_batch_size=8,
        grid=GRID,
        max_elements=6,
    )
    task = make_task(name).to(device)
    task.view_weight = 0.0  # type: ignore[assignment]
    compiler(device, "compiled").compile(task)
    lines = set()
    for number, batch in enumerate(data.stream("train", train=True)):
        lines.add(len(batch[keys.LINE_Q]))
        rendered = data.renderer(on(device, batch), augment=True)
        with torch._dynamo.config.patch(error_on_recompile=number > 0):
            losses_and_gradient(task, [rendered], bf16=False)
        if number == 9:
            break
    assert len(lines) > 5, "ragged"
