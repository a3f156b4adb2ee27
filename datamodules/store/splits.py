"""Which rows are for training, validation, calibration and test: by hash, not by position.

A row's side follows from its formula (or chemical system, or id) and the split's seed alone, so
it does not depend on the store's order or size, and all polymorphs of a formula fall on one side.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from datamodules.randomness import Purpose, hash_uint64, to_unit_interval
from datamodules.store.collection import Collection

SPLITS = ("train", "validation", "calibration", "test")


@dataclass(frozen=True)
class SplitConfig:
    """Shares of the materials' groups; what is left is for training.

    Attributes:
        by: What stays together: all materials of a reduced `formula`, of a chemical `system`, or
            nothing (`random`, by id).
        validation: Share for validation.
        calibration: Share for calibrating prediction intervals.
        test: Share for the final test.
        seed: Another seed gives another split.
    """

    by: Literal["formula", "system", "random"] = "formula"
    validation: float = 0.08
    calibration: float = 0.04
    test: float = 0.08
    seed: int = 0

    def __post_init__(self) -> None:
        shares = {name: getattr(self, name) for name in SPLITS[1:]}
        for name, share in shares.items():
            if not (math.isfinite(share) and 0 <= share < 1):
                raise ValueError(f"split: {name} is {share}; give a share from 0 to below 1")
        if sum(shares.values()) >= 1:
            raise ValueError(
                f"split: {' + '.join(shares)} = {sum(shares.values()):g} leaves nothing for "
                "training; the sum must be below 1"
            )
        if self.by not in ("formula", "system", "random"):
            raise ValueError(f"split: by is '{self.by}'; choose formula, system or random")

    def to_dict(self) -> dict[str, str | float | int]:
        """The settings as plain values."""
        return asdict(self)


def key_column(by: str) -> str:
    """The store's column whose values a split keeps together."""
    return {"formula": "formula_key", "system": "system_key", "random": "id"}[by]


def to_keys(column: np.ndarray) -> np.ndarray:
    """A key column as uint64; ids are hashed."""
    if column.dtype == np.uint64:
        return column
    digests = (hashlib.blake2b(value.encode(), digest_size=8).digest() for value in column)
    return np.frombuffer(b"".join(digests), dtype="<u8")


def assign(keys: np.ndarray, config: SplitConfig) -> dict[str, np.ndarray]:
    """Rows of each split, ascending.

    Args:
        keys: What stays together, shape (rows,), uint64.
        config: The shares.
    """
    position = to_unit_interval(hash_uint64(config.seed, int(Purpose.SPLIT), keys))
    edges = np.cumsum([config.validation, config.calibration, config.test])
    side = np.searchsorted(edges, position, side="right")
    rows = {name: np.flatnonzero(side == i) for i, name in enumerate(SPLITS[1:])}
    return {"train": np.flatnonzero(side == len(SPLITS) - 1), **rows}


def keep_fraction(
    rows: np.ndarray, formula_keys: np.ndarray, fraction: float, seed: int
) -> np.ndarray:
    """A share of the training rows, by formula; a smaller share is part of every larger one.

    Args:
        rows: Rows of the training split.
        formula_keys: Of these rows, uint64.
        fraction: Share of the formulas to keep, above 0 and at most 1.
        seed: The split's seed.

    Raises:
        ValueError: if the fraction is not above 0 and at most 1.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction is {fraction}; give a share above 0 and at most 1")
    position = to_unit_interval(hash_uint64(seed, int(Purpose.FRACTION), formula_keys))
    return rows[position < fraction]


def spread(
    rows: np.ndarray, formula_keys: np.ndarray, seed: int, limit: int | None = None
) -> np.ndarray:
    """Rows in an order by hash of their formulas: the first ones are a sample of all.

    A prefix of a store is no sample of it: its source may be sorted, and of several stores it is
    the first one alone. Materials of one formula stay next to each other.

    Args:
        rows: Rows of a split.
        formula_keys: Of these rows, uint64.
        seed: The split's seed.
        limit: At most as many rows, of whole formulas; None keeps all.

    Returns:
        The same for all who ask, whatever other rows there are.
    """
    position = hash_uint64(seed, int(Purpose.VALIDATION), formula_keys)
    order = np.lexsort((rows, position))
    if limit is not None and limit < len(rows):
        sorted_position = position[order]
        # Where the formula begins that the limit would cut; a single larger one is cut.
        whole = int(np.searchsorted(sorted_position, sorted_position[limit]))
        order = order[: whole or limit]
    return rows[order]


def split_rows(
    collection: Collection,
    split: SplitConfig,
    fraction: float = 1.0,
    repeat: Mapping[str, int] | None = None,
) -> dict[str, np.ndarray]:
    """Rows of each split in concatenated stores, ascending.

    Args:
        collection: The stores.
        split: The shares, and what stays together.
        fraction: Share of the training split's formulas to keep.
        repeat: How often an epoch serves the training materials of a store, by its folder; once
            where it is not named.

    Returns:
        By split, shape (n,); a row of the training split as often as an epoch serves it.
    """
    column = key_column(split.by)
    keys = to_keys(collection.column(column))
    rows = assign(keys, split)
    if fraction < 1:
        formulas = keys if column == "formula_key" else collection.column("formula_key")
        train = rows["train"]
        rows["train"] = keep_fraction(train, formulas[train], fraction, split.seed)
    by_folder = {Path(folder): times for folder, times in (repeat or {}).items()}
    times = [by_folder.get(store.folder, 1) for store in collection.stores]
    if max(times) > 1:
        of_row = np.repeat(times, [len(store) for store in collection.stores])
        rows["train"] = np.repeat(rows["train"], of_row[rows["train"]])
    return rows
