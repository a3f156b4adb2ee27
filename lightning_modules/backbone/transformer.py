"""Pre-norm transformer blocks on `scaled_dot_product_attention`.

Shapes: B batch, S tokens of the queries, T tokens of the context, D width, H heads.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.backbone.linear import Linear


class Attention(nn.Module):
    """Multi-head attention of one set of tokens to another (or to itself).

    Args:
        width: Width D of the tokens.
        heads: Number of heads H; must divide the width.
        dropout: Probability of dropping an attention weight.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.query = Linear(width, width)
        self.key_value = Linear(width, 2 * width)
        self.output = Linear(width, width)

    def forward(self, tokens_BSD: Tensor, context_BTD: Tensor, mask: Tensor | None) -> Tensor:
        """Attend from `tokens_BSD` to `context_BTD`.

        Args:
            tokens_BSD: Queries, shape (B, S, D).
            context_BTD: Keys and values, shape (B, T, D).
            mask: Which context tokens may be attended to, shape (B, T) bool, or None for all:
                None keeps the flash kernels.

        Returns:
            Shape (B, S, D).
        """
        b, s, d = tokens_BSD.shape
        t = context_BTD.shape[1]
        query = self.query(tokens_BSD).view(b, s, self.heads, -1).transpose(1, 2)
        key, value = self.key_value(context_BTD).view(b, t, 2, self.heads, -1).unbind(2)
        attended = attend(
            query,
            key.transpose(1, 2),
            value.transpose(1, 2),
            None if mask is None else mask[:, None, None, :],
            self.dropout if self.training else 0.0,
        )
        return self.output(attended.transpose(1, 2).reshape(b, s, d))


def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float
) -> Tensor:
    """`scaled_dot_product_attention`, (B, H, S, D / H); in float32 on a CPU.

    There torch's backward kernel takes five to fifteen times longer in bfloat16.
    """
    if query.device.type != "cpu" or query.dtype == torch.float32:
        return F.scaled_dot_product_attention(query, key, value, mask, dropout)
    with torch.autocast("cpu", enabled=False):
        query, key, value = query.float(), key.float(), value.float()
        return F.scaled_dot_product_attention(query, key, value, mask, dropout)


class FeedForward(nn.Sequential):
    """Two linear layers with a GELU between them.

    Args:
        width: Width D of the tokens.
        hidden: Width of the hidden layer.
        dropout: Probability of dropping an output.
    """

    def __init__(self, width: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__(
            Linear(width, hidden), nn.GELU(), Linear(hidden, width), nn.Dropout(dropout)
        )


class SelfAttentionBlock(nn.Module):
    """Self-attention and a feed-forward layer, each with a residual path and a norm before it."""

    def __init__(self, width: int, heads: int, dropout: float = 0.0, expansion: int = 4) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads, dropout)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, expansion * width, dropout)

    def forward(self, tokens_BSD: Tensor, mask: Tensor | None = None) -> Tensor:
        """Update the tokens; `mask` (B, S) says which of them may be attended to."""
        normed_BSD = self.attention_norm(tokens_BSD)
        tokens_BSD = tokens_BSD + self.attention(normed_BSD, normed_BSD, mask)
        return tokens_BSD + self.feed_forward(self.feed_forward_norm(tokens_BSD))


class CrossAttentionBlock(nn.Module):
    """Attention to a context and a feed-forward layer, pre-norm, residual on the queries."""

    def __init__(self, width: int, heads: int, dropout: float = 0.0, expansion: int = 4) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(width)
        self.context_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads, dropout)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, expansion * width, dropout)

    def forward(
        self, tokens_BSD: Tensor, context_BTD: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """Update the queries; `mask` (B, T) says which context tokens may be attended to."""
        tokens_BSD = tokens_BSD + self.attention(
            self.query_norm(tokens_BSD), self.context_norm(context_BTD), mask
        )
        return tokens_BSD + self.feed_forward(self.feed_forward_norm(tokens_BSD))


def fourier_features(values: Tensor, n_features: int, longest: float, shortest: float) -> Tensor:
    """Sines and cosines of a value at geometrically spaced wavelengths.

    Args:
        values: Any shape (...).
        n_features: Length of the last axis of the result; even.
        longest: Longest wavelength, in the unit of `values`.
        shortest: Shortest wavelength.

    Returns:
        Shape (..., n_features), float32.

    Source: the sinusoidal encoding of Vaswani et al., arXiv 1706.03762, section 3.5, with the
    wavelengths chosen for the range at hand.
    """
    n = n_features // 2
    steps = torch.arange(n, dtype=torch.float32, device=values.device) / max(n - 1, 1)
    wavelengths = longest * (shortest / longest) ** steps
    angles = 2 * torch.pi * values.float().unsqueeze(-1) / wavelengths
    return torch.cat((angles.sin(), angles.cos()), dim=-1)
