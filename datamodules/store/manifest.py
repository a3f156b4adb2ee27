"""The store's manifest."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from datamodules.grid import Grid
from datamodules.io.arguments import printable
from datamodules.io.files import replace_file

FORMAT_VERSION = 2
READABLE = (1, 2)
"""Format 1 lacks all structural columns but volume, density and space group; they read as null."""

MANIFEST = "manifest.json"

Layout = Literal["peaks", "profile"]


class StoreError(ValueError):
    """A store that is missing, damaged or of another format; the message says how to mend it."""


@dataclass
class ShardInfo:
    """A shard: file name, rows, size in bytes, checksum, most elements in a material."""

    file: str
    rows: int
    bytes: int
    checksum: str
    max_elements: int


@dataclass
class TargetInfo:
    """A target's unit and statistics over the rows that have it (None where there is no row)."""

    name: str
    unit: str
    count: int = 0
    mean: float | None = None
    std: float | None = None
    min: float | None = None
    max: float | None = None


@dataclass
class Manifest:
    """`manifest.json`.

    Attributes:
        layout: "peaks" or "profile".
        source: name, licence, citation, files.
        options: What the store was made with; other options make another store.
        counts: read = written + rejected + duplicates.
        shards: In the order of their rows.
        targets: In the order of their columns.
        max_elements: Most elements in one material.
        grid: The profile layout's grid (`Grid.to_dict()`); None for peaks.
        physics: How the lines were computed: `q_range` covered (Å⁻¹), thresholds, merging.
        software: Versions of the programs that made the store.
        format_version: `FORMAT_VERSION` of the writer.
        notes: How many rows each note is about; the rows are in `notes.jsonl`.
    """

    layout: Layout
    source: dict[str, Any]
    options: dict[str, Any]
    counts: dict[str, int]
    shards: list[ShardInfo]
    targets: list[TargetInfo]
    max_elements: int
    grid: dict[str, float] | None = None
    physics: dict[str, Any] = field(default_factory=dict)
    software: dict[str, str] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION
    notes: dict[str, int] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Writes the manifest at once or not at all.

        Raises:
            ValueError: if a number is NaN or infinite (strict JSON readers refuse them).
        """
        text = json.dumps(asdict(self), indent=1, ensure_ascii=False, allow_nan=False)
        replace_file(Path(folder) / MANIFEST, (text + "\n").encode())

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Reads a folder's manifest.

        Raises:
            StoreError: if there is no store, or one of another format version.
        """
        folder = Path(folder)
        path = folder / MANIFEST
        if not folder.exists():
            raise StoreError(f"{folder}: no such store; make one with `xxact prepare`")
        if not folder.is_dir():
            raise StoreError(f"{folder}: not a store (a store is a folder); give its folder")
        try:
            data = json.loads(path.read_bytes())
        except FileNotFoundError:
            raise StoreError(
                f"{folder}: not a finished store (no {MANIFEST}); run `xxact prepare` to its end"
            ) from None
        except (ValueError, RecursionError) as error:
            raise StoreError(f"{path}: not valid JSON ({error}); prepare the store again") from None
        version = data.get("format_version") if isinstance(data, dict) else None
        if version not in READABLE:
            raise StoreError(
                f"{folder}: format version {version}, this program reads "
                f"{' and '.join(map(str, READABLE))}; prepare the store again"
            )
        try:
            known = {f.name for f in fields(cls)}
            values = {key: value for key, value in data.items() if key in known}
            values["shards"] = [ShardInfo(**shard) for shard in values["shards"]]
            values["targets"] = [TargetInfo(**target) for target in values["targets"]]
            manifest = cls(**values)
            manifest._check()
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(
                f"{path}: incomplete or damaged manifest ({error}); prepare the store again"
            ) from None
        return manifest

    def _check(self) -> None:
        """Refuses values that no writer writes, and files outside the store's folder.

        Raises:
            ValueError: naming the entry.
        """
        kinds: dict[str, type] = dict.fromkeys(
            ("source", "options", "counts", "physics", "software", "notes"), dict
        )
        for name, kind in kinds.items():
            _require(isinstance(getattr(self, name), kind), name, getattr(self, name))
        for name, value in (self.counts | self.notes).items():
            _require(_is_count(value), f"count of {name}", value)
        _require(self.layout in get_args(Layout), "layout", self.layout)
        _require(
            _is_count(self.max_elements) and self.max_elements >= 1,
            "max_elements",
            self.max_elements,
        )
        for shard in self.shards:
            _require(_is_name(shard.file), "a shard's file", shard.file)
            _require(isinstance(shard.checksum, str), "a shard's checksum", shard.checksum)
            for size in (shard.rows, shard.bytes, shard.max_elements):
                _require(_is_count(size), f"a number of {shard.file}", size)
        for target in self.targets:
            _require(isinstance(target.name, str), "a target's name", target.name)
            _require(isinstance(target.unit, str), f"the unit of {target.name}", target.unit)
            _require(_is_count(target.count), f"the count of {target.name}", target.count)
            for found in (target.mean, target.std, target.min, target.max):
                _require(found is None or _is_finite(found), f"statistics of {target.name}", found)
        names = [target.name for target in self.targets]
        _require(len(set(names)) == len(names), "targets (one is there twice)", names)
        span = self.physics.get("q_range", [0.0, 1.0])
        sound = isinstance(span, list) and len(span) == 2 and all(map(_is_finite, span))
        _require(sound, "q_range", span)
        files = self.source.get("files", [])
        sound = isinstance(files, list) and all(isinstance(f, dict) and "name" in f for f in files)
        _require(sound, "files of the source", files)
        _require(isinstance(self.grid, dict | None), "grid", self.grid)
        if self.layout == "profile":
            _require(self.grid is not None, "grid", self.grid)
            Grid(**(self.grid or {}))


def _require(fits: bool, name: str, value: Any) -> None:
    if not fits:
        raise ValueError(f"{name} is {printable(repr(value), 80)}")


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < 1e300 and value == value


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**60


def _is_name(value: Any) -> bool:
    """Whether it names a file of the folder itself: no path, nothing hidden."""
    return (
        isinstance(value, str)
        and len(value.encode(errors="replace")) <= 255
        and value.isprintable()
        and not value.startswith(".")
        and Path(value).name == value
    )
