"""Callbacks of every run: configuration, metrics files, throughput, pictures of reconstructions."""

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from datamodules import batch as keys
from datamodules.batch import Batch
from datamodules.io.files import replace_file
from lightning_modules import checkpoints
from lightning_modules.metrics.reconstruction import highest, strongest_line
from lightning_modules.training.run_folder import (
    CHECKPOINTS,
    METRICS_FINAL,
    next_config_path,
    start_path,
)

METRICS_LINES = "metrics.jsonl"
PICTURES = "pictures"


def _counts(trainer: L.Trainer) -> bool:
    """Whether a validation belongs to training: not the sanity check, not `xxact validate`."""
    return not trainer.sanity_checking and trainer.state.fn == "fit"


def stepped(trainer: L.Trainer, batch_idx: int) -> bool:
    """Whether the optimizer has stepped with this batch; it does with an epoch's last in any case.

    Gradients that are accumulated half are in no checkpoint.
    """
    return (batch_idx + 1) % trainer.accumulate_grad_batches == 0 or trainer.is_last_batch


def validation_follows(trainer: L.Trainer) -> bool:
    """Whether a validation that is counted in steps comes right after this batch."""
    if not trainer.enable_validation or trainer.check_val_every_n_epoch is not None:
        return False
    interval = trainer.val_check_batch  # none where validations come by the clock
    return (
        interval is not None and (trainer.fit_loop.epoch_loop.total_batch_idx + 1) % interval == 0
    )


