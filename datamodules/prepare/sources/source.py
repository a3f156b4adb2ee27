"""What a source of crystals is: the interface that the pipeline knows, and nothing else.

To add a source: subclass `Source` as a frozen dataclass in a file of its own and give it a
sub-command in `cli.py`.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import math
import stat
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from datamodules.io.arguments import printable
from datamodules.prepare.crystals.composition import Stated
from datamodules.prepare.crystals.crystal import Crystal, EntryError


class SourceError(ValueError):
    """The input as a whole cannot be used; the message names the thing, the reason and the mend."""


@dataclass(frozen=True)
class Target:
    """A label: its column or key in the source, its canonical name and its unit."""

    column: str
    name: str
    unit: str


@dataclass(frozen=True)
class Part:
    """A piece of the input that is read from its beginning: a file, mostly.

    Attributes:
        name: Unique and readable, as it appears in `rejected.jsonl`.
        checksum: Of its content: a changed part is prepared again.
        bytes: Size, or None if there is no file.
        entries: Number of entries if known beforehand.
    """

    name: str
    checksum: str
    bytes: int | None = None
    entries: int | None = None


@dataclass(frozen=True)
class Entry:
    """A crystal with its identifier and labels (None where missing).

    Attributes:
        id: The source's identifier.
        crystal: The crystal.
        targets: Labels by their canonical names.
        stated: The compositions that the source states beside the atoms: they are compared.
    """

    id: str
    crystal: Crystal
    targets: dict[str, float | None] = field(default_factory=dict)
    stated: tuple[Stated, ...] = ()


Run = Callable[[str, Callable[..., None], Sequence[tuple[Any, ...]]], None]
"""Calls a function once for each of some tuples of arguments, shared among the workers; the text
says of what the calls are, for the progress bar."""


class Source(ABC):
    """A source of crystals; small, picklable, and the same in every process.

    Reading is in two steps so that several workers can share one file: `records` is cheap and
    reads everything, `entry` is expensive and is called for a worker's own records only.
    """

    name: ClassVar[str]
    licence: ClassVar[str] = "see the source"
    citation: ClassVar[str] = "see the source"
    #: Options that are numbers of entries: a larger one gives the same, and more after them.
    growing: ClassVar[tuple[str, ...]] = ()

    @property
    @abstractmethod
    def targets(self) -> tuple[Target, ...]:
        """The labels, in the order of the store's columns."""

    @abstractmethod
    def parts(self) -> list[Part]:
        """The pieces of the input in their order.

        Raises:
            SourceError: if a piece is missing, unreadable or plainly not of the kind.
        """

    @abstractmethod
    def records(self, part: Part, progress: Progress) -> Iterator[Any]:
        """Yields the raw records of a part in their order, without parsing them.

        Raises:
            SourceError: if the part ends early or is broken.
        """

    @abstractmethod
    def entry(self, record: Any, position: int) -> Entry:
        """Parses a record.

        Args:
            record: As `records` yielded it.
            position: Its number in the part, from 0.

        Raises:
            EntryError: if this one entry cannot be used.
        """

    def identify(self, record: Any) -> str | None:
        """The identifier of a record that was rejected, as far as it can be told."""
        return None

    def begin(self, folder: Path, run: Run) -> Source:
        """Does what must be known before the first record, for sources that need it.

        Called in every run of the command, also when it continues: what is in the folder already
        need not be done again.

        Args:
            folder: A folder for its results, empty at first, that lasts until the store is finished
                and is another one if a part changes.
            run: Does work on all workers.

        Returns:
            The source with which to go on.

        Raises:
            SourceError: if the input cannot be used.
        """
        return self

    def complete(self, rows: Sequence[pa.RecordBatch]) -> dict[str, NDArray[np.float32]]:
        """Labels that depend on the whole set, for sources that have such.

        Args:
            rows: All rows, in the order of the source.

        Returns:
            Values by target, shape (rows,); they replace what `entry` gave.
        """
        return {}

    def describe(self) -> dict[str, Any]:
        """What else the manifest says of the source; plain JSON values."""
        return {}

    def options(self) -> dict[str, Any]:
        """What decides the store's content besides the input's bytes; plain JSON values."""
        return {"targets": [[t.column, t.name, t.unit] for t in self.targets]}


@dataclass(frozen=True, kw_only=True)
class LabelledSource(Source):
    """A source whose labels, licence and citation the user states.

    Attributes:
        labels: The columns that are labels.
        id_column: Column of identifiers; found by its usual names if None.
        licence_note: Licence of the data, for the manifest.
        citation_note: Citation of the data, for the manifest.
    """

    labels: tuple[Target, ...] = ()
    id_column: str | None = None
    licence_note: str = Source.licence
    citation_note: str = Source.citation

    @property
    def licence(self) -> str:  # type: ignore[override]
        """Licence of the data."""
        return self.licence_note

    @property
    def citation(self) -> str:  # type: ignore[override]
        """Citation of the data."""
        return self.citation_note

    @property
    def targets(self) -> tuple[Target, ...]:
        """The labels, in the order of the store's columns."""
        return self.labels

    def options(self) -> dict[str, Any]:
        """The labels and the column of identifiers."""
        return {**super().options(), "id_column": self.id_column}


