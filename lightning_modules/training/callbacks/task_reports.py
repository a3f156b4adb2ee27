"""Callbacks of single tasks: the embedding projector, and the regression's plots and tables."""

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from datamodules.io.files import replace_table
from lightning_modules.metrics.evaluation import errors_by_group, families
from lightning_modules.metrics.predictions import Table
from lightning_modules.objectives.targets import Prediction
from lightning_modules.training import run_folder as runs
from lightning_modules.training.callbacks.every_run import PICTURES
from lightning_modules.training.callbacks.figures import parity_figure, publish

ERRORS = "errors.test.csv"
PREDICTIONS = "predictions.test.csv"


def _drawing(trainer: L.Trainer) -> bool:
    return not (trainer.fast_dev_run or trainer.sanity_checking)  # type: ignore[attr-defined]


class EmbeddingProjector(Callback):
    """Writes embeddings of validation materials to TensorBoard's projector when training ends.

    Each material has two points, its composition and its pattern, with formula, modality,
    chemical family and number of elements to colour by.

    Args:
        n_materials: At most as many materials.
    """

    def __init__(self, n_materials: int = 500) -> None:
        if n_materials < 1:
            raise ValueError(f"projector: n_materials is {n_materials}: must be at least 1")
        self.n_materials = n_materials

    @rank_zero_only
    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write those of the last validation."""
        embeddings = getattr(pl_module, "embeddings", None)
        loggers = [x for x in trainer.loggers if isinstance(x, TensorBoardLogger)]
        if embeddings is None or not loggers:
            return
        composition, xrd, index = (values[: self.n_materials].cpu() for values in embeddings)
        collection = trainer.datamodule.collection  # type: ignore[attr-defined]
        materials = [collection.material(row) for row in index.tolist()]
        elements = torch.nn.utils.rnn.pad_sequence(
            [torch.from_numpy(m.elements).long() for m in materials], batch_first=True
        )
        described = [
            [m.formula, family, str(len(m.elements))]
            for m, family in zip(materials, families(elements), strict=True)
        ]
        for logger in loggers:
            logger.experiment.add_embedding(
                torch.cat((composition, xrd)),
                [[row[0], "composition", *row[1:]] for row in described]
                + [[row[0], "xrd", *row[1:]] for row in described],
                metadata_header=["formula", "modality", "family", "elements"],
                global_step=trainer.global_step,
                tag="alignment",
            )


class RegressionReport(Callback):
    """Parity plots of the last validation; of a test also tables of errors and predictions.

    A test writes beside the run of its checkpoint: `errors.test.csv`, the errors of all, by number
    of elements, by chemical family and by whether the chemical system was in training, within
    formulas too; `predictions.test.csv`, a line a material with every
    prediction and interval; and `pictures/parity_test.png`.
    """

    @rank_zero_only
    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the last validation."""
        folder = Path(trainer.default_root_dir)
        self._draw(trainer, pl_module, folder, f"parity_step_{trainer.global_step:07d}")

    @rank_zero_only
    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the test and write its tables."""
        from lightning_modules.regression import Regression

        if not isinstance(pl_module, Regression) or pl_module.table is None:
            return
        if not _drawing(trainer):
            return
        folder = (
            runs.folder_of(Path(trainer.ckpt_path))
            if trainer.ckpt_path
            else Path(trainer.default_root_dir)
        )
        self._draw(trainer, pl_module, folder, "parity_test")
        rows = errors_by_group(
            pl_module.table,
            list(pl_module.modes),
            pl_module.targets,
            pl_module.pair_tolerance,
            _training_systems(trainer),
        )
        replace_table(folder / ERRORS, rows)
        replace_table(folder / PREDICTIONS, _prediction_rows(trainer, pl_module, pl_module.table))

    def _draw(
        self, trainer: L.Trainer, pl_module: L.LightningModule, folder: Path, name: str
    ) -> None:
        from lightning_modules.regression import Regression

        if not isinstance(pl_module, Regression) or pl_module.table is None:
            return
        if not _drawing(trainer):
            return
        table, targets = pl_module.table, pl_module.targets
        figure = parity_figure(
            targets.names,
            targets.units,
            table.target.numpy(),
            {mode: table.value[:, m].numpy() for m, mode in enumerate(pl_module.modes)},
        )
        publish(trainer, figure, "parity", folder / PICTURES / f"{name}.png")


def _training_systems(trainer: L.Trainer) -> torch.Tensor:
    """Hashes of the chemical systems of the training split, as a batch has them."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    systems = np.unique(data.collection.column("system_key")[data.rows("train")])
    return torch.from_numpy(systems.view(np.int64))


def _prediction_rows(trainer: L.Trainer, task: Any, table: Table) -> list[dict[str, Any]]:
    collection = trainer.datamodule.collection  # type: ignore[attr-defined]
    index = table.index.numpy()
    columns: dict[str, Any] = {name: collection.column(name)[index] for name in ("id", "formula")}
    for t, name in enumerate(task.targets.names):
        columns[name] = table.target[:, t].tolist()
        for m, mode in enumerate(task.modes):
            prediction = Prediction(table.value[:, m], table.spread[:, m])
            low, high = task.targets.interval(prediction, m)
            columns |= {
                f"{name}_{mode}": prediction.value[:, t].tolist(),
                f"{name}_{mode}_low": low[:, t].tolist(),
                f"{name}_{mode}_high": high[:, t].tolist(),
            }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
