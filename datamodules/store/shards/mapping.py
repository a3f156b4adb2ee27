"""Mapping a shard into memory: a stranger's, or a damaged one, is refused before it is read.

What readers take for granted is checked when a shard is mapped, since compiled code follows
offsets without looking: an altered one would read, or write, anywhere in memory. What costs more,
the values themselves, is checked by `xxact inspect STORE --verify`.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datamodules.elements import SYMBOLS
from datamodules.io.arguments import printable
from datamodules.store.manifest import Layout, ShardInfo, StoreError
from datamodules.store.structure import INTEGERS

_MAGIC = b"ARROW1"
_BEGIN = 8
"""Of the messages in an Arrow file: the magic bytes and their padding come before."""
_HEADER, _COMPRESSION = 2, 3
"""Numbers of the fields in Arrow's flatbuffer tables `Message` and `RecordBatch`."""
#: Sums of atomic fractions, which are rounded to float32, differ from 1 by no more.
_SLACK = 1e-3
_AGAIN = "prepare the store again"


def map_shard(path: Path) -> pa.RecordBatch:
    """Maps a shard into memory; its columns are views of the page cache.

    A compressed one is refused before it is unpacked, whatever lengths it declares.

    Raises:
        StoreError: if the file is missing, damaged or compressed, or an offset points out of it.
    """
    try:
        # Closing the file keeps the mapping: a store of 700 shards holds no file descriptors.
        with pa.memory_map(str(path)) as source:
            batch = _first_batch(source)
        # Lengths of buffers, offsets of lists and strings, UTF-8.
        batch.validate(full=True)
        batch.schema.names  # noqa: B018 (decodes them)
    except (OSError, ValueError, pa.ArrowException, IndexError) as error:
        reason = printable(str(error).split("\n")[0])
        raise StoreError(f"{path}: cannot be read ({reason}); {_AGAIN}") from None
    return batch


def _first_batch(source: pa.NativeFile) -> pa.RecordBatch:
    """The record batch right after the schema, not copied: all that a writer puts into a shard.

    The messages are read one by one, since Arrow's reader of files would unpack on the way.

    Raises:
        ValueError: if something else is there, or the batch is compressed.
    """
    if source.read(len(_MAGIC)) != _MAGIC:
        raise ValueError("no Arrow file")
    source.seek(_BEGIN)
    messages = pa.ipc.MessageReader.open_stream(source)
    try:
        schema, message = messages.read_next_message(), messages.read_next_message()
    except StopIteration:
        raise ValueError("no record batch") from None
    if message.type != "record batch":
        raise ValueError(f"a {message.type} where the record batch should be")
    if _is_compressed(message.metadata):
        raise ValueError("its columns are compressed, those of a store never are")
    return pa.ipc.read_record_batch(message, pa.ipc.read_schema(schema))


def _is_compressed(metadata: pa.Buffer) -> bool:
    """Whether a message says that its record batch is compressed.

    Args:
        metadata: A flatbuffer, which Arrow has verified: a table begins with how far before it lies
            its list of places (uint16), in which a field that is not there has a 0.
    """
    data = metadata.to_pybytes()

    def place(table: int, field: int) -> int:
        places = table - struct.unpack_from("<i", data, table)[0]
        at = 4 + 2 * field
        if at >= struct.unpack_from("<H", data, places)[0]:
            return 0
        return int(struct.unpack_from("<H", data, places + at)[0])

    message = struct.unpack_from("<I", data)[0]
    header = message + place(message, _HEADER)
    return place(header + struct.unpack_from("<I", data, header)[0], _COMPRESSION) != 0


