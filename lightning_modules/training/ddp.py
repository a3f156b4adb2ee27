"""Data-parallel training as the overlays `ddp` and `slurm` use it."""

from typing import Any

import lightning as L
from lightning.pytorch.strategies import DDPStrategy


class StaticDDP(DDPStrategy):
    """DDP with a static graph and gradients that live in the buckets that are reduced.

    All parameters that train get a gradient at every step, in the same order: nothing has to be
    searched. With accumulated gradients the graph is not declared static: torch then fails with an
    internal error, since it wants to see a reduction in the first backward pass.
    """

    def __init__(self) -> None:
        super().__init__(static_graph=True, gradient_as_bucket_view=True)

    def setup(self, trainer: L.Trainer) -> None:
        """Wrap the task."""
        kwargs: dict[str, Any] = self._ddp_kwargs
        kwargs["static_graph"] = trainer.accumulate_grad_batches == 1
        super().setup(trainer)
