"""The one backbone that every task shares: two encoders and their fusion, in plain torch.

Shapes: B batch, E element slots, L grid points, N patches, K visible slots, D width.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from datamodules.grid import Grid
from lightning_modules.backbone.composition import CompositionEncoder
from lightning_modules.backbone.fusion import CrossAttentionFusion
from lightning_modules.backbone.xrd import VisiblePatches, XRDEncoder, all_measured

#: No width and no number of layers is larger: it is a mistake, or a stranger's file.
_LARGEST = 65_536


@dataclass(frozen=True)
class BackboneConfig:
    """Size and shape of the backbone; the overlays in `configs/model/` set it.

    Attributes:
        width: Width D of all tokens and vectors.
        heads: Attention heads; must divide the width.
        composition_layers: Self-attention blocks of the composition encoder.
        xrd_layers: Self-attention blocks of the XRD encoder.
        fusion_layers: Cross-attention blocks that join the two.
        patch_points: Grid points a patch; must divide the grid's number of points. 85 points of
            0.02° are 1.7° of 2θ.
        dropout: Dropout probability in attention and feed-forward layers.
    """

    width: int = 96
    heads: int = 4
    composition_layers: int = 2
    xrd_layers: int = 3
    fusion_layers: int = 1
    patch_points: int = 85
    dropout: float = 0.0

    def __post_init__(self) -> None:
        """Refuse sizes that do not fit together."""
        for name in ("width", "heads", "composition_layers", "xrd_layers", "fusion_layers"):
            if not 1 <= getattr(self, name) <= _LARGEST:
                raise ValueError(
                    f"backbone.{name} is {getattr(self, name)}: must lie between 1 and {_LARGEST}"
                )
        if self.patch_points < 1:
            raise ValueError(f"backbone.patch_points is {self.patch_points}: must be at least 1")
        if self.width % self.heads:
            raise ValueError(
                f"backbone.width is {self.width}: must be a multiple of heads ({self.heads})"
            )
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"backbone.dropout is {self.dropout}: must lie in [0, 1)")


class BackboneOutput(NamedTuple):
    """What the backbone gives to a task.

    Attributes:
        composition_tokens: Fused composition tokens, summary first, (B, 1 + E, D).
        composition_mask: Which of them are real, (B, 1 + E) bool.
        xrd_tokens: Fused pattern tokens, summary first, (B, 1 + K, D).
        composition_vector: The composition alone, before fusion, (B, D): for alignment.
        xrd_vector: The pattern alone, before fusion, (B, D): for alignment.
        fused: Both together, pooled by learned queries, (B, D): for regression.
    """

    composition_tokens: Tensor
    composition_mask: Tensor
    xrd_tokens: Tensor
    composition_vector: Tensor
    xrd_vector: Tensor
    fused: Tensor


class Backbone(nn.Module):
    """Composition encoder, XRD encoder and cross-attention fusion.

    Either modality may be absent, material by material: learned tokens stand for it, every
    parameter stays in the graph (so DDP needs no search for unused ones), and composition-only,
    XRD-only and fused predictions come from the same weights.

    Args:
        config: Size and shape.
        grid: The 2θ grid of the patterns.

    Raises:
        ValueError: if the patch does not divide the grid.
    """

    def __init__(self, config: BackboneConfig, grid: Grid) -> None:
        super().__init__()
        if grid.n_points % config.patch_points:
            raise ValueError(
                f"backbone.patch_points is {config.patch_points}: must divide the grid's "
                f"{grid.n_points} points"
            )
        self.config = config
        self.grid = grid
        self.n_patches = grid.n_points // config.patch_points
        c = config
        self.composition = CompositionEncoder(c.width, c.heads, c.composition_layers, c.dropout)
        self.xrd = XRDEncoder(grid, c.patch_points, c.width, c.heads, c.xrd_layers, c.dropout)
        self.fusion = CrossAttentionFusion(c.width, c.heads, c.fusion_layers, c.dropout)

    def forward(
        self,
        elements: Tensor,
        fractions: Tensor,
        xrd: Tensor,
        measured: Tensor,
        *,
        visible: VisiblePatches | None = None,
        has_composition: Tensor | None = None,
        has_xrd: Tensor | None = None,
    ) -> BackboneOutput:
        """Encode and fuse a batch.

        Args:
            elements: Atomic numbers, 0 for padding, (B, E) int64.
            fractions: Atomic fractions, (B, E) float.
            xrd: Square root of intensity on the grid, (B, L) float.
            measured: Which points were measured, (B, L) bool.
            visible: The patches to read; None reads all that were wholly measured.
            has_composition: Which materials' composition is given, (B,) bool; None means all.
            has_xrd: Which materials' pattern is given, (B,) bool; None means all.
        """
        composition, mask, xrd = self.encode(
            elements, fractions, xrd, measured, visible, has_composition, has_xrd
        )
        composition_tokens, xrd_tokens, fused = self.fusion(composition, xrd, mask)
        return BackboneOutput(
            composition_tokens, mask, xrd_tokens, composition[:, 0], xrd[:, 0], fused
        )

    def encode(
        self,
        elements: Tensor,
        fractions: Tensor,
        xrd: Tensor,
        measured: Tensor,
        visible: VisiblePatches | None = None,
        has_composition: Tensor | None = None,
        has_xrd: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Encode both modalities apart, without fusing them; arguments as of `forward`.

        Returns:
            Composition tokens (B, 1 + E, D), which of them are real (B, 1 + E), and pattern tokens
            (B, 1 + K, D); summaries first.
        """
        everyone = torch.ones_like(elements[:, 0], dtype=torch.bool)
        if visible is None:
            visible = all_measured(measured, self.config.patch_points)
        composition_tokens, mask = self.composition(
            elements, fractions, everyone if has_composition is None else has_composition
        )
        xrd_tokens = self.xrd(xrd, visible, everyone if has_xrd is None else has_xrd)
        return composition_tokens, mask, xrd_tokens