def finite_metrics(metrics: dict[str, Any]) -> dict[str, float | None]:
    """Plain numbers; what is not finite becomes null, since JSON has no NaN."""
    numbers = {name: float(value) for name, value in metrics.items()}
    return {name: value if math.isfinite(value) else None for name, value in numbers.items()}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    replace_file(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


class SaveRunConfig(Callback):
    """Writes the configuration when training starts, once everything else has been accepted.

    Args:
        text: The configuration.
        recipes: The files that it was made from, in their order.
    """

    def __init__(self, text: str, recipes: Sequence[Path]) -> None:
        self.text, self.recipes = text, recipes

    @rank_zero_only
    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Write `config.yaml` and `start.json`; with a number when resumed (`config.2.yaml`)."""
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        path = next_config_path(folder)
        replace_file(path, self.text)
        start = {"recipes": list(map(str, self.recipes)), "monitor": pl_module.monitor}
        write_json(start_path(path), start)


class MetricsWriter(Callback):
    """Writes `metrics.jsonl`, a line a validation, and `metrics.json` at the end, on rank 0.

    A line has step, epoch, wall time (seconds of training, over all resumptions), CPU time (seconds
    of this process and its threads; null if a checkpoint from before it was recorded is resumed),
    samples seen (over all ranks) and every metric logged so far. A resumed run drops the lines that
    lie after its checkpoint. It also logs `train/materials_per_second`. The files lie in the run's
    folder, which the command line makes the trainer's `default_root_dir`.
    """

    def __init__(self) -> None:
        self.samples_seen = 0
        self.seconds_before = 0.0
        self.cpu_before: float | None = 0.0
        self._start, self._cpu_start = time.monotonic(), time.process_time()
        self._last: tuple[float, int] | None = None
        self._metrics: dict[str, float | None] = {}

    def _seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self._start

    def _cpu_seconds(self) -> float | None:
        spent = time.process_time() - self._cpu_start
        return None if self.cpu_before is None else round(self.cpu_before + spent, 3)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run goes on counting from."""
        return {
            "samples_seen": self.samples_seen,
            "seconds": self._seconds(),
            "cpu_seconds": self._cpu_seconds(),
            "metrics": self._metrics,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self.samples_seen = state_dict["samples_seen"]
        self.seconds_before = state_dict["seconds"]
        # Unknown of a checkpoint that was written before it was recorded.
        self.cpu_before = state_dict.get("cpu_seconds")
        # A resumed run has not logged all of them before its first validation.
        self._metrics = dict(state_dict.get("metrics", {}))

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock; drop lines that the checkpoint knows nothing of."""
        self._start, self._cpu_start = time.monotonic(), time.process_time()
        path = Path(trainer.default_root_dir) / METRICS_LINES
        if trainer.is_global_zero and path.exists():
            lines = path.read_text().splitlines(keepends=True)
            kept = [line for line in lines if _step(line) <= trainer.global_step]
            replace_file(path, "".join(kept))

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Count materials; every `log_every_n_steps` batches log how many a second."""
        self.samples_seen += len(batch[keys.INDEX]) * trainer.world_size
        if (batch_idx + 1) % trainer.log_every_n_steps:  # type: ignore[attr-defined]
            return
        now = time.monotonic()
        if self._last is not None:
            then, seen = self._last
            rate = (self.samples_seen - seen) / max(now - then, 1e-9)
            pl_module.log("train/materials_per_second", rate, rank_zero_only=True)
        self._last = (now, self.samples_seen)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Validation is not training: the rate starts anew."""
        self._last = None

    @rank_zero_only
    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Append a line."""
        if not _counts(trainer):
            return
        with (Path(trainer.default_root_dir) / METRICS_LINES).open("a") as file:
            file.write(json.dumps(self._line(trainer), allow_nan=False) + "\n")

    @rank_zero_only
    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the final metrics."""
        write_json(Path(trainer.default_root_dir) / METRICS_FINAL, self._line(trainer))

    def _line(self, trainer: L.Trainer) -> dict[str, Any]:
        self._metrics |= finite_metrics(trainer.callback_metrics)
        return {
            "step": trainer.global_step,
            "epoch": trainer.current_epoch,
            "wall_time": round(self._seconds(), 3),
            "cpu_time": self._cpu_seconds(),
            "samples_seen": self.samples_seen,
            **self._metrics,
        }


def _step(line: str) -> float:
    """Step of a line; a line cut short by a kill counts as after everything."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError):
        return math.inf


class LastCheckpoint(Checkpoint):
    """Keeps `checkpoints/last.ckpt`, from which `--resume` continues.

    Written every so many steps, after each validation (so that it knows of the best checkpoint
    found there) and at the last step. Not between a step and its validation: Lightning (2.6) skips
    the validation when it resumes from there.

    Args:
        every_n_steps: Steps between two writes.
    """

    def __init__(self, every_n_steps: int) -> None:
        if every_n_steps < 1:
            raise ValueError(f"checkpoint.every_n_steps is {every_n_steps}: must be at least 1")
        self.every_n_steps = every_n_steps
        self._saved_at = -1
        self._between_steps = True

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Write, if it is time."""
        self._between_steps = stepped(trainer, batch_idx)
        step = trainer.global_step
        if not self._between_steps or step == self._saved_at or validation_follows(trainer):
            return
        # Lightning ends a run after a step: with several processes not all of them in this place.
        ends = trainer.received_sigterm and trainer.world_size == 1
        if step % self.every_n_steps == 0 or step == trainer.max_steps or ends:
            self._save(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write."""
        if _counts(trainer) and self._between_steps:
            self._save(trainer)

    def _save(self, trainer: L.Trainer) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        self._saved_at = trainer.global_step
        # `AtomicCheckpointIO` writes it: a kill leaves the previous one.
        path = Path(trainer.default_root_dir) / CHECKPOINTS / "last.ckpt"
        trainer.save_checkpoint(path, weights_only=False)


class WholeModel(Callback):
    """Evaluates the weights of a model that was exported, which Lightning cannot load.

    Args:
        path: The model's file of weights.
    """

    def __init__(self, path: Path) -> None:
        self._weights = checkpoints.read(path)["state_dict"]

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Make the folder of the results, which no training has made."""
        Path(trainer.default_root_dir).mkdir(parents=True, exist_ok=True)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Load them; the task knows its data by now, and refuses labels in other units."""
        pl_module.load_state_dict(self._weights)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """As before a validation."""
        self.on_validation_start(trainer, pl_module)


class ReconstructionPictures(Callback):
    """Draws hidden regions, truth and reconstructions of a few validation patterns.

    With and without the composition; to TensorBoard and to `pictures/` in the run's folder.

    Args:
        n_patterns: Patterns a picture, spread over the first validation batch.
        every_n_steps: Steps between pictures; one is also drawn at the end.
    """

    def __init__(self, n_patterns: int = 4, every_n_steps: int = 500) -> None:
        if n_patterns < 1 or every_n_steps < 1:
            raise ValueError("pictures: n_patterns and every_n_steps must be at least 1")
        self.n_patterns = n_patterns
        self.every_n_steps = every_n_steps
        self._batch: Batch | None = None
        self._drawn_at = 0

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep a few patterns of the first batch; neighbours are often alike: from all over it."""
        if batch_idx == 0 and trainer.is_global_zero:
            n_real = int((batch[keys.WEIGHT] > 0).sum())
            rows = torch.linspace(0, n_real - 1, min(self.n_patterns, n_real)).long()
            self._batch = {k: v[rows] if v.ndim else v for k, v in batch.items()}

    @rank_zero_only
    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw, if it is time."""
        if not _counts(trainer):
            return
        if trainer.global_step - self._drawn_at >= self.every_n_steps:
            self._draw(trainer, pl_module)

    @rank_zero_only
    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the last picture."""
        if self._drawn_at != trainer.global_step:
            self._draw(trainer, pl_module)

    def _draw(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        from lightning_modules.masked_xrd import MaskedXRD
        from lightning_modules.training.callbacks.figures import publish, reconstruction_figure

        drawable = isinstance(pl_module, MaskedXRD) and self._batch is not None
        if not drawable or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        assert isinstance(pl_module, MaskedXRD)
        assert self._batch is not None
        self._drawn_at = trainer.global_step
        was_training = pl_module.training
        pl_module.eval()
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            with_it = pl_module.reconstruct(self._batch)
            without = pl_module.reconstruct(self._batch, with_composition=False)
        pl_module.train(was_training)
        figure = reconstruction_figure(
            pl_module.grid.two_theta(),
            _numpy(self._batch[keys.ELEMENTS]),
            _numpy(self._batch[keys.FRACTIONS]),
            _numpy(with_it.target),
            _numpy(with_it.masked),
            _numpy(with_it.prediction),
            _numpy(without.prediction),
            _numpy(strongest_line(with_it.target, with_it.masked)),
            _numpy(highest(with_it.prediction, with_it.masked)),
        )
        path = Path(trainer.default_root_dir) / PICTURES / f"step_{trainer.global_step:07d}.png"
        publish(trainer, figure, "reconstruction", path)


def _numpy(tensor: Tensor) -> Any:
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()
