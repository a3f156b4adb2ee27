"""What all tasks share: the backbone, the optimizer with its schedule, and initial weights."""

import inspect
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import Optimizer

from datamodules import batch as keys
from datamodules.batch import Batch
from datamodules.grid import Grid
from datamodules.randomness import step_seed
from lightning_modules import checkpoints
from lightning_modules.backbone import (
    Backbone,
    BackboneConfig,
    BackboneOutput,
    VisiblePatches,
    all_measured,
)
from lightning_modules.objectives.parameter_groups import parameter_groups, regrouped


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW and its learning-rate schedule.

    Attributes:
        learning_rate: Highest learning rate.
        weight_decay: Decoupled weight decay of matrices; biases, norms, tokens, queries and
            embeddings have none.
        warmup_steps: Steps of linear warm-up.
        schedule: `cosine` falls to `final_fraction` of the learning rate at `trainer.max_steps`;
            `constant` stays.
        final_fraction: Fraction of the learning rate at the end of `cosine`.
        beta2: AdamW's second moment decay.
        layer_decay: Factor on the learning rate for each layer further from the task's head, for
            fine-tuning; 1 gives all layers the same.
    """

    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup_steps: int = 100
    schedule: Literal["cosine", "constant"] = "cosine"
    final_fraction: float = 0.01
    beta2: float = 0.98
    layer_decay: float = 1.0

    def __post_init__(self) -> None:
        """Refuse values that cannot train."""
        if not self.learning_rate > 0:
            raise ValueError(f"optimizer.learning_rate is {self.learning_rate}: must be positive")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"optimizer.layer_decay is {self.layer_decay}: must lie in (0, 1]")
        if not self.weight_decay >= 0:
            raise ValueError(f"optimizer.weight_decay is {self.weight_decay}: must be at least 0")
        if not 0 <= self.beta2 < 1:
            raise ValueError(f"optimizer.beta2 is {self.beta2}: must lie in [0, 1)")
        if not 0 <= self.final_fraction <= 1:
            raise ValueError(
                f"optimizer.final_fraction is {self.final_fraction}: must lie in [0, 1]"
            )
        if self.warmup_steps < 0:
            raise ValueError(f"optimizer.warmup_steps is {self.warmup_steps}: must not be negative")

    def factor(self, step: int, max_steps: int) -> float:
        """Fraction of the learning rate at a step."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if self.schedule == "constant":
            return 1.0
        progress = (step - self.warmup_steps) / max(1, max_steps - self.warmup_steps)
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        return self.final_fraction + (1 - self.final_fraction) * cosine


def check_weight(name: str, weight: float) -> float:
    """The weight of a part of the loss.

    Raises:
        ValueError: unless it is finite and not negative.
    """
    if not 0.0 <= weight < float("inf"):
        raise ValueError(f"{name} is {weight}: must be 0 or more")
    return weight


_DIVERGED = (
    "checkpoints of earlier steps stay. Try a lower model.optimizer.learning_rate, more "
    "model.optimizer.warmup_steps, trainer.gradient_clip_val 1.0, or trainer.precision 32-true"
)
#: In the others Lightning converts the gathered lines: bfloat16 moves them by up to 0.4 %, and the
#: Fourier transform that draws the patterns refuses it.
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


