"""How much of a scan a material explains, and which second one explains most of what is left.

Shapes: K materials, L points of the grid.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Share of the largest intensity that every point is uncertain by: without it weak points would
#: count without bound in the least squares below.
_FLOOR = 0.02
#: How much more than the first phase explains is taken off before a second one is looked for: its
#: lines are never quite as wide and as strong as computed.
_GENEROUS = 1.25


def _weights(intensity: Tensor) -> Tensor:
    """Inverse variances, as of counts."""
    return 1.0 / (intensity + _FLOOR * intensity.max())


def scale(intensity: Tensor, phase: Tensor) -> float:
    """Factor with which a phase fits a scan best, by least squares of the square roots."""
    product = (intensity.sqrt() * phase.sqrt()).sum()
    return float((product / phase.sum().clamp(min=1e-30)).square())


def share(intensity: Tensor, explained: Tensor) -> float:
    """Share of the scan's intensity that lies under what was computed, 0 to 1."""
    return float(torch.minimum(intensity, explained).sum() / intensity.sum().clamp(min=1e-30))


def cosine(intensity: Tensor, computed: Tensor) -> Tensor:
    """Cosine between the square roots of a scan, (L,), and of computed ones, (K, L); (K,)."""
    seen, root = intensity.sqrt(), computed.clamp(min=0.0).sqrt()
    return (root @ seen) / (root.norm(dim=1) * seen.norm()).clamp(min=1e-30)


def left_over(intensity: Tensor, explained: Tensor, reach: int) -> Tensor:
    """What a scan has beyond a phase, (L,): where that phase has lines, nothing is left.

    Args:
        intensity: The scan's, (L,).
        explained: The phase's, scaled, (L,).
        reach: Points by which a line of the phase may lie elsewhere, or be wider.
    """
    wide = torch.nn.functional.max_pool1d(explained[None, None], 2 * reach + 1, 1, reach)[0, 0]
    return (intensity - _GENEROUS * wide).clamp(min=0.0)


def pair_up(intensity: Tensor, first: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """How well the first phase and another one fit a scan together.

    Args:
        intensity: The scan's, (L,).
        first: The first phase's, (L,).
        others: Second phases', (K, L).

    Returns:
        Cosine between the square roots of the scan and of the best sum, (K,), and the factors of
        the two, (K, 2); both are at least 0.
    """
    weight = _weights(intensity)
    a11, b1 = (weight * first * first).sum(), (weight * first * intensity).sum()
    a12 = others @ (weight * first)
    a22, b2 = others.square() @ weight, others @ (weight * intensity)
    determinant = (a11 * a22 - a12.square()).clamp(min=1e-12 * a11 * a22.clamp(min=1e-30))
    one, two = (a22 * b1 - a12 * b2) / determinant, (a11 * b2 - a12 * b1) / determinant
    alone, other_alone = (b1 / a11).expand_as(one), b2 / a22.clamp(min=1e-30)
    one, two = (
        torch.where(two < 0, alone, torch.where(one < 0, 0.0, one)),
        torch.where(two < 0, 0.0, torch.where(one < 0, other_alone, two)),
    )
    scores = cosine(intensity, one[:, None] * first + two[:, None] * others)
    return scores, torch.stack([one, two], dim=1)
