"""Batches of random rows from memory-mapped shards, copied by a compiled loop.

A batch of 1024 random rows touches hundreds of shards; NumPy would pay its call overhead for
every row and column. The loop here reads Arrow's buffers by their addresses instead, which
`Gatherer` keeps alive.
"""

from __future__ import annotations

import os
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
from datamodules.store.store import Store, StoreError, checksum
from datamodules.store.structure import INTEGERS


def _integer_to_pointer(typing_context: Any, address: Any) -> Any:

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(types.voidptr))

    return types.voidptr(types.int64), codegen


_pointer: Any = intrinsic(_integer_to_pointer)
"""Inside compiled code: a void pointer from an integer, for `numba.carray`."""

# Columns of the table of addresses; lists that are parallel share their offsets.
_ELEMENT_OFFSETS, _ELEMENTS, _FRACTIONS, _LINE_OFFSETS, _Q, _INTENSITY, _PROFILE = range(7)
_FORMULA_KEY, _SYSTEM_KEY = 7, 8
_FIRST_TARGET = 9

# One short loop a column, not one loop for all: a row's reads miss the caches and the TLB, and only
# in a short loop does the processor work on several rows' misses at once.


@numba.njit(cache=True, nogil=True)
def _find_lists(addresses, column, shards, rows, first, length):  # type: ignore[no-untyped-def]
    """First value and number of values of each row's list; 0 where there is no such column."""
    for b in range(len(rows)):
        address = addresses[shards[b], column]
        if address != 0:
            bounds = numba.carray(_pointer(address + 4 * rows[b]), (2,), np.int32)
            first[b] = bounds[0]
            length[b] = bounds[1] - bounds[0]
        else:
            first[b] = 0
            length[b] = 0


@numba.njit(cache=True, nogil=True)
def _copy_lists(addresses, column, shards, first, offsets, out):  # type: ignore[no-untyped-def]
    """Copies float32 lists to where `offsets` begin in `out`."""
    for b in range(len(shards)):
        n = offsets[b + 1] - offsets[b]
        source = numba.carray(
            _pointer(addresses[shards[b], column] + 4 * first[b]), (n,), np.float32
        )
        target = out[offsets[b] : offsets[b + 1]]
        for i in range(n):
            target[i] = source[i]


@numba.njit(cache=True, nogil=True)
def _copy_composition(  # type: ignore[no-untyped-def]
    addresses, shards, first, length, elements, fractions
):
    for b in range(len(shards)):
        table, n = addresses[shards[b]], length[b]
        numbers = numba.carray(_pointer(table[_ELEMENTS] + first[b]), (n,), np.uint8)
        shares = numba.carray(_pointer(table[_FRACTIONS] + 4 * first[b]), (n,), np.float32)
        for i in range(n):
            elements[b, i] = numbers[i]
            fractions[b, i] = shares[i]


@numba.njit(cache=True, nogil=True)
def _copy_numbers(addresses, column, shards, rows, out):  # type: ignore[no-untyped-def]
    """Copies one number a row, of the type of `out`; leaves it where there is no such column."""
    for b in range(len(rows)):
        address = addresses[shards[b], column]
        if address != 0:
            source = _pointer(address + out.itemsize * rows[b])
            out[b] = numba.carray(source, (1,), out.dtype)[0]


