"""What a run says: a line a validation where there is no terminal, and its score at the end."""

import math
import time
from typing import Protocol

import lightning as L
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.utilities import rank_zero_only


class Tells(Protocol):
    """A task whose validation has main figures."""

    monitor: str

    def main_figures(self) -> dict[str, str]:
        """Names of validation metrics, with their units."""


def _value(value: float, unit: str) -> str:
    return f"{value:.4g} {unit}".rstrip()


def figures(trainer: L.Trainer, task: Tells, stage: str = "val") -> dict[str, str]:
    """The task's main figures of a stage (`val`, `test`) that there are, as text with units."""
    metrics = trainer.callback_metrics
    named = {
        name.replace("val/", f"{stage}/", 1): unit for name, unit in task.main_figures().items()
    }
    return {
        name: _value(float(metrics[name]), unit) for name, unit in named.items() if name in metrics
    }


def score(trainer: L.Trainer, task: Tells) -> list[str]:
    """Lines for the end of a run: the monitored value, its best, and the main errors.

    Args:
        trainer: Of the run.
        task: What was trained.

    Returns:
        Nothing if the run has not validated.
    """
    shown = figures(trainer, task)
    if task.monitor not in shown:
        return []
    line = f"  score        {task.monitor} {shown.pop(task.monitor)}"
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.best_model_score is not None:
            best = float(callback.best_model_score)
            if callback.monitor == task.monitor and math.isfinite(best):
                step = callback.best_model_path.rpartition("step=")[2].removesuffix(".ckpt")
                line += f"; best {best:.4g} at step {step}"
    return [line, *(f"               {name} {value}" for name, value in shown.items())]


class LossBar(TQDMProgressBar):
    """Lightning's bar with the training loss, which is read from the device when the bar is drawn.

    Lightning itself reads whatever is logged for the bar at every step, drawn or not, and so waits
    for the device each time (2.6): no task logs its training loss for the bar.

    Args:
        refresh_rate: Steps from one drawing to the next.
    """

    def __init__(self, refresh_rate: int) -> None:
        super().__init__(refresh_rate)

    def get_metrics(
        self, trainer: L.Trainer, pl_module: L.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """What is shown beside the bar."""
        shown = super().get_metrics(trainer, pl_module)
        if "train/loss" in trainer.callback_metrics:
            shown["train/loss"] = float(trainer.callback_metrics["train/loss"])
        return shown


class ValidationLines(Callback):
    """Prints a line with the time after each validation, in place of a bar.

    A bar in a file is thousands of carriage returns in one line.
    """

    @rank_zero_only
    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the step, the training loss and the main figures."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        shown = figures(trainer, pl_module)  # type: ignore[arg-type]
        if "train/loss" in trainer.callback_metrics:
            loss = _value(float(trainer.callback_metrics["train/loss"]), "")
            shown = {"train/loss": loss} | shown
        text = ", ".join(f"{name} {value}" for name, value in shown.items())
        of = f" of {trainer.max_steps}" if trainer.max_steps > 0 else ""
        print(f"{time.strftime('%H:%M:%S')} step {trainer.global_step}{of}: {text}", flush=True)
