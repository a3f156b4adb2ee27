"""Masked XRD modeling (MXM): predict hidden parts of a pattern from the rest and the composition.

Shapes: B batch, L grid points, N patches, M hidden patches, P points a patch.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

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
from lightning_modules.metrics.reconstruction import MaskedReconstructionError
from lightning_modules.objectives.decoder import MaskedPatchDecoder
from lightning_modules.objectives.losses import masked_squared_error
from lightning_modules.objectives.masking import PatchMask, check_ratio, span_mask

#: Tails of strong lines reach this far (degrees 2θ) out of a visible patch.
TAIL = 0.5


class Reconstruction(NamedTuple):
    """A batch of patterns with what was hidden and what was made of it; all (B, L).

    Attributes:
        target: Square root of intensity.
        prediction: Its prediction; 0 where nothing was hidden.
        masked: Hidden points that were measured, bool.
        far: Those more than `TAIL` degrees from any visible point, bool.
    """

    target: Tensor
    prediction: Tensor
    masked: Tensor
    far: Tensor


class MaskedXRD(Task):
    """Self-supervised pretraining by masked XRD modeling.

    The encoder reads the visible patches only; a light decoder asks for each hidden one. The
    loss is the squared error of the square root of intensity on masked patches.

    Args:
        backbone: Size and shape of the backbone.
        grid: The 2θ grid of the patterns.
        optimizer: Optimizer and schedule.
        mask_ratio: Fraction of the measured patches to hide.
        mask_span: Neighbouring patches hidden together.
        decoder_width: Width of the decoder.
        decoder_layers: Cross-attention blocks of the decoder.
        scale_range: In training, each pattern is multiplied by a number drawn log-uniformly from
            this range. Patterns arrive with their maximum at 1 and the maximum usually lies in a
            hidden patch: without the random scale, the visible ones tell what is hidden.
        hide_composition: Fraction of the materials whose composition is hidden in training, so
            that the model also reconstructs without it.
        init_from: A checkpoint whose backbone weights to start from.
    """

    monitor = "val/masked/vs_mean_pattern"
    shaping = Task.shaping | {"mask_ratio", "mask_span", "decoder_width", "decoder_layers"}

    def __init__(
        self,
        backbone: BackboneConfig = BackboneConfig(),  # noqa: B008 (frozen)
        grid: Grid = Grid(),  # noqa: B008 (frozen)
        optimizer: OptimizerConfig = OptimizerConfig(),  # noqa: B008 (frozen)
        mask_ratio: float = 0.5,
        mask_span: int = 3,
        decoder_width: int = 96,
        decoder_layers: int = 2,
        scale_range: tuple[float, float] = (0.5, 2.0),
        hide_composition: float = 0.15,
        init_from: str | None = None,
    ) -> None:
        super().__init__(backbone, grid, optimizer, init_from)
        check_ratio(self.backbone.n_patches, mask_ratio, mask_span)
        if not 0 < scale_range[0] <= scale_range[1]:
            raise ValueError(f"scale_range is {scale_range}: must be positive and increasing")
        if not 0.0 <= hide_composition < 1.0:
            raise ValueError(f"hide_composition is {hide_composition}: must lie in [0, 1)")
        self.mask_ratio, self.mask_span = mask_ratio, mask_span
        self.scale_range, self.hide_composition = scale_range, hide_composition
        self.decoder = MaskedPatchDecoder(
            grid,
            backbone.patch_points,
            backbone.width,
            decoder_width,
            backbone.heads,
            decoder_layers,
        )
        self.masked_error = MaskedReconstructionError(grid.n_points)
        self.far_error = MaskedReconstructionError(grid.n_points)
        self.error_without_composition = MaskedReconstructionError(grid.n_points)

    def mask(self, batch: Batch, epoch: Tensor | int) -> PatchMask:
        """Draw the masks of an epoch; they depend on seed, epoch and material alone."""
        measured_BN = wholly_measured(batch[keys.MEASURED], self.backbone.config.patch_points)
        drawn = random_keys(batch[keys.SEED], epoch, batch[keys.INDEX], Purpose.MASK)
        return span_mask(measured_BN, drawn, self.mask_ratio, self.mask_span)

    def forward(
        self, batch: Batch, mask: PatchMask, has_composition: Tensor | None = None
    ) -> Tensor:
        """Predict the hidden patches of a batch, (B, M, P)."""
        return self.decode(self.encode(batch, mask.visible, has_composition), mask)

    def decode(self, encoded: BackboneOutput, mask: PatchMask) -> Tensor:
        """Predict the hidden patches from what the backbone made of the others, (B, M, P)."""
        # The fused vector is part of the memory, so that pretraining trains the pooling too.
        memory = torch.cat(
            (encoded.fused[:, None], encoded.composition_tokens, encoded.xrd_tokens), dim=1
        )
        real = encoded.composition_mask
        real_memory = torch.cat(
            (real[:, :1], real, real.new_ones(encoded.xrd_tokens.shape[:2])), dim=1
        )
        prediction: Tensor = self.decoder(mask.hidden, memory, real_memory)
        return prediction

    def loss(self, batch: Batch, mask: PatchMask, prediction_BMP: Tensor) -> Tensor:
        """Squared error of the masked patches."""
        patches_BNP = to_patches(batch[keys.XRD], prediction_BMP.shape[2])
        target_BMP = patches_BNP.gather(1, mask.hidden.unsqueeze(-1).expand_as(prediction_BMP))
        return masked_squared_error(prediction_BMP, target_BMP, mask.masked, batch[keys.WEIGHT])

    def hide(self, batch: Batch) -> tuple[Batch, PatchMask, Tensor]:
        """Draw what a training step sees: scaled patterns, masks, whose composition is given."""
        seed, epoch, index = batch[keys.SEED], batch[keys.EPOCH], batch[keys.INDEX]
        low, high = self.scale_range
        draw_B1 = uniform(random_keys(seed, epoch, index, Purpose.SCALE), 1)
        scaled = batch | {keys.XRD: batch[keys.XRD] * low * (high / low) ** draw_B1}
        hide_B1 = uniform(random_keys(seed, epoch, index, Purpose.MODALITY), 1)
        return scaled, self.mask(batch, epoch), hide_B1[:, 0] >= self.hide_composition

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mask, scale, reconstruct."""
        scaled, mask, has_composition = self.hide(batch)
        loss = self.loss(scaled, mask, self(scaled, mask, has_composition))
        self.log("train/loss", loss, prog_bar=True, batch_size=len(has_composition))
        return loss

    def reconstruct(self, batch: Batch, with_composition: bool = True) -> Reconstruction:
        """Reconstruct a batch under its fixed validation mask, without random scale."""
        points = self.backbone.config.patch_points
        mask = self.mask(batch, epoch=0)
        given_B = torch.full_like(batch[keys.INDEX], with_composition, dtype=torch.bool)
        prediction_BMP = self(batch, mask, given_B)
        shape_BNP = (len(given_B), self.backbone.n_patches, points)
        where_BMP = mask.hidden.unsqueeze(-1).expand_as(prediction_BMP)
        prediction_BL = (
            prediction_BMP.new_zeros(shape_BNP).scatter(1, where_BMP, prediction_BMP).flatten(1)
        )
        counted_BM = mask.masked & (batch[keys.WEIGHT] > 0)[:, None]
        masked_BN = torch.zeros(shape_BNP[:2], dtype=torch.bool, device=given_B.device)
        masked_BL = (
            masked_BN.scatter(1, mask.hidden, counted_BM).unsqueeze(-1).expand(shape_BNP).flatten(1)
        )
        seen_BN = masked_BN.new_zeros(shape_BNP[:2]).scatter(
            1, mask.visible.indices, mask.visible.valid
        )
        seen_BL = seen_BN.unsqueeze(-1).expand(shape_BNP).flatten(1)
        reach = round(TAIL / self.grid.step)
        near_BL = F.max_pool1d(seen_BL.float()[:, None], 2 * reach + 1, 1, reach)[:, 0] > 0
        return Reconstruction(batch[keys.XRD], prediction_BL, masked_BL, masked_BL & ~near_BL)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Collect the errors with and without the composition."""
        with_it = self.reconstruct(batch)
        without = self.reconstruct(batch, with_composition=False)
        self.masked_error.update(with_it.prediction, with_it.target, with_it.masked)
        self.far_error.update(with_it.prediction, with_it.target, with_it.far)
        self.error_without_composition.update(without.prediction, without.target, without.masked)

    def on_validation_epoch_end(self) -> None:
        """Log the errors; `compute` has already reduced them over the ranks."""
        for name, metric in (
            ("masked", self.masked_error),
            ("far", self.far_error),
            ("without_composition", self.error_without_composition),
        ):
            stage = "test" if self.trainer.testing else "val"
            for key, value in metric.compute().items():
                shown = f"{stage}/{name}/{key}" == self.monitor
                self.log(f"{stage}/{name}/{key}", value, prog_bar=shown)
            metric.reset()

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """As in validation, on the test split."""
        self.validation_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        """As in validation."""
        self.on_validation_epoch_end()
