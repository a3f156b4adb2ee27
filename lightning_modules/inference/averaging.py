"""Predictions for several compositions at once: their average, with an interval that grows.

Shapes: K candidates, T targets.
"""

import math

import torch
from torch import Tensor

#: Halvings of the range that a bound is sought in: more than float64 can tell apart.
_HALVINGS = 60


def average(
    value_KT: Tensor, half_KT: Tensor, weight_K: Tensor, confidence: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The weighted mean of predictions, and the interval of the mixture of their distributions.

    Each prediction is taken for a Laplace distribution, as which it was trained, so wide that its
    own interval holds the stated share. The mixture of these is inverted. The interval reaches from
    the mean at least as far as the mean of the single intervals' halves and as the first one's, so
    that it is never narrower than that of a sharp composition.

    Args:
        value_KT: Predictions; the first is of the likeliest composition.
        half_KT: Half widths of their intervals; NaN or infinite where there are none.
        weight_K: Weights, sum 1.
        confidence: Share of the labels that an interval holds.

    Returns:
        Mean, lower and upper end, (T,) each; NaN or infinite ends where a single interval has them.
    """
    value, half = value_KT.double(), half_KT.double()
    weight = weight_K.to(value)[:, None]
    mean = (weight * value).sum(dim=0)
    scale = half / -math.log1p(-confidence)
    tail = (1.0 - confidence) / 2.0
    ends = [
        _quantile(value, scale, weight, share, (value + sign * half).nan_to_num(0.0, 0.0, 0.0))
        for share, sign in ((tail, -1.0), (1.0 - tail, 1.0))
    ]
    least = torch.maximum((weight * half).sum(dim=0), half[0])
    low, high = torch.minimum(ends[0], mean - least), torch.maximum(ends[1], mean + least)
    missing, unbounded = half.isnan().any(dim=0), half.isinf().any(dim=0)
    low = low.masked_fill(unbounded, -math.inf).masked_fill(missing, math.nan)
    high = high.masked_fill(unbounded, math.inf).masked_fill(missing, math.nan)
    return mean.float(), low.float(), high.float()


def _quantile(value: Tensor, scale: Tensor, weight: Tensor, share: float, ends: Tensor) -> Tensor:
    """Where the mixture's distribution function reaches a share, (T,).

    It lies between the outermost of the single distributions' own quantiles, `ends`.
    """
    low, high = ends.min(dim=0).values, ends.max(dim=0).values
    for _ in range(_HALVINGS):
        middle = (low + high) / 2.0
        distance = (middle - value) / scale.clamp_min(1e-30)
        below = torch.where(distance < 0, distance.exp() / 2.0, 1.0 - (-distance.abs()).exp() / 2.0)
        reached = (weight * below).sum(dim=0) >= share
        high, low = torch.where(reached, middle, high), torch.where(reached, low, middle)
    return (low + high) / 2.0
