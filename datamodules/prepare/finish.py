"""The serial end of a preparation: slices in source order become the store.

Everything that depends on the order of the input happens here, in one process: the first of
several entries with one id wins, and rows are packed into full shards. The result therefore does
not depend on who prepared which slice, or when.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from datamodules.io.files import replace_file
from datamodules.prepare.crystals import diffraction
from datamodules.prepare.crystals.symmetry import SYMPREC
from datamodules.prepare.slices import SliceInfo, slice_paths
from datamodules.prepare.sources.source import Part, Source
from datamodules.store.store import (
    MAX_SHARD_ROWS,
    NOTES,
    REJECTED,
    Manifest,
    ShardInfo,
    map_shard,
    summarise_targets,
    write_batch,
)

SOFTWARE = ("xxact", "pymatgen", "pymatgen-core", "numba", "numpy", "pyarrow", "gemmi", "moyopy")


@dataclass
class PartSlices:
    """The finished slices of a part, in order, and the folder they are in."""

    part: Part
    folder: Path
    slices: list[SliceInfo]


def finish(
    output: Path, source: Source, parts: list[PartSlices], options: dict[str, Any]
) -> Manifest:
    """Writes shards, `rejected.jsonl`, `notes.jsonl` and, last, the manifest.

    Args:
        output: The store's folder.
        source: Where the entries come from.
        parts: All slices of all parts.
        options: What the store is made with, for the manifest.
    """
    duplicates = _duplicates(parts)
    completed = source.complete([batch for _, _, batch in _batches(parts)])
    shards = _write_shards(output, parts, duplicates, completed)
    counts = _write_rejected(output, parts, duplicates)
    notes = _write_notes(output, parts)
    units = {target.name: target.unit for target in source.targets}
    manifest = Manifest(
        layout="peaks",
        source={
            "name": source.name,
            "licence": source.licence,
            "citation": source.citation,
            "files": [
                {"name": p.part.name, "bytes": p.part.bytes, "checksum": p.part.checksum}
                for p in parts
            ],
            **source.describe(),
        },
        options=options,
        counts=counts,
        shards=shards,
        targets=summarise_targets(output, shards, units),
        max_elements=max((shard.max_elements for shard in shards), default=0),
        physics={**physics(), "symmetry": {**SYMMETRY, "rows_without": _unknown(output, shards)}},
        software={
            "python": platform.python_version(),
            **{name: version(name) for name in SOFTWARE},
        },
        notes=notes,
    )
    manifest.save(output)
    return manifest


SYMMETRY = {
    "program": "moyopy",
    "symprec": SYMPREC,
    "reduced_cell": "Niggli's of the primitive lattice; its reciprocal metric in Å⁻², without 2π",
}


def _unknown(output: Path, shards: list[ShardInfo]) -> int:
    """Rows of which no symmetry was found."""
    columns = (map_shard(output / shard.file).column("space_group") for shard in shards)
    return sum(column.null_count for column in columns)


def physics() -> dict[str, Any]:
    """How the lines of a store were computed."""
    window = [diffraction.TWO_THETA_MIN, diffraction.TWO_THETA_MAX]
    q = [2 * np.pi * diffraction.max_g(two_theta_max=angle) for angle in window]
    return {
        "q_range": [float(x) for x in q],
        "two_theta_range": window,
        "wavelength": diffraction.WAVELENGTH,
        "merge_within_degrees": diffraction.MERGE_WITHIN,
        "min_relative_intensity": diffraction.MIN_RELATIVE_INTENSITY,
        "intensity": "multiplicity × |F|², without Lorentz–polarization, strongest = 1 after it",
        "anomalous_dispersion": False,
        "temperature_factors": False,
        "symmetry": SYMMETRY,
    }


def _batches(parts: list[PartSlices]) -> Iterator[tuple[PartSlices, SliceInfo, pa.RecordBatch]]:
    for part in parts:
        for info in part.slices:
            if info.written:
                shard, _ = slice_paths(part.folder, info.slice)
                yield part, info, map_shard(shard)


def _duplicates(parts: list[PartSlices]) -> dict[int, tuple[str, int]]:
    """Row numbers (over all slices) of later entries with an id seen before, and the first's place.

    128-bit hashes in flat arrays: 16 bytes a row where a Python set needs over 100.
    """
    hashes, places = [], []
    for part, info, batch in _batches(parts):
        ids = batch.column("id").to_pylist()
        raw = b"".join(hashlib.blake2b(i.encode(), digest_size=16).digest() for i in ids)
        hashes.append(np.frombuffer(raw, np.uint64).reshape(-1, 2))
        places.append((part.part.name, info))
    if not hashes:
        return {}
    both = np.concatenate(hashes)
    order = np.lexsort((both[:, 0], both[:, 1]))  # stable: equal ids stay in source order
    same = (both[order[1:]] == both[order[:-1]]).all(axis=1)
    if not same.any():
        return {}
    starts = np.concatenate([[0], np.cumsum([len(h) for h in hashes])])

    def place(row: int) -> tuple[str, int]:
        at = int(np.searchsorted(starts, row, side="right")) - 1
        file, info = places[at]
        return file, info.positions()[row - int(starts[at])]

    found: dict[int, tuple[str, int]] = {}
    first = int(order[0])
    for i, repeated in enumerate(same, start=1):
        if not repeated:
            first = int(order[i])
        else:
            found[int(order[i])] = place(first)
    return found


def _write_shards(
    output: Path,
    parts: list[PartSlices],
    duplicates: dict[int, tuple[str, int]],
    completed: dict[str, NDArray[np.float32]],
) -> list[ShardInfo]:
    shards: list[ShardInfo] = []
    waiting: list[pa.RecordBatch] = []

    def flush(rows: int) -> None:
        table = pa.Table.from_batches(waiting)
        waiting.clear()
        if rows < table.num_rows:
            waiting.extend(table.slice(rows).to_batches())
        batch = pa.concat_batches(table.slice(0, rows).to_batches())
        shards.append(write_batch(output / f"shard-{len(shards):05d}.arrow", batch))

    start = 0
    for _, _, batch in _batches(parts):
        for name, values in completed.items():
            column = pa.array(values[start : start + batch.num_rows], pa.float32())
            batch = batch.set_column(batch.schema.get_field_index(name), name, column)
        waiting.extend(_without(batch, [d - start for d in _within(duplicates, start, batch)]))
        start += batch.num_rows
        while sum(b.num_rows for b in waiting) >= MAX_SHARD_ROWS:
            flush(MAX_SHARD_ROWS)
    if rest := sum(b.num_rows for b in waiting):
        flush(rest)
    for stale in output.glob("shard-*.arrow"):
        if stale.name not in {shard.file for shard in shards}:
            stale.unlink()
    return shards


def _within(duplicates: dict[int, tuple[str, int]], start: int, batch: pa.RecordBatch) -> list[int]:
    if not duplicates:
        return []
    return [row for row in range(start, start + batch.num_rows) if row in duplicates]


def _without(batch: pa.RecordBatch, rows: list[int]) -> list[pa.RecordBatch]:
    """The batch without some rows, as views: Arrow's `filter` would lose the NaN under nulls."""
    edges = [-1, *rows, batch.num_rows]
    return [batch.slice(a + 1, b - a - 1) for a, b in pairwise(edges) if b - a > 1]


