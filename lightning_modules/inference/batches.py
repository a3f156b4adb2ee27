"""Rows of the input as rendered batches of the model."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from datamodules import batch as keys
from datamodules.batch import Batch
from datamodules.rendering.renderer import Renderer
from datamodules.store.gathering import Gatherer
from lightning_modules.inference.rows import Row


class RowBatches:
    """Renders rows.

    Args:
        renderer: Of the model's patterns.
        gatherer: Of the patterns that lie in stores; None without stores.
        device: Where batches are made.
    """

    def __init__(self, renderer: Renderer, gatherer: Gatherer | None, device: torch.device) -> None:
        self._renderer, self._gatherer, self._device = renderer, gatherer, device

    def __call__(self, rows: Sequence[Row]) -> Batch:
        """A rendered batch; what a row lacks is zero and not to be read."""
        slots = max(1, *(len(row.elements) for row in rows))
        elements = np.zeros((len(rows), slots), np.int64)
        fractions = np.zeros((len(rows), slots), np.float32)
        for b, row in enumerate(rows):
            elements[b, : len(row.elements)] = row.elements
            fractions[b, : len(row.elements)] = row.fractions
        n_points = self._renderer.grid.n_points
        xrd = torch.zeros(len(rows), n_points, device=self._device)
        measured = torch.zeros(len(rows), n_points, dtype=torch.bool, device=self._device)
        for found, lines in self._patterns(rows):
            rendered = self._renderer(lines, augment=False)
            where = torch.tensor(found, device=self._device)
            xrd[where], measured[where] = rendered[keys.XRD], rendered[keys.MEASURED]
        return {
            keys.ELEMENTS: torch.from_numpy(elements).to(self._device),
            keys.FRACTIONS: torch.from_numpy(fractions).to(self._device),
            keys.XRD: xrd,
            keys.MEASURED: measured,
            keys.INDEX: torch.arange(len(rows), device=self._device),
        }

    def _patterns(self, rows: Sequence[Row]) -> Iterator[tuple[list[int], Batch]]:
        """Positions of the rows with patterns, and what to render them from."""
        stored = [b for b, row in enumerate(rows) if row.stored is not None]
        if stored:
            assert self._gatherer is not None
            numbers = np.array([rows[b].stored for b in stored])
            arrays = self._gatherer.gather(numbers) | {keys.INDEX: numbers}
            yield stored, {k: torch.from_numpy(v).to(self._device) for k, v in arrays.items()}
        profiles = {
            b: row.converted.profile for b, row in enumerate(rows) if row.converted is not None
        }
        if profiles:
            dense = torch.from_numpy(np.stack(list(profiles.values()))).to(self._device)
            index = torch.arange(len(dense), device=self._device)
            yield list(profiles), {keys.PROFILE: dense, keys.INDEX: index}
