"""A kill while a checkpoint is written leaves the previous one."""

import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_modules import runs
from lightning_modules.__main__ import main
from lightning_modules.checkpoint_io import AtomicCheckpointIO
from tests.factories import make_store
from tests.test_cli import ROOT, SMALL


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
        killed_while_writing += (folder / "last.ckpt.tmp").exists()
        found = torch.load(path, weights_only=True)
        assert torch.equal(found["weights"], content(found["step"])["weights"])
        # What the kill left is no checkpoint to resume from.
        assert runs.newest_checkpoint(tmp_path) == path
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
    assert names == ["best-step=1.ckpt", "last.ckpt"] or names == ["best-step=2.ckpt", "last.ckpt"]
