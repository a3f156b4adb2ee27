"""Altered stores are refused in one line, never read out of bounds; nothing is trained on zeros."""

import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from datamodules.store.gathering import Gatherer
from datamodules.store.store import Store, StoreError, checksum
from datamodules.xrd_datamodule import XRDDataModule
from tests.factories import make_store


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_store(tmp_path / "store", 48, rows_per_shard=24)
    return tmp_path / "store"


def change_manifest(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "manifest.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def rewrite(folder: Path, data: bytes, name: str = "shard-00000.arrow") -> None:
    """A shard with other bytes, and a manifest that says so: what only a stranger makes."""
    (folder / name).write_bytes(data)

    def change(manifest: dict[str, Any]) -> None:
        shard = next(s for s in manifest["shards"] if s["file"] == name)
        shard |= {"bytes": len(data), "checksum": checksum(data)}

    change_manifest(folder, change)


def altered(folder: Path, column: str, buffer: int, values: np.ndarray, position: int) -> None:
    """Writes values into a buffer of the first shard."""
    path = folder / "shard-00000.arrow"
    with pa.memory_map(str(path)) as source:
        whole = source.read_buffer()
        batch = pa.ipc.open_file(pa.BufferReader(whole)).get_batch(0)
        offset = batch.column(column).buffers()[buffer].address - whole.address
        data = bytearray(whole)
    start = offset + position * values.itemsize
    data[start : start + values.nbytes] = values.tobytes()
    rewrite(folder, bytes(data))


def refusal(folder: Path, verify: bool = False) -> str:

    def read() -> None:
        store = Store(folder)
        if verify:
            store.verify()
        Gatherer([store], [], 8).gather(np.arange(len(store)))

    with pytest.raises(StoreError) as raised:
        read()
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize(
    ("column", "buffer", "value", "expected"),
    [
        ("elements", 1, np.array([1_000_000_000], np.int32), "cannot be read"),
        ("elements", 1, np.array([-5], np.int32), "cannot be read"),
        ("q", 1, np.array([2**31 - 1], np.int32), "cannot be read"),
        ("elements", 3, np.array([0], np.uint8), "atomic number 0 is no element's"),
        ("elements", 3, np.array([200], np.uint8), "atomic number 200 is no element's"),
        ("fractions", 1, np.array([1], np.int32), "differ in length"),
        ("formula", 1, np.array([-1], np.int32), "cannot be read"),
    ],
)
def test_offsets_and_atomic_numbers_are_checked_when_a_shard_is_mapped(
    column: str, buffer: int, value: np.ndarray, expected: str, folder: Path
) -> None:
    position = 0 if buffer == 3 else 1
    if column == "fractions":
        offsets = Store(folder).shard(0).column(column).offsets.to_numpy()
        value = value + offsets[1] if offsets[1] + 1 <= offsets[2] else value * 0
    altered(folder, column, buffer, value, position)
    assert expected in refusal(folder)


@pytest.mark.parametrize("method", ["zstd", "lz4"])
def test_a_compressed_shard_is_refused_before_it_is_unpacked(method: str, folder: Path) -> None:
    """Damaged lengths tell whether it was unpacked: that would need 4 EiB, and fail otherwise."""
    column = pa.array(np.zeros(100_000))
    batch = pa.RecordBatch.from_arrays([column], names=["bomb"])
    sink = io.BytesIO()
    options = pa.ipc.IpcWriteOptions(compression=method)
    with pa.ipc.new_file(sink, batch.schema, options=options) as writer:
        writer.write_batch(batch)
    length, endless = (n.to_bytes(8, "little") for n in (column.nbytes, 2**62))
    assert sink.getvalue().count(length) == 1
    rewrite(folder, sink.getvalue().replace(length, endless))
    assert "its columns are compressed" in refusal(folder)


@pytest.mark.parametrize(
    ("batches", "dictionary", "expected"),
    [(0, False, "no record batch"), (1, True, "a dictionary where the record batch should be")],
)
def test_a_shard_of_other_messages_is_refused(
    batches: int, dictionary: bool, expected: str, folder: Path
) -> None:
    column = pa.array(["a", "b"])
    column = column.dictionary_encode() if dictionary else column
    batch = pa.RecordBatch.from_arrays([column], names=["id"])
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        for _ in range(batches):
            writer.write_batch(batch)
    rewrite(folder, sink.getvalue())
    assert expected in refusal(folder)


def test_a_shard_is_mapped_without_a_copy(folder: Path) -> None:
    store = Store(folder)
    before = pa.total_allocated_bytes()
    assert store.shard(0).nbytes > 10 * (pa.total_allocated_bytes() - before)


def test_verify_looks_at_the_values(folder: Path) -> None:
    altered(folder, "fractions", 3, np.array([7.0], np.float32), 0)
    Gatherer([Store(folder)], [], 8)
    assert "row 0: atomic fractions sum to" in refusal(folder, verify=True)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda m: m["shards"][0].update(file="../store/shard-00000.arrow"), "a shard's file is"),
        (lambda m: m["shards"][0].update(file="/etc/passwd"), "a shard's file is"),
        (lambda m: m["shards"][0].update(rows=10**9), "24 rows where the manifest says"),
        (lambda m: m["shards"][0].update(rows=-1), "a number of shard-00000.arrow is -1"),
        (lambda m: m.update(max_elements=1), "elements in a material where the manifest says"),
        (lambda m: m.update(max_elements=10**9), "the batch has 8 slots"),
        (lambda m: m.update(layout="profile", grid=None), "grid is None"),
        (lambda m: m["physics"].update(q_range="wide"), "q_range is"),
        (lambda m: m["targets"][0].update(mean="x"), "statistics of"),
        (lambda m: m.update(targets=m["targets"] * 2), "one is there twice"),
        (lambda m: m.update(counts=[]), "counts is []"),
    ],
)
def test_a_manifest_that_no_writer_writes_is_refused(
    change: Callable[[dict[str, Any]], None], expected: str, folder: Path
) -> None:
    change_manifest(folder, change)
    assert expected in refusal(folder)


