"""The light decoder of masked XRD modeling.

Shapes: B batch, M hidden patches, P points a patch, T memory tokens, D width.
"""

import torch
from torch import Tensor, nn

from datamodules.grid import Grid
from lightning_modules.backbone.linear import Linear
from lightning_modules.backbone.transformer import CrossAttentionBlock
from lightning_modules.backbone.xrd import PatchPosition


class MaskedPatchDecoder(nn.Module):
    """One query a hidden patch attends to what the backbone made of the visible ones.

    The queries do not attend to each other: the cost is M x T, and each patch is predicted from
    the visible pattern and the composition alone.

    Args:
        grid: The 2θ grid.
        patch_points: Points a patch, P.
        memory_width: Width of the backbone's tokens.
        width: Width D of the decoder.
        heads: Attention heads.
        layers: Number of cross-attention blocks.
    """

    def __init__(
        self,
        grid: Grid,
        patch_points: int,
        memory_width: int,
        width: int,
        heads: int,
        layers: int,
    ) -> None:
        super().__init__()
        self.memory = Linear(memory_width, width)
        self.position = PatchPosition(grid, patch_points, width)
        self.query = nn.Parameter(torch.randn(width) * 0.02)
        self.blocks = nn.ModuleList(CrossAttentionBlock(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.points = Linear(width, patch_points)
        # Most of a pattern is near zero: start there.
        nn.init.normal_(self.points.weight, std=0.02)
        nn.init.zeros_(self.points.bias)

    def forward(self, hidden_BM: Tensor, memory_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        """Predict the square root of intensity of the hidden patches.

        Args:
            hidden_BM: Numbers of the hidden patches, (B, M) int64.
            memory_BTD: The backbone's tokens, (B, T, memory width).
            mask_BT: Which of them are real, (B, T) bool.

        Returns:
            Shape (B, M, P).
        """
        queries = self.position(hidden_BM)
        queries = queries + self.query.to(queries.dtype)
        memory = self.memory(memory_BTD)
        for block in self.blocks:
            queries = block(queries, memory, mask_BT)
        return self.points(self.norm(queries))
