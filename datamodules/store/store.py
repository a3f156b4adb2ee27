"""The store: a folder of Arrow IPC shards and a manifest; its schema, writer and reader.

A shard is an uncompressed Arrow file with one record batch of at most `MAX_SHARD_ROWS` rows, so
that any Arrow tool opens it and its memory-mapped columns are NumPy views without a copy.
The value under a null of a float column is NaN: readers of raw buffers need no validity bitmap.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datamodules.io.files import replace_file
from datamodules.store.manifest import (
    FORMAT_VERSION,
    MANIFEST,
    Layout,
    Manifest,
    ShardInfo,
    StoreError,
    TargetInfo,
)
from datamodules.store.shards.mapping import check_file, check_shape, check_values, map_shard
from datamodules.store.structure import INTEGERS, RECIPROCAL_METRIC, STRUCTURE_TARGETS, Symmetry

__all__ = [
    "FORMAT_VERSION",
    "MANIFEST",
    "MAX_SHARD_ROWS",
    "NOTES",
    "REJECTED",
    "STRUCTURE_TARGETS",
    "Layout",
    "Manifest",
    "Material",
    "ShardInfo",
    "Store",
    "StoreError",
    "TargetInfo",
    "checksum",
    "formula_key",
    "map_shard",
    "summarise_targets",
    "system_key",
    "write_shard",
]

MAX_SHARD_ROWS = 8192
REJECTED = "rejected.jsonl"
NOTES = "notes.jsonl"


@dataclass
class Material:
    """One row of a store.

    Attributes:
        id: Identifier in the source.
        formula: Reduced formula.
        elements: Atomic numbers, shape (n,), uint8, ascending.
        fractions: Atomic fractions, shape (n,), float32, sum 1.
        q: Scattering vectors of the lines, shape (m,), float32, Å⁻¹, ascending.
        intensity: Multiplicity × |F|², shape (m,), float32; strongest 1 after Lorentz–polarization.
        profile: Dense intensities on the manifest's grid, shape (L,), NaN where not measured.
        volume_per_atom: Å³.
        density: g/cm³.
        symmetry: Space group, Bravais class and reduced cell; None where there is no structure or
            none of them was found.
        targets: Labels by canonical name; None where missing.
    """

    id: str
    formula: str
    elements: np.ndarray
    fractions: np.ndarray
    q: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))
    intensity: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))
    profile: np.ndarray | None = None
    volume_per_atom: float | None = None
    density: float | None = None
    symmetry: Symmetry | None = None
    targets: dict[str, float | None] = field(default_factory=dict)

    @property
    def structure(self) -> dict[str, float | None]:
        """What is known of the columns of `STRUCTURE_TARGETS`."""
        known = {} if self.symmetry is None else self.symmetry.columns()
        return {"volume_per_atom": self.volume_per_atom, "density": self.density, **known}


def formula_key(formula: str) -> int:
    """Unsigned 64-bit hash of a reduced formula, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(formula.encode(), digest_size=8).digest(), "little")


def system_key(elements: np.ndarray) -> int:
    """Unsigned 64-bit hash of a chemical system, given by atomic numbers in any order."""
    numbers = np.unique(np.asarray(elements, dtype=np.uint8)).tobytes()
    return int.from_bytes(hashlib.blake2b(numbers, digest_size=8).digest(), "little")


