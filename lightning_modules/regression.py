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
from lightning_modules import calibration
from lightning_modules.backbone import BackboneConfig, VisiblePatches
from lightning_modules.base import OptimizerConfig, Task
from lightning_modules.distributed import mean_over_ranks
from lightning_modules.evaluation import Predictions, Table, report
from lightning_modules.losses import laplace_loss
from lightning_modules.targets import Prediction, Targets

Modality = Literal["composition", "xrd"]
BOTH: tuple[Modality, ...] = ("composition", "xrd")
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
        modality_dropout: With both: share of the materials that are given one alone in training,
            the composition or the pattern with equal chance, so that the model answers from
            either. 0 trains for both together only.
        spread_beta: 1 trains the prediction by the absolute error, 0 by the Laplace likelihood.
        confidence: Probability with which an interval contains the label.
        freeze: Parts that are not trained, such as `backbone.composition`.
        init_from: A checkpoint whose backbone weights to start from.
    """

    monitor = "val/standardised_mae"

    def __init__(
        self,
        targets: Sequence[str] = (),
        backbone: BackboneConfig = BackboneConfig(),  # noqa: B008 (frozen)
        grid: Grid = Grid(),  # noqa: B008 (frozen)
        optimizer: OptimizerConfig = OptimizerConfig(),  # noqa: B008 (frozen)
        modalities: Sequence[Modality] = BOTH,
        modality_dropout: float = 0.3,
        spread_beta: float = 1.0,
        confidence: float = 0.9,
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
        if not 0.0 < confidence < 1.0:
            raise ValueError(f"confidence is {confidence}: must lie between 0 and 1")
        self.modalities = sorted(modalities)
        self.modality_dropout = modality_dropout if len(modalities) == 2 else 0.0
        self.spread_beta, self.confidence = spread_beta, confidence
        self.frozen = list(freeze)
        self.modes = self._modes()
        self.targets = Targets(targets, len(self.modes))
        width = backbone.width
        self.head = nn.Sequential(
            nn.Linear(3 * width, width), nn.GELU(), nn.Linear(width, 2 * len(targets))
        )
        self.predictions = Predictions()
        #: Predictions of the last validation or test.
        self.table: Table | None = None
        self._freeze()

    def _modes(self) -> dict[str, tuple[bool, bool]]:
        """Names of what the model can be given: whether composition, whether pattern."""
        alone = {"composition": (True, False), "xrd": (False, True)}
        if len(self.modalities) == 1:
            return {name: alone[name] for name in self.modalities}
        return {"both": (True, True)} | (alone if self.modality_dropout else {})

    def _freeze(self) -> None:
        """Freeze what is not to be trained, and what is never run: DDP would wait for it."""
        for name in self.frozen:
            try:
                self.get_submodule(name).requires_grad_(False)
            except AttributeError:
                raise ValueError(
                    f"freeze: no part {name!r}; there are head, backbone.composition, "
                    "backbone.xrd, backbone.fusion and parts of them"
                ) from None
        for modality in set(BOTH) - set(self.modalities):
            self.backbone.get_submodule(modality).requires_grad_(False)

    def arguments(self) -> dict[str, Any]:
        """Arguments that build this task again."""
        return super().arguments() | {
            "targets": self.targets.names,
            "modalities": self.modalities,
            "modality_dropout": self.modality_dropout,
            "spread_beta": self.spread_beta,
            "confidence": self.confidence,
            "freeze": self.frozen,
        }

    def shaping_arguments(self) -> set[str]:
        """Arguments that a resumed or evaluated checkpoint must agree in."""
        return super().shaping_arguments() | {"targets", "modalities", "modality_dropout"}

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
        visible = None
        if self.modalities == ["composition"]:
            nothing = batch[keys.ELEMENTS][:, :0]
            visible = VisiblePatches(nothing, nothing.bool())
        encoded = self.encode(batch, visible, has_composition, has_xrd)
        # The vectors before fusion are a residual path: a pattern that says nothing need not be
        # learned to be ignored.
        features = (encoded.fused, encoded.composition_vector, encoded.xrd_vector)
        value_BT, log_spread_BT = self.head(torch.cat(features, dim=1)).chunk(2, dim=1)
        return value_BT, log_spread_BT.clamp(*_LOG_SPREAD)

    def given(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Draw who is given which modality in training: (B,) bool each."""
        index = batch[keys.INDEX]
        if len(self.modalities) == 1:
            return tuple(  # type: ignore[return-value]
                torch.full_like(index, name in self.modalities, dtype=torch.bool) for name in BOTH
            )
        drawn = random_keys(batch[keys.SEED], batch[keys.EPOCH], index, Purpose.MODALITY)
        draw_B = uniform(drawn, 1)[:, 0]
        drop = self.modality_dropout
        return draw_B >= drop / 2, (draw_B < drop / 2) | (draw_B >= drop)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Predict from what is given; compare with the labels that there are."""
        value_BT, log_spread_BT = self(batch, *self.given(batch))
        target_BT = self.targets.standardise(batch[keys.TARGETS])
        loss_BT = laplace_loss(value_BT, log_spread_BT, target_BT, self.spread_beta)
        n_labels = mean_over_ranks((~target_BT.isnan()).float().sum()).clamp_min(1.0)
        loss = loss_BT.sum() / n_labels
        error = (value_BT.detach() - target_BT).abs().nansum() / n_labels
        self.log("train/loss", loss, prog_bar=True, batch_size=len(value_BT))
        self.log("train/standardised_mae", error, batch_size=len(value_BT))
        return loss

    def predict(self, batch: Batch, mode: str | None = None) -> Prediction:
        """Predict in physical units.

        Args:
            batch: A rendered batch.
            mode: What of it to use, one of `modes`; None takes the first.
        """
        has_composition, has_xrd = self.modes[mode or next(iter(self.modes))]
        everyone = torch.ones_like(batch[keys.INDEX], dtype=torch.bool)
        value_BT, log_spread_BT = self(batch, everyone & has_composition, everyone & has_xrd)
        return self.targets.physical(value_BT, log_spread_BT)

    def collect(self, batch: Batch, into: Predictions) -> None:
        """Add a batch's predictions in every mode to a table."""
        predicted = [self.predict(batch, mode) for mode in self.modes]
        into.update(
            batch[keys.INDEX],
            batch[keys.ELEMENTS],
            batch[keys.TARGETS],
            torch.stack([p.value for p in predicted], dim=1),
            torch.stack([p.spread for p in predicted], dim=1),
            batch[keys.WEIGHT] > 0,
        )

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Collect predictions."""
        self.collect(batch, self.predictions)

    def on_validation_epoch_end(self) -> None:
        """Log errors, and coverage once calibrated; the table holds all ranks' rows."""
        stage = "test" if self.trainer.testing else "val"
        self.table = self.predictions.table()
        self.predictions.reset()
        for name, value in report(self.table, list(self.modes), self.targets).items():
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

    def on_fit_end(self) -> None:
        """Calibrate the checkpoints that the run keeps."""
        if not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            calibration.calibrate(self.trainer)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write the units again: averaged weights come from a copy older than the units."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["state_dict"]["targets._extra_state"] = self.targets.get_extra_state()
