"""A kill while a checkpoint is written leaves the previous one; the last step is in one."""

import dataclasses
import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from datamodules.xrd_datamodule import XRDDataModule
from lightning_modules.__main__ import main
from lightning_modules.base import OptimizerConfig
from lightning_modules.checkpoints.atomic_io import AtomicCheckpointIO
from lightning_modules.training.callbacks.every_run import LastCheckpoint
from lightning_modules.training.resumption import candidates
from tests.commands import ROOT, SMALL
from tests.factories import make_store
from tests.lightning_modules.batches import GRID
from tests.lightning_modules.tasks import make_task


def content(step: int) -> dict[str, Any]:
    return {"step": step, "weights": torch.full((1_000_000,), float(step))}


def write_forever(path: Path) -> None:
    torch.set_num_threads(1)
    step = 1
    while True:
        AtomicCheckpointIO().save_checkpoint(content(step), path)
        step += 1


def test_a_killed_writer_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    path = folder / "last.ckpt"
    killed_while_writing = 0
    for attempt in range(8):
        writer = multiprocessing.get_context("fork").Process(target=write_forever, args=(path,))
        writer.start()
        deadline = time.monotonic() + 60
        while not path.exists():
            assert time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(0.003 + 0.007 * attempt)
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        killed_while_writing += bool(list(folder.glob(".last.ckpt.*.tmp")))
        found = torch.load(path, weights_only=True)
        assert torch.equal(found["weights"], content(found["step"])["weights"])
        # What the kill left is no checkpoint to resume from.
        assert set(candidates(tmp_path)) <= {path, folder / "last.ckpt.previous"}
    assert killed_while_writing, "no kill struck a write: the test shows nothing"


def test_a_failed_write_leaves_the_previous_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(content(1), path)
    save = torch.save

    def disk_full(value: Any, file: Any) -> None:
        save({"step": 2}, file)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", disk_full)
    with pytest.raises(OSError, match="No space left"):
        AtomicCheckpointIO().save_checkpoint(content(2), path)
    assert torch.load(path, weights_only=True)["step"] == 1


def test_runs_write_their_checkpoints_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def through_the_temporary_folder(*_: Any) -> None:
        raise AssertionError("Lightning's own way of writing")

    monkeypatch.setattr(
        "lightning.fabric.plugins.io.torch_io._atomic_save", through_the_temporary_folder
    )
    make_store(tmp_path / "store", 96)
    assert (
        main(
            ["fit", f"--config={ROOT / 'configs/pretrain_mxm.yaml'}", *SMALL,
             f"--data.stores=[{tmp_path / 'store'}]", f"--run={tmp_path / 'run'}",
             "--trainer.max_steps=2", "--trainer.val_check_interval=1"]
        ) == 0
    )  # fmt: skip
    names = sorted(p.name for p in (tmp_path / "run/checkpoints").iterdir())
    assert names[0] in ("best-step=1.ckpt", "best-step=2.ckpt")
    assert names[1:] == ["last.ckpt", "last.ckpt.previous"]


def test_an_epochs_last_step_of_fewer_gradients_is_in_the_checkpoint(tmp_path: Path) -> None:
    make_store(tmp_path / "store", 96)
    trainer = L.Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        max_steps=2,
        # Three batches make the first step, the fourth the second.
        accumulate_grad_batches=3,
        limit_train_batches=4,
        limit_val_batches=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[LastCheckpoint(1)],
    )
    data = XRDDataModule([str(tmp_path / "store")], global_batch_size=8, grid=GRID)
    trainer.fit(make_task("MaskedXRD"), data)
    assert torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 2


@pytest.mark.parametrize(
    ("name", "value"), [("beta2", 1.0), ("weight_decay", -0.1), ("final_fraction", 2.0)]
)
def test_an_optimizer_that_cannot_train_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"optimizer.{name} is {value}"):
        dataclasses.replace(OptimizerConfig(), **{name: value})  # type: ignore[arg-type]
