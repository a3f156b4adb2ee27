"""The store's manifest."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from datamodules.files import replace_file

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
        except ValueError as error:
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
            return cls(**values)
        except (KeyError, TypeError) as error:
            raise StoreError(
                f"{path}: incomplete manifest ({error}); prepare the store again"
            ) from None