class Task(L.LightningModule):
    """A way to train the backbone. Subclasses write `training_step` and `validation_step`.

    What a task's constructor is given is captured once, whatever the subclass: `constructed_with`
    goes into the checkpoint and builds the task again.

    Args:
        backbone: Size and shape of the backbone.
        grid: The 2θ grid of the patterns; the command line takes it from the data.
        optimizer: Optimizer and schedule.
        init_from: A checkpoint whose backbone weights to start from (weights only; ignored when
            a run is resumed).
    """

    #: Validation metric by which the best checkpoint is chosen; smaller is better.
    monitor: ClassVar[str]
    #: Arguments in which an evaluated checkpoint must agree with the recipe, since they give the
    #: weights their shapes or their meaning. A resumed one must agree in all.
    shaping: ClassVar[frozenset[str]] = frozenset({"backbone", "grid"})
    #: The constructor's arguments by name, defaults included; without `init_from`, which says where
    #: a run began and not what the task is.
    constructed_with: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Capture the constructor's arguments."""
        task = super().__new__(cls)
        # Not through `nn.Module`, which is not set up yet. Partial: copying gives no arguments.
        object.__setattr__(task, "constructed_with", cls.arguments(*args, **kwargs))
        return task

    @classmethod
    def arguments(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Arguments of the constructor by name, with the defaults of those that are not given."""
        bound = inspect.signature(cls.__init__).bind_partial(None, *args, **kwargs)
        bound.apply_defaults()
        named = dict(list(bound.arguments.items())[1:])
        named.pop("init_from", None)
        return named

    def __init__(
        self,
        backbone: BackboneConfig,
        grid: Grid,
        optimizer: OptimizerConfig,
        init_from: str | None = None,
    ) -> None:
        super().__init__()
        self.backbone = Backbone(backbone, grid)
        self.grid = grid
        self.optimizer_config = optimizer
        self.init_from = init_from
        self._seed: int | None = None

    def main_figures(self) -> dict[str, str]:
        """Names and units of the validation metrics that a run tells; some may be absent."""
        return {self.monitor: ""}

    def encode(
        self,
        batch: Batch,
        visible: VisiblePatches | None = None,
        has_composition: Tensor | None = None,
        has_xrd: Tensor | None = None,
    ) -> BackboneOutput:
        """Run the backbone on a batch; see `Backbone.forward`."""
        output: BackboneOutput = self.backbone(
            batch[keys.ELEMENTS],
            batch[keys.FRACTIONS],
            batch[keys.XRD],
            batch[keys.MEASURED],
            visible=visible,
            has_composition=has_composition,
            has_xrd=has_xrd,
        )
        return output

    def view_vector(self, batch: Batch) -> Tensor:
        """The vector of each material's second pattern, `VIEW`, before fusion, (B, D).

        Raises:
            ValueError: if the data give none.
        """
        if keys.VIEW not in batch:
            raise ValueError(
                "model.view_weight is above 0, but the data give no second patterns: name what "
                "to change in data.views, as configs/pretrain_contrastive.yaml does"
            )
        measured_BL = batch[keys.VIEW_MEASURED]
        visible = all_measured(measured_BL, self.backbone.config.patch_points)
        everyone_B = torch.ones_like(measured_BL[:, 0])
        return self.backbone.xrd(batch[keys.VIEW], visible, everyone_B)[:, 0]

    def setup(self, stage: str) -> None:
        """Load initial weights at the start of a run that is not resumed.

        Raises:
            ValueError: if the checkpoint does not fit, or the precision rounds the data.
        """
        if self.trainer.precision not in PRECISIONS:
            raise ValueError(
                f"trainer.precision is {self.trainer.precision}: must be one of "
                f"{', '.join(PRECISIONS)}; any other rounds or widens the batch before its "
                "patterns are drawn"
            )
        if stage == "fit" and self.init_from and self.trainer.ckpt_path is None:
            checkpoints.load_backbone(self.init_from, self.backbone, self.constructed_with)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW, with decay of matrices alone, and a schedule that steps with the optimizer.

        Raises:
            ValueError: if a cosine schedule has no `trainer.max_steps` to end at.
        """
        config, max_steps = self.optimizer_config, self.trainer.max_steps
        # Lightning's estimate of the steps would skip the loader's restore (#20550).
        if config.schedule == "cosine" and max_steps <= 0:
            raise ValueError(
                "trainer.max_steps is not set: the cosine schedule ends there; set it, or "
                "model.optimizer.schedule to constant"
            )
        optimizer = torch.optim.AdamW(
            parameter_groups(self, self.backbone.config, config.learning_rate, config.layer_decay),
            lr=config.learning_rate,
            betas=(0.9, config.beta2),
            weight_decay=config.weight_decay,
            # A fused step unscales the gradients itself, too late to clip them.
            fused=self.trainer.precision != "16-mixed",
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: config.factor(step, max_steps)
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step", "name": "learning_rate"},
        }

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip under bf16 too.

        Lightning refuses a fused optimizer there, since it could unscale gradients itself; but
        only fp16 scales any, and is left to Lightning.
        """
        if self.trainer.precision != "bf16-mixed" or gradient_clip_algorithm == "value":
            super().configure_gradient_clipping(
                optimizer, gradient_clip_val, gradient_clip_algorithm
            )
        elif gradient_clip_val:
            torch.nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)

    def _logs_this_step(self, step: int) -> bool:
        """Whether Lightning logs the optimizer's n-th step: then it waits for the device anyway."""
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        return bool(every) and step % every == 0

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Log the norm of the gradients before they are clipped, over all processes."""
        if self._logs_this_step(self.global_step + 1):
            gradients = [p.grad for p in self.parameters() if p.grad is not None]
            self.log("train/gradient_norm", torch.nn.utils.get_total_norm(gradients))

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Stop a run whose loss is no number any more.

        Looked at where it is logged, by all processes at once: none is left waiting.

        Raises:
            ValueError: naming the step.
        """
        if self.global_step and self._logs_this_step(self.global_step):
            loss = outputs["loss"] if isinstance(outputs, dict) else outputs
            loss = self.trainer.strategy.reduce(loss.detach().float(), reduce_op="mean")
            if not math.isfinite(float(loss)):
                raise ValueError(f"step {self.global_step}: the loss is {float(loss)}; {_DIVERGED}")

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Reseed dropout from (seed, step, rank): a checkpoint holds no generator's state."""
        if self.backbone.config.dropout > 0:
            if self._seed is None:
                # Once a run: on a GPU, reading it waits for all that was started before.
                self._seed = int(batch[keys.SEED])
            torch.manual_seed(step_seed(self._seed, self.global_step, self.global_rank))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the plain dictionary from which the task can be built again.

        Raises:
            ValueError: if the weights are no numbers any more: the checkpoint that there is stays.
        """
        weights = [parameter.detach() for parameter in self.parameters()]
        if not torch.nn.utils.get_total_norm(weights).isfinite():
            raise ValueError(f"step {self.global_step}: the weights are not finite; {_DIVERGED}")
        checkpoint[checkpoints.KEY] = checkpoints.describe(self)
        data = getattr(self.trainer, "datamodule", None)
        if data is not None:
            # Predictions from a store are drawn as those of validation were.
            checkpoint[checkpoints.KEY]["peaks"] = checkpoints.plain(data.renderer.shape)
            # Reports must not judge a model by what it was trained on.
            checkpoint[checkpoints.KEY]["split"] = checkpoints.plain(data.split)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Bring an older optimizer's state into today's groups; warn where the rate jumps."""
        if self.trainer.state.fn != "fit":
            return
        config = self.optimizer_config
        checkpoint["optimizer_states"] = [
            regrouped(state, self, self.backbone.config, config.layer_decay)
            for state in checkpoint.get("optimizer_states", [])
        ]
        step, max_steps = checkpoint["global_step"], self.trainer.max_steps
        for state in checkpoint.get("lr_schedulers", []):
            was, base = state["_last_lr"][0], state["base_lrs"][0]
            becomes = base * config.factor(step, max_steps)
            if becomes > 1.05 * was:
                rank_zero_warn(
                    f"resumed at step {step} with trainer.max_steps {max_steps}: the learning rate "
                    f"jumps from {was:.3g} up to {becomes:.3g}, as its cosine was to end sooner; "
                    "to train longer without the jump, start a new run from these weights with "
                    "--model.init_from"
                )
