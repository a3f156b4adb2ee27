"""Predictions beside their labels, and what follows from them: errors, coverage, families.

Shapes: N materials, E element slots, M modes (what the model was given), T targets.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import binary_auroc
from torchmetrics.functional.regression import mean_absolute_error, mean_squared_error, r2_score
from torchmetrics.utilities import dim_zero_cat

from datamodules.elements import ATOMIC_NUMBERS
from lightning_modules.objectives.targets import Prediction, Targets

#: A compound belongs to the first family one of whose elements it contains.
FAMILIES: dict[str, tuple[str, ...]] = {
    "oxide": ("O",),
    "halide": ("F", "Cl", "Br", "I"),
    "chalcogenide": ("S", "Se", "Te"),
    "pnictide": ("N", "P", "As", "Sb", "Bi"),
    "hydride, boride, carbide or silicide": ("H", "B", "C", "Si"),
}
INTERMETALLIC = "intermetallic"


@dataclass(frozen=True)
class Table:
    """Predictions of a split, in the order of the store's rows; physical units.

    Attributes:
        index: Row numbers, (N,).
        elements: Atomic numbers, 0 for padding, (N, E).
        target: Labels, NaN where missing, (N, T).
        value: Predictions, (N, M, T).
        spread: Their spreads (expected absolute errors), (N, M, T).
    """

    index: Tensor
    elements: Tensor
    target: Tensor
    value: Tensor
    spread: Tensor


class Predictions(Metric):
    """Collects predictions of all ranks for a `Table`."""

    full_state_update = False
    index: list[Tensor]
    elements: list[Tensor]
    target: list[Tensor]
    value: list[Tensor]
    spread: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        for name in ("index", "elements", "target", "value", "spread"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(
        self,
        index_B: Tensor,
        elements_BE: Tensor,
        target_BT: Tensor,
        value_BMT: Tensor,
        spread_BMT: Tensor,
        counts_B: Tensor,
    ) -> None:
        """Add a batch; rows where `counts_B` is False are padding."""
        self.index.append(index_B[counts_B])
        self.elements.append(elements_BE[counts_B])
        self.target.append(target_BT[counts_B].float())
        self.value.append(value_BMT[counts_B].float())
        self.spread.append(spread_BMT[counts_B].float())

    def table(self) -> Table:
        """All rows of all ranks, in the order of the store, on the CPU; all ranks must ask."""
        # Not `compute`: torchmetrics squeezes tensors of one element.
        with self.sync_context():
            order = dim_zero_cat(self.index).argsort()
            states = (self.index, self.elements, self.target, self.value, self.spread)
            return Table(*(dim_zero_cat(state)[order].cpu() for state in states))

    def compute(self) -> Tensor:
        """How many rows there are."""
        return torch.tensor(len(dim_zero_cat(self.index)))


def target_errors(name: str, value_N: Tensor, target_N: Tensor) -> dict[str, float]:
    """Errors of one target in its unit; labels that are missing do not count.

    Args:
        name: The target: `band_gap` is also judged on non-metals alone (`mae_nonmetals`),
            `hull_distance` also by how well it tells stable (on the hull) from unstable
            materials (`stable_auc`).
        value_N: Predictions.
        target_N: Labels.

    Returns:
        `mae`, `rmse`, `r2` and the number of labels `n`; empty if there is no label.
    """
    there = ~target_N.isnan()
    value, target = value_N[there].double(), target_N[there].double()
    if not len(target):
        return {}
    errors = {
        "mae": float(mean_absolute_error(value, target)),
        "rmse": float(mean_squared_error(value, target, squared=False)),
        "r2": float(r2_score(value, target)) if len(target) > 1 else math.nan,
        "n": float(len(target)),
    }
    if name == "band_gap" and (target > 0).any():
        gapped = target > 0
        errors["mae_nonmetals"] = float(mean_absolute_error(value[gapped], target[gapped]))
    stable = target <= 0
    if name == "hull_distance" and 0 < int(stable.sum()) < len(stable):
        # Distances are not negative, so this falls with them and lies in (0, 1] as AUROC asks.
        errors["stable_auc"] = float(binary_auroc(1 / (1 + value), stable.int()))
    return errors


def coverage(low_N: Tensor, high_N: Tensor, target_N: Tensor) -> dict[str, float]:
    """Share of labels inside their intervals, with its own 95 % interval.

    Returns:
        `coverage`, `coverage_low`, `coverage_high` and the intervals' mean `width`; empty if
        there is no label.

    Source: Wilson, J. Am. Stat. Assoc. 22 (1927) 209, for the interval of a share.
    """
    there = ~target_N.isnan()
    n = int(there.sum())
    if not n:
        return {}
    inside = ((target_N >= low_N) & (target_N <= high_N))[there]
    share, z = float(inside.float().mean()), 1.96
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return {
        "coverage": share,
        "coverage_low": max(0.0, centre - half),
        "coverage_high": min(1.0, centre + half),
        "width": float((high_N - low_N)[there].mean()),
    }


def report(table: Table, modes: Sequence[str], targets: Targets) -> dict[str, float]:
    """All errors, and coverage where the model is calibrated.

    Returns:
        Values by `mode/target/key`, and `standardised_mae`: the first mode's absolute error over
        the standard deviation of the training labels, averaged over the targets.
    """
    values: dict[str, float] = {}
    relative = []
    for m, mode in enumerate(modes):
        low, high = targets.interval(Prediction(table.value[:, m], table.spread[:, m]), m)
        for t, name in enumerate(targets.names):
            errors = target_errors(name, table.value[:, m, t], table.target[:, t])
            if m == 0 and errors:
                relative.append(errors["mae"] / float(targets.std[t]))
            if not targets.conformal[m, t].isnan():
                errors |= coverage(low[:, t], high[:, t], table.target[:, t])
            values |= {f"{mode}/{name}/{key}": value for key, value in errors.items()}
    values["standardised_mae"] = sum(relative) / len(relative) if relative else math.nan
    return values


def families(elements_NE: Tensor) -> list[str]:
    """Chemical family of each material by its elements; see `FAMILIES`."""
    names = [*FAMILIES, INTERMETALLIC]
    member_NF = torch.stack(
        [
            torch.isin(elements_NE, torch.tensor([ATOMIC_NUMBERS[s] for s in symbols])).any(dim=1)
            for symbols in FAMILIES.values()
        ]
        + [torch.ones(len(elements_NE), dtype=torch.bool)],
        dim=1,
    )
    return [names[i] for i in member_NF.int().argmax(dim=1).tolist()]


def errors_by_group(
    table: Table, modes: Sequence[str], targets: Sequence[str]
) -> list[dict[str, str | float]]:
    """Errors by number of elements and by chemical family, a row for each target and mode."""
    n_elements = (table.elements > 0).sum(dim=1)
    family = families(table.elements)
    groups = [("elements", str(n), n_elements == n) for n in sorted(set(n_elements.tolist()))] + [
        ("family", name, torch.tensor([f == name for f in family]))
        for name in (*FAMILIES, INTERMETALLIC)
    ]
    rows: list[dict[str, str | float]] = []
    for t, target in enumerate(targets):
        for m, mode in enumerate(modes):
            for kind, group, chosen in groups:
                errors = target_errors(target, table.value[chosen, m, t], table.target[chosen, t])
                if errors:
                    rows.append(
                        {"target": target, "given": mode, "by": kind, "group": group}
                        | {key: errors[key] for key in ("n", "mae", "rmse", "r2")}
                    )
    return rows
