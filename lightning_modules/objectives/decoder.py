"""The light decoder of masked XRD modeling.

Shapes: B batch, M hidden patches, P points a patch, T memory tokens, D width.
"""

import torch
from torch import Tensor, nn

from datamodules.grid import Grid
from lightning_modules.backbone.linear import Linear
from lightning_modules.backbone.transformer import CrossAttentionBlock, SelfAttentionBlock
from lightning_modules.backbone.xrd import PatchPosition

#: Hints are at most 1 and mostly near 0, as patterns are: brought to about 1 for the queries.
_HINT_GAIN = 10.0


class MaskedPatchDecoder(nn.Module):
    """One query a hidden patch attends to what the backbone made of the visible ones.

    Unless told otherwise the queries do not attend to each other: the cost is M x T, and each patch
    is predicted by itself, from the visible pattern and the composition. With self-attention the
    answers of hidden patches can agree with each other, at M x M more.

    Args:
        grid: The 2θ grid.
        patch_points: Points a patch, P.
        memory_width: Width of the backbone's tokens.
        width: Width D of the decoder.
        heads: Attention heads.
        layers: Number of cross-attention blocks.
        self_attention: Whether a block of attention among the queries follows each of them.
        hint_gain: None: there are no hints. A number: hints at the answer are added to it, times a
            learned gain that starts there, and shown to the queries.
    """

    def __init__(
        self,
        grid: Grid,
        patch_points: int,
        memory_width: int,
        width: int,
        heads: int,
        layers: int,
        self_attention: bool = False,
        hint_gain: float | None = None,
    ) -> None:
        super().__init__()
        self.memory = Linear(memory_width, width)
        self.position = PatchPosition(grid, patch_points, width)
        self.query = nn.Parameter(torch.randn(width) * 0.02)
        self.blocks = nn.ModuleList(CrossAttentionBlock(width, heads) for _ in range(layers))
        self.among = nn.ModuleList(
            SelfAttentionBlock(width, heads) for _ in range(layers if self_attention else 0)
        )
        self.hint_gain: nn.Parameter | None = None
        if hint_gain is not None:
            self.hint = Linear(patch_points, width)
            self.hint_gain = nn.Parameter(torch.tensor(hint_gain))
        self.norm = nn.LayerNorm(width)
        self.points = Linear(width, patch_points)
        # Most of a pattern is near zero: start there.
        nn.init.normal_(self.points.weight, std=0.02)
        nn.init.zeros_(self.points.bias)

    def forward(
        self,
        hidden_BM: Tensor,
        masked_BM: Tensor,
        memory_BTD: Tensor,
        mask_BT: Tensor | None = None,
        hint_BMP: Tensor | None = None,
    ) -> Tensor:
        """Predict the hidden patches.

        Args:
            hidden_BM: Numbers of the hidden patches, (B, M) int64.
            masked_BM: Which of them are asked for, (B, M) bool: the others hold nothing measured,
                and no query attends to theirs.
            memory_BTD: The backbone's tokens, (B, T, memory width).
            mask_BT: Which of them are real, (B, T) bool; None: all.
            hint_BMP: Hints at the answer, (B, M, P), where the decoder takes any.

        Returns:
            Shape (B, M, P): square roots of intensity, or whatever the loss takes them for.
        """
        queries = self.position(hidden_BM)
        queries = queries + self.query.to(queries.dtype)
        if self.hint_gain is not None and hint_BMP is not None:
            queries = queries + self.hint(_HINT_GAIN * hint_BMP)
        memory = self.memory(memory_BTD)
        # A pattern of which nothing is asked must attend to something.
        asked_BM = masked_BM | ~masked_BM.any(dim=1, keepdim=True)
        for i, block in enumerate(self.blocks):
            queries = block(queries, memory, mask_BT)
            if self.among:
                queries = self.among[i](queries, asked_BM)
        answer: Tensor = self.points(self.norm(queries))
        if self.hint_gain is not None and hint_BMP is not None:
            answer = answer + self.hint_gain * hint_BMP
        return answer
