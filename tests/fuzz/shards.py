"""Shards of stores: damaged bytes, and sound Arrow files with other numbers, columns or types."""

import io
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from tests.fuzz._stores import SHARD, check_with, store
from tests.fuzz.mutation import damage

_NUMBERS = (0, 1, -1, 2**31 - 1, -(2**31), 255, 1000)


def _buffers(content: bytes, random_: random.Random) -> bytes:
    """Other numbers in one buffer, at any offset: what a stranger would alter."""
    whole = pa.py_buffer(content)
    batch = pa.ipc.open_file(pa.BufferReader(whole)).get_batch(0)
    buffers = [b for c in batch.columns for b in c.buffers() if b is not None and b.size]
    buffer = random_.choice(buffers)
    data = bytearray(content)
    start = buffer.address - whole.address
    for _ in range(random_.randrange(1, 4)):
        kind = random_.choice((np.int32, np.uint8, np.float32))
        if kind is np.float32:
            value = np.float32(random_.choice((np.nan, np.inf, -1.0, 0.0, 1e38))).tobytes()
        else:
            number = np.array([random_.choice(_NUMBERS)], np.int64)
            value = number.astype(kind).tobytes()
        at = start + random_.randrange(buffer.size) // len(value) * len(value)
        data[at : at + len(value)] = value
    return bytes(data)


def _columns(content: bytes, random_: random.Random) -> bytes:
    """Columns that are gone, doubled, sliced, without validity or of another type."""
    batch = pa.ipc.open_file(pa.BufferReader(content)).get_batch(0)
    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    name, other = (random_.choice(list(columns)) for _ in range(2))
    how = random_.randrange(6)
    names, values = list(columns), list(columns.values())
    place = names.index(name)
    if how == 0:
        del names[place], values[place]
    elif how == 1:
        names.append(name)
        values.append(values[place])
    elif how == 2:
        values[place] = columns[other]
    elif how == 3:
        values[place] = pa.nulls(batch.num_rows, columns[name].type)
    elif how == 4:
        values[place] = pa.nulls(batch.num_rows)
    else:
        values = [value.slice(random_.randrange(batch.num_rows)) for value in values]
        shortest = min(len(value) for value in values)
        values = [value.slice(0, shortest) for value in values]
    changed = pa.RecordBatch.from_arrays(values, names=names)
    sink = io.BytesIO()
    options = pa.ipc.IpcWriteOptions(compression=random_.choice((None, None, "zstd", "lz4")))
    with pa.ipc.new_file(sink, changed.schema, options=options) as writer:
        for _ in range(random_.choice((1, 1, 1, 0, 2))):
            writer.write_batch(changed)
    return sink.getvalue()


def mutants(seed: int, n: int) -> Iterator[tuple[str, bytes]]:
    """A third each."""
    random_ = random.Random(f"shards {seed}")
    content = (store() / SHARD).read_bytes()
    for number in range(n):
        change = random_.choice((damage, _buffers, _columns))
        yield f"{seed}-{number}.arrow", change(content, random_)


def check(path: Path) -> str:
    """Read the store with this shard, and a manifest that vouches for it."""
    return check_with(SHARD, path.read_bytes())
