"""Saving and requeueing a SLURM job that is about to run out of time, between two steps."""

import logging
import os
import signal
import subprocess
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint

from datamodules.batch import Batch
from lightning_modules.training.callbacks.every_run import stepped, validation_follows
from lightning_modules.training.run_folder import CHECKPOINTS

_LOG = logging.getLogger("lightning.pytorch")


class Requeue(Checkpoint):
    """On the signal that SLURM sends before the time limit: saves, requeues the job and stops.

    Lightning's own handler saves wherever the signal strikes, in the middle of a step too, where
    the batch is counted but not learnt; ranks struck at different steps wait for each other. Here
    the ranks agree on a step. The job's command needs `--resume auto` to continue.

    A `Checkpoint` to Lightning, which calls these after all other callbacks: the step that is
    saved has been counted, and is in the averages. Where a validation follows a step, the ranks
    look after it: Lightning (2.6) would skip the validation when it resumes from before it.

    Args:
        every_n_steps: Steps between two looks at the signal, by all ranks at once.
        requeue: Whether to call `scontrol requeue`; else only save and stop.
    """

    def __init__(self, every_n_steps: int = 10, requeue: bool = True) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps is {every_n_steps}: must be at least 1")
        self.every_n_steps = every_n_steps
        self.requeue = requeue
        self._struck = False
        self._between_steps = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Listen for SIGUSR1 (`#SBATCH --signal=SIGUSR1@120`)."""
        signal.signal(signal.SIGUSR1, self._strike)

    def _strike(self, number: int, frame: FrameType | None) -> None:
        self._struck = True

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Look at the signal, if it is time."""
        self._between_steps = stepped(trainer, batch_idx)
        looks = self._between_steps and trainer.global_step % self.every_n_steps == 0
        if looks and not validation_follows(trainer):
            self._look(trainer, pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look at the signal, which may have struck in the validation."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking and self._between_steps:
            self._look(trainer, pl_module)

    def _look(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save, requeue and stop, if the signal struck any rank."""
        if trainer.should_stop:
            return
        struck = torch.tensor(int(self._struck), device=pl_module.device)
        if not int(trainer.strategy.reduce(struck, reduce_op="sum")):
            return
        path = Path(trainer.default_root_dir) / CHECKPOINTS / "last.ckpt"
        trainer.save_checkpoint(path, weights_only=False)
        trainer.should_stop = True
        job = os.environ.get("SLURM_JOB_ID")
        if trainer.is_global_zero and self.requeue and job:
            if "SLURM_ARRAY_JOB_ID" in os.environ:
                job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
            status = subprocess.run(["scontrol", "requeue", job], check=False).returncode
            _LOG.info(
                "time is nearly up: saved step %d; scontrol requeue %s exits with %d",
                trainer.global_step,
                job,
                status,
            )