class Progress:
    """Bytes of the input that a reader has consumed; only for the progress bar."""

    consumed = 0


def file_part(path: Path, name: str | None = None) -> Part:
    """A file as a part, with the checksum of its content.

    Raises:
        SourceError: if it cannot be read or is empty.
    """
    digest = hashlib.sha256()
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise SourceError(f"{path}: a folder, pipe or device; give a file")
        with open(path, "rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
        size = path.stat().st_size
    except FileNotFoundError:
        raise SourceError(f"{path}: no such file; check the path") from None
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    if not size:
        raise SourceError(f"{path}: empty file; get it again")
    return Part(name or path.name, f"sha256:{digest.hexdigest()}", size)


def part_names(paths: tuple[Path, ...]) -> dict[str, Path]:
    """Paths by the name of their part: the file's name, or the path where names collide.

    Raises:
        SourceError: if a file was given twice.
    """
    resolved = [path.resolve() for path in paths]
    for path in paths:
        try:
            str(path).encode()
        except UnicodeEncodeError:
            raise SourceError(
                f"{printable(str(path))}: the name is not UTF-8; rename the file"
            ) from None
        if resolved.count(path.resolve()) > 1:
            raise SourceError(f"{path}: given twice; name each input file once")
    names = [path.name for path in paths]
    return {path.name if names.count(path.name) == 1 else path.as_posix(): path for path in paths}


MAX_RATIO = 500
MAX_UNPACKED = 1 << 28
"""Bytes that may come out of a file before `MAX_RATIO` counts."""
_BUFFER = 1 << 18
_MAGIC = {".bz2": b"BZh", ".gz": b"\x1f\x8b"}


def check_compression(path: Path) -> None:
    """Refuses a file whose first bytes are not those of its suffix.

    Raises:
        SourceError: naming the file.
    """
    magic = _MAGIC.get(path.suffix)
    if magic is None:
        return
    with open(path, "rb") as stream:
        found = stream.read(len(magic))
    if found != magic:
        raise SourceError(
            f"{path}: not a {path.suffix[1:]} file (it starts with {found!r}); download it again"
        )


@contextmanager
def open_compressed(path: Path, progress: Progress) -> Iterator[io.BufferedIOBase]:
    """Opens a plain, gzip or bzip2 file for reading bytes.

    Raises:
        SourceError: if the file has disappeared, is truncated or is not what its suffix says.
    """
    again = "get the file again and run the same command again"
    try:
        with open(path, "rb", buffering=0) as raw:
            counting: Any = _Counting(raw, progress)
            if path.suffix == ".bz2":
                with bz2.BZ2File(counting) as stream:
                    yield io.BufferedReader(_Bounded(stream, counting, path), _BUFFER)
            elif path.suffix == ".gz":
                with gzip.GzipFile(fileobj=counting) as stream:
                    yield io.BufferedReader(_Bounded(stream, counting, path), _BUFFER)
            else:
                with io.BufferedReader(counting) as plain:
                    yield plain
    except FileNotFoundError:
        raise SourceError(
            f"{path}: the file has disappeared; put it back and run the same command again"
        ) from None
    except EOFError:
        raise SourceError(f"{path}: truncated; {again}") from None
    except (OSError, zlib.error) as error:
        raise SourceError(f"{path}: cannot be decompressed ({error}); {again}") from None


class _Counting(io.RawIOBase):
    """A binary file that reports how far it was read."""

    def __init__(self, raw: io.FileIO, progress: Progress) -> None:
        self._raw, self._progress = raw, progress
        self.consumed = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        size = self._raw.readinto(buffer) or 0
        self._progress.consumed += size
        self.consumed += size
        return size


class _Bounded(io.RawIOBase):
    """What a compressed file holds, as long as it is not absurdly more than the file.

    Tables of structures are 5 to 50 times their compressed size; 3 kB of bzip2 can be gigabytes.
    """

    def __init__(self, stream: Any, counting: _Counting, path: Path) -> None:
        self._stream, self._counting, self._path = stream, counting, path
        self._total = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        self._total += len(data)
        if self._total > MAX_UNPACKED and self._total > MAX_RATIO * self._counting.consumed:
            raise SourceError(
                f"{self._path}: unpacks to more than {MAX_RATIO} times its size, as no table of "
                "structures does; get the file again"
            )
        return len(data)


def number(value: Any, column: str) -> float | None:
    """A label as a number; nothing, an empty text, NaN and infinities are missing.

    Raises:
        EntryError: if there is a text that is no number.
    """
    if value is None or value == "":
        return None
    try:
        result = float(value)
    except OverflowError:  # a whole number of hundreds of digits
        raise EntryError("label is not a number", f"{column} is beyond every number") from None
    except (TypeError, ValueError):
        raise EntryError("label is not a number", f"{column}={value!r}") from None
    return result if math.isfinite(result) else None


PER_SITE = "/nsites"
"""Behind a label's column: the label is divided by the number of sites (energies are a cell's)."""


def label(value: Any, column: str, n_sites: int) -> float | None:
    """A label as a number, divided by the number of sites if `PER_SITE` stands behind its column.

    Raises:
        EntryError: if it is no number.
    """
    result = number(value, column)
    return result / n_sites if result is not None and column.endswith(PER_SITE) else result
