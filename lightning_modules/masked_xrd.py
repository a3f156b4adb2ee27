"""Masked XRD modeling (MXM): predict hidden parts of a pattern from the rest and the composition.

Shapes: B batch, L grid points, N patches, M hidden patches, P points a patch.
"""

from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric

from datamodules import batch as keys
from datamodules.batch import Batch
from datamodules.grid import Grid
from datamodules.randomness import Purpose, uniform
from datamodules.randomness import keys as random_keys
from lightning_modules.backbone import (
    BackboneConfig,
    BackboneOutput,
    to_patches,
    wholly_measured,
)
from lightning_modules.base import OptimizerConfig, Task
from lightning_modules.metrics.reconstruction import MaskedReconstructionError, StrongestLine
from lightning_modules.objectives.decoder import MaskedPatchDecoder, Repetitions
from lightning_modules.objectives.losses import (
    masked_cross_entropy,
    masked_logits,
    masked_squared_error,
)
from lightning_modules.objectives.masking import PatchMask, check_ratio, span_mask

#: Tails of strong lines reach this far (degrees 2θ) out of a visible patch.
TAIL = 0.5
#: What reconstructions are judged on: hidden points, those out of reach of tails, and the hidden
#: points once more, without the composition.
JUDGED = ("masked", "far", "without_composition")


ReconstructionLoss = Literal["squared_error", "cross_entropy"]
#: What the decoder's gain on hints starts with: a logit, or a square root of intensity.
_HINT_GAIN: dict[ReconstructionLoss, float] = {"squared_error": 0.0, "cross_entropy": 3.0}
DecoderMemory = Literal["tokens", "fused"]


class Reconstruction(NamedTuple):
    """A batch of patterns with what was hidden and what was made of it; all (B, L).

    Attributes:
        target: Square root of intensity.
        prediction: Its prediction; 0 where nothing was hidden.
        masked: Hidden points that were measured, bool.
        far: Those more than `TAIL` degrees from any visible point, bool.
        loss: The loss, a scalar.
    """

    target: Tensor
    prediction: Tensor
    masked: Tensor
    far: Tensor
    loss: Tensor


