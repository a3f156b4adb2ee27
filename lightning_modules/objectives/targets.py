"""What a model predicts: names, units, standardisation and conformal quantiles of its targets.

Shapes: B batch, M modes (what the model is given), T targets.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

#: Targets that are not negative, as a rule: predictions and intervals are cut off at 0, unless a
#: label of the training split lies below (distances from a hull made without the entry do).
NON_NEGATIVE = frozenset({"band_gap", "hull_distance", "volume_per_atom", "density"})


class Prediction(NamedTuple):
    """Predictions in physical units and their spreads (expected absolute errors); (..., T) each."""

    value: Tensor
    spread: Tensor


class Targets(nn.Module):
    """Targets of a regression; everything learned from the data travels in the checkpoint.

    Args:
        names: The targets.
        n_modes: In how many modes the model predicts them, M.

    Attributes:
        mean: Mean over the training split, (T,).
        std: Standard deviation over the training split, (T,).
        conformal: Conformal quantiles, (M, T); NaN before calibration.
        units: Units; empty strings before they are known.
        positive: Which are cut off at 0, (T,).
    """

    mean: Tensor
    std: Tensor
    conformal: Tensor
    positive: Tensor

    def __init__(self, names: Sequence[str], n_modes: int) -> None:
        super().__init__()
        self.names, self.units = list(names), [""] * len(names)
        self.register_buffer("mean", torch.zeros(len(names)))
        self.register_buffer("std", torch.ones(len(names)))
        self.register_buffer("conformal", torch.full((n_modes, len(names)), torch.nan))
        positive = torch.tensor([name in NON_NEGATIVE for name in names])
        self.register_buffer("positive", positive, persistent=False)

    def get_extra_state(self) -> dict[str, Any]:
        """The units and the targets that may be negative against the rule."""
        negative = [
            name
            for name, positive in zip(self.names, self.positive.tolist(), strict=True)
            if name in NON_NEGATIVE and not positive
        ]
        return {"units": self.units} | ({"negative": negative} if negative else {})

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take the units and the targets that may be negative.

        Raises:
            ValueError: if the data gives a target in another unit.
        """
        for name, saved, ours in zip(self.names, state["units"], self.units, strict=True):
            if ours and saved != ours:
                raise ValueError(
                    f"target {name}: the checkpoint predicts it in {saved}, the store gives it in "
                    f"{ours}; prepare the store with the checkpoint's unit"
                )
        self.units = list(state["units"])
        for t, name in enumerate(self.names):
            self.positive[t] = name in NON_NEGATIVE and name not in state.get("negative", [])

    def fit(self, statistics: dict[str, dict[str, float]]) -> None:
        """Take mean, standard deviation and sign of the training split's labels.

        Args:
            statistics: `mean`, `std`, `min` and `count` by target.

        Raises:
            ValueError: if a target has no label at all.
        """
        for t, name in enumerate(self.names):
            if not statistics[name]["count"]:
                raise ValueError(
                    f"target {name}: no material of the training split has a label; leave it out "
                    "of data.targets, or use a store that has it"
                )
            self.mean[t] = statistics[name]["mean"]
            # All labels alike: nothing to scale by.
            self.std[t] = statistics[name]["std"] or 1.0
            self.positive[t] = name in NON_NEGATIVE and statistics[name]["min"] >= 0.0

    def standardise(self, labels_BT: Tensor) -> Tensor:
        """Labels in physical units to mean 0 and standard deviation 1; NaN stays NaN."""
        return (labels_BT - self.mean) / self.std

    def physical(self, value_BT: Tensor, log_spread_BT: Tensor) -> Prediction:
        """Standardised predictions and logarithms of spreads to physical units."""
        value_BT = value_BT.float() * self.std + self.mean
        value_BT = torch.where(self.positive, value_BT.clamp_min(0.0), value_BT)
        return Prediction(value_BT, log_spread_BT.float().exp() * self.std)

    def interval(self, prediction: Prediction, mode: int) -> tuple[Tensor, Tensor]:
        """Conformal intervals of predictions in a mode: lower and upper ends, (..., T) each.

        NaN if the checkpoint was not calibrated; infinite if the calibration split was too small.
        """
        device = prediction.value.device
        half = self.conformal[mode].to(device) * prediction.spread
        low, high = prediction.value - half, prediction.value + half
        return torch.where(self.positive.to(device), low.clamp_min(0.0), low), high
