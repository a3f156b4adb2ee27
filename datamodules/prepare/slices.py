"""The work of one process: some slices of one part of the input, each into a shard of its own.

A slice is some (`SLICE`) consecutive entries of a part, wherever they are read: the unit that is
finished or not. Of a slice there are `NNNNNN.arrow` (its rows; absent if it has none) and, written
last, `NNNNNN.json` (how many entries were read, which were rejected and why). Workers that share a
part take every n-th slice and skip the others unparsed.
"""

from __future__ import annotations

import json
import threading
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.io.arguments import printable
from datamodules.io.files import replace_file
from datamodules.prepare.crystals.composition import check_composition, reduced_formula
from datamodules.prepare.crystals.crystal import EntryError, Note
from datamodules.prepare.crystals.diffraction import diffraction_lines
from datamodules.prepare.crystals.distances import check_distances
from datamodules.prepare.crystals.scattering import has_scattering_factor
from datamodules.prepare.crystals.symmetry import symmetry
from datamodules.prepare.sources.source import Entry, Part, Progress, Source, SourceError
from datamodules.store.store import Material, write_shard

SLICE = 1024
"""Entries of the input; small enough to share a file of 10⁴ entries among a few cores."""

DETAIL = 1000
"""Characters of a rejection's or note's detail: strangers' texts are cut."""
MAX_IDENTIFIER = 1000
LARGEST_LABEL = 3.4e38
"""Labels are float32."""

STOP = threading.Event()
"""Set when the command is interrupted: a job that runs in a thread ends at the next entry."""


class Stopped(Exception):
    """The command was interrupted."""


@dataclass(frozen=True)
class Job:
    """Every `stride`-th slice of a part, from slice `first` on, but for those that are there.

    Attributes:
        source: The source.
        part: The part.
        folder: Where the part's slices are written.
        first: Number of the job's first slice.
        stride: Number of jobs that share the part.
        limit: Entries of the part that are read at most.
        size: Entries of a slice.
    """

    source: Source
    part: Part
    folder: Path
    first: int
    stride: int
    limit: int | None
    size: int = SLICE


@dataclass
class SliceInfo:
    """What is known of a finished slice.

    Attributes:
        slice: Number in the part.
        start: Position of its first entry in the part.
        read: Entries in it.
        last: Whether the part ends with it.
        written: Rows in its shard.
        rejected: Position in the part, id, reason and detail of every entry that gave no row.
        consumed: Bytes of the input read when it ended; for the progress bar.
        notes: Position, id, note and detail of what was said about its rows.
    """

    slice: int
    start: int
    read: int
    last: bool
    written: int
    rejected: list[dict[str, Any]]
    consumed: int = 0
    notes: list[dict[str, Any]] = field(default_factory=list)

    def positions(self) -> Sequence[int]:
        """Positions in the part of the rows of its shard."""
        every = range(self.start, self.start + self.read)
        gone = {rejected["entry"] for rejected in self.rejected}
        return [i for i in every if i not in gone] if gone else every


def slice_paths(folder: Path, number: int) -> tuple[Path, Path]:
    """The shard and the description of a slice."""
    return folder / f"{number:06d}.arrow", folder / f"{number:06d}.json"


def read_slice(folder: Path, number: int) -> SliceInfo | None:
    """The description of a slice, or None if it is not finished."""
    shard, description = slice_paths(folder, number)
    try:
        info = SliceInfo(**json.loads(description.read_bytes()))
    except (FileNotFoundError, ValueError, TypeError):
        return None
    return info if not info.written or shard.exists() else None


