"""Exponential averages of the weights, which also start from `init_from`."""

from collections.abc import Callable
from itertools import chain
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor


def averages(highest_decay: float) -> Callable[[list[Tensor], list[Tensor], int], None]:
    """An update of exponential averages that forget the first weights soon.

    After n updates the old average weighs (1 + n) / (10 + n), and never more than the highest
    decay: with that alone the first, nearly untrained weights would hide how fast a run learns.

    Args:
        highest_decay: Weight of the old average once n is large.
    """

    @torch.no_grad()
    def update(averaged: list[Tensor], current: list[Tensor], n: int) -> None:
        if not averaged[0].is_floating_point():  # flags and counters: there is no average of them
            torch._foreach_copy_(averaged, current)
            return
        torch._foreach_lerp_(averaged, current, 1 - min(highest_decay, (1 + n) / (10 + n)))

    return update


class EMAWeights(WeightAveraging):
    """Lightning's averages, on the device of the weights, from where training really starts.

    Lightning (2.6) copies the model before it moves to its device and before the task's `setup` has
    loaded `init_from` and taken the targets' statistics. Its averages would stay on the CPU, where
    each update waits for the GPU; and until the first one it would validate, and save, a random
    model with unknown units. An update is one kernel for all weights of a kind; torch's own copies
    the number of updates to the device each time, which the device has to be waited for.

    Args:
        decay: Weight of the old average at each update, from when there were enough (`averages`);
            1 / (1 - decay) updates are averaged over.
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
        if update_every_n_steps < 1:
            raise ValueError(
                f"averaging: update_every_n_steps is {update_every_n_steps}: must be at least 1"
            )
        super().__init__()
        self._average = averages(decay)
        self.update_every_n_steps = update_every_n_steps
        self.update_starting_at_step = update_starting_at_step or 0

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Whether to update after a step; its number is counted from 0."""
        return (
            step_idx is not None
            and step_idx >= self.update_starting_at_step
            and step_idx % self.update_every_n_steps == 0
        )

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Update the averages after an optimizer's step, if it is time."""
        step = trainer.global_step
        if step > self._latest_update_step and self.should_update(step_idx=step - 1):
            self._update(pl_module)
            self._latest_update_step = step

    def _update(self, task: L.LightningModule) -> None:
        average = self._average_model
        assert average is not None
        n = int(average.n_averaged)
        groups: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
        of_average = chain(average.module.parameters(), average.module.buffers())
        of_task = chain(task.parameters(), task.buffers())
        for averaged, current in zip(of_average, of_task, strict=True):
            into, new = groups.setdefault(averaged.dtype, ([], []))
            into.append(averaged.detach())
            new.append(current.detach())
        for into, new in groups.values():
            if n:
                self._average(into, new, n)
            else:
                torch._foreach_copy_(into, new)
        average.n_averaged += 1

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Follow the model to its device; copy it again, now that it is set up.

        A resumed run has loaded its averages. How many updates there were stays on the CPU, so that
        no update waits to read it.
        """
        assert self._average_model is not None
        self._average_model.module.to(pl_module.device)
        if trainer.ckpt_path is None:
            state: dict[str, Any] = pl_module.state_dict()
            self._average_model.module.load_state_dict(state)
