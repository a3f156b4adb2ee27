"""Predictions beside their labels, gathered over all processes.

Shapes: B batch, N materials, E element slots, M modes (what the model was given), T targets.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from datamodules import batch as keys
from datamodules.batch import Batch


@dataclass(frozen=True)
class Table:
    """Predictions of a split, in the order of the store's rows; physical units.

    Attributes:
        index: Row numbers, (N,).
        elements: Atomic numbers, 0 for padding, (N, E).
        formula: Hashes of the reduced formulas, (N,).
        system: Hashes of the chemical systems, (N,).
        target: Labels, NaN where missing, (N, T).
        value: Predictions, (N, M, T).
        spread: Their spreads (expected absolute errors), (N, M, T).
    """

    index: Tensor
    elements: Tensor
    formula: Tensor
    system: Tensor
    target: Tensor
    value: Tensor
    spread: Tensor

    def __getitem__(self, rows: Tensor) -> "Table":
        """The table of some rows, given by their places or by a mask."""
        return Table(*(getattr(self, name)[rows] for name in COLUMNS))


COLUMNS = tuple(Table.__dataclass_fields__)


class Predictions(Metric):
    """Collects predictions of all ranks for a `Table`."""

    full_state_update = False
    index: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        for name in COLUMNS:
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, batch: Batch, value_BMT: Tensor, spread_BMT: Tensor) -> None:
        """Add a batch's predictions; its padding rows are left out.

        Args:
            batch: Identities, elements and labels.
            value_BMT: Predictions in physical units.
            spread_BMT: Their spreads.
        """
        counts_B = batch[keys.WEIGHT] > 0
        columns = {
            "index": batch[keys.INDEX],
            "elements": batch[keys.ELEMENTS],
            "formula": batch[keys.FORMULA_KEY],
            "system": batch[keys.SYSTEM_KEY],
            "target": batch[keys.TARGETS].float(),
            "value": value_BMT.float(),
            "spread": spread_BMT.float(),
        }
        for name in COLUMNS:
            getattr(self, name).append(columns[name][counts_B])

    def table(self) -> Table:
        """All rows of all ranks, in the order of the store, on the CPU; all ranks must ask."""
        # Not `compute`: torchmetrics squeezes tensors of one element.
        with self.sync_context():
            order = dim_zero_cat(self.index).argsort()
            return Table(*(dim_zero_cat(getattr(self, name))[order].cpu() for name in COLUMNS))

    def compute(self) -> Tensor:
        """How many rows there are."""
        return torch.tensor(len(dim_zero_cat(self.index)))
