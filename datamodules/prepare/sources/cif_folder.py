"""A folder of CIF files, with labels in an optional CSV file."""

from __future__ import annotations

import gzip
import hashlib
import os
import stat
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from datamodules.io.arguments import printable
from datamodules.prepare.crystals.cif import MAX_CIF, crystal_from_cif
from datamodules.prepare.crystals.crystal import EntryError
from datamodules.prepare.sources.reading.labels import read_labels
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
            content, length = digest_file(self.folder / name)
            size += length
            digest.update(os.fsencode(name) + b"\0" + content)
        if self.labels_file is not None:
            digest.update(digest_file(self.labels_file)[0])
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
        try:
            record.encode()
        except UnicodeEncodeError:
            raise EntryError("file name is not UTF-8", printable(record)) from None
        content = _content(self.folder / record)
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
        return read_labels(self.labels_file, self.labels, self.id_column, _identifier)


def _identifier(name: str) -> str:
    for suffix in reversed(SUFFIXES):
        name = name.removesuffix(suffix)
    return name


def digest_file(path: Path) -> tuple[bytes, int]:
    """Checksum and bytes of a file; of what is no file or cannot be read, that it is so."""
    digest = hashlib.sha256()
    size = 0
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return b"no file", 0
        with open(path, "rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
                size += len(chunk)
    except OSError as error:
        return f"unreadable {error.errno}".encode(), 0
    return digest.digest(), size


def _content(path: Path) -> bytes:
    """What is in a CIF file, compressed or not.

    Raises:
        EntryError: if it is no file (a pipe would be waited for), cannot be read or is too large.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise EntryError("not a file", "a folder, pipe or device")
        with open(path, "rb") as raw:
            if path.suffix == ".gz":
                with gzip.GzipFile(fileobj=raw) as stream:
                    content = stream.read(MAX_CIF + 1)
            else:
                content = raw.read(MAX_CIF + 1)
    except FileNotFoundError:
        gone = "a link to nothing" if path.is_symlink() else "file has disappeared"
        raise EntryError(gone, printable(str(path))) from None
    except (OSError, EOFError, zlib.error) as error:
        raise EntryError("unreadable file", str(error)) from None
    if len(content) > MAX_CIF:
        raise EntryError("CIF too large", f"more than {MAX_CIF >> 20} MB")
    return content
