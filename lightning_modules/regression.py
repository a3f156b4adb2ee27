"""Property regression from the composition, the pattern, or both.

Shapes: B batch, M modes (what the model is given), T targets.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from datamodules import batch as keys
from datamodules.batch import Batch
from datamodules.grid import Grid
from datamodules.randomness import Purpose, uniform
from datamodules.randomness import keys as random_keys
from lightning_modules.backbone import BackboneConfig, BackboneOutput, VisiblePatches
from lightning_modules.base import OptimizerConfig, Task
from lightning_modules.metrics.bootstrap import DRAWS
from lightning_modules.metrics.evaluation import report
from lightning_modules.metrics.predictions import Predictions, Table
from lightning_modules.metrics.within import check_tolerances
from lightning_modules.objectives.distributed import mean_over_ranks
from lightning_modules.objectives.losses import laplace_loss
from lightning_modules.objectives.targets import Prediction, Targets

Modality = Literal["composition", "xrd"]
BOTH: tuple[Modality, ...] = ("composition", "xrd")
#: What the model is given in each mode: whether composition, whether pattern.
_GIVEN = {"both": (True, True), "composition": (True, False), "xrd": (False, True)}
#: Log-spreads are cut off here (standardised): no label is known to a thousandth of their spread.
_LOG_SPREAD = (-7.0, 3.0)


class Regression(Task):
    """Fine-tuning, or training from scratch, on labels; several at once, some of them missing.

    Args:
        targets: Names of the targets; the command line takes them from `data.targets`.
        backbone: Size and shape of the backbone.
        grid: The 2θ grid of the patterns.
        optimizer: Optimizer and schedule; `layer_decay` gives lower layers lower rates.
        modalities: What the model is given: `composition`, `xrd` or both. What is not given is
            not run.
        modality_dropout: With both: share of the materials whose composition is hidden in
            training, so that the model answers from the pattern alone too; 0: it does not.
        composition_weight: With both: weight of a second loss in each step, of the prediction of
            the same materials from the composition alone, which costs little; 0: the model does
            not answer from it. Without it the composition is learned less well than by a model
            that is given nothing else (docs/results.md).
        spread_beta: 1 trains the prediction by the absolute error, 0 by the Laplace likelihood.
        confidence: Probability with which an interval contains the label.
        pair_tolerance: By target, in its unit: pairs of structures of one formula whose labels
            are not further apart do not count among those ranked rightly; null: by unit
            (docs/tasks.md).
        freeze: Parts that are not trained, such as `backbone.composition`.
        init_from: A checkpoint whose backbone weights to start from.
    """

    monitor = "val/standardised_mae"
    shaping = Task.shaping | {"targets", "modalities", "modality_dropout", "composition_weight"}

    def __init__(
        self,
        targets: Sequence[str] = (),
        backbone: BackboneConfig = BackboneConfig(),  # noqa: B008 (frozen)
        grid: Grid = Grid(),  # noqa: B008 (frozen)
        optimizer: OptimizerConfig = OptimizerConfig(),  # noqa: B008 (frozen)
        modalities: Sequence[Modality] = BOTH,
        modality_dropout: float = 0.15,
        composition_weight: float = 1.0,
        spread_beta: float = 1.0,
        confidence: float = 0.9,
        pair_tolerance: dict[str, float] | None = None,
        freeze: Sequence[str] = (),
        init_from: str | None = None,
    ) -> None:
        super().__init__(backbone, grid, optimizer, init_from)
        if not targets:
            raise ValueError("no targets: name some of the store's in data.targets")
        if not modalities or set(modalities) - set(BOTH) or len(set(modalities)) < len(modalities):
            raise ValueError(
                f"modalities is {list(modalities)}: must be [composition], [xrd] or both"
            )
        for name, value in (("modality_dropout", modality_dropout), ("spread_beta", spread_beta)):
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} is {value}: must lie in [0, 1]")
        if not 0.0 <= composition_weight < float("inf"):
            raise ValueError(f"composition_weight is {composition_weight}: must be 0 or more")
        if not 0.0 < confidence < 1.0:
            raise ValueError(f"confidence is {confidence}: must lie between 0 and 1")
        check_tolerances(pair_tolerance, list(targets))
        self.pair_tolerance = pair_tolerance
        self.modalities = sorted(modalities)
        self.modality_dropout = modality_dropout if len(modalities) == 2 else 0.0
        self.composition_weight = composition_weight if len(modalities) == 2 else 0.0
        # Recorded as they work, so that two ways to say one thing fit each other.
        for name in ("modalities", "modality_dropout", "composition_weight"):
            self.constructed_with[name] = getattr(self, name)
        self.spread_beta = spread_beta
        self.modes = self._modes()
        self.targets = Targets(targets, len(self.modes))
        width = backbone.width
        self.head = nn.Sequential(
            nn.Linear(3 * width, width), nn.GELU(), nn.Linear(width, 2 * len(targets))
        )
        self.predictions = Predictions()
        #: Predictions of the last validation or test.
        self.table: Table | None = None
        self._freeze(freeze)

    def _modes(self) -> dict[str, tuple[bool, bool]]:
        """Names of what the model can be given: whether composition, whether pattern."""
        trained = {
            "both": len(self.modalities) == 2,
            "composition": self.modalities == ["composition"] or self.composition_weight > 0,
            "xrd": self.modalities == ["xrd"] or self.modality_dropout > 0,
        }
        return {name: _GIVEN[name] for name in trained if trained[name]}

    def _freeze(self, names: Sequence[str]) -> None:
        """Freeze what is not to be trained, and what is never run: DDP would wait for it."""
        for name in names:
            try:
                self.get_submodule(name).requires_grad_(False)
            except AttributeError:
                raise ValueError(
                    f"freeze: no part {name!r}; there are head, backbone.composition, "
                    "backbone.xrd, backbone.fusion and parts of them"
                ) from None
        for modality in set(BOTH) - set(self.modalities):
            self.backbone.get_submodule(modality).requires_grad_(False)

    def main_figures(self) -> dict[str, str]:
        """The monitored one, and the mean absolute error of each target in each mode."""
        return super().main_figures() | {
            f"val/{mode}/{name}/mae": unit
            for name, unit in zip(self.targets.names, self.targets.units, strict=True)
            for mode in self.modes
        }

    def setup(self, stage: str) -> None:
        """Take units, and before training the statistics of the training split."""
        super().setup(stage)
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        self.targets.units = list(data.target_units)
        if stage == "fit":
            self.targets.fit(data.target_statistics())

    def forward(
        self,
        batch: Batch,
        has_composition: Tensor | None = None,
        has_xrd: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Standardised predictions and logarithms of their spreads, (B, T) each."""
        return self._answer(self.encode(batch, None, has_composition, has_xrd))

    def from_composition(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """As `forward`, from the composition alone: patterns are neither read nor encoded."""
        everyone = torch.ones_like(batch[keys.INDEX], dtype=torch.bool)
        nothing = batch[keys.ELEMENTS][:, :0]
        no_patches = VisiblePatches(nothing, nothing.bool())
        return self._answer(self.encode(batch, no_patches, everyone, ~everyone))

    def _answer(self, encoded: BackboneOutput) -> tuple[Tensor, Tensor]:
        # The vectors before fusion are a residual path: a pattern that says nothing need not be
        # learned to be ignored.
        features = (encoded.fused, encoded.composition_vector, encoded.xrd_vector)
        # In float32 whatever the precision: bfloat16 would round answers to 1/256 of their size.
        with torch.autocast(encoded.fused.device.type, enabled=False):
            answer = self.head(torch.cat(features, dim=1).float())
        value_BT, log_spread_BT = answer.chunk(2, dim=1)
        return value_BT, log_spread_BT.clamp(*_LOG_SPREAD)

    def given(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Draw whose composition is hidden in training: what is given, (B,) bool each."""
        index = batch[keys.INDEX]
        everyone = torch.ones_like(index, dtype=torch.bool)
        if self.modalities == ["xrd"]:
            return ~everyone, everyone
        drawn = random_keys(batch[keys.SEED], batch[keys.EPOCH], index, Purpose.MODALITY)
        return uniform(drawn, 1)[:, 0] >= self.modality_dropout, everyone

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Predict from what is given; compare with the labels that there are."""
        target_BT = self.targets.standardise(batch[keys.TARGETS])
        n_labels = mean_over_ranks((~target_BT.isnan()).float().sum()).clamp_min(1.0)

        def loss_of(answer: tuple[Tensor, Tensor]) -> Tensor:
            return laplace_loss(*answer, target_BT, self.spread_beta).sum() / n_labels

        alone = self.modalities == ["composition"]
        answer = self.from_composition(batch) if alone else self(batch, *self.given(batch))
        value_BT, loss = answer[0], loss_of(answer)
        if self.composition_weight:
            loss = loss + self.composition_weight * loss_of(self.from_composition(batch))
        error = (value_BT.detach() - target_BT).abs().nansum() / n_labels
        self.log("train/loss", loss, batch_size=len(value_BT))
        self.log("train/standardised_mae", error, batch_size=len(value_BT))
        return loss

    def predict(self, batch: Batch, mode: str | None = None) -> Prediction:
        """Predict in physical units.

        Args:
            batch: A rendered batch.
            mode: What of it to use, one of `modes`; None takes the first.
        """
        has_composition, has_xrd = self.modes[mode or next(iter(self.modes))]
        if not has_xrd:
            return self.targets.physical(*self.from_composition(batch))
        everyone = torch.ones_like(batch[keys.INDEX], dtype=torch.bool)
        return self.targets.physical(*self(batch, everyone & has_composition, everyone))

    def collect(self, batch: Batch, into: Predictions) -> None:
        """Add a batch's predictions in every mode to a table."""
        predicted = [self.predict(batch, mode) for mode in self.modes]
        value_BMT = torch.stack([p.value for p in predicted], dim=1)
        into.update(batch, value_BMT, torch.stack([p.spread for p in predicted], dim=1))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Collect predictions."""
        self.collect(batch, self.predictions)

    def on_validation_epoch_end(self) -> None:
        """Log errors, and coverage once calibrated; the table holds all ranks' rows."""
        stage = "test" if self.trainer.testing else "val"
        self.table = self.predictions.table()
        self.predictions.reset()
        draws = DRAWS if self.trainer.testing else 0
        values = report(self.table, list(self.modes), self.targets, self.pair_tolerance, draws)
        for name, value in values.items():
            self.log(f"{stage}/{name}", value, prog_bar=f"{stage}/{name}" == self.monitor)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """As in validation, on the test split."""
        self.validation_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        """As in validation."""
        self.on_validation_epoch_end()

    def on_train_start(self) -> None:
        """Forget the calibration of weights that change now."""
        self.targets.conformal.fill_(torch.nan)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write the units again: averaged weights come from a copy older than the units."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["state_dict"]["targets._extra_state"] = self.targets.get_extra_state()
