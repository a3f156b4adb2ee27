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
from torch.utils.data import DataLoader, Dataset

from datamodules.augmentation import Augmentation
from datamodules.batch import (
    EPOCH,
    IMPURITY_INTENSITY,
    IMPURITY_OFFSETS,
    IMPURITY_PROFILE,
    IMPURITY_Q,
    IMPURITY_SLOT,
    INDEX,
    LINE_INTENSITY,
    LINE_OFFSETS,
    LINE_Q,
    PROFILE,
    SEED,
    WEIGHT,
    Batch,
)
from datamodules.collection import Collection
from datamodules.gather import Gatherer
from datamodules.randomness import Purpose, hash_uint64, permutation

_IMPURITY_KEYS = {
    LINE_Q: IMPURITY_Q,
    LINE_INTENSITY: IMPURITY_INTENSITY,
    LINE_OFFSETS: IMPURITY_OFFSETS,
    PROFILE: IMPURITY_PROFILE,
}

Request = tuple[int, np.ndarray, int]
"""Epoch, rows of a batch, and how many of them count; the others pad."""


class Rows(Dataset[Batch]):
    """Serves whole batches of a collection's rows.

    Args:
        collection: The stores.
        targets: Names of the targets.
        max_elements: Element slots E.
        seed: Seed of the run's random numbers.
        impurities: Where training adds impurities: the augmentation, and the rows to choose from.
    """

    def __init__(
        self,
        collection: Collection,
        targets: list[str],
        max_elements: int,
        seed: int,
        impurities: tuple[Augmentation, np.ndarray] | None = None,
    ) -> None:
        self._collection = collection
        self._targets = targets
        self._max_elements = max_elements
        self._seed = seed
        self._impurities = impurities
        self._gatherer: Gatherer | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_gatherer": None}

    def __len__(self) -> int:
        return len(self._collection)

    def __getitems__(self, request: Request) -> Batch:
        """The batch of a request, as it is before rendering."""
        epoch, rows, n_valid = request
        if self._gatherer is None:
            self._gatherer = Gatherer(self._collection.stores, self._targets, self._max_elements)
        arrays = self._gatherer.gather(rows)
        if self._impurities is not None:
            slots, partners = choose_impurities(self._seed, epoch, rows, *self._impurities)
            extra = self._gatherer.gather(partners)
            arrays[IMPURITY_SLOT] = slots
            arrays |= {to: extra[key] for key, to in _IMPURITY_KEYS.items() if key in extra}
        batch = {key: torch.from_numpy(array) for key, array in arrays.items()}
        batch[INDEX] = torch.from_numpy(np.array(rows, np.int64))
        batch[WEIGHT] = (torch.arange(len(rows)) < n_valid).to(torch.float32)
        batch[EPOCH] = torch.tensor(epoch)
        batch[SEED] = torch.tensor(self._seed)
        return batch


