"""The batches after a resume, through Lightning's own loops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor

from datamodules.batch import EPOCH, INDEX, WEIGHT, XRD, Batch
from datamodules.grid import Grid
from datamodules.rendering.peaks import PeakShape
from datamodules.xrd_datamodule import XRDDataModule
from tests.datamodules.patterns import EVERYTHING
from tests.factories import make_store

GRID = Grid(10.0, 60.0, 0.25)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("store")
    make_store(folder, 100, rows_per_shard=23)
    return str(folder)


def make_data(store: str, **changes: Any) -> XRDDataModule:
    """81 training rows: 10 batches of 8 and a tail of 1."""
    return XRDDataModule(
        [store],
        **{
            "grid": GRID,
            "peaks": PeakShape(0.7),
            "augmentation": EVERYTHING,
            "global_batch_size": 8,
            **changes,
        },
    )


class Recorder(L.LightningModule):
    """Writes down what it is given and learns one number from it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[int, list[int]]] = []
        self.losses: list[float] = []
        self.trained: dict[tuple[int, int], Tensor] = {}
        self.validated: dict[int, list[Tensor]] = {}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.seen.append((int(batch[EPOCH]), batch[INDEX].tolist()))
        for row, xrd in zip(batch[INDEX].tolist(), batch[XRD], strict=True):
            self.trained[row, int(batch[EPOCH])] = xrd
        loss = ((batch[XRD] - self.weight) ** 2).mean()
        self.losses.append(float(loss.detach()))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        for row, xrd, weight in zip(batch[INDEX].tolist(), batch[XRD], batch[WEIGHT], strict=True):
            if weight:
                self.validated.setdefault(row, []).append(xrd)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.1)


class SaveAt(L.Callback):
    """Saves a checkpoint in one hook, at each of its calls."""

    def __init__(self, hook: str, folder: Path) -> None:
        self.saved: list[tuple[int, Path]] = []

        def save(trainer: L.Trainer, *_: Any) -> None:
            if not trainer.sanity_checking:
                path = folder / f"{hook}-{len(self.saved)}.ckpt"
                trainer.save_checkpoint(path)
                self.saved.append((trainer.global_step, path))

        setattr(self, hook, save)


def train(data: XRDDataModule, callbacks: list[L.Callback], ckpt: Path | None, **how: Any) -> Any:
    model = Recorder()
    settings = {"max_steps": 35, "max_epochs": -1, "num_sanity_val_steps": 2, **how}
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=callbacks,
        use_distributed_sampler=False,
        **settings,
    )
    trainer.fit(model, data, ckpt_path=ckpt, weights_only=True)
    return model


SETTINGS: dict[str, dict[str, Any]] = {
    "validation after each epoch": {},
    "validation in the middle of an epoch": {"val_check_interval": 4},
    "validation across epochs": {"val_check_interval": 7, "check_val_every_n_epoch": None},
    "epochs cut short": {"limit_train_batches": 6},
    "no validation": {"limit_val_batches": 0},
    "two batches a step": {"accumulate_grad_batches": 2, "max_steps": 18},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_validation_end", "on_train_epoch_end"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_resume_yields_the_same_next_batches_and_losses(
    setting: str, hook: str, store: str, tmp_path: Path
) -> None:
    how = SETTINGS[setting]
    if hook == "on_validation_end" and setting == "no validation":
        pytest.skip("never called")
    save = SaveAt(hook, tmp_path)
    whole = train(make_data(store), [save], None, **how)
    per_step = how.get("accumulate_grad_batches", 1)
    assert len(whole.seen) == per_step * how.get("max_steps", 35)
    points = save.saved[:-1]
    if hook == "on_train_batch_end":
        points = points[per_step - 1 :: per_step]  # gradients that accumulate are in no checkpoint
    assert points
    # Every checkpoint near the ends of the first epochs, and some between.
    chosen = [p for p in points if p[0] * per_step in (1, 5, 6, 9, 10, 11, 12, 20, 28)]
    for step, path in chosen or points[:3]:
        rest = train(make_data(store), [], path, **how)
        assert rest.seen == whole.seen[len(whole.seen) - len(rest.seen) :], (step, path)
        assert rest.losses == whole.losses[len(whole.losses) - len(rest.losses) :]
        if per_step == 1:
            assert len(rest.seen) == len(whole.seen) - step, (step, path)


