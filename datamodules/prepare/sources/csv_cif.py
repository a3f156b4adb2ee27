"""CSV files with a column of CIF text, as CDVAE, DiffCSP and Matbench users have them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.prepare.crystals.cif import crystal_from_cif
from datamodules.prepare.crystals.composition import Stated
from datamodules.prepare.crystals.crystal import EntryError
from datamodules.prepare.sources.source import (
    Entry,
    LabelledSource,
    Part,
    Progress,
    SourceError,
    check_compression,
    file_part,
    number,
    open_compressed,
    part_names,
)

ID_COLUMNS = ("material_id", "mat_id", "entry_id", "id", "name")
CIF_COLUMNS = ("cif", "structure")
MAX_ROW = 1 << 24
"""Characters of a row."""
MAX_EMPTY = 1_000_000
"""Lines without anything, one after the other."""
MAX_TEXT = 1 << 20
"""Characters of a CIF in a table: 5 000 atoms take half of it, and 1 024 rows are in the memory."""
FORMULA_COLUMNS = ("formula", "pretty_formula", "full_formula", "reduced_formula")
"""Columns that state the composition: the atoms are compared with the first that is there."""


@dataclass(frozen=True)
class CsvSource(LabelledSource):
    """One or more CSV files, plain or compressed (.gz, .bz2), with equal meaning of columns.

    Attributes:
        files: The files in their order.
        cif_column: Column of CIF text; found by its usual names if None.
        formula_column: Column that states the composition, which is compared with the atoms; the
            first of the usual names that is there if None.
    """

    files: tuple[Path, ...]
    cif_column: str | None = None
    formula_column: str | None = None
    name = "csv"

    def options(self) -> dict[str, Any]:
        """The columns that are read."""
        options = {**super().options(), "cif_column": self.cif_column}
        if self.formula_column is not None:  # older stores know no such option
            options["formula_column"] = self.formula_column
        return options

    def parts(self) -> list[Part]:
        """The files; every header is checked before anything is read.

        Raises:
            SourceError: if a file cannot be read or lacks a column.
        """
        parts = []
        for name, path in part_names(self.files).items():
            parts.append(file_part(path, name))
            check_compression(path)
            with open_compressed(path, Progress()) as stream:
                self._columns(_header(read_rows(stream, path)), name)
        return parts

    def records(self, part: Part, progress: Progress) -> Iterator[Any]:
        """Yields (id, CIF text, label texts, stated formula) of each row.

        Raises:
            SourceError: if the file is truncated or no CSV.
        """
        path = part_names(self.files)[part.name]
        with open_compressed(path, progress) as stream:
            rows = read_rows(stream, path)
            header = _header(rows)
            id_at, cif_at, label_at, stating = self._columns(header, part.name)
            wanted = [id_at, cif_at, *label_at, *stating]
            for _, row in rows:
                row += [""] * (max(wanted) + 1 - len(row))
                short = [text[: MAX_TEXT + 1] for text in row]
                formula = [Stated(f"column {header[i]}", short[i]) for i in stating if row[i]]
                yield short[id_at], short[cif_at], [short[i] for i in label_at], tuple(formula)

    def entry(self, record: Any, position: int) -> Entry:
        """Parses a row.

        Raises:
            EntryError: if this row cannot be used.
        """
        identifier, cif, labels, stated = record
        if not identifier:
            raise EntryError("no identifier")
        if not cif.strip():
            raise EntryError("no structure", "empty CIF column")
        if len(cif) > MAX_TEXT:
            raise EntryError("CIF too large", f"more than {MAX_TEXT >> 20} MB in a table")
        targets = {
            target.name: number(text, target.column)
            for target, text in zip(self.labels, labels, strict=True)
        }
        return Entry(identifier, crystal_from_cif(cif), targets, stated=stated)

    def identify(self, record: Any) -> str | None:
        """The row's identifier."""
        return record[0] or None

    def _columns(self, header: list[str], file: str) -> tuple[int, int, list[int], list[int]]:
        def find(given: str | None, usual: tuple[str, ...], option: str) -> int:
            if given is None:
                found = [name for name in usual if name in header]
                if not found:
                    raise SourceError(
                        f"{file}: no column {' or '.join(usual)}; name one with {option} "
                        f"(there are: {', '.join(header) or 'none'})"
                    )
                return header.index(found[0])
            if given not in header:
                raise SourceError(
                    f"{file}: no column '{given}'; there are: {', '.join(header) or 'none'}"
                )
            return header.index(given)

        return (
            find(self.id_column, ID_COLUMNS, "--id-column"),
            find(self.cif_column, CIF_COLUMNS, "--cif-column"),
            [find(target.column, (), "--targets") for target in self.labels],
            [i for i, name in enumerate(header) if name in FORMULA_COLUMNS][:1]
            if self.formula_column is None
            else [find(self.formula_column, (), "--formula-column")],
        )


def _header(rows: Iterator[tuple[int, list[str]]]) -> list[str]:
    return next(rows, (0, []))[1]


class _Lines:
    """Lines of a text, as long as they and the row that they make are not endless.

    A lost quote, or a stranger's 3 kB that become gigabytes, would fill the memory as one row.
    """

    def __init__(self, text: io.TextIOBase) -> None:
        self._text = text
        self.row = 0
        """Characters of the row so far; its reader sets it to zero."""

    def __iter__(self) -> Iterator[str]:
        while line := self._text.readline(MAX_ROW):
            self.row += len(line)
            if self.row >= MAX_ROW:
                raise csv.Error(f"a row of more than {MAX_ROW >> 20} MB; is a quote missing?")
            yield line


def read_rows(stream: Any, path: Path, errors: str = "replace") -> Iterator[tuple[int, list[str]]]:
    """Rows of a CSV and the line at which each ends, without empty ones.

    `strict`, since a lost quote would swallow the rest of the file as one row.

    Args:
        stream: The bytes, in UTF-8.
        path: The file, for messages.
        errors: What to do with other bytes, as of `str.decode`.

    Raises:
        SourceError: if it is no CSV, naming the line.
        UnicodeDecodeError: if `errors` is "strict" and it is not UTF-8.
    """
    csv.field_size_limit(MAX_ROW)
    lines = _Lines(io.TextIOWrapper(stream, encoding="utf-8-sig", errors=errors, newline=""))
    rows = csv.reader(iter(lines), strict=True)
    empty = 0
    try:
        for row in rows:
            lines.row = 0
            empty = 0 if row else empty + 1
            if empty > MAX_EMPTY:
                raise csv.Error(f"{MAX_EMPTY} empty lines")
            if row:
                yield rows.line_num, row
    except csv.Error as error:
        raise SourceError(
            f"{path}: line {rows.line_num}: {error}; mend the file and run the same command again"
        ) from None
