"""Both pretraining losses together: masked XRD modeling trains the fusion, alignment the encoders.

One pass through the backbone serves both: the alignment compares the composition with what is
visible of the pattern, which is an augmentation of it.
"""

from torch import Tensor

from datamodules import batch as keys
from datamodules.batch import Batch
from datamodules.grid import Grid
from datamodules.stream.batches import material_of
from lightning_modules.backbone import BackboneConfig
from lightning_modules.base import OptimizerConfig, check_weight
from lightning_modules.masked_xrd import DecoderMemory, MaskedXRD, ReconstructionLoss
from lightning_modules.metrics.retrieval import DIRECTIONS, Retrieval
from lightning_modules.objectives.alignment import Alignment, ViewContrast


class MaskedContrastive(MaskedXRD):
    """Pretraining by masked XRD modeling and contrastive alignment at once.

    Args:
        backbone: Size and shape of the backbone.
        grid: The 2θ grid of the patterns.
        optimizer: Optimizer and schedule.
        mask_ratio: Fraction of the measured patches to hide.
        mask_span: Neighbouring patches hidden together.
        loss: Loss of the reconstruction, see `MaskedXRD`.
        decoder_width: Width of the decoder.
        decoder_layers: Cross-attention blocks of the decoder.
        decoder_memory: What the decoder reads, see `MaskedXRD`.
        decoder_self_attention: Whether the hidden patches know of each other in the decoder.
        repetitions: To how many of the decoders repetitions are shown, see `MaskedXRD`.
        scale_range: Range of the random scale, see `MaskedXRD`.
        hide_composition: Fraction of the materials whose composition is hidden in training; they
            do not enter the alignment.
        alignment_weight: Weight of the alignment's loss, which is the logarithm of the global batch
            size at first. The reconstruction's is some hundredths as a squared error, some units
            as a cross-entropy.
        embedding_width: Width of the common space.
        temperature: Temperature at the start; it is learned.
        temperature_bounds: Lowest and highest temperature.
        pool_size: Materials among which a random one is retrieved in validation.
        view_weight: Weight of a contrast between what is visible of each pattern and a second one,
            see `Contrastive`; 0: none.
        init_from: A checkpoint whose backbone weights to start from.
    """

    shaping = MaskedXRD.shaping | {"embedding_width", "temperature_bounds", "view_weight"}

    def __init__(
        self,
        backbone: BackboneConfig = BackboneConfig(),  # noqa: B008 (frozen)
        grid: Grid = Grid(),  # noqa: B008 (frozen)
        optimizer: OptimizerConfig = OptimizerConfig(),  # noqa: B008 (frozen)
        mask_ratio: float = 0.5,
        mask_span: int = 3,
        loss: ReconstructionLoss = "squared_error",
        decoder_width: int = 96,
        decoder_layers: int = 2,
        decoder_memory: DecoderMemory = "tokens",
        decoder_self_attention: bool = False,
        repetitions: float = 0.0,
        scale_range: tuple[float, float] = (0.5, 2.0),
        hide_composition: float = 0.15,
        alignment_weight: float = 0.01,
        embedding_width: int = 128,
        temperature: float = 0.07,
        temperature_bounds: tuple[float, float] = (0.01, 0.5),
        pool_size: int = 1024,
        view_weight: float = 0.0,
        init_from: str | None = None,
    ) -> None:
        super().__init__(
            backbone,
            grid,
            optimizer,
            mask_ratio,
            mask_span,
            loss,
            decoder_width,
            decoder_layers,
            decoder_memory,
            decoder_self_attention,
            repetitions,
            scale_range,
            hide_composition,
            init_from,
        )
        if not alignment_weight > 0:
            raise ValueError(f"alignment_weight is {alignment_weight}: must be positive")
        self.alignment_weight = alignment_weight
        self.alignment = Alignment(backbone.width, embedding_width, temperature, temperature_bounds)
        self.view_weight = check_weight("view_weight", view_weight)
        if view_weight:
            self.contrast = ViewContrast(
                backbone.width, embedding_width, temperature, temperature_bounds
            )
        self.retrieval = Retrieval(pool_size)
        #: Of the last validation: compositions, patterns, row numbers.
        self.embeddings: tuple[Tensor, Tensor, Tensor] | None = None

    def main_figures(self) -> dict[str, str]:
        """Those of masked modeling, and recall in a random pool."""
        names = [f"val/alignment/random/{way}/recall_at_1" for way in DIRECTIONS]
        return super().main_figures() | dict.fromkeys(names, "")

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mask, scale, encode once; reconstruct and align."""
        scaled, mask, has_composition = self.hide(batch)
        encoded = self.encode(scaled, mask.visible, has_composition)
        reconstruction = self.loss(scaled, mask, self.decode(scaled, encoded, mask))
        composition_BW, xrd_BW = self.alignment(encoded.composition_vector, encoded.xrd_vector)
        alignment = self.alignment.loss(
            composition_BW, xrd_BW, batch[keys.FORMULA_KEY], has_composition
        )
        loss = reconstruction + self.alignment_weight * alignment
        logged = {
            "reconstruction": reconstruction,
            "alignment": alignment,
            "temperature": self.alignment.temperature(),
        }
        if self.view_weight:
            logged["views"] = self.contrast.loss(
                self.contrast(encoded.xrd_vector),
                self.contrast(self.view_vector(batch)),
                material_of(batch[keys.INDEX]),
            )
            loss = loss + self.view_weight * logged["views"]
        for name, value in (logged | {"loss": loss}).items():
            self.log(f"train/{name}", value, batch_size=len(mask.hidden))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Collect the errors of reconstruction, and the embeddings of whole patterns."""
        super().validation_step(batch, batch_idx)
        composition, _, xrd = self.backbone.encode(
            batch[keys.ELEMENTS], batch[keys.FRACTIONS], batch[keys.XRD], batch[keys.MEASURED]
        )
        composition_BW, xrd_BW = self.alignment(composition[:, 0], xrd[:, 0])
        self.retrieval.update(composition_BW, xrd_BW, batch)

    def on_validation_epoch_end(self) -> None:
        """Log both."""
        super().on_validation_epoch_end()
        stage = "test" if self.trainer.testing else "val"
        for name, value in self.retrieval.compute(self.alignment.temperature()).items():
            self.log(f"{stage}/alignment/{name}", value)
        self.embeddings = self.retrieval.embeddings()
        self.retrieval.reset()