def test_the_state_is_plain_and_names_no_rank(store: str, tmp_path: Path) -> None:
    save = SaveAt("on_train_batch_end", tmp_path)
    train(make_data(store), [save], None, max_steps=3)
    state = torch.load(save.saved[-1][1], weights_only=True)
    position = state["loops"]["fit_loop"]["state_dict"]["combined_loader"][0]
    assert (position["epoch"], position["consumed"]) == (0, 24)
    assert not {"rank", "world_size", "num_workers"} & set(position)


def test_resume_with_other_workers_yields_the_same_batches(store: str, tmp_path: Path) -> None:
    save = SaveAt("on_train_batch_end", tmp_path)
    whole = train(make_data(store), [save], None, max_steps=14)
    path = save.saved[6][1]
    rest = train(make_data(store, num_workers=2), [], path, max_steps=14)
    assert rest.seen == whole.seen[7:]
    assert rest.losses == whole.losses[7:]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"global_batch_size": 4}, "global_batch_size was 8, now 4"),
        ({"seed": 1}, "seed was 0, now 1"),
        ({"fraction": 0.9}, "fraction was 1.0, now 0.9"),
        ({"shuffle": False}, "shuffle was True, now False"),
    ],
)
def test_a_position_in_other_data_is_refused(
    changes: dict[str, Any], reason: str, store: str, tmp_path: Path
) -> None:
    save = SaveAt("on_train_batch_end", tmp_path)
    train(make_data(store), [save], None, max_steps=2)
    with pytest.raises(ValueError, match=reason):
        train(make_data(store, **changes), [], save.saved[0][1], max_steps=3)


def test_a_store_that_changed_under_the_checkpoint_is_refused(tmp_path: Path) -> None:
    make_store(tmp_path / "store", 100)
    save = SaveAt("on_train_batch_end", tmp_path)
    train(make_data(str(tmp_path / "store")), [save], None, max_steps=2)
    make_store(tmp_path / "store", 100, seed=1)
    with pytest.raises(ValueError, match="the stores changed under it"):
        train(make_data(str(tmp_path / "store")), [], save.saved[0][1], max_steps=3)


def test_overfitting_sees_the_same_batch_in_every_epoch(store: str) -> None:
    model = train(make_data(store), [], None, max_steps=4, overfit_batches=1)
    assert len({tuple(index) for _, index in model.seen}) == 1


def test_training_patterns_change_with_the_epoch_and_validation_patterns_never(store: str) -> None:
    data = make_data(store)
    plain = {}
    for raw in data.stream("validation"):
        batch = data.renderer(raw, augment=False)
        plain |= dict(zip(batch[INDEX].tolist(), batch[XRD], strict=True))
    model = train(data, [], None)
    rows = [row for row, epoch in model.trained if epoch == 0 and (row, 1) in model.trained]
    assert rows
    for row in rows:
        assert not torch.equal(model.trained[row, 0], model.trained[row, 1])
    assert model.validated.keys() == plain.keys()
    for row, patterns in model.validated.items():
        assert len(patterns) >= 3
        assert all(torch.equal(pattern, plain[row]) for pattern in patterns)


@pytest.mark.filterwarnings("ignore")
def test_loaders_made_anew_in_each_epoch_go_on_where_they_were(store: str) -> None:
    once = train(make_data(store), [], None)
    anew = train(make_data(store), [], None, reload_dataloaders_every_n_epochs=1)
    assert anew.seen == once.seen
