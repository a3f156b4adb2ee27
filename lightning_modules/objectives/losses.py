"""Losses; each is tested against a plain loop.

Shapes: B batch, M hidden patches, P points a patch, C columns to compare with, T targets.
"""

import math

import torch.nn.functional as F
from torch import Tensor

#: Logit of a place where nothing can be; finite, so that a row of such places has a gradient of 0.
NOWHERE = -1e30


def masked_squared_error(
    prediction_BMP: Tensor, target_BMP: Tensor, masked_BM: Tensor, weight_B: Tensor
) -> Tensor:
    """Mean squared error over the points of masked patches, material by material, then over them.

    Averaging within a material first makes the loss of a batch the mean of its parts', whatever
    the number of masked patches in each: so ranks of equal batches average to one process's loss.

    Args:
        prediction_BMP: Predicted square root of intensity.
        target_BMP: True square root of intensity; not read where the patch is not masked.
        masked_BM: Which patches enter, bool.
        weight_B: Weight of a material; 0 for padding rows.

    Returns:
        Scalar; 0 (with zero gradient) if nothing is masked.
    """
    # Unmeasured points may be NaN: selected, not multiplied.
    target_BMP = target_BMP.masked_fill(~masked_BM.unsqueeze(-1), 0.0)
    squared_BM = (prediction_BMP.float() - target_BMP).square().mean(dim=-1) * masked_BM
    n_masked_B = masked_BM.sum(dim=1)
    error_B = squared_BM.sum(dim=1) / n_masked_B.clamp_min(1)
    weight_B = weight_B * (n_masked_B > 0)
    return (error_B * weight_B).sum() / weight_B.sum().clamp_min(1e-12)


def masked_cross_entropy(
    logit_BMP: Tensor, target_BMP: Tensor, masked_BM: Tensor, weight_B: Tensor
) -> Tensor:
    """Cross-entropy of where the hidden intensity lies: one density over a pattern's masked points.

    The squared error rewards the mean of all that may be hidden, an envelope. A density may have
    several narrow peaks, and needs no scale: only ratios of the hidden intensities enter.

    Args:
        logit_BMP: Logarithms of the predicted density, up to a constant of each material.
        target_BMP: True square root of intensity; not read where the patch is not masked.
        masked_BM: Which patches enter, bool.
        weight_B: Weight of a material; 0 for padding rows.

    Returns:
        Scalar, in nats: the logarithm of the number of masked points where nothing was learned,
        the entropy of the intensity itself at best. 0 (with zero gradient) if nothing is masked;
        materials without any hidden intensity do not enter.
    """
    intensity_BMP = target_BMP.masked_fill(~masked_BM.unsqueeze(-1), 0.0).float().square()
    total_B = intensity_BMP.sum(dim=(1, 2))
    log_density_BL = masked_logits(logit_BMP, masked_BM).flatten(1).log_softmax(dim=1)
    error_B = -(intensity_BMP.flatten(1) * log_density_BL).sum(dim=1) / total_B.clamp_min(1e-12)
    weight_B = weight_B * (total_B > 0)
    return (error_B * weight_B).sum() / weight_B.sum().clamp_min(1e-12)


def masked_logits(logit_BMP: Tensor, masked_BM: Tensor) -> Tensor:
    """Logits in float32, (B, M, P), of a density that has nothing outside the masked patches."""
    return logit_BMP.float().masked_fill(~masked_BM.unsqueeze(-1), NOWHERE)


def masked_info_nce(similarity_BC: Tensor, excluded_BC: Tensor, positive_B: Tensor) -> Tensor:
    """InfoNCE of each row: minus the log-probability of its positive among its columns.

    Args:
        similarity_BC: Similarities over temperature, rows against columns.
        excluded_BC: Columns that a row is not compared with, bool; the positive is never one.
        positive_B: Column of each row's positive, int64.

    Returns:
        The rows' losses, (B,).

    Source: van den Oord et al., arXiv 1807.03748, equation 4.
    """
    excluded_BC = excluded_BC.scatter(1, positive_B[:, None], False)
    similarity_BC = similarity_BC.float().masked_fill(excluded_BC, float("-inf"))
    return F.cross_entropy(similarity_BC, positive_B, reduction="none")


def laplace_loss(
    prediction_BT: Tensor, log_spread_BT: Tensor, target_BT: Tensor, beta: float = 1.0
) -> Tensor:
    """Negative log-likelihood of a Laplace distribution, each label weighted by its spread ** beta.

    |y - m| / b + log 2b, times b ** beta without gradient. With beta = 0 it is the likelihood:
    labels that the model finds hard hardly pull on the prediction. With beta = 1 the prediction
    gets the gradients of the absolute error, and the spread is learned beside it.

    Args:
        prediction_BT: Predictions m, standardised.
        log_spread_BT: Logarithms of the spread b, the expected absolute error, standardised.
        target_BT: Labels y, standardised; NaN where missing.
        beta: Between 0 and 1.

    Returns:
        Loss of each label, (B, T); 0 (with zero gradient) where it is missing.

    Source: the weighting of Seitzer et al., arXiv 2203.09168, for the Laplace distribution.
    """
    missing_BT = target_BT.isnan()
    log_spread_BT = log_spread_BT.float()
    spread_BT = log_spread_BT.exp()
    residual_BT = (prediction_BT.float() - target_BT.masked_fill(missing_BT, 0.0)).abs()
    likelihood_BT = residual_BT / spread_BT + log_spread_BT + math.log(2.0)
    return (spread_BT.detach() ** beta * likelihood_BT).masked_fill(missing_BT, 0.0)
