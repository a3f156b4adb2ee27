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
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.files import replace_file
from datamodules.prepare.crystals.crystal import Crystal, EntryError, reduced_formula
from datamodules.prepare.crystals.diffraction import diffraction_lines, has_scattering_factor
from datamodules.prepare.sources.source import Entry, Part, Progress, Source
from datamodules.store.store import Material, write_shard

SLICE = 1024
"""Entries of the input; small enough to share a file of 10⁴ entries among a few cores."""

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
        space_groups: Whether space groups are determined by spglib.
        size: Entries of a slice.
    """

    source: Source
    part: Part
    folder: Path
    first: int
    stride: int
    limit: int | None
    space_groups: bool
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
    """

    slice: int
    start: int
    read: int
    last: bool
    written: int
    rejected: list[dict[str, Any]]
    consumed: int = 0

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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number, last, batch in _slices(records, job.size):
            if number % job.stride == job.first and read_slice(job.folder, number) is None:
                _write_slice(job, number, last, batch, progress.consumed)
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


def _write_slice(job: Job, number: int, last: bool, batch: list[Any], consumed: int) -> None:
    materials, rejected = [], []
    for position, record in enumerate(batch, start=number * job.size):
        if STOP.is_set():
            raise Stopped
        try:
            entry = job.source.entry(record, position)
            materials.append(material(entry, job.space_groups))
        except EntryError as error:
            rejected.append(
                {
                    "file": job.part.name,
                    "entry": position,
                    "id": job.source.identify(record),
                    "reason": error.reason,
                    "detail": error.detail,
                }
            )
    shard, description = slice_paths(job.folder, number)
    if materials:
        write_shard(shard, materials, [t.name for t in job.source.targets], "peaks")
    start = number * job.size
    info = SliceInfo(number, start, len(batch), last, len(materials), rejected, consumed)
    replace_file(description, json.dumps(asdict(info), ensure_ascii=False).encode())


def material(entry: Entry, space_groups: bool = False) -> Material:
    """Simulates an entry.

    Args:
        entry: The crystal and its labels.
        space_groups: Whether to determine the space group by spglib.

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
        space_group=space_group(crystal) if space_groups else entry.space_group,
        targets=entry.targets,
    )


def space_group(crystal: Crystal, symprec: float = 0.01) -> int | None:
    """International number of the space group by spglib; None if it finds none.

    Args:
        crystal: The crystal; species that share a site make one kind of site.
        symprec: Distance in Å within which positions are equivalent.
    """
    import spglib

    sites: dict[tuple[float, ...], list[tuple[int, float]]] = {}
    for x, z, occupancy in zip(
        crystal.coordinates, crystal.numbers, crystal.occupancies, strict=True
    ):
        sites.setdefault(tuple(x), []).append((int(z), float(occupancy)))
    kinds = {tuple(sorted(site)): i for i, site in enumerate(map(sorted, sites.values()))}
    types = [kinds[tuple(sorted(site))] for site in sites.values()]
    try:
        cell: Any = (crystal.lattice, list(sites), types)
        dataset = spglib.get_symmetry_dataset(cell, symprec)
    except Exception:  # spglib's errors differ from version to version
        return None
    return None if dataset is None else int(dataset.number)
