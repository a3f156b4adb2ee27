"""A callback that writes down what every rank was given, for the tests of several processes."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import lightning as L

from datamodules.batch import EPOCH, INDEX, WEIGHT, Batch


class Recorder(L.Callback):
    """Appends a line a batch to `FOLDER/{train,validation}.RANK.jsonl`, and can kill a rank.

    Args:
        folder: Where to write.
        kill_at: Step before which a rank kills itself, as by `kill -9`; -1 for never.
        kill_rank: That rank; -1 for all.
    """

    def __init__(self, folder: str, kill_at: int = -1, kill_rank: int = -1) -> None:
        self.folder = Path(folder)
        self.kill_at = kill_at
        self.kill_rank = kill_rank

    def _write(self, trainer: L.Trainer, name: str, line: dict[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / f"{name}.{trainer.global_rank}.jsonl", "a") as stream:
            stream.write(json.dumps(line) + "\n")

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        if trainer.global_step == self.kill_at and self.kill_rank in (-1, trainer.global_rank):
            os.kill(os.getpid(), signal.SIGKILL)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        self._write(
            trainer,
            "train",
            {
                "step": trainer.global_step,
                "epoch": int(batch[EPOCH]),
                "index": batch[INDEX].tolist(),
                "loss": float(loss.detach()),
            },
        )

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not trainer.sanity_checking:
            index = batch[INDEX][batch[WEIGHT] > 0].tolist()
            self._write(trainer, "validation", {"step": trainer.global_step, "index": index})

    on_test_batch_end = on_validation_batch_end
