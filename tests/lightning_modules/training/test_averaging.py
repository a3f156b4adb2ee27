"""Averages of the weights start from the weights that training starts from."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging
from torch.utils._python_dispatch import TorchDispatchMode

from datamodules.xrd_datamodule import XRDDataModule
from lightning_modules import checkpoints
from lightning_modules.backbone import BackboneConfig
from lightning_modules.base import OptimizerConfig
from lightning_modules.masked_xrd import MaskedXRD
from lightning_modules.regression import Regression
from lightning_modules.training.callbacks.averaging import EMAWeights, averages
from lightning_modules.training.callbacks.every_run import LastCheckpoint
from tests.factories import make_store
from tests.lightning_modules.batches import GRID
from tests.lightning_modules.tasks import make_task

BACKBONE = BackboneConfig(
    width=16, heads=2, composition_layers=1, xrd_layers=1, fusion_layers=1, patch_points=10
)


class Seen(Callback):
    """A weight of the backbone and the target's mean, as each validation finds them."""

    def __init__(self) -> None:
        self.weight: list[torch.Tensor] = []
        self.mean: list[float] = []

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: Regression, *_: object
    ) -> None:  # type: ignore[override]
        self.weight.append(next(pl_module.backbone.parameters()).detach().clone())
        self.mean.append(float(pl_module.targets.mean[0]))


def trainer(folder: Path, callbacks: list[Callback], steps: int) -> L.Trainer:
    return L.Trainer(
        default_root_dir=folder,
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=1,
        val_check_interval=1,
        limit_val_batches=1,
        callbacks=callbacks,
    )


def data(folder: Path, *targets: str) -> XRDDataModule:
    if not folder.exists():
        make_store(folder, 200)
    return XRDDataModule(
        [str(folder)], list(targets), global_batch_size=8, grid=GRID, augment=False
    )


@pytest.fixture
def pretrained(tmp_path: Path) -> Path:
    task = MaskedXRD(BACKBONE, GRID, OptimizerConfig(), decoder_width=16, decoder_layers=1)
    run = trainer(tmp_path / "first", [], 1)
    run.fit(task, data(tmp_path / "store"))
    run.save_checkpoint(tmp_path / "pretrained.ckpt")
    return tmp_path / "pretrained.ckpt"


def fit(
    folder: Path,
    start: Path,
    average: EMAWeightAveraging,
    steps: int = 2,
    resume: str | None = None,
) -> Seen:
    torch.manual_seed(1)
    task = Regression(
        ["formation_energy"],
        BACKBONE,
        GRID,
        OptimizerConfig(learning_rate=0.1),
        init_from=str(start),
    )
    seen = Seen()
    run = trainer(folder, [average, seen, LastCheckpoint(1)], steps)
    run.fit(task, data(folder / "store", "formation_energy"), ckpt_path=resume, weights_only=True)
    return seen


def test_validation_before_the_first_average_sees_the_initial_weights(
    pretrained: Path, tmp_path: Path
) -> None:
    weights = checkpoints.read(pretrained)["state_dict"]
    first = next(iter(weights[k] for k in weights if k.startswith("backbone.")))
    seen = fit(tmp_path, pretrained, EMAWeights(0.5, update_starting_at_step=10))
    # The sanity check and two validations, all before step 10.
    assert len(seen.weight) == 3
    for weight, mean in zip(seen.weight, seen.mean, strict=True):
        torch.testing.assert_close(weight, first, rtol=0, atol=0)
        assert mean != 0.0
    # What is mended: if this fails, Lightning has mended it, and `EMAWeights` can go.
    stale = fit(tmp_path, pretrained, EMAWeightAveraging(decay=0.5, update_starting_at_step=10))
    assert not torch.equal(stale.weight[0], first)
    assert stale.mean[0] == 0.0


def test_averages_follow_the_weights_from_the_initial_ones(
    pretrained: Path, tmp_path: Path
) -> None:
    seen = fit(tmp_path, pretrained, EMAWeights(0.0), steps=3)
    plain = fit(tmp_path, pretrained, EMAWeights(0.9), steps=3)
    # Without memory the average is the last weights; with it, it lags behind.
    assert torch.equal(seen.weight[0], plain.weight[0])
    begin = plain.weight[0]
    assert (plain.weight[3] - begin).norm() < 0.98 * (seen.weight[3] - begin).norm()


def test_the_first_weights_are_soon_forgotten_and_later_ones_kept() -> None:
    update = averages(0.9)
    averaged = (torch.zeros(1),)
    update(averaged, (torch.ones(1),), torch.tensor(1))
    assert float(averaged[0]) == pytest.approx(1 - 2 / 11)
    update(averaged, (torch.zeros(1),), torch.tensor(1000))
    assert float(averaged[0]) == pytest.approx(0.9 * (1 - 2 / 11))
    flags = (torch.zeros(1, dtype=torch.bool),)
    update(flags, (torch.ones(1, dtype=torch.bool),), torch.tensor(5))
    assert bool(flags[0]), "flags have no average"


def test_a_resumed_run_keeps_its_averages(pretrained: Path, tmp_path: Path) -> None:
    whole = fit(tmp_path, pretrained, EMAWeights(0.9), steps=4)
    # Of the second step: written in training, as `LastCheckpoint` does it; at the end of training
    # the averages take the weights' place.
    fit(tmp_path, pretrained, EMAWeights(0.9), steps=2)
    last = str(tmp_path / "checkpoints/last.ckpt")
    rest = fit(tmp_path, pretrained, EMAWeights(0.9), steps=4, resume=last)
    torch.testing.assert_close(rest.weight[-1], whole.weight[-1], rtol=0, atol=0)


def test_a_decay_that_forgets_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"decay is 1\.0"):
        EMAWeights(1.0)


class Counter(TorchDispatchMode):
    """Counts torch's operations by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[str, int] = {}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = str(function).removeprefix("aten.").split(".")[0]
        self.counts[name] = self.counts.get(name, 0) + 1
        return function(*args, **(kwargs or {}))


def test_averages_follow_the_model_to_its_device_and_are_updated_at_once() -> None:
    task, average = make_task("MaskedXRD"), EMAWeights(0.9)
    run: Any = SimpleNamespace(ckpt_path=None, global_step=1)
    average.setup(run, task, "fit")
    task.to("meta")
    average.on_fit_start(run, task)
    assert average._average_model is not None
    assert {p.device.type for p in average._average_model.module.parameters()} == {"meta"}
    # Else each update would wait to read it.
    assert average._average_model.n_averaged.device.type == "cpu"
    task = make_task("Regression")
    average = EMAWeights(0.9)
    average.setup(run, task, "fit")
    average.on_fit_start(run, task)
    average.on_train_batch_end(run, task, None, None, 0)
    run.global_step = 2
    with Counter() as counter:
        average.on_train_batch_end(run, task, None, None, 1)
    assert counter.counts["_foreach_lerp_"] == 1
    del counter.counts["detach"]  # no work of the device
    assert sum(counter.counts.values()) < 20, counter.counts


def test_averages_have_an_interval() -> None:
    with pytest.raises(ValueError, match="update_every_n_steps is 0"):
        EMAWeights(0.9, update_every_n_steps=0)
