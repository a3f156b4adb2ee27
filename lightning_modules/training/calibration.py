"""Split-conformal intervals: from the errors on a split that nothing was fitted to.

The interval of a material is its prediction plus and minus its spread times a quantile of
|error| / spread on the calibration split. For a new material exchangeable with those it contains
the label with the stated probability, whatever the model is worth. Formulas of the calibration
split are not in training, as those of the test split are not; measured patterns are *not*
exchangeable with simulated ones, and nothing is guaranteed for them.

Source: Vovk et al., Algorithmic Learning in a Random World (2005); the score normalised by the
spread as in Lei et al., J. Am. Stat. Assoc. 113 (2018) 1094.
"""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning import Trainer
from lightning.pytorch.trainer.states import RunningStage
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from datamodules.batch import Batch
from lightning_modules import checkpoints
from lightning_modules.metrics.evaluation import Predictions, Table
from lightning_modules.training.run_folder import CHECKPOINTS

if TYPE_CHECKING:
    from lightning_modules.base import Task


def conformal_quantile(scores: Tensor, confidence: float) -> float:
    """The smallest score that covers a new one with the given probability.

    Args:
        scores: Scores of the calibration split, (n,); NaN where a label is missing.
        confidence: Probability, in (0, 1).

    Returns:
        The ceil((n + 1) * confidence)-th smallest score; infinite if there are fewer.
    """
    scores = scores[~scores.isnan()]
    # Rounded first: 0.9 * 10 is not exactly 9 in binary for every such product.
    rank = math.ceil(round((len(scores) + 1) * confidence, 9))
    return float(scores.kthvalue(rank).values) if rank <= len(scores) else math.inf


def quantiles(table: Table, confidence: float) -> Tensor:
    """The quantile for each mode and target, (M, T)."""
    scores_NMT = (table.value - table.target[:, None]).abs() / table.spread
    n_modes, n_targets = scores_NMT.shape[1:]
    return torch.tensor(
        [
            [conformal_quantile(scores_NMT[:, m, t], confidence) for t in range(n_targets)]
            for m in range(n_modes)
        ]
    )


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
    folder = Path(trainer.default_root_dir) / CHECKPOINTS
    trainer.strategy.barrier()
    for path in sorted(folder.glob("*.ckpt")):
        table = predict_split(trainer, checkpoints.load_task(path), data.calibration_dataloader())
        checkpoint = checkpoints.read(path)
        confidence = checkpoint[checkpoints.KEY]["arguments"]["confidence"]
        checkpoint["state_dict"]["targets.conformal"] = quantiles(table, confidence)
        if trainer.is_global_zero:
            checkpoints.write(path, checkpoint)
        trainer.strategy.barrier()


def predict_split(trainer: Trainer, task: "Task", loader: Iterable[Batch]) -> Table:
    """Predictions of a task for a split, rendered without randomness, gathered over all ranks."""
    from lightning_modules.regression import Regression

    assert isinstance(task, Regression)
    device, data = trainer.strategy.root_device, trainer.datamodule  # type: ignore[attr-defined]
    task.to(device)
    predictions = Predictions().to(device)
    stage = trainer.state.stage
    # The data are changed at random where the trainer says that it is training.
    trainer.state.stage = RunningStage.PREDICTING
    try:
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            for batch in loader:
                batch = data.transfer_batch_to_device(batch, device, 0)
                task.collect(data.on_after_batch_transfer(batch, 0), predictions)
    finally:
        trainer.state.stage = stage
    return predictions.table()
