"""Contrastive alignment: a composition and the pattern of the same material find each other.

Shapes: B batch, D width of the backbone, W width of the embeddings.
"""

from collections.abc import Sequence

from torch import Tensor

from datamodules import batch as keys
from datamodules.batch import Batch
from datamodules.grid import Grid
from datamodules.stream.batches import material_of
from lightning_modules.backbone import BackboneConfig
from lightning_modules.base import OptimizerConfig, Task, check_weight
from lightning_modules.metrics.retrieval import DIRECTIONS, Retrieval
from lightning_modules.objectives.alignment import Alignment, ViewContrast
from lightning_modules.objectives.structure_classes import StructureClasses


class Contrastive(Task):
    """Pretraining by aligning the two encoders.

    Both summaries are projected into one space before fusion; the symmetric InfoNCE compares each
    material with all others of the global batch. The fusion is not trained: it is frozen, and a
    task that continues from here starts with a random one. `MaskedContrastive` trains it too.

    Alignment alone makes polymorphs alike; with `view_weight` two patterns of one material also
    have to find each other among those of all others.

    Args:
        backbone: Size and shape of the backbone.
        grid: The 2θ grid of the patterns.
        optimizer: Optimizer and schedule.
        embedding_width: Width W of the common space.
        temperature: Temperature at the start; it is learned.
        temperature_bounds: Lowest and highest temperature.
        pool_size: Materials among which a random one is retrieved in validation.
        view_weight: Weight of a contrast between each pattern and a second one of the same
            material, changed at random (`data.views`), where all other materials are negatives,
            polymorphs included; 0: none.
        structure_weight: Weight of a loss by which each pattern's vector tells classes of its
            structure, those that are named in `data.targets`; 0: none.
        targets: Names of these classes; the command line takes them from `data.targets`.
        init_from: A checkpoint whose backbone weights to start from.
    """

    monitor = "val/alignment/loss"
    shaping = Task.shaping | {
        "embedding_width",
        "temperature_bounds",
        "view_weight",
        "structure_weight",
        "targets",
    }

    def __init__(
        self,
        backbone: BackboneConfig = BackboneConfig(),  # noqa: B008 (frozen)
        grid: Grid = Grid(),  # noqa: B008 (frozen)
        optimizer: OptimizerConfig = OptimizerConfig(),  # noqa: B008 (frozen)
        embedding_width: int = 128,
        temperature: float = 0.07,
        temperature_bounds: tuple[float, float] = (0.01, 0.5),
        pool_size: int = 1024,
        view_weight: float = 0.0,
        structure_weight: float = 0.0,
        targets: Sequence[str] | None = None,
        init_from: str | None = None,
    ) -> None:
        super().__init__(backbone, grid, optimizer, init_from)
        self.alignment = Alignment(backbone.width, embedding_width, temperature, temperature_bounds)
        self.view_weight = check_weight("view_weight", view_weight)
        if view_weight:
            self.contrast = ViewContrast(
                backbone.width, embedding_width, temperature, temperature_bounds
            )
        self.structure_weight = check_weight("structure_weight", structure_weight)
        if structure_weight:
            if not targets:
                raise ValueError(
                    "structure_weight is above 0, but data.targets names no classes of structures, "
                    "as configs/pretrain_contrastive.yaml does"
                )
            self.structure = StructureClasses(targets, backbone.width)
        self.retrieval = Retrieval(pool_size)
        #: Of the last validation: compositions, patterns, row numbers.
        self.embeddings: tuple[Tensor, Tensor, Tensor] | None = None
        # Never run: DDP would wait for its gradients.
        self.backbone.fusion.requires_grad_(False)

    def vectors(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Vectors of compositions and patterns before fusion, (B, D) each."""
        composition, _, xrd = self.backbone.encode(
            batch[keys.ELEMENTS], batch[keys.FRACTIONS], batch[keys.XRD], batch[keys.MEASURED]
        )
        return composition[:, 0], xrd[:, 0]

    def main_figures(self) -> dict[str, str]:
        """The monitored one, and how often the other modality is found first in a random pool."""
        names = [f"val/alignment/random/{way}/recall_at_1" for way in DIRECTIONS]
        return super().main_figures() | dict.fromkeys(names, "")

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Embed a batch: unit vectors of compositions and patterns, (B, W) each."""
        embedded: tuple[Tensor, Tensor] = self.alignment(*self.vectors(batch))
        return embedded

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Embed, compare with the whole global batch."""
        composition_BD, xrd_BD = self.vectors(batch)
        composition_BW, xrd_BW = self.alignment(composition_BD, xrd_BD)
        loss = self.alignment.loss(composition_BW, xrd_BW, batch[keys.FORMULA_KEY])
        logged = {"temperature": self.alignment.temperature()}
        if self.view_weight:
            views = self.contrast.loss(
                self.contrast(xrd_BD),
                self.contrast(self.view_vector(batch)),
                material_of(batch[keys.INDEX]),
            )
            logged |= {"alignment": loss, "views": views}
            loss = loss + self.view_weight * views
        if self.structure_weight:
            structure = self.structure(xrd_BD, batch[keys.TARGETS])
            logged |= {"structure": structure}
            loss = loss + self.structure_weight * structure
        self.log("train/loss", loss, batch_size=len(xrd_BW))
        for name, value in logged.items():
            self.log(f"train/{name}", value, batch_size=len(xrd_BW))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Collect the embeddings."""
        composition_BW, xrd_BW = self(batch)
        self.retrieval.update(composition_BW, xrd_BW, batch)

    def on_validation_epoch_end(self) -> None:
        """Log retrieval and the shape of the space; `compute` gathers the ranks' rows."""
        stage = "test" if self.trainer.testing else "val"
        for name, value in self.retrieval.compute(self.alignment.temperature()).items():
            shown = f"{stage}/alignment/{name}" == self.monitor
            self.log(f"{stage}/alignment/{name}", value, prog_bar=shown)
        self.embeddings = self.retrieval.embeddings()
        self.retrieval.reset()

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """As in validation, on the test split."""
        self.validation_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        """As in validation."""
        self.on_validation_epoch_end()
