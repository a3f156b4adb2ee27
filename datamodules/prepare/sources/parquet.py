"""Parquet files with a structure a row, as LeMat-Bulk has them (OPTIMADE's names of columns)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from datamodules.io.arguments import printable
from datamodules.prepare.crystals.composition import Stated
from datamodules.prepare.crystals.crystal import MAX_ATOMS, Crystal, EntryError
from datamodules.prepare.sources.csv_cif import ID_COLUMNS
from datamodules.prepare.sources.source import (
    PER_SITE,
    Entry,
    LabelledSource,
    Part,
    Progress,
    SourceError,
    file_part,
    label,
    part_names,
)

LATTICE, SPECIES, POSITIONS = "lattice_vectors", "species_at_sites", "cartesian_site_positions"
STRUCTURE = {
    LATTICE: (2, pa.types.is_floating, "lists of 3 × 3 numbers, Å"),
    SPECIES: (
        1,
        lambda t: pa.types.is_string(t) or pa.types.is_large_string(t),
        "lists of elements",
    ),
    POSITIONS: (2, pa.types.is_floating, "lists of n × 3 numbers, Å"),
}
"""Columns of the structure: how deep their lists are, of what, and that in words."""

FORMULA, DIMENSIONS = "chemical_formula_descriptive", "nperiodic_dimensions"
"""Columns that are compared with the structure where they are there."""

BATCH = 1024
"""Rows in memory."""


@dataclass(frozen=True)
class ParquetSource(LabelledSource):
    """One or more Parquet files with equal meaning of columns.

    Only metadata are read to count the rows; a worker decodes the row groups of its own slices.

    Attributes:
        files: The files in their order.
    """

    files: tuple[Path, ...]
    name = "parquet"

    def parts(self) -> list[Part]:
        """The files; the columns of all are checked before any row is read.

        Raises:
            SourceError: if a file cannot be read, is no Parquet, or lacks a column.
        """
        parts = []
        for name, path in part_names(self.files).items():
            part = file_part(path, name)
            file = _open(path)
            self._columns(file.schema_arrow, path)
            rows = file.metadata.num_rows
            parts.append(Part(part.name, part.checksum, part.bytes, rows))
        return parts

    def records(self, part: Part, progress: Progress) -> Iterator[Any]:
        """Yields where each row is: what reads it, its row group and its number in the group."""
        path = part_names(self.files)[part.name]
        file = _open(path)
        reader = _Reader(file, self._columns(file.schema_arrow, path), path)
        seen = 0
        for group in range(file.metadata.num_row_groups):
            for row in range(file.metadata.row_group(group).num_rows):
                seen += 1
                progress.consumed = int((part.bytes or 0) * seen / file.metadata.num_rows)
                yield reader, group, row

    def entry(self, record: Any, position: int) -> Entry:
        """Reads a row.

        Raises:
            EntryError: if this row cannot be used.
            SourceError: if the file is damaged here.
        """
        reader, group, row = record
        values = reader.row(group, row)
        identifier = values[reader.id_column]
        if identifier is None or identifier == "":
            raise EntryError("no identifier")
        if values.get(DIMENSIONS, 3) not in (3, None):
            raise EntryError("not periodic in three dimensions", f"{values[DIMENSIONS]}")
        crystal = _crystal(values)
        targets = {}
        for target in self.labels:
            value = values[target.column.removesuffix(PER_SITE)]
            targets[target.name] = label(value, target.column, len(crystal.numbers))
        formula = values.get(FORMULA)
        stated = (Stated(f"column {FORMULA}", formula, whole=True),) if formula else ()
        return Entry(str(identifier), crystal, targets, stated)

    def identify(self, record: Any) -> str | None:
        """The row's identifier."""
        reader, group, row = record
        identifier = reader.row(group, row)[reader.id_column]
        return None if identifier is None else str(identifier)

    def _columns(self, schema: pa.Schema, path: Path) -> list[str]:
        """The columns to read, the identifier's first.

        Raises:
            SourceError: if one is not there or of another type.
        """
        there = ", ".join(schema.names) or "none"
        for name, (depth, fits, words) in STRUCTURE.items():
            if name not in schema.names or not _lists_of(schema.field(name).type, depth, fits):
                others = " and ".join(other for other in STRUCTURE if other != name)
                raise SourceError(
                    f"{path}: needs a column {name} of {words}, beside {others}; there are: {there}"
                )
        usual = [name for name in ("immutable_id", *ID_COLUMNS) if name in schema.names]
        identifier = self.id_column or (usual[0] if usual else "immutable_id")
        if identifier not in schema.names:
            raise SourceError(
                f"{path}: no column '{identifier}'; name that of the identifiers with --id-column "
                f"(there are: {there})"
            )
        labels = [target.column.removesuffix(PER_SITE) for target in self.labels]
        for name in labels:
            if name not in schema.names:
                raise SourceError(f"{path}: no column '{name}'; there are: {there}")
            if pa.types.is_nested(schema.field(name).type):
                raise SourceError(f"{path}: column '{name}' has lists; a label is one number")
        stating = [name for name in (FORMULA, DIMENSIONS) if name in schema.names]
        return list(dict.fromkeys([identifier, *STRUCTURE, *stating, *labels]))


