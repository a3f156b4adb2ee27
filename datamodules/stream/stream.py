"""The order of materials, the same whatever serves it, and the loader that keeps to it.

A training epoch is one permutation of the rows, known to all ranks; global batch k holds its rows
k·G to (k + 1)·G, and rank r of W the r-th of W equal slices of each global batch. The last rows,
which do not fill a global batch, are left out of that epoch (another epoch leaves out others). So
the position in a run is two numbers, epoch and samples consumed; no rank or worker enters them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from datamodules.batch import Batch
from datamodules.randomness import permutation
from datamodules.store.manifest import StoreError
from datamodules.stream.batches import Batches, Request


class _Order:
    """The batch sampler: one rank's requests of an epoch, from a position on.

    Holds no reference to the loader: in a cycle of garbage, multiprocessing's queues die before the
    loader can tell its workers to stop, and each is waited for five seconds.
    """

    def __init__(
        self,
        rows: np.ndarray,
        global_batch_size: int,
        train: bool,
        shuffle: bool,
        seed: int,
        rank: int,
        world_size: int,
    ) -> None:
        self.rows = rows
        self.global_batch_size = global_batch_size
        self.train = train
        self.shuffle = shuffle
        self.seed = seed
        self.share = global_batch_size // world_size
        self.rank = rank
        self.epoch = 0
        self.consumed = 0

    def __len__(self) -> int:
        if self.train:
            return len(self.rows) // self.global_batch_size
        return -(-len(self.rows) // self.global_batch_size)

    def __iter__(self) -> Iterator[Request]:
        epoch, n = self.epoch, len(self.rows)
        order = permutation(self.seed, epoch, n) if self.shuffle else None
        for k in range(self.consumed // self.global_batch_size, len(self)):
            start = k * self.global_batch_size + self.rank * self.share
            n_valid = min(max(n - start, 0), self.share)
            # Padding repeats the split's last row; its weight is 0.
            position = np.minimum(np.arange(start, start + self.share), n - 1)
            yield epoch, self.rows[position if order is None else order[position]], n_valid


def _identity(batch: Any) -> Any:
    return batch


def _told(loader: DataLoader[Batch]) -> Iterator[Batch]:
    """A loader's batches, and what went wrong in its processes in one line.

    Raises:
        StoreError: if a shard was changed, or a process was ended.
    """
    try:
        for batch in loader:
            if isinstance(batch, StoreError):
                raise StoreError(str(batch))
            yield batch
    except RuntimeError as error:
        if "killed by signal" not in str(error):
            raise
        raise StoreError(
            f"a process that reads ahead has ended ({str(error).splitlines()[0]}): memory ran out, "
            "or a shard was cut while it was read; `xxact inspect STORE --verify` tells, --resume "
            "goes on"
        ) from error


class Stream:
    """Batches of one rank; in training with a position that can be saved and restored.

    Training: endless epochs in the order of `permutation(seed, epoch)`, only whole global batches.
    An iterator continues where the last one stopped, and ends with the epoch.
    Evaluation (`train=False`): the rows in their order, each exactly once over all ranks; the last
    batch is padded with rows of weight 0.

    Args:
        dataset: Serves the rows.
        rows: Rows of the split, shape (n,).
        global_batch_size: G, over all ranks.
        train: Training or evaluation.
        shuffle: Whether training permutes the rows.
        seed: Seed of the order.
        rank: This process, r.
        world_size: Number of processes, W; divides G.
        num_workers: Processes that gather ahead; 0 gathers in this one.
        pin_memory: Whether to page-lock batches for the copy to a GPU.
        limit: Batches after which the caller ends an epoch early, if it does: what a position at
            this batch means.
        identity: What the position belongs to (stores, split, …), by the name it is explained by;
            a state of something else is refused.
    """

    def __init__(
        self,
        dataset: Batches,
        rows: np.ndarray,
        global_batch_size: int,
        *,
        train: bool,
        shuffle: bool = True,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        num_workers: int = 0,
        pin_memory: bool = False,
        limit: int | None = None,
        identity: dict[str, Any] | None = None,
    ) -> None:
        check_world_size(global_batch_size, world_size)
        self._order = _Order(
            rows, global_batch_size, train, shuffle and train, seed, rank, world_size
        )
        self._identity = identity or {}
        self._limit = len(self) if limit is None else min(limit, len(self))
        self._loader: DataLoader[Batch] = DataLoader(
            dataset,
            batch_sampler=self._order,  # type: ignore[arg-type]
            num_workers=num_workers,
            collate_fn=_identity,
            pin_memory=pin_memory,
            persistent_workers=num_workers > 0,
            # Else each epoch would draw a seed from torch's global generator.
            generator=torch.Generator(),
        )

    def __len__(self) -> int:
        """Batches of a whole epoch, the same on all ranks and after a resume."""
        return len(self._order)

    @property
    def epoch(self) -> int:
        """The epoch of the batch handed out last."""
        return self._order.epoch

    @property
    def consumed(self) -> int:
        """Samples of the epoch handed out so far, over all ranks."""
        return self._order.consumed

    @property
    def _iterator(self) -> Any:
        """The inner loader's, by the name under which Lightning stops workers after a run."""
        return self._loader._iterator

    @_iterator.setter
    def _iterator(self, value: Any) -> None:
        self._loader._iterator = value

    def __iter__(self) -> Iterator[Batch]:
        # A generator: nothing happens before the first `next`, since Lightning asks for iterators
        # that it never uses. Nor does its epoch count: on a resume it comes after `iter` (#21938),
        # and resumed at an epoch's end it counts epochs of no or one batch (seen in 2.6.6).
        order = self._order
        if order.train and order.consumed >= self._limit * order.global_batch_size:
            order.epoch, order.consumed = order.epoch + 1, 0
        for batch in _told(self._loader):
            if order.train:
                order.consumed += order.global_batch_size
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """The position, independent of rank, world size and workers."""
        order = self._order
        if not order.train:
            return {}
        return {
            "epoch": order.epoch,
            "consumed": order.consumed,
            "seed": order.seed,
            "shuffle": order.shuffle,
            "global_batch_size": order.global_batch_size,
            **self._identity,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a position for the next iterator.

        Raises:
            ValueError: if the state belongs to other data, another seed or another global batch.
        """
        if not self._order.train or not state:
            return
        mine = self.state_dict()
        changed = [key for key in mine if key not in ("epoch", "consumed")]
        changed = [key for key in changed if state.get(key) != mine[key]]
        if changed:
            text = "; ".join(_difference(key, state.get(key), mine[key]) for key in changed)
            raise ValueError(
                f"the checkpoint's position in the data does not fit: {text}. Resume with what the "
                "run began with, or start a new run from its weights with --model.init_from"
            )
        self._order.epoch, self._order.consumed = int(state["epoch"]), int(state["consumed"])


def _difference(key: str, saved: Any, mine: Any) -> str:
    if key == "stores":
        return (
            f"the stores changed under it (fingerprints {_short(saved)} then, {_short(mine)} now: "
            "prepared again, other ones, or in another order)"
        )
    return f"{key} was {saved}, now {mine}"


def _short(fingerprints: Any) -> str:
    if not isinstance(fingerprints, list):
        return str(fingerprints)
    return "+".join(str(fingerprint)[:8] for fingerprint in fingerprints)


def check_world_size(global_batch_size: int, world_size: int) -> None:
    """Refuses a global batch that the processes cannot share evenly.

    Raises:
        ValueError: naming the nearest valid global batch.
    """
    if global_batch_size < 1:
        raise ValueError(f"global_batch_size is {global_batch_size}; give at least 1")
    rest = global_batch_size % world_size
    if rest:
        below, above = global_batch_size - rest, global_batch_size - rest + world_size
        nearest = below if below and rest <= above - global_batch_size else above
        raise ValueError(
            f"global_batch_size {global_batch_size} cannot be shared by {world_size} processes; "
            f"the nearest that can is {nearest}"
        )
