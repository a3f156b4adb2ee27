"""Losses; each is tested against a plain loop.

Shapes: B batch, M hidden patches, P points a patch.
"""

from torch import Tensor


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
