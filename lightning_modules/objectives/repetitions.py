"""What the visible part of a pattern says of the hidden one by its own repetitions.

Squared scattering vectors of a lattice are values of one quadratic form: multiples of (2π/a)² in a
cubic crystal, and in any crystal the differences of some lines recur between others. The
autocorrelation of the visible pattern on a scale of Q² has the differences; shifted by them, the
visible lines fall on hidden ones.

Source: the relations of Runge and de Wolff between squared scattering vectors (P. M. de Wolff,
Acta Cryst. 10, 590, 1957), here without indexing any line.

Shapes: B batch, L grid points, G points of the uniform grid of Q².
"""

import numpy as np
import torch
from torch import Tensor, nn

from datamodules.grid import Grid

#: Lines are wide: shorter differences (Å⁻²) than this are those of a line to itself.
_SHORTEST = 0.1


class Repetitions(nn.Module):
    """Continues patterns by their own autocorrelation on a scale of Q²; nothing is learned.

    Args:
        grid: The 2θ grid.
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
