"""Encoder of the powder pattern: a transformer over the visible patches only.

Shapes: B batch, L grid points, N patches, P points a patch (L = N·P), K visible slots, D width.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.grid import Grid
from lightning_modules.backbone.linear import Linear
from lightning_modules.backbone.transformer import SelfAttentionBlock, fourier_features

_FEATURES = 64
#: Points of a plain pattern have a root mean square of about 0.1 (Materials Project cells at 0.1°
#: FWHM): brought to about 1. Without it position drowns content in the first tokens, and training
#: begins with a plateau that small models do not leave.
_INPUT_GAIN = 10.0


class VisiblePatches(NamedTuple):
    """Which patches the encoder reads.

    Attributes:
        indices: Patch numbers, shape (B, K) int64.
        valid: Whether the slot holds a patch that may be read, shape (B, K) bool. A slot that
            does not is filled with a learned token, so that shapes stay fixed and attention
            needs no mask.
    """

    indices: Tensor
    valid: Tensor


def to_patches(points_BL: Tensor, patch_points: int) -> Tensor:
    """Cut the grid into patches that do not overlap: (B, L) to (B, N, P)."""
    return points_BL.unflatten(1, (-1, patch_points))


def wholly_measured(measured_BL: Tensor, patch_points: int) -> Tensor:
    """Patches all of whose points were measured, shape (B, N) bool."""
    return to_patches(measured_BL, patch_points).all(dim=-1)


def all_measured(measured_BL: Tensor, patch_points: int) -> VisiblePatches:
    """Every wholly measured patch is visible: what a task reads that masks nothing."""
    valid_BN = wholly_measured(measured_BL, patch_points)
    indices_BN = torch.arange(valid_BN.shape[1], device=valid_BN.device).expand_as(valid_BN)
    return VisiblePatches(indices_BN, valid_BN)


class PatchPosition(nn.Module):
    """Encodes where a patch lies: Fourier features of its centre in 2θ and in Q.

    2θ carries the instrument's scale, Q = 4π sin θ / λ the crystal's: orders of one reflection
    are equally spaced in Q.

    Args:
        grid: The 2θ grid.
        patch_points: Points a patch.
        width: Width of the encoding.
    """

    features_NF: Tensor

    def __init__(self, grid: Grid, patch_points: int, width: int) -> None:
        super().__init__()
        two_theta_N = torch.from_numpy(grid.two_theta()).view(-1, patch_points).mean(dim=1)
        q_N = 4 * torch.pi / grid.wavelength * torch.sin(torch.deg2rad(two_theta_N / 2))
        features_NF = torch.cat(
            (
                fourier_features(two_theta_N, _FEATURES, longest=360.0, shortest=2.0),
                fourier_features(q_N, _FEATURES, longest=24.0, shortest=0.1),
            ),
            dim=-1,
        )
        # Follows from the grid, which the checkpoint holds in words.
        self.register_buffer("features_NF", features_NF, persistent=False)
        self.projection = Linear(2 * _FEATURES, width)

    def forward(self, indices_BK: Tensor) -> Tensor:
        """Encode the patches of numbers (B, K): (B, K, width)."""
        # Not by indexing: the gradients of an embedding are summed without sorting them first.
        return F.embedding(indices_BK, self.projection(self.features_NF))


class XRDEncoder(nn.Module):
    """Transformer over the visible patches of a pattern.

    Args:
        grid: The 2θ grid.
        patch_points: Points a patch, P; must divide the number of grid points.
        width: Width D of the tokens.
        heads: Attention heads.
        layers: Number of self-attention blocks.
        dropout: Dropout probability.
    """

    def __init__(
        self,
        grid: Grid,
        patch_points: int,
        width: int,
        heads: int,
        layers: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.patch_points = patch_points
        self.stem = nn.Sequential(Linear(patch_points, width), nn.GELU(), Linear(width, width))
        self.position = PatchPosition(grid, patch_points, width)
        self.unseen = nn.Parameter(torch.randn(width) * 0.02)
        self.summary = nn.Parameter(torch.randn(width) * 0.02)
        self.absent = nn.Parameter(torch.randn(width) * 0.02)
        self.blocks = nn.ModuleList(
            SelfAttentionBlock(width, heads, dropout) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, xrd_BL: Tensor, visible: VisiblePatches, present_B: Tensor) -> Tensor:
        """Encode a batch of patterns.

        Args:
            xrd_BL: Square root of intensity on the grid, shape (B, L). Only the visible patches
                are read.
            visible: The patches to read.
            present_B: Whether the pattern is given, shape (B,) bool.

        Returns:
            Tokens (B, 1 + K, D), the summary first.
        """
        patches_BNP = to_patches(xrd_BL, self.patch_points)
        indices_BK1 = visible.indices.unsqueeze(-1)
        patches_BKP = patches_BNP.gather(1, indices_BK1.expand(-1, -1, self.patch_points))
        readable_BK1 = (visible.valid & present_B[:, None]).unsqueeze(-1)
        # Selected before the stem too: an unmeasured point may be NaN, and 0 · NaN is NaN.
        patches_BKP = torch.where(readable_BK1, patches_BKP, 0.0)
        tokens_BKD = self.stem(_INPUT_GAIN * patches_BKP) + self.position(visible.indices)
        tokens_BKD = torch.where(readable_BK1, tokens_BKD, self.unseen.to(tokens_BKD.dtype))
        summary_BD = torch.where(present_B[:, None], self.summary, self.absent)
        tokens_BSD = torch.cat((summary_BD[:, None].to(tokens_BKD.dtype), tokens_BKD), dim=1)
        for block in self.blocks:
            tokens_BSD = block(tokens_BSD)
        return self.norm(tokens_BSD)