def check_file(path: Path, shard: ShardInfo) -> None:
    """Refuses a file of another size than the manifest says, or without its end.

    Raises:
        StoreError: naming the file.
    """
    try:
        with open(path, "rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(size - len(_MAGIC), 0))
            footer = stream.read()
    except FileNotFoundError:
        raise StoreError(f"{path}: missing; {_AGAIN}") from None
    if size != shard.bytes:
        raise StoreError(
            f"{path}: {size} bytes where the manifest says {shard.bytes} (truncated or "
            f"overwritten); delete the file and {_AGAIN}"
        )
    if footer != _MAGIC:
        raise StoreError(f"{path}: damaged (no Arrow footer); delete the file and {_AGAIN}")


def check_shape(
    batch: pa.RecordBatch,
    path: Path,
    shard: ShardInfo,
    layout: Layout,
    targets: Sequence[str],
    max_elements: int,
) -> None:
    """Refuses rows that no writer makes: what every reader relies on, at little cost.

    Args:
        batch: The mapped shard.
        path: Its file, for the message.
        shard: What the manifest says of it.
        layout: The store's.
        targets: Names of the store's.
        max_elements: The store's.

    Raises:
        StoreError: naming what is wrong.
    """
    if batch.num_rows != shard.rows:
        raise StoreError(
            f"{path}: {batch.num_rows} rows where the manifest says {shard.rows}; {_AGAIN}"
        )
    if len(set(batch.schema.names)) < batch.num_columns:
        raise StoreError(f"{path}: a column is there twice; {_AGAIN}")
    types = {
        "id": pa.string(),
        "formula": pa.string(),
        "formula_key": pa.uint64(),
        "system_key": pa.uint64(),
        "elements": pa.list_(pa.uint8()),
        "fractions": pa.list_(pa.float32()),
    }
    if layout == "peaks":
        types |= {name: pa.list_(pa.float32()) for name in ("q", "intensity")}
    types |= {name: pa.float32() for name in ("volume_per_atom", "density", *targets)}
    for name, kind in types.items():
        if name not in batch.schema.names or batch.column(name).type != kind:
            raise StoreError(f"{path}: column '{name}' is missing or of another type; {_AGAIN}")
        if kind != pa.float32() and batch.column(name).null_count:
            raise StoreError(f"{path}: column '{name}' has nulls; {_AGAIN}")
    for name in set(batch.schema.names) - set(types) - {"profile"}:
        kind = batch.column(name).type
        whole = name in INTEGERS
        if not (pa.types.is_integer(kind) or (pa.types.is_floating(kind) and not whole)):
            numbers = "whole numbers" if whole else "numbers"
            raise StoreError(f"{path}: column '{printable(name)}' holds no {numbers}; {_AGAIN}")
    if layout == "profile" and not pa.types.is_fixed_size_list(_type(batch, "profile")):
        raise StoreError(f"{path}: column 'profile' is missing or of another type; {_AGAIN}")
    elements = batch.column("elements")
    fewest, most = _range(pc.list_value_length(elements))
    if fewest < 1 or most > min(max_elements, len(SYMBOLS) - 1):
        raise StoreError(
            f"{path}: {fewest} to {most} elements in a material where the manifest says 1 to "
            f"{max_elements}; {_AGAIN}"
        )
    lowest, highest = _range(elements.flatten())
    if lowest < 1 or highest >= len(SYMBOLS):
        wrong = lowest if lowest < 1 else highest
        raise StoreError(f"{path}: atomic number {wrong} is no element's; {_AGAIN}")
    parallel = [("elements", "fractions")] + [("q", "intensity")] * (layout == "peaks")
    for one, other in parallel:
        if not batch.column(one).offsets.equals(batch.column(other).offsets):
            raise StoreError(f"{path}: lists of '{one}' and '{other}' differ in length; {_AGAIN}")


def check_values(batch: pa.RecordBatch, path: Path) -> None:
    """Refuses values that no writer writes; reads the whole shard.

    Raises:
        StoreError: naming the column.
    """
    for name in ("q", "intensity", "fractions"):
        if name not in batch.schema.names:
            continue
        values = batch.column(name).flatten().to_numpy()
        if not np.isfinite(values).all() or (values < 0).any():
            raise StoreError(f"{path}: column '{name}' holds what is negative or not finite")
    offsets = batch.column("fractions").offsets.to_numpy()
    values = batch.column("fractions").flatten().to_numpy().astype(np.float64)
    sums = np.add.reduceat(values, offsets[:-1] - offsets[0])
    if np.abs(sums - 1).max() > _SLACK:
        row = int(np.abs(sums - 1).argmax())
        raise StoreError(f"{path}: row {row}: atomic fractions sum to {sums[row]:g}, not to 1")
    if "q" in batch.schema.names and _range(pc.list_value_length(batch.column("q")))[0] < 1:
        raise StoreError(f"{path}: a material has no lines")
    if "profile" in batch.schema.names:
        profile = batch.column("profile").flatten().to_numpy(zero_copy_only=False)
        if np.isinf(profile).any():
            raise StoreError(f"{path}: column 'profile' holds what is not finite")
    for name in batch.schema.names:
        column = batch.column(name)
        if pa.types.is_floating(column.type):
            values = column.drop_null().to_numpy(zero_copy_only=False)
            if np.isinf(values).any():
                raise StoreError(f"{path}: column '{name}' holds what is not finite")


def _type(batch: pa.RecordBatch, name: str) -> pa.DataType:
    return batch.column(name).type if name in batch.schema.names else pa.null()


def _range(values: pa.Array) -> tuple[int, int]:
    found = pc.min_max(values).as_py()
    return (found["min"] or 0, found["max"] or 0)