def choose_impurities(
    seed: int, epoch: int, rows: np.ndarray, augmentation: Augmentation, pool: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Which rows of a batch get an impurity, and of which material.

    Args:
        seed: The run's seed.
        epoch: The epoch.
        rows: Rows of the batch.
        augmentation: For the probability.
        pool: Rows to choose from.

    Returns:
        Positions in the batch, shape (A,), and rows of the pool, shape (A,).
    """
    key = hash_uint64(seed, epoch, int(Purpose.IMPURITY), rows)
    whether = hash_uint64(key, 0)
    slots = np.flatnonzero(whether < np.uint64(augmentation.impurity_probability * (2**64 - 2048)))
    which = hash_uint64(key[slots], 1) % np.uint64(len(pool))
    return slots.astype(np.int64), pool[which.astype(np.int64)]


class _Requests:
    """The batch sampler: one rank's requests of an epoch, from a position on."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[Request]:
        return self._stream._requests()

    def __len__(self) -> int:
        return len(self._stream)


def _identity(batch: Any) -> Any:
    return batch


class Stream:
    """Batches of one rank; in training with a position that can be saved and restored.

    Training: endless epochs, each iterator one epoch, in the order of `permutation(seed, epoch)`;
    only whole global batches. Evaluation (`train=False`): the rows in their order, each exactly
    once over all ranks; the last batch is padded with rows of weight 0.

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
        identity: What the position belongs to (stores, split, …), by the name it is explained by;
            a state of something else is refused.
    """

    def __init__(
        self,
        dataset: Rows,
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
        identity: dict[str, Any] | None = None,
    ) -> None:
        check_world_size(global_batch_size, world_size)
        self._rows = rows
        self._global_batch = global_batch_size
        self._train = train
        self._shuffle = shuffle and train
        self._seed = seed
        self._rank = rank
        self._world_size = world_size
        self._identity = identity or {}
        self.epoch = 0
        self.consumed = 0
        """Samples of the epoch handed out, over all ranks."""
        self._begun = False
        self._announced: int | None = None
        if train:
            # Lightning announces the epoch to a loader's `sampler`.
            self.sampler = self
        self._loader: DataLoader[Batch] = DataLoader(
            dataset,
            batch_sampler=_Requests(self),  # type: ignore[arg-type]
            num_workers=num_workers,
            collate_fn=_identity,
            pin_memory=pin_memory,
            persistent_workers=num_workers > 0,
            # Else each epoch would draw a seed from torch's global generator.
            generator=torch.Generator(),
        )

    def __len__(self) -> int:
        """Batches of a whole epoch, the same on all ranks and after a resume."""
        if self._train:
            return len(self._rows) // self._global_batch
        return -(-len(self._rows) // self._global_batch)

    #: Lightning asks a loader that has a `sampler` for this too.
    batch_sampler = None

    def set_epoch(self, epoch: int) -> None:
        """Announces the epoch of the next iterator (without this, one follows the other)."""
        self._announced = epoch

    def __iter__(self) -> Iterator[Batch]:
        # A generator: nothing happens before the first `next`. Lightning asks for iterators that
        # it never uses, and for one before it says which epoch it resumes in (#21938).
        if self._train:
            self._begin()
        for batch in self._loader:
            if self._train:
                self.consumed += self._global_batch
            yield batch

    def _begin(self) -> None:
        """Decides where a training iterator starts."""
        announced, self._announced = self._announced, None
        if announced is not None and announced != self.epoch:
            self.epoch, self.consumed = announced, 0
        elif self._begun and announced is not None:
            self.consumed = 0
        elif self._begun or self.consumed >= len(self) * self._global_batch:
            self.epoch, self.consumed = self.epoch + 1, 0
        self._begun = True

    def _requests(self) -> Iterator[Request]:
        epoch, share = self.epoch, self._global_batch // self._world_size
        order = permutation(self._seed, epoch, len(self._rows)) if self._shuffle else None
        first = self.consumed // self._global_batch if self._train else 0
        for k in range(first, len(self)):
            start = k * self._global_batch + self._rank * share
            position = np.arange(start, start + share)
            n_valid = int(np.clip(len(self._rows) - start, 0, share))
            # Padding repeats the split's last row; its weight is 0.
            position = np.minimum(position, len(self._rows) - 1)
            yield epoch, self._rows[position if order is None else order[position]], n_valid

    def state_dict(self) -> dict[str, Any]:
        """The position, independent of rank, world size and workers."""
        if not self._train:
            return {}
        return {
            "epoch": self.epoch,
            "consumed": self.consumed,
            "seed": self._seed,
            "shuffle": self._shuffle,
            "global_batch_size": self._global_batch,
            **self._identity,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a position for the next iterator.

        Raises:
            ValueError: if the state belongs to other data, another seed or another global batch.
        """
        if not self._train or not state:
            return
        mine = self.state_dict()
        changed = [key for key in mine if key not in ("epoch", "consumed")]
        changed = [key for key in changed if state.get(key) != mine[key]]
        if changed:
            text = "; ".join(_difference(key, state.get(key), mine[key]) for key in changed)
            raise ValueError(
                f"the checkpoint's position in the data does not fit: {text}. Resume with what the "
                "run began with, or start a new run from its weights with --model.init_args."
                "init_from"
            )
        self.epoch, self.consumed = int(state["epoch"]), int(state["consumed"])
        self._begun, self._announced = False, None


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


def mean_and_std(values: np.ndarray) -> dict[str, float]:
    """Statistics of the labels that are there, in float64: mean, std and count."""
    values = values[np.isfinite(values)].astype(np.float64)
    if not len(values):
        return {"mean": 0.0, "std": 1.0, "count": 0}
    return {"mean": float(values.mean()), "std": float(values.std()), "count": len(values)}