def checksum(data: bytes | pa.Buffer) -> str:
    """BLAKE2b checksum of a shard's bytes, 32 hexadecimal digits."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _nullable(values: Sequence[float | None], dtype: Any) -> pa.Array:
    """A column with nulls; NaN (or 0 for integers) lies under them."""
    missing = np.array([value is None or value != value for value in values], dtype=bool)
    filler = np.nan if np.issubdtype(dtype, np.floating) else 0
    data = np.array(
        [filler if gone else value for value, gone in zip(values, missing, strict=True)], dtype
    )
    return pa.array(data, mask=missing)


def _lists(arrays: Sequence[np.ndarray], dtype: Any) -> pa.Array:
    lengths = [len(array) for array in arrays]
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int32)
    values = np.concatenate([np.asarray(array, dtype) for array in arrays])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))


def _check(material: Material, layout: Layout) -> None:
    """Refuses a row that a reader could not use."""
    assert len(material.elements) == len(material.fractions) > 0, material.id
    assert np.all(np.diff(np.asarray(material.elements, int)) > 0), material.id
    assert len(material.q) == len(material.intensity), material.id
    if layout == "profile":
        assert material.profile is not None, material.id
    else:
        assert material.profile is None, material.id
        assert len(material.q) > 0, material.id
        assert np.isfinite(material.q).all(), material.id
        assert np.isfinite(material.intensity).all(), material.id


def write_shard(
    path: Path, materials: Sequence[Material], target_names: Sequence[str], layout: Layout
) -> ShardInfo:
    """Writes a shard under a temporary name and renames it; equal rows give equal bytes.

    Args:
        path: The shard's file.
        materials: 1 to `MAX_SHARD_ROWS` rows, each with every line or profile finite.
        target_names: Columns of labels, in their order; a material without one gets null.
        layout: "peaks" or "profile".
    """
    assert 0 < len(materials) <= MAX_SHARD_ROWS, len(materials)
    for material in materials:
        _check(material, layout)
    columns: dict[str, pa.Array] = {
        "id": pa.array([m.id for m in materials], pa.string()),
        "formula": pa.array([m.formula for m in materials], pa.string()),
        "formula_key": pa.array(np.array([formula_key(m.formula) for m in materials], np.uint64)),
        "system_key": pa.array(np.array([system_key(m.elements) for m in materials], np.uint64)),
        "elements": _lists([m.elements for m in materials], np.uint8),
        "fractions": _lists([m.fractions for m in materials], np.float32),
    }
    if layout == "peaks":
        columns["q"] = _lists([m.q for m in materials], np.float32)
        columns["intensity"] = _lists([m.intensity for m in materials], np.float32)
    else:
        dense = np.stack([np.asarray(m.profile, np.float16) for m in materials])
        columns["profile"] = pa.FixedSizeListArray.from_arrays(
            pa.array(dense.reshape(-1)), dense.shape[1]
        )
    structures = [m.structure for m in materials]
    for name in STRUCTURE_TARGETS:
        dtype = np.int16 if name in INTEGERS else np.float32
        columns[name] = _nullable([known.get(name) for known in structures], dtype)
    for name in target_names:
        assert name not in columns, f"the name of target {name} is taken by a column"
        columns[name] = _nullable([m.targets.get(name) for m in materials], np.float32)

    batch = pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
    return write_batch(path, batch)


def write_batch(path: Path, batch: pa.RecordBatch) -> ShardInfo:
    """Writes the rows of shards that exist already, repacked; otherwise like `write_shard`."""
    assert 0 < batch.num_rows <= MAX_SHARD_ROWS, batch.num_rows
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    data = sink.getvalue()
    path = Path(path)
    replace_file(path, data)
    most = pc.max(pc.list_value_length(batch.column("elements"))).as_py()
    return ShardInfo(path.name, batch.num_rows, data.size, checksum(data), most)


def summarise_targets(
    folder: Path, shards: Sequence[ShardInfo], units: dict[str, str]
) -> list[TargetInfo]:
    """Statistics of the target columns for a manifest, summed in float64 in the rows' order.

    Args:
        folder: The store's folder with its shards.
        shards: In the order of their rows.
        units: Unit by target name, in the order of the columns.
    """
    infos = []
    for name, unit in units.items():
        parts = [_floats(map_shard(Path(folder) / shard.file).column(name)) for shard in shards]
        values = np.concatenate([*parts, np.empty(0, np.float32)]).astype(np.float64)
        values = values[np.isfinite(values)]
        info = TargetInfo(name, unit, count=len(values))
        if len(values):
            info.mean, info.std = float(values.mean()), float(values.std())
            info.min, info.max = float(values.min()), float(values.max())
        infos.append(info)
    return infos


def _floats(column: pa.Array) -> np.ndarray:
    """A nullable float column with NaN for null."""
    return column.to_numpy(zero_copy_only=False)


class Store:
    """Reads a store. Pickles as its path; every process maps the shards when it first needs them.

    Args:
        folder: The store's folder.

    Raises:
        StoreError: if the store is missing, empty, of another version, or a shard is damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.manifest = Manifest.load(self.folder)
        self._batches: dict[int, pa.RecordBatch] = {}
        if not self.manifest.shards or not sum(shard.rows for shard in self.manifest.shards):
            raise StoreError(f"{self.folder}: the store is empty; see {self.folder / REJECTED}")
        for shard in self.manifest.shards:
            check_file(self.folder / shard.file, shard)
        rows = [shard.rows for shard in self.manifest.shards]
        self.starts: np.ndarray = np.concatenate([[0], np.cumsum(rows, dtype=np.int64)])
        """First row of each shard, and the number of rows at the end."""

    def __reduce__(self) -> tuple[type[Store], tuple[str]]:
        return Store, (str(self.folder),)

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def target_units(self) -> dict[str, str]:
        """Unit by name of everything that can be a target, `STRUCTURE_TARGETS` included."""
        units = {target.name: target.unit for target in self.manifest.targets}
        return {**units, **{k: v for k, v in STRUCTURE_TARGETS.items() if k not in units}}

    @property
    def target_names(self) -> list[str]:
        """Names of everything that can be a target."""
        return list(self.target_units)

    @property
    def fingerprint(self) -> str:
        """Hexadecimal digest of the store's content: the same rows in the same order."""
        content: list[Any] = [self.manifest.layout, self.manifest.grid]
        content += [[s.rows, s.bytes, s.checksum] for s in self.manifest.shards]
        return hashlib.blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()

    def shard(self, number: int) -> pa.RecordBatch:
        """The record batch of one shard, mapped into memory at the first call."""
        if number not in self._batches:
            info = self.manifest.shards[number]
            path, manifest = self.folder / info.file, self.manifest
            batch = map_shard(path)
            names = [target.name for target in manifest.targets]
            check_shape(batch, path, info, manifest.layout, names, manifest.max_elements)
            self._batches[number] = batch
        return self._batches[number]

    def column(self, name: str) -> np.ndarray:
        """A whole column of numbers or strings, shape (rows,); null becomes NaN.

        A column of `STRUCTURE_TARGETS` that the store's format does not have is NaN throughout.

        Raises:
            StoreError: if there is no such column.
        """
        if name not in self.shard(0).schema.names:
            if name in STRUCTURE_TARGETS:
                return np.full(len(self), np.nan, np.float32)
            names = ", ".join(self.shard(0).schema.names)
            raise StoreError(f"{self.folder}: no column '{name}'; there are {names}")
        return np.concatenate(
            [_floats(self.shard(i).column(name)) for i in range(len(self.manifest.shards))]
        )

    def material(self, row: int) -> Material:
        """One row.

        Raises:
            IndexError: if there is no such row.
        """
        if not 0 <= row < len(self):
            raise IndexError(f"{self.folder}: row {row} of {len(self)}")
        number = int(np.searchsorted(self.starts, row, side="right")) - 1
        batch = self.shard(number)
        local = row - int(self.starts[number])

        def array(name: str, dtype: Any) -> np.ndarray:
            if name not in batch.schema.names:
                return np.empty(0, dtype)
            return np.array(batch.column(name)[local].values.to_numpy(zero_copy_only=False), dtype)

        def scalar(name: str) -> Any:
            return batch.column(name)[local].as_py()

        return Material(
            id=scalar("id"),
            formula=scalar("formula"),
            elements=array("elements", np.uint8),
            fractions=array("fractions", np.float32),
            q=array("q", np.float32),
            intensity=array("intensity", np.float32),
            profile=array("profile", np.float16) if self.manifest.layout == "profile" else None,
            volume_per_atom=scalar("volume_per_atom"),
            density=scalar("density"),
            symmetry=_symmetry(batch, local),
            targets={target.name: scalar(target.name) for target in self.manifest.targets},
        )

    def find(self, identifier: str) -> int:
        """Row of the material with an id.

        Raises:
            StoreError: if there is none.
        """
        for number in range(len(self.manifest.shards)):
            local = pc.index(self.shard(number).column("id"), identifier).as_py()
            if local >= 0:
                return int(self.starts[number]) + local
        raise StoreError(f"{self.folder}: no material '{identifier}'; see the store's column `id`")

    def verify(self) -> None:
        """Compares every shard with its checksum, and looks at every value.

        Raises:
            StoreError: naming the first shard that differs, or holds what no writer writes.
        """
        for number, shard in enumerate(self.manifest.shards):
            path = self.folder / shard.file
            with pa.memory_map(str(path)) as source:
                found = checksum(source.read_buffer())
            if found != shard.checksum:
                raise StoreError(
                    f"{path}: checksum {found}, the manifest says {shard.checksum}; "
                    "the file was changed or damaged: prepare the store again"
                )
            check_values(self.shard(number), path)


def _symmetry(batch: pa.RecordBatch, row: int) -> Symmetry | None:
    names = [*INTEGERS, *RECIPROCAL_METRIC]
    if not set(names) <= set(batch.schema.names):
        return None
    group, bravais, sites, *metric = (batch.column(name)[row].as_py() for name in names)
    if group is None:
        return None
    return Symmetry(group, bravais, sites, (*metric,))