def test_a_manifest_nested_without_end_is_refused(folder: Path) -> None:
    (folder / "manifest.json").write_text("[" * 100_000)
    assert "not valid JSON" in refusal(folder)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("damage", ["cut", "zeroed"])
def test_a_shard_that_changes_under_a_running_training_is_told(
    damage: str, workers: int, folder: Path
) -> None:
    data = XRDDataModule([str(folder)], global_batch_size=4, num_workers=workers, max_elements=8)
    batches = iter(data.stream("train", train=True))
    next(batches)
    for path in folder.glob("*.arrow"):
        size = path.stat().st_size
        with path.open("r+b") as file:
            if damage == "cut":
                file.truncate(size // 2)
            else:
                file.write(bytes(size))
    # The process that reads ahead may strike the damage in the middle of a batch.
    told = (
        "changed while it was read|holds zeros or NaN in place of a material|reads ahead has ended"
    )
    with pytest.raises(StoreError, match=told):
        list(batches)


def test_a_shard_that_is_touched_or_replaced_is_no_harm(folder: Path) -> None:
    store = Store(folder)
    gatherer = Gatherer([store], [], 8)
    rows = np.arange(len(store))
    before = gatherer.gather(rows)
    os.utime(folder / "shard-00000.arrow", (1, 1))
    (folder / "new").write_bytes(b"other")
    (folder / "new").replace(folder / "shard-00001.arrow")
    after = gatherer.gather(rows)
    assert all(np.array_equal(before[key], after[key], equal_nan=True) for key in before)


def test_zeros_from_a_disk_are_refused(folder: Path) -> None:
    offsets = Store(folder).shard(0).column("q").offsets.to_numpy()
    altered(folder, "q", 3, np.zeros(offsets[3], np.float32), 0)
    assert "holds zeros or NaN in place of a material" in refusal(folder)
    shutil.rmtree(folder)