@numba.njit(cache=True, nogil=True)
def _copy_profiles(addresses, shards, rows, profile):  # type: ignore[no-untyped-def]
    """Copies dense float16 profiles, as bits."""
    n = profile.shape[1]
    for b in range(len(rows)):
        address = addresses[shards[b], _PROFILE]
        if address != 0:
            profile[b] = numba.carray(_pointer(address + 2 * n * rows[b]), (n,), np.uint16)


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
        self._lined = np.array([store.manifest.layout == "peaks" for store, _ in shards])
        rows = [store.manifest.shards[i].rows for store, i in shards]
        self._starts: np.ndarray = np.concatenate([[0], np.cumsum(rows, dtype=np.int64)])
        self._keep: list[pa.RecordBatch] = []
        self._files = [store.folder / store.manifest.shards[i].file for store, i in shards]
        self._checksums = [store.manifest.shards[i].checksum for store, i in shards]
        self._states = [_state(path) for path in self._files]
        self._addresses = np.stack([self._map(store, number) for store, number in shards])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def _map(self, store: Store, number: int) -> np.ndarray:
        """Addresses of one shard's buffers; 0 where the store has no such column."""
        batch = store.shard(number)
        self._keep.append(batch)
        path = store.folder / store.manifest.shards[number].file
        table = np.zeros(_FIRST_TARGET + len(self._targets), np.int64)
        table[[_ELEMENT_OFFSETS, _ELEMENTS, _FRACTIONS]] = _list_addresses(
            batch, ("elements", pa.uint8()), ("fractions", pa.float32()), path
        )
        for key, name in ((_FORMULA_KEY, FORMULA_KEY), (_SYSTEM_KEY, SYSTEM_KEY)):
            column = _column(batch, name, path)
            _require(column.type == pa.uint64(), name, path)
            table[key] = column.buffers()[1].address
        if store.manifest.layout == "peaks":
            table[[_LINE_OFFSETS, _Q, _INTENSITY]] = _list_addresses(
                batch, ("q", pa.float32()), ("intensity", pa.float32()), path
            )
        else:
            column = _column(batch, "profile", path)
            _require(column.type == pa.list_(pa.float16(), self._n_points), "profile", path)
            table[_PROFILE] = column.buffers()[-1].address
        for t, name in enumerate(self._targets):
            if name in batch.schema.names:
                column = _column(batch, name, path)
                expected = pa.int16() if name in INTEGERS else pa.float32()
                _require(column.type == expected, name, path)
                table[_FIRST_TARGET + t] = column.buffers()[1].address
        return table

    def _check_unchanged(self, shard: int) -> None:
        """Refuse a shard that was cut or overwritten in place since it was mapped.

        A cut one would end the process (SIGBUS), a zeroed one would be trained on. One that was
        deleted or replaced is no harm: what is mapped stays as it was.

        Raises:
            StoreError: naming the file.
        """
        now, then = _state(self._files[shard]), self._states[shard]
        if now is None or then is None or now == then or now[0] != then[0]:
            return
        path = self._files[shard]
        if now[1] != then[1]:
            raise StoreError(
                f"{path}: has {now[1]} bytes, had {then[1]} when it was opened: it was changed "
                "while it was read; prepare the store again and resume"
            )
        with open(path, "rb") as stream:
            found = checksum(stream.read())
        if found != self._checksums[shard]:
            raise StoreError(
                f"{path}: was changed while it was read (its checksum is no longer the "
                "manifest's); prepare the store again and resume"
            )
        self._states[shard] = now  # only touched, or written anew with the same content

    def _refuse_zeros(self, shards: np.ndarray, zero: np.ndarray) -> None:
        """Refuse rows that hold zeros or NaN where every material has something.

        Raises:
            StoreError: naming the file.
        """
        if zero.any():
            raise StoreError(
                f"{self._files[shards[zero][0]]}: holds zeros or NaN in place of a material; its "
                "disk has lost it: prepare the store again"
            )

    def gather(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The batch of some rows; keys, shapes and units as in `datamodules.batch`.

        Args:
            rows: Row numbers in the concatenated stores, shape (B,), any order.

        Raises:
            IndexError: if there is no such row.
            StoreError: if a shard was changed while it was read.
        """
        rows = np.asarray(rows, np.int64)
        n_rows = len(rows)
        if n_rows and not (rows.min() >= 0 and rows.max() < len(self)):
            raise IndexError(f"rows {rows.min()} to {rows.max()} of {len(self)}")
        shards = np.searchsorted(self._starts, rows, side="right") - 1
        for shard in np.unique(shards):
            self._check_unchanged(shard)
        local = rows - self._starts[shards]
        where = self._addresses, shards
        first, length = np.empty(n_rows, np.int64), np.empty(n_rows, np.int64)

        _find_lists(self._addresses, _ELEMENT_OFFSETS, shards, local, first, length)
        elements = np.zeros((n_rows, self._max_elements), np.int64)
        fractions = np.zeros((n_rows, self._max_elements), np.float32)
        _copy_composition(*where, first, length, elements, fractions)
        self._refuse_zeros(shards, (elements[:, 0] == 0) | ~(fractions[:, 0] > 0))

        targets = np.full((len(self._targets), n_rows), np.nan, np.float32)
        for t, (name, labels) in enumerate(zip(self._targets, targets, strict=True)):
            if name in INTEGERS:  # 0 lies under their nulls
                integers = np.zeros(n_rows, np.int16)
                _copy_numbers(self._addresses, _FIRST_TARGET + t, shards, local, integers)
                labels[integers > 0] = integers[integers > 0]
            else:
                _copy_numbers(self._addresses, _FIRST_TARGET + t, shards, local, labels)
        # uint64, as bits: torch's kernels know int64.
        formula_key, system_key = np.empty(n_rows, np.int64), np.empty(n_rows, np.int64)
        _copy_numbers(self._addresses, _FORMULA_KEY, shards, local, formula_key)
        _copy_numbers(self._addresses, _SYSTEM_KEY, shards, local, system_key)
        batch: dict[str, np.ndarray] = {
            ELEMENTS: elements,
            FRACTIONS: fractions,
            TARGETS: np.ascontiguousarray(targets.T),
            FORMULA_KEY: formula_key,
            SYSTEM_KEY: system_key,
        }
        if self._has_lines:
            _find_lists(self._addresses, _LINE_OFFSETS, shards, local, first, length)
            offsets = np.zeros(n_rows + 1, np.int64)
            np.cumsum(length, out=offsets[1:])
            q, intensity = (np.empty(offsets[-1], np.float32) for _ in range(2))
            _copy_lists(self._addresses, _Q, shards, first, offsets, q)
            _copy_lists(self._addresses, _INTENSITY, shards, first, offsets, intensity)
            self._refuse_zeros(shards, self._lined[shards] & (length == 0))
            # Written so that NaN is wrong, too; a Q of 1000 Å⁻¹ has no wavelength.
            wrong = ~((q > 0) & (q < 1000) & (intensity >= 0) & (intensity < np.inf))
            if wrong.any():
                self._refuse_zeros(shards, np.diff(np.append(0, np.cumsum(wrong))[offsets]) > 0)
            batch |= {LINE_Q: q, LINE_INTENSITY: intensity, LINE_OFFSETS: offsets}
        if self._n_points:
            profile = np.full((n_rows, self._n_points), np.nan, np.float16)
            _copy_profiles(*where, local, profile.view(np.uint16))
            batch[PROFILE] = profile
        return batch


def _state(path: Path) -> tuple[int, int, int] | None:
    """What tells whether a file is still the same: its number, size and time; None without one."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _n_points(store: Store) -> int:
    if store.manifest.layout == "peaks":
        return 0
    return store.shard(0).column("profile").type.list_size


def _require(fits: bool, name: str, path: Path) -> None:
    if not fits:
        raise StoreError(
            f"{path}: column '{name}' has another type or length; prepare the store again"
        )


def _column(batch: pa.RecordBatch, name: str, path: Path) -> pa.Array:
    _require(name in batch.schema.names, name, path)
    column = batch.column(name)
    # The addresses below take a column to start at its buffers' first byte.
    _require(column.offset == 0, name, path)
    return column


def _list_addresses(
    batch: pa.RecordBatch, one: tuple[str, pa.DataType], other: tuple[str, pa.DataType], path: Path
) -> tuple[int, int, int]:
    """Addresses of two parallel list columns' offsets (int32) and of the values of each."""
    first, second = _column(batch, one[0], path), _column(batch, other[0], path)
    for column, (name, item) in ((first, one), (second, other)):
        _require(column.type == pa.list_(item) and column.values.offset == 0, name, path)
    _require(first.offsets.equals(second.offsets), other[0], path)
    buffers = first.buffers()
    return buffers[1].address, buffers[3].address, second.buffers()[3].address