class _Reader:
    """Rows of a file by row group and number; batches are decoded once as long as they ascend."""

    def __init__(self, file: pq.ParquetFile, columns: list[str], path: Path) -> None:
        self.id_column = columns[0]
        self._file, self._columns, self._path = file, columns, path
        self._group = -1
        self._start = 0
        self._batch: pa.RecordBatch | None = None
        self._batches: Iterator[pa.RecordBatch] = iter(())

    def row(self, group: int, row: int) -> dict[str, Any]:
        """The values of a row by column.

        Raises:
            SourceError: if the file is damaged here.
        """
        try:
            if group != self._group or row < self._start:
                self._batches = self._file.iter_batches(BATCH, [group], self._columns)
                self._group, self._start, self._batch = group, 0, None
            while self._batch is None or row >= self._start + self._batch.num_rows:
                self._start += 0 if self._batch is None else self._batch.num_rows
                self._batch = next(self._batches)
        except (OSError, pa.ArrowException, StopIteration) as error:
            raise SourceError(
                f"{self._path}: row group {group} cannot be read ({_one_line(error)}); get the "
                "file again and run the same command again"
            ) from None
        at = row - self._start
        return {name: self._batch.column(name)[at].as_py() for name in self._columns}


def _open(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except FileNotFoundError:
        raise SourceError(
            f"{path}: the file has disappeared; put it back and run the same command again"
        ) from None
    except (OSError, pa.ArrowException) as error:
        raise SourceError(
            f"{path}: not a Parquet file ({_one_line(error)}); get it again"
        ) from None


def _one_line(error: Exception) -> str:
    return printable(" ".join(str(error).split()), 200)


def _lists_of(kind: pa.DataType, depth: int, fits: Any) -> bool:
    """Whether a type is lists, `depth` levels deep, of what fits."""
    for _ in range(depth):
        if not (
            pa.types.is_list(kind)
            or pa.types.is_large_list(kind)
            or pa.types.is_fixed_size_list(kind)
        ):
            return False
        kind = kind.value_type
    return bool(fits(kind))


def _crystal(values: dict[str, Any]) -> Crystal:
    lattice, species, positions = (values[name] for name in STRUCTURE)
    if lattice is None or species is None or positions is None:
        raise EntryError("no structure", "a column of it is null")
    if len(species) > MAX_ATOMS:
        raise EntryError("too many atoms", f"{len(species)} > {MAX_ATOMS}")
    try:
        cell = np.array(lattice, np.float64).reshape(3, 3)
        cartesian = np.array(positions, np.float64).reshape(len(species), 3)
        coordinates = cartesian @ np.linalg.inv(cell)
    except np.linalg.LinAlgError:
        raise EntryError("absurd volume per atom", "the lattice vectors lie in a plane") from None
    except (ValueError, TypeError) as error:
        raise EntryError("malformed structure", str(error)) from None
    return Crystal.from_symbols(cell, coordinates, [str(symbol) for symbol in species])
