"""Metrics on torchmetrics, so that several ranks give the one-process value."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class _InDoublePrecision(Metric):
    """Sums in double precision; on the CPU where the device has none, as Apple's GPUs."""

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> Any:
        """Move to a device, or stay: there is nothing but the states to move."""
        try:
            fn(torch.zeros(1, dtype=torch.float64, device=self.device))
        except TypeError:
            return self
        return super()._apply(fn, exclude_state)

    def _here(self, *values: Tensor) -> list[Tensor]:
        """Values of a batch where the sums are."""
        return [value.to(self.device) for value in values]


class MaskedReconstructionError(_InDoublePrecision):
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
        prediction_BL, target_BL, selected_BL = self._here(prediction_BL, target_BL, selected_BL)
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


class StrongestLine(_InDoublePrecision):
    """How often the strongest hidden line is put in its place.

    The strongest hidden line of a pattern is the highest of the maxima of the whole pattern whose
    apex lies on a selected point: the tail of a visible line that reaches in is none. The
    prediction puts it where it is highest among the selected points. `compute` returns

    - `line_placed`: share of the patterns in which both are at most `tolerance` apart,
    - `line_placed_by_mean_pattern`: the same share for the mean of the patterns' selected points,
      which knows where strong lines are frequent and nothing else,
    - `lines`: how many patterns have such a line.

    Args:
        n_points: Number of grid points L.
        step: Distance of two grid points, degrees 2θ.
        tolerance: Largest distance that counts as placed, degrees 2θ.
    """

    full_state_update = False
    placed: Tensor
    total: Tensor
    count: Tensor
    apex: list[Tensor]
    selected: list[Tensor]

    def __init__(self, n_points: int, step: float, tolerance: float = 0.3) -> None:
        super().__init__()
        # Half a step more: distances are whole steps, and 0.3 / 0.02 is not 15 in binary.
        self.reach = int(tolerance / step + 0.5)
        self.add_state("placed", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        for name in ("total", "count"):
            self.add_state(name, torch.zeros(n_points, dtype=torch.float64), dist_reduce_fx="sum")
        # The mean pattern is known at the end only: until then, a bit a point.
        for name in ("apex", "selected"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, prediction_BL: Tensor, target_BL: Tensor, selected_BL: Tensor) -> None:
        """Add a batch.

        Args:
            prediction_BL: Predicted intensity or its root, (B, L): only its order matters.
            target_BL: True one, (B, L).
            selected_BL: Which points count, (B, L) bool.
        """
        prediction_BL, target_BL, selected_BL = self._here(prediction_BL, target_BL, selected_BL)
        apex_B = strongest_line(target_BL, selected_BL)
        has_line_B = apex_B >= 0
        apex_B, selected_BL = apex_B[has_line_B], selected_BL[has_line_B]
        self.placed += self._close(prediction_BL[has_line_B], selected_BL, apex_B)
        self.total += target_BL[has_line_B].double().masked_fill(~selected_BL, 0.0).sum(dim=0)
        self.count += selected_BL.sum(dim=0)
        self.apex.append(apex_B)
        self.selected.append(_pack(selected_BL))

    def _close(self, value_BL: Tensor, selected_BL: Tensor, apex_B: Tensor) -> Tensor:
        """How many of the values are highest close to the apex, among selected points; scalar."""
        return ((highest(value_BL, selected_BL) - apex_B).abs() <= self.reach).sum()

    def compute(self) -> dict[str, Tensor]:
        """Return both shares and the number of patterns."""
        apex, selected = dim_zero_cat(self.apex), dim_zero_cat(self.selected)
        mean_L = (self.total / self.count.clamp_min(1)).float()
        placed = torch.zeros_like(self.placed)
        for apex_B, packed_B in zip(apex.split(1024), selected.split(1024), strict=True):
            chosen_BL = _unpack(packed_B, len(mean_L))
            placed = placed + self._close(mean_L.expand_as(chosen_BL), chosen_BL, apex_B)
        patterns = torch.tensor(float(len(apex)), device=mean_L.device)
        return {
            "line_placed": self.placed / patterns,
            "line_placed_by_mean_pattern": placed / patterns,
            "lines": patterns,
        }


def strongest_line(target_BL: Tensor, selected_BL: Tensor) -> Tensor:
    """The point of the strongest line whose apex is selected, (B,) int64; -1 where there is none.

    Args:
        target_BL: Patterns, (B, L).
        selected_BL: Which points count, (B, L) bool.
    """
    beside_BL = F.pad(target_BL, (1, 1), value=float("-inf"))
    is_apex_BL = (target_BL > beside_BL[:, :-2]) & (target_BL >= beside_BL[:, 2:])
    candidate_BL = is_apex_BL & selected_BL & (target_BL > 0)
    apex_B = target_BL.masked_fill(~candidate_BL, -1.0).argmax(dim=1)
    return apex_B.masked_fill(~candidate_BL.any(dim=1), -1)


def highest(value_BL: Tensor, selected_BL: Tensor) -> Tensor:
    """The selected point with the highest value, (B,) int64."""
    return value_BL.masked_fill(~selected_BL, float("-inf")).argmax(dim=1)


def _pack(selected_BL: Tensor) -> Tensor:
    """Eight points a byte: (B, L) bool to (B, ⌈L / 8⌉) uint8."""
    padded = F.pad(selected_BL, (0, -selected_BL.shape[1] % 8)).unflatten(1, (-1, 8))
    weights = 2 ** torch.arange(8, device=selected_BL.device, dtype=torch.uint8)
    return (padded * weights).sum(dim=2, dtype=torch.uint8)


def _unpack(packed: Tensor, n_points: int) -> Tensor:
    """Undo `_pack`, (B, L) bool."""
    bits = torch.arange(8, device=packed.device, dtype=torch.uint8)
    return ((packed.unsqueeze(2) >> bits) & 1).bool().flatten(1)[:, :n_points]
