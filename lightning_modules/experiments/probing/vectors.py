"""Frozen vectors of a backbone for all materials of some splits.

Shapes: N materials, D width of a vector.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datamodules import batch as keys
from datamodules.batch import Batch
from datamodules.elements import SYMBOLS
from datamodules.grid import Grid
from datamodules.store.collection import Collection
from datamodules.xrd_datamodule import XRDDataModule
from lightning_modules import checkpoints
from lightning_modules.backbone import Backbone
from lightning_modules.experiments.study.representation import INPUTS, UNTRAINED
from lightning_modules.objectives.alignment import Alignment

#: What is judged: each modality before fusion, and both together.
VECTORS = ("composition", "xrd", "fused")
_BATCH = 256


@dataclass(frozen=True)
class Vectors:
    """Vectors of a split's materials.

    Attributes:
        index: Row numbers in the concatenated stores, (N,).
        by_name: (N, D) each, by the names in `VECTORS`.
        projected: Unit vectors of composition and pattern after the pretraining's own projection,
            (N, W) each; None if it has none.
    """

    index: np.ndarray
    by_name: dict[str, np.ndarray]
    projected: tuple[Tensor, Tensor] | None


class Encoder:
    """Turns batches into vectors.

    Args:
        checkpoint: Of a pretraining.
        weights: `checkpoint`, `untrained` (the same backbone with new random weights) or `inputs`
            (no backbone: atomic fractions, and means of the pattern over patches).
        seed: Of the random weights.
        allow_tasks: Other tasks that the checkpoint may name; see `checkpoints.load_task`.
    """

    def __init__(
        self, checkpoint: Path, weights: str, seed: int = 0, allow_tasks: Sequence[str] = ()
    ) -> None:
        task = checkpoints.load_task(checkpoint, allow_tasks)
        self.grid: Grid = task.grid
        self.backbone: Backbone = task.backbone
        self.alignment: Alignment | None = getattr(task, "alignment", None)
        self.peaks = checkpoints.peaks_of(checkpoint)
        self.inputs = weights == INPUTS
        if weights != "checkpoint":
            torch.manual_seed(seed)
            self.backbone = Backbone(task.backbone.config, task.grid)
            self.alignment = None
        assert weights in ("checkpoint", UNTRAINED, INPUTS), weights
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.backbone.eval().to(self.device)
        if self.alignment is not None:
            self.alignment.eval().to(self.device)

    @torch.inference_mode()
    def __call__(self, batch: Batch) -> tuple[Tensor, ...]:
        """Vectors in the order of `VECTORS`, (B, D) each, then projected ones if there are any."""
        if self.inputs:
            composition, pattern = self._inputs(batch)
            return composition, pattern, torch.cat((composition, pattern), dim=1)
        encoded = self.backbone(
            batch[keys.ELEMENTS], batch[keys.FRACTIONS], batch[keys.XRD], batch[keys.MEASURED]
        )
        vectors = (encoded.composition_vector, encoded.xrd_vector, encoded.fused)
        if self.alignment is None:
            return vectors
        return (*vectors, *self.alignment(*vectors[:2]))

    def _inputs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        fractions = batch[keys.FRACTIONS]
        composition = torch.zeros(len(fractions), len(SYMBOLS) + 1, device=fractions.device)
        composition.scatter_add_(1, batch[keys.ELEMENTS], fractions)
        patches = batch[keys.XRD].unflatten(1, (self.backbone.n_patches, -1))
        return composition, patches.mean(dim=2)


def encode(encoder: Encoder, stores: Sequence[str], split: str) -> Vectors:
    """Vectors of all materials of a split, in the order of their rows."""
    data = XRDDataModule(
        list(stores),
        global_batch_size=_BATCH,
        grid=encoder.grid,
        peaks=encoder.peaks,
        augment=False,
        max_elements=Collection(stores).max_elements,
    )
    index, parts = [], []
    for lines in data.stream(split):
        batch = {name: value.to(encoder.device) for name, value in lines.items()}
        batch = data.renderer(batch, augment=False)
        there = batch[keys.WEIGHT] > 0
        index.append(batch[keys.INDEX][there].cpu())
        parts.append([vector[there].float().cpu() for vector in encoder(batch)])
    whole = [torch.cat(vectors) for vectors in zip(*parts, strict=True)]
    by_name = {name: whole[i].numpy() for i, name in enumerate(VECTORS)}
    projected = (whole[3], whole[4]) if len(whole) > len(VECTORS) else None
    return Vectors(torch.cat(index).numpy(), by_name, projected)
