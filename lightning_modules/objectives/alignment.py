"""Contrastive alignment of composition and pattern: projections, temperature and loss.

Shapes: B rows of this rank, C columns of all ranks, W width of the embeddings.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.objectives.distributed import first_row, gather_rows, mean_over_ranks
from lightning_modules.objectives.losses import masked_info_nce


class BoundedTemperature(nn.Module):
    """A learned temperature that cannot leave its bounds.

    A sigmoid on the logarithmic scale keeps a gradient everywhere; cutting the temperature off
    would lose it at the bound.

    Args:
        start: Temperature at the start.
        bounds: Lowest and highest temperature.

    Raises:
        ValueError: unless 0 < lowest < start < highest.
    """

    def __init__(self, start: float, bounds: tuple[float, float]) -> None:
        super().__init__()
        low, high = bounds
        if not 0 < low < start < high:
            raise ValueError(
                f"temperature is {start}, temperature_bounds are {low} and {high}: must be "
                "positive, the temperature between the bounds"
            )
        self.low, self.high = low, high
        share = math.log(start / low) / math.log(high / low)
        self.logit = nn.Parameter(torch.tensor(math.log(share / (1 - share))))

    def forward(self) -> Tensor:
        """The temperature, a scalar."""
        return self.low * (self.high / self.low) ** torch.sigmoid(self.logit.float())


class Alignment(nn.Module):
    """Projects both modalities into one space and pulls those of one material together.

    The loss is the symmetric InfoNCE of the rows of this rank against the columns of all ranks.
    Other materials of the same formula are no negatives: a composition cannot tell polymorphs
    apart.

    Args:
        width: Width of the backbone's vectors.
        embedding_width: Width W of the embeddings.
        temperature: Temperature at the start.
        temperature_bounds: Lowest and highest temperature.
    """

    def __init__(
        self,
        width: int,
        embedding_width: int = 128,
        temperature: float = 0.07,
        temperature_bounds: tuple[float, float] = (0.01, 0.5),
    ) -> None:
        super().__init__()
        self.composition = _projection(width, embedding_width)
        self.xrd = _projection(width, embedding_width)
        self.temperature = BoundedTemperature(temperature, temperature_bounds)

    def forward(self, composition_BD: Tensor, xrd_BD: Tensor) -> tuple[Tensor, Tensor]:
        """Unit vectors of both modalities, (B, W) each, float32."""
        return (
            F.normalize(self.composition(composition_BD).float(), dim=1),
            F.normalize(self.xrd(xrd_BD).float(), dim=1),
        )

    def loss(
        self,
        composition_BW: Tensor,
        xrd_BW: Tensor,
        formula_key_B: Tensor,
        present_B: Tensor | None = None,
    ) -> Tensor:
        """Symmetric InfoNCE over all ranks; averaged over the ranks it is one process's loss.

        Args:
            composition_BW: Unit vectors of the compositions, (B, W).
            xrd_BW: Unit vectors of the patterns, (B, W).
            formula_key_B: Hash of the reduced formula, (B,) int64.
            present_B: Rows that have both modalities, (B,) bool; the others are neither rows
                nor columns. None means all.
        """
        return symmetric_info_nce(
            composition_BW, xrd_BW, formula_key_B, self.temperature(), present_B
        )


class ViewContrast(nn.Module):
    """Pulls two patterns of one material together, and those of all other materials apart.

    The alignment makes polymorphs alike, since it pulls all of them to one composition. Here they
    are negatives: what tells two structures of one formula apart has to stay in the pattern's
    vector. It has a head and a temperature of its own, so that the two need not agree in one space.

    Args:
        width: Width D of the backbone's vectors.
        embedding_width: Width W of the embeddings.
        temperature: Temperature at the start.
        temperature_bounds: Lowest and highest temperature.
    """

    def __init__(
        self,
        width: int,
        embedding_width: int = 128,
        temperature: float = 0.07,
        temperature_bounds: tuple[float, float] = (0.01, 0.5),
    ) -> None:
        super().__init__()
        self.xrd = _projection(width, embedding_width)
        self.temperature = BoundedTemperature(temperature, temperature_bounds)

    def forward(self, xrd_BD: Tensor) -> Tensor:
        """Unit vectors of patterns, (B, W), float32."""
        return F.normalize(self.xrd(xrd_BD).float(), dim=1)

    def loss(self, first_BW: Tensor, second_BW: Tensor, material_B: Tensor) -> Tensor:
        """Symmetric InfoNCE over all ranks; averaged over the ranks it is one process's loss.

        Args:
            first_BW: Unit vectors of the patterns, (B, W).
            second_BW: Those of another pattern of the same materials, (B, W).
            material_B: What tells materials apart, (B,) int64: copies of one are no negatives.
        """
        return symmetric_info_nce(first_BW, second_BW, material_B, self.temperature())


def symmetric_info_nce(
    first_BW: Tensor,
    second_BW: Tensor,
    key_B: Tensor,
    temperature: Tensor,
    present_B: Tensor | None = None,
) -> Tensor:
    """InfoNCE in both directions, the rows of this rank against the columns of all ranks.

    Args:
        first_BW: Unit vectors, (B, W).
        second_BW: Unit vectors of the same materials, (B, W).
        key_B: Rows with equal keys are no negatives of each other, (B,) int64.
        temperature: What similarities are divided by.
        present_B: Rows that enter, (B,) bool; the others are neither rows nor columns. None: all.

    Returns:
        Scalar; averaged over the ranks it is one process's loss.
    """
    if present_B is None:
        present_B = torch.ones_like(key_B, dtype=torch.bool)
    first_CW, second_CW = gather_rows(torch.cat((first_BW, second_BW), dim=1)).chunk(2, dim=1)
    key_C, present_C = gather_rows(torch.stack((key_B, present_B.long()), dim=1)).unbind(dim=1)
    n_rows = len(key_B)
    positive_B = first_row(n_rows) + torch.arange(n_rows, device=key_B.device)
    excluded_BC = (key_B[:, None] == key_C) | (present_C == 0)
    # Similarities over a temperature of 0.01 do not fit into bfloat16.
    with torch.autocast(first_BW.device.type, enabled=False):
        loss_B = 0.5 * (
            masked_info_nce(first_BW @ second_CW.T / temperature, excluded_BC, positive_B)
            + masked_info_nce(second_BW @ first_CW.T / temperature, excluded_BC, positive_B)
        )
    return (loss_B * present_B).sum() / mean_over_ranks(present_B.float().sum()).clamp_min(1e-12)


def _projection(width: int, embedding_width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, embedding_width))
