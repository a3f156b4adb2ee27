"""Rendered batches of a split outside of a trainer: for reports and calibrations.

Shapes: B batch.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from datamodules import batch as keys
from datamodules.batch import Batch
from datamodules.grid import Grid
from datamodules.rendering.augmentation import STRAIN_POWERS, Augmentation, Perturbation
from datamodules.rendering.peaks import PeakShape
from datamodules.rendering.renderer import Renderer
from datamodules.store.collection import Collection
from datamodules.store.gathering import Gatherer
from datamodules.store.splits import SplitConfig, split_rows
from datamodules.stream.batches import IMPURITY_KEYS, choose_impurities

#: Draws the changes of a batch's patterns; it may add impurities to the batch.
Change = Callable[[Batch], Perturbation]


class SplitBatches:
    """Materials of stores, split as in training, rendered with stated changes.

    Args:
        stores: Folders of stores.
        grid: The model's grid.
        peaks: Shape of the peaks.
        split: How the training run split them.
        targets: Labels to serve.
        device: Where to render.
        batch_size: Materials at a time.
        any_target: Whether one of the targets is enough; the others' labels are missing then.

    Raises:
        ValueError: if a store does not fit the grid or no store has a target.
    """

    def __init__(
        self,
        stores: Sequence[str | Path],
        grid: Grid,
        peaks: PeakShape,
        split: SplitConfig,
        targets: Sequence[str] = (),
        device: str | torch.device = "cpu",
        batch_size: int = 256,
        any_target: bool = False,
    ) -> None:
        self.collection = Collection(stores)
        self.collection.check_grid(grid)
        known = [name for name in targets if name in self.collection.units]
        self.collection.check_targets(known if any_target and known else list(targets))
        self.device, self.batch_size = torch.device(device), batch_size
        powers = [STRAIN_POWERS.get(name, 0) for name in targets]
        self.renderer = Renderer(grid, peaks, Augmentation(), powers)
        self._gatherer = Gatherer(
            self.collection.stores, list(targets), self.collection.max_elements
        )
        self._splits = split_rows(self.collection, split)

    def rows(self, split: str, limit: int | None = None) -> np.ndarray:
        """Rows of a split, or of `all`; with a limit as many of them, evenly spread.

        Raises:
            ValueError: if there are none.
        """
        rows = np.arange(len(self.collection)) if split == "all" else self._splits[split]
        if not len(rows):
            folders = ", ".join(str(store.folder) for store in self.collection.stores)
            raise ValueError(f"{folders}: the {split} split is empty; use a larger store")
        if limit is not None and limit < len(rows):
            rows = rows[np.linspace(0, len(rows) - 1, limit).round().astype(int)]
        return rows

    def split_names(self) -> np.ndarray:
        """The split of every row of the stores."""
        names = np.empty(len(self.collection), dtype=object)
        for name, rows in self._splits.items():
            names[rows] = name
        return names

    def batches(
        self, rows: np.ndarray, change: Change | None = None, impure: bool = False
    ) -> Iterator[Batch]:
        """Rendered batches of some rows, in their order; labels are those of strained cells.

        Args:
            rows: Row numbers.
            change: Draws the changes; None renders plain patterns.
            impure: Whether each row gets another one's lines, for `Perturbation.impurity`.
        """
        for start in range(0, len(rows), self.batch_size):
            part = rows[start : start + self.batch_size]
            arrays = self._gatherer.gather(part) | {keys.INDEX: part.astype(np.int64)}
            if impure:
                everyone = Augmentation(impurity_probability=1.0)
                slots, partners = choose_impurities(0, 0, part, everyone, rows)
                extra = self._gatherer.gather(partners)
                arrays[keys.IMPURITY_SLOT] = slots
                arrays |= {to: extra[key] for key, to in IMPURITY_KEYS.items() if key in extra}
            lines = {name: torch.from_numpy(a).to(self.device) for name, a in arrays.items()}
            changes = Perturbation() if change is None else change(lines)
            xrd, measured = self.renderer.render(lines, changes)
            lines |= self.renderer.strained_labels(lines, changes)
            lines[keys.WEIGHT] = torch.ones(len(part), device=self.device)
            yield lines | {keys.XRD: xrd, keys.MEASURED: measured}
