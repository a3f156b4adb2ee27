"""Exponential averages of the weights, which also start from `init_from`."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import EMAWeightAveraging


class EMAWeights(EMAWeightAveraging):
    """Lightning's averages, taken from the weights that training really starts with.

    Lightning (2.6) copies the model before the task's `setup` loads `init_from` and takes the
    targets' statistics. Until the first update of the averages it would validate, and save, a
    random model with unknown units.

    Args:
        decay: Weight of the old average at each update; 1 / (1 - decay) updates are averaged over.
        update_every_n_steps: Steps between two updates.
        update_starting_at_step: Before this step the averages are the initial weights.
    """

    def __init__(
        self,
        decay: float = 0.98,
        update_every_n_steps: int = 1,
        update_starting_at_step: int | None = None,
    ) -> None:
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"averaging: decay is {decay}: must lie in [0, 1)")
        super().__init__(
            decay=decay,
            update_every_n_steps=update_every_n_steps,
            update_starting_at_step=update_starting_at_step,
        )

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Copy the model again, now that it is set up; a resumed run has loaded its averages."""
        if trainer.ckpt_path is None:
            assert self._average_model is not None
            state: dict[str, Any] = pl_module.state_dict()
            self._average_model.module.load_state_dict(state)