class MaskedXRD(Task):
    """Self-supervised pretraining by masked XRD modeling.

    The encoder reads the visible patches only; a light decoder asks for each hidden one.

    Args:
        backbone: Size and shape of the backbone.
        grid: The 2θ grid of the patterns.
        optimizer: Optimizer and schedule.
        mask_ratio: Fraction of the measured patches to hide.
        mask_span: Neighbouring patches hidden together.
        loss: `squared_error` of the square root of intensity on masked patches: the best answer
            is the mean of all that may be hidden, an envelope. `cross_entropy` of where the hidden
            intensity lies, as a density over all masked points of a pattern: it places lines,
            and says nothing of how much is hidden.
        decoder_width: Width of the decoder.
        decoder_layers: Cross-attention blocks of the decoder.
        decoder_memory: `tokens`: the decoder reads all of the backbone's tokens and the fused
            vector. `fused`: the fused vector alone, which then has to hold all that is to be said
            of the hidden patches.
        decoder_self_attention: Whether the hidden patches know of each other in the decoder.
        repetitions: Share of the materials, in training, whose decoder is shown where the visible
            lines, repeated at their own distances in Q², would fall (`objectives/decoder.py`);
            0: it never is, above 0: always in validation. Shown to none, small models put an
            average pattern everywhere for thousands of steps.
        scale_range: In training, each pattern is multiplied by a number drawn log-uniformly from
            this range. Patterns arrive with their maximum at 1 and the maximum usually lies in a
            hidden patch: without the random scale, the visible ones tell what is hidden.
        hide_composition: Fraction of the materials whose composition is hidden in training, so
            that the model also reconstructs without it.
        init_from: A checkpoint whose backbone weights to start from.
    """

    monitor = "val/loss"
    shaping = Task.shaping | {
        "mask_ratio",
        "mask_span",
        "loss",
        "decoder_width",
        "decoder_layers",
        "decoder_memory",
        "decoder_self_attention",
        "repetitions",
    }

    def __init__(
        self,
        backbone: BackboneConfig = BackboneConfig(),  # noqa: B008 (frozen)
        grid: Grid = Grid(),  # noqa: B008 (frozen)
        optimizer: OptimizerConfig = OptimizerConfig(),  # noqa: B008 (frozen)
        mask_ratio: float = 0.5,
        mask_span: int = 3,
        loss: ReconstructionLoss = "squared_error",
        decoder_width: int = 96,
        decoder_layers: int = 2,
        decoder_memory: DecoderMemory = "tokens",
        decoder_self_attention: bool = False,
        repetitions: float = 0.0,
        scale_range: tuple[float, float] = (0.5, 2.0),
        hide_composition: float = 0.15,
        init_from: str | None = None,
    ) -> None:
        super().__init__(backbone, grid, optimizer, init_from)
        check_ratio(self.backbone.n_patches, mask_ratio, mask_span)
        if not 0 < scale_range[0] <= scale_range[1]:
            raise ValueError(f"scale_range is {scale_range}: must be positive and increasing")
        if not 0.0 <= repetitions <= 1.0:
            raise ValueError(f"repetitions is {repetitions}: a share lies in [0, 1]")
        if not 0.0 <= hide_composition < 1.0:
            raise ValueError(f"hide_composition is {hide_composition}: must lie in [0, 1)")
        self.mask_ratio, self.mask_span = mask_ratio, mask_span
        self.loss_name, self.decoder_memory = loss, decoder_memory
        self.scale_range, self.hide_composition = scale_range, hide_composition
        self.decoder = MaskedPatchDecoder(
            grid,
            backbone.patch_points,
            backbone.width,
            decoder_width,
            backbone.heads,
            decoder_layers,
            decoder_self_attention,
            _HINT_GAIN[loss] if repetitions else None,
        )
        self.repetitions = Repetitions(grid) if repetitions else None
        self.share_with_repetitions = repetitions
        points, step = grid.n_points, grid.step
        self.errors = nn.ModuleDict({name: MaskedReconstructionError(points) for name in JUDGED})
        self.lines = nn.ModuleDict({name: StrongestLine(points, step) for name in JUDGED})
        self.validation_loss = MeanMetric()

    def main_figures(self) -> dict[str, str]:
        """The monitored one; errors over the mean pattern's, with and without composition."""
        names = ("val/masked/vs_mean_pattern", "val/without_composition/vs_mean_pattern")
        return super().main_figures() | dict.fromkeys(names, "")

    def mask(self, batch: Batch, epoch: Tensor | int) -> PatchMask:
        """Draw the masks of an epoch; they depend on seed, epoch and material alone."""
        drawn_B = random_keys(batch[keys.SEED], epoch, batch[keys.INDEX], Purpose.MASK)
        return self._mask(batch, drawn_B)

    def _mask(self, batch: Batch, drawn_B: Tensor) -> PatchMask:
        measured_BN = wholly_measured(batch[keys.MEASURED], self.backbone.config.patch_points)
        return span_mask(measured_BN, drawn_B, self.mask_ratio, self.mask_span)

    def forward(
        self, batch: Batch, mask: PatchMask, has_composition: Tensor | None = None
    ) -> Tensor:
        """Predict the hidden patches of a batch, (B, M, P)."""
        return self.decode(batch, self.encode(batch, mask.visible, has_composition), mask)

    def decode(self, batch: Batch, encoded: BackboneOutput, mask: PatchMask) -> Tensor:
        """Predict the hidden patches from what the backbone made of the others, (B, M, P).

        Of the batch the visible patches alone are read.
        """
        hints_BMP = None
        if self.repetitions is not None:
            seen_BL = self._to_points(mask.visible.indices, mask.visible.valid)
            found_BL = self.repetitions(batch[keys.XRD], seen_BL)
            found_BNP = to_patches(found_BL, self.backbone.config.patch_points)
            where_BMP = mask.hidden.unsqueeze(-1).expand(-1, -1, found_BNP.shape[2])
            hints_BMP = found_BNP.gather(1, where_BMP)
            if self.training:
                hints_BMP = hints_BMP * self._shown(batch)[:, None, None]
        if self.decoder_memory == "fused":
            fused: Tensor = self.decoder(
                mask.hidden, mask.masked, encoded.fused[:, None], hint_BMP=hints_BMP
            )
            return fused
        # The fused vector is part of the memory, so that pretraining trains the pooling too.
        memory = torch.cat(
            (encoded.fused[:, None], encoded.composition_tokens, encoded.xrd_tokens), dim=1
        )
        real = encoded.composition_mask
        real_memory = torch.cat(
            (real[:, :1], real, real.new_ones(encoded.xrd_tokens.shape[:2])), dim=1
        )
        prediction: Tensor = self.decoder(mask.hidden, mask.masked, memory, real_memory, hints_BMP)
        return prediction

    def loss(self, batch: Batch, mask: PatchMask, prediction_BMP: Tensor) -> Tensor:
        """The loss of the masked patches."""
        patches_BNP = to_patches(batch[keys.XRD], prediction_BMP.shape[2])
        target_BMP = patches_BNP.gather(1, mask.hidden.unsqueeze(-1).expand_as(prediction_BMP))
        error = masked_squared_error if self.loss_name == "squared_error" else masked_cross_entropy
        return error(prediction_BMP, target_BMP, mask.masked, batch[keys.WEIGHT])

    def _shown(self, batch: Batch) -> Tensor:
        """Draw to whose decoder repetitions are shown in training, (B,) bool."""
        drawn = random_keys(batch[keys.SEED], batch[keys.EPOCH], batch[keys.INDEX], Purpose.HINT)
        return uniform(drawn, 1)[:, 0] < self.share_with_repetitions

    def hide(self, batch: Batch) -> tuple[Batch, PatchMask, Tensor]:
        """Draw what a training step sees: scaled patterns, masks, whose composition is given."""
        seed, epoch, index = batch[keys.SEED], batch[keys.EPOCH], batch[keys.INDEX]
        # One hash for the three: on a GPU each of them alone is sixty kernels.
        first, last = Purpose.MASK, Purpose.MODALITY
        purposes_K1 = torch.arange(first, last + 1, device=index.device)[:, None]
        drawn_KB = random_keys(seed, epoch, index, purposes_K1)
        scale_B1, hide_B1 = uniform(drawn_KB[Purpose.SCALE - first :], 1)
        low, high = self.scale_range
        scaled = batch | {keys.XRD: batch[keys.XRD] * low * (high / low) ** scale_B1}
        return scaled, self._mask(batch, drawn_KB[0]), hide_B1[:, 0] >= self.hide_composition

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mask, scale, reconstruct."""
        scaled, mask, has_composition = self.hide(batch)
        loss = self.loss(scaled, mask, self(scaled, mask, has_composition))
        self.log("train/loss", loss, batch_size=len(has_composition))
        return loss

    def reconstruct(self, batch: Batch, with_composition: bool = True) -> Reconstruction:
        """Reconstruct a batch under its fixed validation mask, without random scale."""
        points = self.backbone.config.patch_points
        mask = self.mask(batch, epoch=0)
        given_B = torch.full_like(batch[keys.INDEX], with_composition, dtype=torch.bool)
        prediction_BMP = self(batch, mask, given_B)
        loss = self.loss(batch, mask, prediction_BMP)
        if self.loss_name == "cross_entropy":
            prediction_BMP = self.root_intensity(batch, mask, prediction_BMP)
        shape_BNP = (len(given_B), self.backbone.n_patches, points)
        where_BMP = mask.hidden.unsqueeze(-1).expand_as(prediction_BMP)
        prediction_BL = (
            prediction_BMP.new_zeros(shape_BNP).scatter(1, where_BMP, prediction_BMP).flatten(1)
        )
        counted_BM = mask.masked & (batch[keys.WEIGHT] > 0)[:, None]
        masked_BL = self._to_points(mask.hidden, counted_BM)
        seen_BL = self._to_points(mask.visible.indices, mask.visible.valid)
        reach = round(TAIL / self.grid.step)
        near_BL = F.max_pool1d(seen_BL.float()[:, None], 2 * reach + 1, 1, reach)[:, 0] > 0
        return Reconstruction(batch[keys.XRD], prediction_BL, masked_BL, masked_BL & ~near_BL, loss)

    def _to_points(self, patches_BK: Tensor, chosen_BK: Tensor) -> Tensor:
        """The points of chosen patches, (B, L) bool."""
        chosen_BN = chosen_BK.new_zeros(len(chosen_BK), self.backbone.n_patches)
        points = self.backbone.config.patch_points
        return chosen_BN.scatter(1, patches_BK, chosen_BK).repeat_interleave(points, dim=1)

    def root_intensity(self, batch: Batch, mask: PatchMask, logit_BMP: Tensor) -> Tensor:
        """Square root of intensity from a predicted density, (B, M, P).

        The density says where. How much is read off the visible patches: as much intensity a
        masked point, on average, as a visible one.
        """
        density_BL = masked_logits(logit_BMP, mask.masked).flatten(1).softmax(dim=1)
        points = logit_BMP.shape[2]
        patches_BNP = to_patches(batch[keys.XRD], points)
        where_BKP = mask.visible.indices.unsqueeze(-1).expand(-1, -1, points)
        seen_BKP = patches_BNP.gather(1, where_BKP).masked_fill(~mask.visible.valid[..., None], 0.0)
        n_visible_B = mask.visible.valid.sum(dim=1) * points
        mean_B = seen_BKP.square().sum(dim=(1, 2)) / n_visible_B.clamp_min(1)
        amount_B1 = (mean_B * mask.masked.sum(dim=1) * points)[:, None]
        return (density_BL * amount_B1).sqrt().view_as(logit_BMP)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Collect the errors with and without the composition."""
        with_it = self.reconstruct(batch)
        without = self.reconstruct(batch, with_composition=False)
        for name, made, selected in (
            ("masked", with_it, with_it.masked),
            ("far", with_it, with_it.far),
            ("without_composition", without, without.masked),
        ):
            for metrics in (self.errors, self.lines):
                metric: Any = metrics[name]
                metric.update(made.prediction, made.target, selected)
        self.validation_loss.update(with_it.loss, batch[keys.WEIGHT].sum())

    def on_validation_epoch_end(self) -> None:
        """Log the errors; `compute` has already reduced them over the ranks."""
        stage = "test" if self.trainer.testing else "val"
        self.log(f"{stage}/loss", self.validation_loss.compute(), prog_bar=True)
        self.validation_loss.reset()
        for metrics in (self.errors, self.lines):
            for name in JUDGED:
                metric: Any = metrics[name]
                for key, value in metric.compute().items():
                    self.log(f"{stage}/{name}/{key}", value)
                metric.reset()

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """As in validation, on the test split."""
        self.validation_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        """As in validation."""
        self.on_validation_epoch_end()