def _write_rejected(
    output: Path, parts: list[PartSlices], duplicates: dict[int, tuple[str, int]]
) -> dict[str, int]:
    """Writes `rejected.jsonl` in source order and counts."""
    by_slice: dict[tuple[str, int], list[dict[str, Any]]] = {}
    start = 0
    for part, info, batch in _batches(parts):
        rows = _within(duplicates, start, batch)
        if rows:
            positions, ids = info.positions(), batch.column("id")
            by_slice[part.part.name, info.slice] = [
                {
                    "file": part.part.name,
                    "entry": positions[row - start],
                    "id": ids[row - start].as_py(),
                    "reason": "duplicate id",
                    "detail": "first in {} entry {}".format(*duplicates[row]),
                }
                for row in rows
            ]
        start += batch.num_rows
    counts: Counter[str] = Counter(read=0, written=0, rejected=0, duplicates=0)
    lines = []
    for part in parts:
        for info in part.slices:
            repeated = by_slice.get((part.part.name, info.slice), [])
            counts.update(
                read=info.read,
                written=info.written - len(repeated),
                rejected=len(info.rejected),
                duplicates=len(repeated),
            )
            gone = sorted([*info.rejected, *repeated], key=lambda line: line["entry"])
            lines += [json.dumps(line, ensure_ascii=False) + "\n" for line in gone]
    assert counts["read"] == counts["written"] + counts["rejected"] + counts["duplicates"], counts
    replace_file(output / REJECTED, "".join(lines).encode())
    return dict(counts)


def _write_notes(output: Path, parts: list[PartSlices]) -> dict[str, int]:
    """Writes `notes.jsonl` in source order, if there is a note, and counts by note."""
    gone: set[tuple[str, int]] = set()
    with open(output / REJECTED, encoding="utf-8") as stream:
        for line in stream:
            entry = json.loads(line)
            if entry["reason"] == "duplicate id":
                gone.add((entry["file"], entry["entry"]))
    notes = [
        note
        for part in parts
        for info in part.slices
        for note in info.notes
        if (note["file"], note["entry"]) not in gone
    ]
    if notes:
        lines = [json.dumps(note, ensure_ascii=False) + "\n" for note in notes]
        replace_file(output / NOTES, "".join(lines).encode())
    else:
        (output / NOTES).unlink(missing_ok=True)
    return dict(Counter(note["note"] for note in notes).most_common())


def reasons(output: Path) -> dict[str, int]:
    """How many entries were left out for each reason, the most frequent first."""
    with open(output / REJECTED, encoding="utf-8") as stream:
        found = Counter(json.loads(line)["reason"] for line in stream)
    return dict(found.most_common())
