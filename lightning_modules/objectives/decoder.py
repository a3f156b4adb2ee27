"""How the hidden part of a pattern is told: the light decoder, and hints by repetitions.

Shapes: B batch, M hidden patches, P points a patch, T memory tokens, D width, L grid points,
G points of the uniform grid of Q².
"""

import numpy as np
import torch
from torch import Tensor, nn

from datamodules.grid import Grid
from lightning_modules.backbone.linear import Linear
from lightning_modules.backbone.transformer import CrossAttentionBlock, SelfAttentionBlock
from lightning_modules.backbone.xrd import PatchPosition

#: Hints are at most 1 and mostly near 0, as patterns are: brought to about 1 for the queries.
_HINT_GAIN = 10.0
#: Lines are wide: shorter differences (Å⁻²) than this are those of a line to itself.
_SHORTEST = 0.1


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


class Repetitions(nn.Module):
    """Continues patterns by their own autocorrelation on a scale of Q²; nothing is learned.

    Squared scattering vectors of a lattice are values of one quadratic form: multiples of (2π/a)²
    in a cubic crystal, and in any crystal the differences of some lines recur between others. The
    autocorrelation of the visible pattern on a scale of Q² has the differences; shifted by them,
    the visible lines fall on hidden ones.

    Args:
        grid: The 2θ grid.

    Source: the relations of Runge and de Wolff between squared scattering vectors (P. M. de Wolff,
    Acta Cryst. 10, 590, 1957), here without indexing any line.
    """

    to_left_G: Tensor
    to_share_G: Tensor
    inside_G: Tensor
    from_left_L: Tensor
    from_share_L: Tensor

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        # In NumPy: a model is also built without memory (torch's meta device), to compare shapes.
        q_squared_L = grid.q() ** 2
        self.n = grid.n_points
        uniform_G = np.linspace(0.0, q_squared_L[-1], self.n)
        left_G = (np.searchsorted(q_squared_L, uniform_G) - 1).clip(0, self.n - 2)
        width_G = q_squared_L[left_G + 1] - q_squared_L[left_G]
        position_L = q_squared_L / q_squared_L[-1] * (self.n - 1)
        left_L = np.floor(position_L).astype(np.int64).clip(max=self.n - 2)
        self.shortest = round(_SHORTEST / float(uniform_G[1]))
        share_G = ((uniform_G - q_squared_L[left_G]) / width_G).clip(0.0, 1.0)
        for name, value in (
            ("to_left_G", left_G),
            ("to_share_G", share_G.astype(np.float32)),
            ("inside_G", uniform_G >= q_squared_L[0]),
            ("from_left_L", left_L),
            ("from_share_L", (position_L - left_L).astype(np.float32)),
        ):
            self.register_buffer(name, torch.from_numpy(value), persistent=False)

    def _to_q_squared(self, values_BL: Tensor) -> Tensor:
        left_BG, right_BG = values_BL[:, self.to_left_G], values_BL[:, self.to_left_G + 1]
        return torch.lerp(left_BG, right_BG, self.to_share_G) * self.inside_G

    @torch.no_grad()
    def forward(self, xrd_BL: Tensor, seen_BL: Tensor) -> Tensor:
        """Continue the patterns, (B, L), at most 1; the higher, the more repetitions agree.

        Args:
            xrd_BL: Square root of intensity; read where it is seen.
            seen_BL: Which points are seen, bool.
        """
        with torch.autocast(xrd_BL.device.type, enabled=False):
            seen_BG = self._to_q_squared(seen_BL.float())
            value_BG = self._to_q_squared(xrd_BL.float().masked_fill(~seen_BL, 0.0))
            mean_B1 = value_BG.sum(1, keepdim=True) / seen_BG.sum(1, keepdim=True).clamp_min(1e-6)
            value_BG = value_BG - mean_B1 * seen_BG
            spectrum, counts = (torch.fft.rfft(x, 2 * self.n) for x in (value_BG, seen_BG))
            products = torch.fft.irfft(spectrum.abs().square(), 2 * self.n)
            pairs = torch.fft.irfft(counts.abs().square(), 2 * self.n)
            # Few pairs of points, far apart, say little.
            recurs = (products / pairs.clamp_min(0.01 * self.n)).clamp_min(0.0).square()
            recurs[:, : self.shortest] = 0.0
            recurs[:, -self.shortest :] = 0.0
            found_BG = torch.fft.irfft(spectrum * torch.fft.rfft(recurs), 2 * self.n)[:, : self.n]
            found_BL = torch.lerp(
                found_BG[:, self.from_left_L], found_BG[:, self.from_left_L + 1], self.from_share_L
            )
            return found_BL / found_BL.amax(dim=1, keepdim=True).clamp_min(1e-12)
