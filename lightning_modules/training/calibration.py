"""Calibrates the checkpoints of a run on its calibration split.

Formulas of that split are not in training, as those of the test split are not; measured patterns
are *not* exchangeable with simulated ones, and nothing is guaranteed for them. The mathematics is
in `metrics/conformal.py`.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import RunningStage
from lightning.pytorch.utilities import rank_zero_warn

from datamodules.batch import Batch
from lightning_modules import checkpoints
from lightning_modules.metrics.conformal import quantiles
from lightning_modules.metrics.predictions import Predictions, Table
from lightning_modules.training.run_folder import CHECKPOINTS


@runtime_checkable
class Predicts(Protocol):
    """A task that can be calibrated: it adds predictions of a batch to a table."""

    def collect(self, batch: Batch, into: Predictions) -> None:
        """Add a batch's predictions in every mode to a table."""

    def to(self, device: torch.device) -> Any:
        """Move to a device."""


class CalibrateIntervals(Callback):
    """Calibrates the checkpoints that a run keeps when it ends, of any task that `Predicts`."""

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Calibrate, unless nothing was kept."""
        if isinstance(pl_module, Predicts) and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            calibrate(trainer)


def calibrate(trainer: Trainer) -> None:
    """Add the quantiles to the run's checkpoints; each is judged with its own weights.

    Every rank predicts its part of the calibration split; rank 0 rewrites the files.

    Args:
        trainer: Of the run, with its data.
    """
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    if not len(data.rows("calibration")):
        rank_zero_warn(
            "the calibration split is empty: predictions of this run have no intervals; raise "
            "data.split.calibration"
        )
        return
    trainer.strategy.barrier()
    # Listed by one: on a shared file system other processes may not see the last file yet, and
    # would wait for each other at another one.
    paths = []
    if trainer.is_global_zero:
        paths = sorted((Path(trainer.default_root_dir) / CHECKPOINTS).glob("*.ckpt"))
    # The run's own class needs no permission: it runs already.
    own = [checkpoints.public_name(type(trainer.lightning_module))]
    for path in trainer.strategy.broadcast(paths):
        task = checkpoints.load_task(path, own)
        table = predict_split(trainer, task, data.calibration_dataloader())
        checkpoint = checkpoints.read(path)
        confidence = checkpoint[checkpoints.KEY]["arguments"]["confidence"]
        # Whole chemical systems are exchangeable where these were held out.
        groups = table.system if data.split.by == "system" else table.formula
        checkpoint["state_dict"]["targets.conformal"] = quantiles(table, groups, confidence)
        if trainer.is_global_zero:
            checkpoints.write(path, checkpoint)
        trainer.strategy.barrier()


def predict_split(trainer: Trainer, task: Any, loader: Iterable[Batch]) -> Table:
    """Predictions of a task for a split, rendered without randomness, gathered over all ranks."""
    assert isinstance(task, Predicts), type(task)
    device, data = trainer.strategy.root_device, trainer.datamodule  # type: ignore[attr-defined]
    task.to(device)
    predictions = Predictions().to(device)
    stage = trainer.state.stage
    # The data are changed at random where the trainer says that it is training.
    trainer.state.stage = RunningStage.PREDICTING
    try:
        # In float32, as `xxact predict` answers, whatever precision the run has.
        with torch.no_grad():
            for batch in loader:
                batch = data.transfer_batch_to_device(batch, device, 0)
                task.collect(data.on_after_batch_transfer(batch, 0), predictions)
    finally:
        trainer.state.stage = stage
    return predictions.table()
