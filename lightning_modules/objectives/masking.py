"""Which patches of a pattern masked XRD modeling hides.

Shapes: B batch, N patches, K visible slots, M = N − K hidden slots.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from datamodules.randomness import uniform
from lightning_modules.backbone import VisiblePatches


class PatchMask(NamedTuple):
    """Visible, hidden and masked patches of a batch; every shape is fixed by N and the ratio.

    Attributes:
        visible: What the encoder reads, K slots a pattern.
        hidden: The other patches, (B, M) int64: what the decoder is asked for.
        masked: Which hidden slots hold a wholly measured patch, (B, M) bool: only these enter
            the loss.
    """

    visible: VisiblePatches
    hidden: Tensor
    masked: Tensor


def n_hidden(n_patches: int, ratio: float) -> int:
    """Number of hidden slots M of a wholly measured pattern."""
    return int(n_patches * ratio)


def check_ratio(n_patches: int, ratio: float, span: int) -> None:
    """Refuse a ratio that hides nothing or everything, and a span without length.

    Raises:
        ValueError: saying what is possible.
    """
    if not (0.0 < ratio < 1.0 and 0 < n_hidden(n_patches, ratio) < n_patches):
        raise ValueError(
            f"mask_ratio is {ratio}: must hide at least one and not all of {n_patches} patches "
            f"(between {1 / n_patches:.3f} and 1)"
        )
    if not 0 < span <= n_patches:
        raise ValueError(f"mask_span is {span}: must lie between 1 and {n_patches} patches")


def span_mask(measured_BN: Tensor, keys_B: Tensor, ratio: float, span: int) -> PatchMask:
    """Hide spans of neighbouring patches, drawn from counter-based keys.

    The patches are cut into spans of equal length from a random start; the spans are hidden in
    random order until a fraction `ratio` of the measured patches is. The last span may be hidden
    in part, so that every pattern with as many measured patches hides as many.

    Args:
        measured_BN: Which patches were wholly measured, (B, N) bool.
        keys_B: One key a material from `datamodules.randomness.keys`, (B,) int64.
        ratio: Fraction of the measured patches to hide.
        span: Patches a span.

    Returns:
        The mask; on the device of `measured_BN`, without synchronising with the host.
    """
    n_patches = measured_BN.shape[1]
    m_hidden = n_hidden(n_patches, ratio)
    # A number for the start of the spans, then one for each span.
    draws = uniform(keys_B, 1 + n_patches // span + 2)
    start_B1 = (draws[:, :1] * span).long()
    patch_N = torch.arange(n_patches, device=measured_BN.device)
    order_BN = draws[:, 1:].gather(1, (patch_N + start_B1) // span)

    # Rank among the measured patches: those first in the order of their spans are hidden.
    sorted_BN = order_BN.masked_fill(~measured_BN, 2.0).argsort(dim=1, stable=True)
    rank_BN = torch.empty_like(sorted_BN).scatter_(1, sorted_BN, patch_N.expand_as(sorted_BN))
    n_masked_B1 = (measured_BN.sum(dim=1, keepdim=True) * ratio).long()
    masked_BN = measured_BN & (rank_BN < n_masked_B1)

    # Visible, unmeasured, masked: as floor(ratio · measured) <= M, no masked patch can fall into
    # a visible slot, however few patches were measured.
    kind_BN = masked_BN * 2 + (~measured_BN).long()
    by_kind_BN = kind_BN.argsort(dim=1, stable=True)
    visible_BK, hidden_BM = by_kind_BN[:, : n_patches - m_hidden], by_kind_BN[:, -m_hidden:]
    return PatchMask(
        VisiblePatches(visible_BK, kind_BN.gather(1, visible_BK) == 0),
        hidden_BM,
        masked_BN.gather(1, hidden_BM),
    )
