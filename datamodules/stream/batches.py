"""What one batch holds: rows as they are stored, and the materials of their impurities."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils.data import Dataset

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
from datamodules.randomness import Purpose, hash_uint64
from datamodules.rendering.augmentation import Augmentation
from datamodules.store.collection import Collection
from datamodules.store.gathering import Gatherer
from datamodules.store.manifest import StoreError

IMPURITY_KEYS = {
    LINE_Q: IMPURITY_Q,
    LINE_INTENSITY: IMPURITY_INTENSITY,
    LINE_OFFSETS: IMPURITY_OFFSETS,
    PROFILE: IMPURITY_PROFILE,
}
"""Keys of a gathered row and of an impurity."""

Request = tuple[int, np.ndarray, int]
"""Epoch, rows of a batch, and how many of them count; the others pad."""

_Integers = TypeVar("_Integers", np.ndarray, torch.Tensor)

_NUMBER = 2**32
"""Word of the hash that a row's number of impurities follows from."""

_COPY_BITS = 40
"""A served row's number in the stores lies below them, the number of its copy above."""


def number_copies(rows: np.ndarray) -> np.ndarray:
    """Rows of which each copy has a number of its own, so that it draws its own random changes.

    Args:
        rows: Row numbers, copies next to each other, shape (n,).

    Returns:
        Numbers that equal the rows' where there is one copy, and that `Batches` serves, (n,).
    """
    position = np.arange(len(rows))
    is_first = np.diff(rows, prepend=-1) != 0
    copy = position - np.maximum.accumulate(np.where(is_first, position, 0))
    return rows + (copy << _COPY_BITS)


def material_of(numbers: _Integers) -> _Integers:
    """Row numbers in the stores from numbers of copies, same shape and kind."""
    return numbers & ((1 << _COPY_BITS) - 1)


class Batches(Dataset[Batch]):
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

    def __getitems__(self, request: Request) -> Batch | StoreError:
        """The batch of a request, as it is before rendering; an error of the store as it is.

        Raised in a process of the loader, it would come out as that process's traceback.
        """
        try:
            return self._gather(request)
        except StoreError as error:
            return error

    def _gather(self, request: Request) -> Batch:
        epoch, rows, n_valid = request
        if self._gatherer is None:
            self._gatherer = Gatherer(self._collection.stores, self._targets, self._max_elements)
        arrays = self._gatherer.gather(material_of(rows))
        if self._impurities is not None:
            slots, partners = choose_impurities(self._seed, epoch, rows, *self._impurities)
            extra = self._gatherer.gather(partners)
            arrays[IMPURITY_SLOT] = slots
            arrays |= {to: extra[key] for key, to in IMPURITY_KEYS.items() if key in extra}
        batch = {key: torch.from_numpy(array) for key, array in arrays.items()}
        batch[INDEX] = torch.from_numpy(np.array(rows, np.int64))
        batch[WEIGHT] = (torch.arange(len(rows)) < n_valid).to(torch.float32)
        batch[EPOCH] = torch.tensor(epoch)
        batch[SEED] = torch.tensor(self._seed)
        return batch


def choose_impurities(
    seed: int, epoch: int, rows: np.ndarray, augmentation: Augmentation, pool: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Which rows of a batch get impurities, and of which materials.

    Args:
        seed: The run's seed.
        epoch: The epoch.
        rows: Rows of the batch.
        augmentation: For the probability, and the largest number in a row.
        pool: Rows to choose from.

    Returns:
        Positions in the batch, shape (A,), ascending, and rows of the pool, shape (A,).
    """
    key = hash_uint64(seed, epoch, int(Purpose.IMPURITY), rows)
    whether = hash_uint64(key, 0)
    slots = np.flatnonzero(whether < np.uint64(augmentation.impurity_probability * (2**64 - 2048)))
    number = 1 + hash_uint64(key[slots], _NUMBER) % np.uint64(augmentation.impurities)
    slots = np.repeat(slots, number.astype(np.int64))
    first = np.searchsorted(slots, slots)
    which = hash_uint64(key[slots], 1 + np.arange(len(slots)) - first) % np.uint64(len(pool))
    return slots.astype(np.int64), pool[which.astype(np.int64)]