def run_job(job: Job) -> int:
    """Prepares the unfinished slices of a job; returns how many it wrote.

    Raises:
        SourceError: if the part cannot be read to its end.
        OSError: if a slice cannot be written.
        Stopped: if the command was interrupted.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    progress = Progress()
    records: Iterator[Any] = job.source.records(job.part, progress)
    if job.limit is not None:
        records = islice(records, job.limit)
    written = 0
    # Once before the first entry: what importing and filling tables warns of is no entry's.
    has_scattering_factor(1)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for number, last, batch in _slices(records, job.size):
            if number % job.stride == job.first and read_slice(job.folder, number) is None:
                _write_slice(job, number, last, batch, progress.consumed, warned)
                written += 1
    return written


def _slices(records: Iterator[Any], size: int) -> Iterator[tuple[int, bool, list[Any]]]:
    """Cuts the records into slices and tells which is the last one (empty if need be)."""
    number = 0
    while True:
        batch = []
        for record in islice(records, size):
            if STOP.is_set():
                raise Stopped
            batch.append(record)
        last = len(batch) < size
        yield number, last, batch
        if last:
            return
        number += 1


def _write_slice(
    job: Job,
    number: int,
    last: bool,
    batch: list[Any],
    consumed: int,
    warned: list[warnings.WarningMessage],
) -> None:
    materials, rejected, noted = [], [], []
    for position, record in enumerate(batch, start=number * job.size):
        if STOP.is_set():
            raise Stopped
        place = {"file": printable(job.part.name), "entry": position}
        warned.clear()
        said: list[Note] = []
        try:
            entry = job.source.entry(record, position)
            said = _said(warned)
            said += check(entry)
            materials.append(material(entry))
        except Exception as error:
            if isinstance(error, SourceError):
                raise  # the input as a whole
            # Whatever an entry raises, also what nobody thought of, is that entry's trouble alone.
            reason, detail = _trouble(error)
            if warnings_of_it := "; ".join(note.detail for note in said or _said(warned)):
                detail = f"{detail}; {warnings_of_it}" if detail else warnings_of_it
            told = {"id": _identifier(job.source, record), "reason": reason}
            rejected.append({**place, **told, "detail": printable(detail, DETAIL)})
            continue
        for note in said:
            told = {"id": printable(entry.id), "note": note.phrase}
            noted.append({**place, **told, "detail": printable(note.detail, DETAIL)})
    shard, description = slice_paths(job.folder, number)
    if materials:
        write_shard(shard, materials, [t.name for t in job.source.targets], "peaks")
    start = number * job.size
    info = SliceInfo(number, start, len(batch), last, len(materials), rejected, consumed, noted)
    replace_file(description, json.dumps(asdict(info), ensure_ascii=False).encode())


def _said(warned: list[warnings.WarningMessage]) -> list[Note]:
    """What a reader warned of; what it says to programmers is left out."""
    programmers = (DeprecationWarning, PendingDeprecationWarning, FutureWarning, ResourceWarning)
    told = [w for w in warned if not issubclass(w.category, (*programmers, ImportWarning))]
    messages = dict.fromkeys(" ".join(str(w.message).split()) for w in told)
    return [Note("warning of the reader", message) for message in messages]


def _trouble(error: Exception) -> tuple[str, str]:
    """Reason and detail of a rejection."""
    if isinstance(error, EntryError):
        return error.reason, error.detail
    if isinstance(error, MemoryError):
        return "too large for the memory", str(error)
    return "cannot be read", f"{type(error).__name__}: {error}"


def _identifier(source: Source, record: Any) -> str | None:
    """The identifier of a rejected record, if it can be told."""
    try:
        identifier = source.identify(record)
    except Exception:  # it was rejected: whatever is wrong with it may be wrong here too
        return None
    return None if identifier is None else printable(identifier)


def check(entry: Entry) -> list[Note]:
    """Refuses what contradicts itself; every entry of every source passes through here.

    Args:
        entry: The entry.

    Returns:
        What there is to say about it.

    Raises:
        EntryError: if the atoms are not what the input states, or nearer than atoms can be, or
            the identifier or a label cannot be stored.
    """
    if not entry.id or len(entry.id) > MAX_IDENTIFIER:
        raise EntryError("no identifier" if not entry.id else "identifier too long")
    try:
        entry.id.encode()
    except UnicodeEncodeError:
        raise EntryError("identifier is not UTF-8") from None
    for name, value in entry.targets.items():
        if value is not None and abs(value) > LARGEST_LABEL:
            raise EntryError("label is not a number", f"{name}: {value:g} is beyond float32")
    notes = check_composition(entry.crystal, entry.stated)
    check_distances(entry.crystal)
    return [*entry.crystal.notes, *notes]


def material(entry: Entry) -> Material:
    """Simulates an entry and finds its symmetry.

    Args:
        entry: The crystal and its labels.

    Raises:
        EntryError: if an element has no scattering factor, or no line lies in the window.
    """
    crystal = entry.crystal
    elements, amounts = crystal.composition()
    for element in elements:
        if not has_scattering_factor(int(element)):
            raise EntryError("no scattering factor", f"Z = {element}")
    q, intensity = diffraction_lines(crystal)
    if not len(q):
        raise EntryError("no diffraction lines", "none in the simulated window")
    return Material(
        id=entry.id,
        formula=reduced_formula(elements, amounts),
        elements=elements,
        fractions=(amounts / amounts.sum()).astype(np.float32),
        q=q.astype(np.float32),
        intensity=intensity.astype(np.float32),
        volume_per_atom=crystal.volume_per_atom,
        density=crystal.density,
        symmetry=symmetry(crystal),
        targets=entry.targets,
    )
