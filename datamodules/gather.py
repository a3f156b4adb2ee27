"""Batches of random rows from memory-mapped shards, copied by a compiled loop.

A batch of 1024 random rows touches hundreds of shards; NumPy would pay its call overhead for
every row and column. The loop here reads Arrow's buffers by their addresses instead, which
`Gatherer` keeps alive.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pyarrow as pa
from numba.core import types
from numba.extending import intrinsic

from datamodules.batch import (
    ELEMENTS,
    FORMULA_KEY,
    FRACTIONS,
    LINE_INTENSITY,
    LINE_OFFSETS,
    LINE_Q,
    PROFILE,
    SYSTEM_KEY,
    TARGETS,
)
from datamodules.store import Store, StoreError


def _integer_to_pointer(typing_context: Any, address: Any) -> Any:

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(types.voidptr))

    return types.voidptr(types.int64), codegen


_pointer: Any = intrinsic(_integer_to_pointer)
"""Inside compiled code: a void pointer from an integer, for `numba.carray`."""

# Columns of the table of addresses.
_ELEMENT_OFFSETS, _ELEMENTS, _FRACTIONS = 0, 1, 2
_LINE_OFFSETS, _Q, _INTENSITY_OFFSETS, _INTENSITY, _PROFILE = 3, 4, 5, 6, 7
_FORMULA_KEY, _SYSTEM_KEY = 8, 9
_FIRST_TARGET = 10


@numba.njit(cache=True, nogil=True)
def _count_lines(addresses, shards, rows, offsets):  # type: ignore[no-untyped-def]
    offsets[0] = 0
    for b in range(len(rows)):
        address = addresses[shards[b], _LINE_OFFSETS]
        n = 0
        if address != 0:
            bounds = numba.carray(_pointer(address), (rows[b] + 2,), np.int32)
            n = bounds[rows[b] + 1] - bounds[rows[b]]
        offsets[b + 1] = offsets[b] + n


@numba.njit(cache=True, nogil=True)
def _copy(  # type: ignore[no-untyped-def]
    addresses,
    shards,
    rows,
    elements,
    fractions,
    offsets,
    q,
    intensity,
    profile,
    targets,
    formula_key,
    system_key,
):
    n_points = profile.shape[1]
    for b in range(len(rows)):
        table, row = addresses[shards[b]], rows[b]
        bounds = numba.carray(_pointer(table[_ELEMENT_OFFSETS]), (row + 2,), np.int32)
        first, last = bounds[row], bounds[row + 1]
        numbers = numba.carray(_pointer(table[_ELEMENTS]), (last,), np.uint8)
        shares = numba.carray(_pointer(table[_FRACTIONS]), (last,), np.float32)
        for i in range(first, last):
            elements[b, i - first] = numbers[i]
            fractions[b, i - first] = shares[i]
        if table[_LINE_OFFSETS] != 0:
            start, n = offsets[b], offsets[b + 1] - offsets[b]
            bounds = numba.carray(_pointer(table[_LINE_OFFSETS]), (row + 1,), np.int32)
            source = numba.carray(_pointer(table[_Q]), (bounds[row] + n,), np.float32)
            q[start : start + n] = source[bounds[row] :]
            bounds = numba.carray(_pointer(table[_INTENSITY_OFFSETS]), (row + 1,), np.int32)
            source = numba.carray(_pointer(table[_INTENSITY]), (bounds[row] + n,), np.float32)
            intensity[start : start + n] = source[bounds[row] :]
        if table[_PROFILE] != 0:
            half = numba.carray(
                _pointer(table[_PROFILE]), ((row + 1) * n_points,), np.uint16
            )  # float16, copied as bits
            profile[b] = half[row * n_points :]
        # uint64, copied as bits.
        formula_key[b] = numba.carray(_pointer(table[_FORMULA_KEY]), (row + 1,), np.int64)[row]
        system_key[b] = numba.carray(_pointer(table[_SYSTEM_KEY]), (row + 1,), np.int64)[row]
        for t in range(targets.shape[1]):
            if table[_FIRST_TARGET + t] != 0:
                labels = numba.carray(_pointer(table[_FIRST_TARGET + t]), (row + 1,), np.float32)
                targets[b, t] = labels[row]


class Gatherer:
    """Reads rows of one or several concatenated stores into batches of fixed shapes.

    Args:
        stores: Their rows are numbered one store after the other.
        targets: Names of the targets; a store without one has no labels for it (NaN).
        max_elements: E, the element slots of a row.

    Raises:
        StoreError: if a store has materials with more elements, or if two stores of the profile
            layout have different numbers of points.
    """

    def __init__(self, stores: Sequence[Store], targets: Sequence[str], max_elements: int) -> None:
        self._stores = list(stores)
        self._targets = list(targets)
        self._max_elements = max_elements
        for store in self._stores:
            if store.manifest.max_elements > max_elements:
                raise StoreError(
                    f"{store.folder}: has materials with {store.manifest.max_elements} elements, "
                    f"the batch has {max_elements} slots; set max_elements to at least "
                    f"{store.manifest.max_elements}"
                )
        points = {s.manifest.layout: _n_points(s) for s in self._stores}
        self._n_points = points.get("profile", 0)
        self._has_lines = "peaks" in points
        for store in self._stores:
            if store.manifest.layout == "profile" and _n_points(store) != self._n_points:
                raise StoreError(
                    f"{store.folder}: {_n_points(store)} points a profile where another store "
                    f"has {self._n_points}; stores of one run need the same grid"
                )
        shards = [(store, i) for store in self._stores for i in range(len(store.manifest.shards))]
        rows = [store.manifest.shards[i].rows for store, i in shards]
        self._starts: np.ndarray = np.concatenate([[0], np.cumsum(rows, dtype=np.int64)])
        self._keep: list[pa.RecordBatch] = []
        self._addresses = np.stack([self._map(store, number) for store, number in shards])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def _map(self, store: Store, number: int) -> np.ndarray:
        """Addresses of one shard's buffers; 0 where the store has no such column."""
        batch = store.shard(number)
        self._keep.append(batch)
        path = store.folder / store.manifest.shards[number].file
        table = np.zeros(_FIRST_TARGET + len(self._targets), np.int64)
        table[[_ELEMENT_OFFSETS, _ELEMENTS]] = _list_addresses(batch, "elements", pa.uint8(), path)
        table[_FRACTIONS] = _list_addresses(batch, "fractions", pa.float32(), path)[1]
        for key, name in ((_FORMULA_KEY, FORMULA_KEY), (_SYSTEM_KEY, SYSTEM_KEY)):
            column = _column(batch, name, path)
            _require(column.type == pa.uint64(), name, path)
            table[key] = column.buffers()[1].address
        if store.manifest.layout == "peaks":
            table[[_LINE_OFFSETS, _Q]] = _list_addresses(batch, "q", pa.float32(), path)
            table[[_INTENSITY_OFFSETS, _INTENSITY]] = _list_addresses(
                batch, "intensity", pa.float32(), path
            )
        else:
            column = _column(batch, "profile", path)
            _require(column.type == pa.list_(pa.float16(), self._n_points), "profile", path)
            table[_PROFILE] = column.buffers()[-1].address
        for t, name in enumerate(self._targets):
            if name in batch.schema.names:
                column = _column(batch, name, path)
                _require(column.type == pa.float32(), name, path)
                table[_FIRST_TARGET + t] = column.buffers()[1].address
        return table

    def gather(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The batch of some rows; keys, shapes and units as in `datamodules.batch`.

        Args:
            rows: Row numbers in the concatenated stores, shape (B,), any order.

        Raises:
            IndexError: if there is no such row.
        """
        rows = np.asarray(rows, np.int64)
        n_rows = len(rows)
        if n_rows and not (rows.min() >= 0 and rows.max() < len(self)):
            raise IndexError(f"rows {rows.min()} to {rows.max()} of {len(self)}")
        shards = np.searchsorted(self._starts, rows, side="right") - 1
        local = rows - self._starts[shards]
        offsets = np.empty(n_rows + 1, np.int64)
        _count_lines(self._addresses, shards, local, offsets)
        n_lines = int(offsets[-1])
        elements = np.zeros((n_rows, self._max_elements), np.int64)
        fractions = np.zeros((n_rows, self._max_elements), np.float32)
        q, intensity = np.empty(n_lines, np.float32), np.empty(n_lines, np.float32)
        profile = np.empty((n_rows, self._n_points), np.float16)
        if self._has_lines:
            profile[:] = np.nan
        targets = np.full((n_rows, len(self._targets)), np.nan, np.float32)
        formula_key, system_key = np.empty(n_rows, np.int64), np.empty(n_rows, np.int64)
        _copy(
            self._addresses,
            shards,
            local,
            elements,
            fractions,
            offsets,
            q,
            intensity,
            profile.view(np.uint16),
            targets,
            formula_key,
            system_key,
        )
        batch: dict[str, np.ndarray] = {
            ELEMENTS: elements,
            FRACTIONS: fractions,
            TARGETS: targets,
            FORMULA_KEY: formula_key,
            SYSTEM_KEY: system_key,
        }
        if self._has_lines:
            batch |= {LINE_Q: q, LINE_INTENSITY: intensity, LINE_OFFSETS: offsets}
        if self._n_points:
            batch[PROFILE] = profile
        return batch


def _n_points(store: Store) -> int:
    if store.manifest.layout == "peaks":
        return 0
    return store.shard(0).column("profile").type.list_size


def _require(fits: bool, name: str, path: Path) -> None:
    if not fits:
        raise StoreError(f"{path}: column '{name}' has another type; prepare the store again")


def _column(batch: pa.RecordBatch, name: str, path: Path) -> pa.Array:
    _require(name in batch.schema.names, name, path)
    column = batch.column(name)
    # The addresses below take a column to start at its buffers' first byte.
    _require(column.offset == 0, name, path)
    return column


def _list_addresses(
    batch: pa.RecordBatch, name: str, item: pa.DataType, path: Path
) -> tuple[int, int]:
    """Addresses of a list column's offsets (int32) and values."""
    column = _column(batch, name, path)
    _require(column.type == pa.list_(item) and column.values.offset == 0, name, path)
    buffers = column.buffers()
    return buffers[1].address, buffers[3].address
