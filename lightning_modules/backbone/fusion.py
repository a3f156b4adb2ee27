"""Cross-attention fusion of composition and pattern, and pooling by learned queries.

Shapes: B batch, S composition tokens, T pattern tokens, D width.
"""

import torch
from torch import Tensor, nn

from lightning_modules.backbone.linear import Linear
from lightning_modules.backbone.transformer import CrossAttentionBlock


class FusionBlock(nn.Module):
    """Both modalities attend to each other at once, each with its own weights."""

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.composition = CrossAttentionBlock(width, heads, dropout)
        self.xrd = CrossAttentionBlock(width, heads, dropout)

    def forward(
        self, composition_BSD: Tensor, xrd_BTD: Tensor, mask_BS: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Update both; `mask_BS` says which composition tokens are real."""
        return (
            self.composition(composition_BSD, xrd_BTD),
            self.xrd(xrd_BTD, composition_BSD, mask_BS),
        )


class AttentionPool(nn.Module):
    """Learned queries attend to all tokens; their answers become one vector.

    Args:
        width: Width D of tokens and vector.
        heads: Attention heads.
        queries: Number of learned queries.
        dropout: Dropout probability.
    """

    def __init__(self, width: int, heads: int, queries: int = 4, dropout: float = 0.0) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(queries, width) * 0.02)
        self.block = CrossAttentionBlock(width, heads, dropout)
        self.projection = Linear(queries * width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens_BSD: Tensor, mask_BS: Tensor) -> Tensor:
        """Pool the tokens that the mask calls real: (B, S, D) to (B, D)."""
        queries = self.queries.to(tokens_BSD.dtype).expand(tokens_BSD.shape[0], -1, -1)
        return self.norm(self.projection(self.block(queries, tokens_BSD, mask_BS).flatten(1)))


class CrossAttentionFusion(nn.Module):
    """A stack of fusion blocks and the pool over both modalities' tokens.

    Args:
        width: Width D.
        heads: Attention heads.
        layers: Number of fusion blocks.
        dropout: Dropout probability.
    """

    def __init__(self, width: int, heads: int, layers: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(FusionBlock(width, heads, dropout) for _ in range(layers))
        self.composition_norm = nn.LayerNorm(width)
        self.xrd_norm = nn.LayerNorm(width)
        self.pool = AttentionPool(width, heads, dropout=dropout)

    def forward(
        self, composition_BSD: Tensor, xrd_BTD: Tensor, mask_BS: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Fuse both modalities.

        Args:
            composition_BSD: Composition tokens (B, S, D).
            xrd_BTD: Pattern tokens (B, T, D).
            mask_BS: Which composition tokens are real, (B, S) bool.

        Returns:
            Fused composition tokens (B, S, D), fused pattern tokens (B, T, D) and the fused
            vector (B, D).
        """
        for block in self.blocks:
            composition_BSD, xrd_BTD = block(composition_BSD, xrd_BTD, mask_BS)
        composition_BSD = self.composition_norm(composition_BSD)
        xrd_BTD = self.xrd_norm(xrd_BTD)
        tokens = torch.cat((composition_BSD, xrd_BTD), dim=1)
        mask = torch.cat((mask_BS, mask_BS.new_ones(xrd_BTD.shape[:2])), dim=1)
        return composition_BSD, xrd_BTD, self.pool(tokens, mask)
