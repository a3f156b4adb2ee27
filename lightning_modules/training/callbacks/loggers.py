"""What loggers get besides curves: the whole configuration, the final metrics, pictures.

The same for TensorBoard, Weights & Biases, MLflow and CSV (overlays in configs/logger/).
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from matplotlib.figure import Figure

#: Loggers that need a package of their own: its name, which is the extra's too.
PACKAGES = {"WandbLogger": "wandb", "MLFlowLogger": "mlflow"}
_MEND = "mend that, or leave the logger out (overlays in configs/logger/)"


def does_not_start(error: BaseException) -> ValueError | None:
    """What to tell when a logger could not be made; None if the error is no logger's own.

    Args:
        error: What the maker of the trainer raised; the logger's own error is a cause of it.
    """
    cause: BaseException | None = error
    while cause is not None:
        if type(cause).__module__.partition(".")[0] in PACKAGES.values():
            reason = " ".join(str(cause).split()) or type(cause).__name__
            return ValueError(f"trainer.logger: does not start ({reason}); {_MEND}")
        cause = cause.__cause__
    return None


def start(loggers: Sequence[Logger], configuration: Mapping[str, Any]) -> None:
    """Begin to log, with the whole configuration.

    Args:
        loggers: Of the trainer.
        configuration: As `config.yaml` has it.

    Raises:
        ValueError: if one cannot start: a server is away, nobody has logged in.
    """
    for logger in loggers:
        try:
            _ = logger.experiment  # type: ignore[attr-defined]
            logger.log_hyperparams(dict(configuration))
        except Exception as error:
            if (refused := does_not_start(error)) is None:
                raise
            raise refused from error


class FinalMetrics(Callback):
    """Puts the last metrics beside the configuration, where TensorBoard compares runs by both.

    The other loggers show the last value of every curve without help.

    Args:
        configuration: As `config.yaml` has it.
    """

    def __init__(self, configuration: Mapping[str, Any]) -> None:
        self.configuration = dict(configuration)

    @rank_zero_only
    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log them; TensorBoard keeps one row a run."""
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        final = {name: value for name, value in metrics.items() if math.isfinite(value)}
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger) and final:
                logger.log_hyperparams(self.configuration, final, trainer.global_step)


def show(logger: Logger, figure: Figure, tag: str, path: Path, step: int) -> None:
    """Give a logger a picture; one that cannot show any does without.

    Args:
        logger: Of the trainer.
        figure: The picture.
        tag: Its name.
        path: Its file.
        step: The training step that it is of.
    """
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.add_figure(tag, figure, step)
    elif isinstance(logger, WandbLogger):
        logger.log_image(tag, [str(path)])
    elif isinstance(logger, MLFlowLogger):
        logger.experiment.log_artifact(logger.run_id, str(path), tag)
