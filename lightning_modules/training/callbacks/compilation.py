"""`torch.compile` for the parts of a task, in place: names of weights stay as they are."""

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn

from datamodules.batch import Batch
from lightning_modules.backbone import Backbone


def parts(task: nn.Module) -> dict[str, nn.Module]:
    """What is compiled, each as one graph: the backbone's three parts, decoder, alignment.

    Not the backbone as a whole, since tasks may call its encoders without the fusion; not the
    step as a whole, since it logs.
    """
    found: dict[str, nn.Module] = {}
    for name, child in task.named_children():
        if isinstance(child, Backbone):
            found |= {f"{name}.{key}": part for key, part in child.named_children()}
        # A plain `nn.Sequential` is no root of a graph for torch's compiler, and a small head.
        elif not type(child).__module__.startswith("torch") and any(
            True for _ in child.parameters()
        ):
            found[name] = child
    return found


#: Modes of `torch.compile` that record CUDA graphs.
GRAPHED = ("reduce-overhead", "max-autotune")


class Compile(Callback):
    """Compiles the task before training (overlay `configs/trainer/compile.yaml`).

    Every graph must be whole (`fullgraph`) and has static shapes, which the batches have: the
    patterns are rendered to a fixed grid, a fixed number of patches is visible, and the last
    validation batch is padded. So each part is compiled once for training and once for validation.

    Args:
        backend: Of `torch.compile`.
        mode: Of `torch.compile`, such as `max-autotune-no-cudagraphs`; null for the default.
            `reduce-overhead` starts all kernels of a part at once, as CUDA graphs, for small models
            whose steps are spent on starting them. Their memory is used again by the next batch.
    """

    def __init__(self, backend: str = "inductor", mode: str | None = None) -> None:
        self.backend = backend
        self.mode = mode

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Compile in place, before the strategy wraps the task."""
        if stage == "fit":
            self.compile(pl_module)

    def compile(self, task: nn.Module) -> None:
        """Compile the parts of a task; the work is done when each first runs."""
        for part in parts(task).values():
            part.compile(backend=self.backend, mode=self.mode, fullgraph=True, dynamic=False)

    def begin_batch(self) -> None:
        """Say that the results of the batch before are no longer needed.

        Left to guess, torch frees in validation what one part gave before the next part reads it.
        """
        if self.mode in GRAPHED:
            torch.compiler.cudagraph_mark_step_begin()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Begin a batch."""
        self.begin_batch()

    def on_validation_batch_start(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Begin a batch."""
        self.begin_batch()
