"""Encoder of the elemental composition: one token an element and one for the whole.

Shapes: B batch, E element slots (0-padded), D width.
"""

import torch
from torch import Tensor, nn

from lightning_modules.backbone.linear import Linear
from lightning_modules.backbone.transformer import SelfAttentionBlock, fourier_features

#: Atomic numbers 1..118; 0 is padding.
N_ELEMENTS = 119
#: Fractions below this are encoded alike on the logarithmic scale.
SMALLEST_FRACTION = 1e-4
_FEATURES = 32


class CompositionEncoder(nn.Module):
    """Set transformer over the elements of a compound.

    An element's token is the embedding of its atomic number plus an encoding of its atomic
    fraction on a linear and on a logarithmic scale (dopants differ on the second). A learned
    summary token is prepended. There is no positional encoding: the order of the elements and
    the number of padding slots do not matter.

    Args:
        width: Width D of the tokens.
        heads: Attention heads.
        layers: Number of self-attention blocks.
        dropout: Dropout probability.
    """

    def __init__(self, width: int, heads: int, layers: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.element = nn.Embedding(N_ELEMENTS, width, padding_idx=0)
        self.fraction = Linear(2 * _FEATURES, width)
        self.summary = nn.Parameter(torch.randn(width) * 0.02)
        self.absent = nn.Parameter(torch.randn(width) * 0.02)
        self.blocks = nn.ModuleList(
            SelfAttentionBlock(width, heads, dropout) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)

    def forward(
        self, elements_BE: Tensor, fractions_BE: Tensor, present_B: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Encode a batch of compositions.

        Args:
            elements_BE: Atomic numbers, 0 for padding, shape (B, E) int64.
            fractions_BE: Atomic fractions, shape (B, E) float.
            present_B: Whether the composition is given, shape (B,) bool. Where it is not, its
                content is not read: a learned token stands for it.

        Returns:
            Tokens (B, 1 + E, D), the summary first, and which of them are real, (B, 1 + E) bool.
        """
        real_BE = (elements_BE > 0) & present_B[:, None]
        fractions_BE = torch.where(real_BE, fractions_BE, 1.0)
        logarithms_BE = fractions_BE.clamp_min(SMALLEST_FRACTION).log10()
        encoded = torch.cat(
            (
                # Shorter waves (0.02) make neighbouring fractions strangers: the error on other
                # formulas grows by a tenth (Materials Project, formation energy).
                fourier_features(fractions_BE, _FEATURES, longest=2.0, shortest=0.2),
                fourier_features(logarithms_BE, _FEATURES, longest=8.0, shortest=0.8),
            ),
            dim=-1,
        )
        tokens_BED = self.element(elements_BE * real_BE) + self.fraction(
            encoded.to(self.fraction.weight.dtype)
        )
        summary_BD = torch.where(present_B[:, None], self.summary, self.absent)
        tokens_BSD = torch.cat((summary_BD[:, None], tokens_BED), dim=1)
        real_BS = torch.cat((torch.ones_like(real_BE[:, :1]), real_BE), dim=1)
        for block in self.blocks:
            tokens_BSD = block(tokens_BSD, real_BS)
        return self.norm(tokens_BSD), real_BS
