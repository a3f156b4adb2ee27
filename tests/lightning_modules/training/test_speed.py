"""What keeps a step fast: whole graphs, no attention masks."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from datamodules import batch as keys
from datamodules.batch import Batch
from lightning_modules.backbone import linear, transformer
from lightning_modules.backbone.linear import Linear
from lightning_modules.base import Task
from lightning_modules.masked_xrd import MaskedXRD
from lightning_modules.training.callbacks.compilation import Compile, parts
from tests.lightning_modules.batches import GRID
from tests.lightning_modules.tasks import CONFIG, EVERY_OPTION, TASKS, make_task, task_batch

#: What inductor does but for the code that it writes, which takes a minute.
BACKEND = "aot_eager_decomp_partition"


@pytest.fixture(autouse=True)
def forget_graphs() -> None:
    torch._dynamo.reset()


def loss_and_gradients(task: Task, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    task.zero_grad(set_to_none=True)
    loss = task.training_step(batch, 0)
    assert isinstance(loss, Tensor)
    loss.backward()
    return loss.detach(), {
        name: p.grad.clone() for name, p in task.named_parameters() if p.grad is not None
    }


@pytest.mark.parametrize("name", [*TASKS, EVERY_OPTION])
def test_a_compiled_task_has_the_same_loss_and_gradients_and_names(name: str) -> None:
    eager, compiled = make_task(name), make_task(name)
    Compile(BACKEND).compile(compiled)
    assert list(compiled.state_dict()) == list(eager.state_dict())
    batch = task_batch(unmeasured_after=30.0)
    expected, got = loss_and_gradients(eager, batch), loss_and_gradients(compiled, batch)
    torch.testing.assert_close(got[0], expected[0])
    assert got[1].keys() == expected[1].keys()
    for key, value in expected[1].items():
        torch.testing.assert_close(got[1][key], value, msg=lambda m, key=key: f"{key}: {m}")


# MaskedContrastive does what MaskedXRD does, and more.
@pytest.mark.parametrize("name", TASKS[1:])
def test_compiled_once_for_training_and_once_for_validation(name: str) -> None:
    task = make_task(name)
    Compile(BACKEND).compile(task)  # fullgraph: a graph break would raise
    assert all(part._compiled_call_impl is not None for part in parts(task).values())

    def train_and_validate(batch: Batch) -> None:
        loss_and_gradients(task, batch)
        with torch.no_grad():
            task.eval().validation_step(batch, 0)
        task.train()

    train_and_validate(task_batch())
    # Other materials, unmeasured ends, padding rows in the last batch, another epoch.
    last = task_batch(3) | {keys.WEIGHT: (torch.arange(8) < 3).float()}
    later = task_batch(4) | {keys.EPOCH: torch.tensor(7)}
    with torch._dynamo.config.patch(error_on_recompile=True):
        for batch in (task_batch(1), task_batch(2, unmeasured_after=25.0), last, later):
            train_and_validate(batch)
        with pytest.raises(torch._dynamo.exc.RecompileError):  # the check does check
            train_and_validate(task_batch(5, n=6))


@pytest.mark.parametrize("name", TASKS)
def test_bfloat16_keeps_loss_and_direction(name: str) -> None:
    task, batch = make_task(name), task_batch(unmeasured_after=30.0)
    expected, gradients = loss_and_gradients(task, batch)
    with torch.autocast("cpu", torch.bfloat16):
        loss = task.training_step(batch, 0)
    assert isinstance(loss, Tensor)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.detach(), expected, rtol=0.02, atol=1e-4)
    task.zero_grad(set_to_none=True)
    loss.backward()
    rough = [p.grad.flatten() for p in task.parameters() if p.grad is not None]
    exact = [g.flatten() for g in gradients.values()]
    assert F.cosine_similarity(torch.cat(rough), torch.cat(exact), dim=0) > 0.99


def test_patterns_are_encoded_without_attention_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    task = make_task("MaskedXRD")
    masks: list[object] = []
    attend = transformer.attend

    def spy(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
        masks.append(mask)
        return attend(q, k, v, mask, dropout)

    monkeypatch.setattr(transformer, "attend", spy)
    batch = task_batch(unmeasured_after=25.0)
    mask = task.mask(batch, 0)
    assert not mask.visible.valid.all(), "unmeasured patches are among the slots"
    everyone = torch.ones(8, dtype=torch.bool)
    task.backbone.xrd(batch[keys.XRD], mask.visible, everyone)
    assert masks == [None] * CONFIG.xrd_layers


def encoder_flops(mask_ratio: float) -> int:
    task = MaskedXRD(backbone=CONFIG, grid=GRID, mask_ratio=mask_ratio)
    task.log = lambda *_, **__: None  # type: ignore[method-assign]
    # By matrix products, which are counted on every device.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        task.training_step(task_batch(), 0).backward()
    return sum(counter.get_flop_counts()["MaskedXRD.backbone.xrd.blocks.0"].values())


def test_hidden_patches_cost_the_encoder_nothing() -> None:
    most, half, few = (encoder_flops(ratio) for ratio in (0.25, 0.5, 0.75))
    # 30, 20 and 10 of 40 patches and a summary; attention is quadratic in them.
    assert 10 / 30 - 0.05 < few / most < 11 / 31
    assert 20 / 30 - 0.05 < half / most < 21 / 31


@pytest.mark.parametrize("shape", [(7, 5), (3, 7, 5), (2, 3, 2, 5)])
@pytest.mark.parametrize("width", [3, 5, 11])
def test_linear_layers_equal_torchs(shape: tuple[int, ...], width: int) -> None:
    torch.manual_seed(0)
    layer = Linear(shape[-1], width)
    inputs = torch.randn(shape, requires_grad=True)
    plain = inputs.detach().clone().requires_grad_()

    def results(x: Tensor, function: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
        layer.zero_grad(set_to_none=True)
        y = function(x)
        (y * torch.arange(y.numel()).view_as(y).cos()).sum().backward()
        assert x.grad is not None
        assert layer.weight.grad is not None
        assert layer.bias.grad is not None
        return y.detach(), x.grad, layer.weight.grad.clone(), layer.bias.grad.clone()

    got = results(inputs, layer)
    expected = results(plain, lambda x: F.linear(x, layer.weight, layer.bias))
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_an_operator_that_torch_has_changed_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def another_signature(rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return rows @ weight.T

    def another_result(rows: torch.Tensor, weight: torch.Tensor, *_: object) -> torch.Tensor:
        return rows @ weight.T

    assert not linear._works(another_signature)
    assert not linear._works(another_result), "the bias is missing"
    assert linear._KERNEL is None or linear._works(linear._KERNEL)
    monkeypatch.setattr(linear, "_works", lambda _: False)
    assert linear._find_kernel() is None


def test_frozen_linear_layers_pass_gradients_on() -> None:
    layer = Linear(4, 3).requires_grad_(False)
    inputs = torch.randn(2, 4, requires_grad=True)
    layer(inputs).sum().backward()
    assert layer.weight.grad is None
    torch.testing.assert_close(inputs.grad, layer.weight.sum(0).expand(2, 4))
    first = Linear(4, 3)
    first(torch.randn(2, 4)).sum().backward()
    assert first.weight.grad is not None
