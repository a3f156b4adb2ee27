"""Metrics on torchmetrics, so that several ranks give the one-process value."""

import torch
from torch import Tensor
from torchmetrics import Metric


class MaskedReconstructionError(Metric):
    """Unweighted squared error on masked points, relative to two constants of the same points.

    The sums are kept point by point of the grid. `compute` returns

    - `mse`: mean squared error of the square root of intensity,
    - `vs_constant`: summed squared error over that of the best single constant,
    - `vs_mean_pattern`: over that of the mean pattern, the best constant at each point.

    Both baselines are fitted to the very points they are judged on, so they are the hardest of
    their kind; 1 means no better, 0 perfect.

    Args:
        n_points: Number of grid points L.
    """

    full_state_update = False
    error: Tensor
    total: Tensor
    square: Tensor
    count: Tensor

    def __init__(self, n_points: int) -> None:
        super().__init__()
        for name in ("error", "total", "square", "count"):
            # Double precision: the baselines are differences of large sums.
            self.add_state(name, torch.zeros(n_points, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, prediction_BL: Tensor, target_BL: Tensor, selected_BL: Tensor) -> None:
        """Add a batch.

        Args:
            prediction_BL: Predicted square root of intensity, (B, L).
            target_BL: True one, (B, L); not read where not selected.
            selected_BL: Which points count, (B, L) bool.
        """
        target = target_BL.double().masked_fill(~selected_BL, 0.0)
        prediction = prediction_BL.double().masked_fill(~selected_BL, 0.0)
        self.error += (prediction - target).square().sum(dim=0)
        self.total += target.sum(dim=0)
        self.square += target.square().sum(dim=0)
        self.count += selected_BL.sum(dim=0)

    def compute(self) -> dict[str, Tensor]:
        """Return the error and its two ratios."""
        count, error = self.count.sum(), self.error.sum()
        constant = self.square.sum() - self.total.sum() ** 2 / count
        mean_pattern = (self.square - self.total**2 / self.count.clamp_min(1)).sum()
        return {
            "mse": (error / count).float(),
            "vs_constant": (error / constant).float(),
            "vs_mean_pattern": (error / mean_pattern).float(),
        }
