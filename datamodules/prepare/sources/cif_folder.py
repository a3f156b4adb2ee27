"""A folder of CIF files, with labels in an optional CSV file."""

from __future__ import annotations

import csv
import gzip
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from datamodules.prepare.crystals.cif import crystal_from_cif
from datamodules.prepare.crystals.crystal import EntryError
from datamodules.prepare.sources.csv_cif import ID_COLUMNS
from datamodules.prepare.sources.source import (
    Entry,
    LabelledSource,
    Part,
    Progress,
    SourceError,
    number,
)

SUFFIXES = (".cif", ".cif.gz")


@dataclass(frozen=True)
class CifFolderSource(LabelledSource):
    """All `*.cif` and `*.cif.gz` under a folder, sorted by path.

    The identifier is the path in the folder without the suffix.

    Attributes:
        folder: The folder.
        labels_file: CSV file of labels, or None; its identifiers may have the suffix.
    """

    folder: Path
    labels_file: Path | None = None
    name = "cif"

    def parts(self) -> list[Part]:
        """One part: the folder, with a checksum of its files' names and contents.

        Raises:
            SourceError: if there are no CIF files, or the labels do not fit to them.
        """
        if not self.folder.is_dir():
            raise SourceError(f"{self.folder}: no such folder; give the folder of the CIF files")
        names = self._names()
        if not names:
            raise SourceError(f"{self.folder}: no *.cif or *.cif.gz in it; check the path")
        digest = hashlib.sha256()
        size = 0
        for name in names:
            content = _read(self.folder / name)
            size += len(content)
            digest.update(name.encode() + b"\0" + hashlib.sha256(content).digest())
        if self.labels_file is not None:
            digest.update(_read(self.labels_file))
            if not set(self._labels) & {_identifier(name) for name in names}:
                raise SourceError(
                    f"{self.labels_file}: none of its {len(self._labels)} identifiers is a CIF "
                    f"file in {self.folder} (such as {_identifier(names[0])}); check --id-column"
                )
        return [Part(self.folder.name, f"sha256:{digest.hexdigest()}", size, len(names))]

    def records(self, part: Part, progress: Progress) -> Iterator[Any]:
        """Yields the path of each file in the folder."""
        yield from self._names()

    def entry(self, record: Any, position: int) -> Entry:
        """Reads a file.

        Raises:
            EntryError: if it cannot be used.
        """
        path = self.folder / record
        try:
            content = path.read_bytes()
            if path.suffix == ".gz":
                content = gzip.decompress(content)
        except FileNotFoundError:
            raise EntryError("file has disappeared", record) from None
        except (OSError, EOFError) as error:
            raise EntryError("unreadable file", str(error)) from None
        identifier = _identifier(record)
        texts = self._labels.get(identifier, {})
        targets = {t.name: number(texts.get(t.column), t.column) for t in self.labels}
        return Entry(identifier, crystal_from_cif(content.decode("utf-8", "replace")), targets)

    def identify(self, record: Any) -> str:
        """The path without the suffix."""
        return _identifier(record)

    def _names(self) -> list[str]:
        return sorted(
            path.relative_to(self.folder).as_posix()
            for path in self.folder.rglob("*.cif*")
            if path.name.endswith(SUFFIXES)
        )

    @cached_property
    def _labels(self) -> dict[str, dict[str, str]]:
        """Texts of the labels by identifier and column."""
        if self.labels_file is None:
            return {}
        try:
            with open(self.labels_file, encoding="utf-8-sig", newline="") as stream:
                rows = csv.DictReader(stream, strict=True)
                header = list(rows.fieldnames or [])
                usual = [name for name in ID_COLUMNS if name in header] or header
                id_column = self.id_column or (usual[0] if usual else "")
                for column in [id_column, *(target.column for target in self.labels)]:
                    if column not in header:
                        raise SourceError(
                            f"{self.labels_file}: no column '{column}'; there are: "
                            f"{', '.join(header) or 'none'}"
                        )
                found: dict[str, dict[str, str]] = {}
                for row in rows:
                    identifier = _identifier(row[id_column])
                    if identifier in found:
                        raise SourceError(
                            f"{self.labels_file}: line {rows.line_num}: '{identifier}' has labels "
                            "already; remove one of the two rows"
                        )
                    found[identifier] = {t.column: row[t.column] for t in self.labels}
                return found
        except FileNotFoundError:
            raise SourceError(f"{self.labels_file}: no such file; check the path") from None
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise SourceError(f"{self.labels_file}: cannot be read ({error})") from None


def _identifier(name: str) -> str:
    for suffix in reversed(SUFFIXES):
        name = name.removesuffix(suffix)
    return name


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror}); check the path") from None
