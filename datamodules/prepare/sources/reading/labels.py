"""Labels in a CSV file of their own, by identifier."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from datamodules.io.arguments import printable
from datamodules.prepare.sources.csv_cif import ID_COLUMNS, read_rows
from datamodules.prepare.sources.source import SourceError, Target


def read_labels(
    file: Path,
    labels: tuple[Target, ...],
    id_column: str | None = None,
    identifier: Callable[[str], str] = str,
) -> dict[str, dict[str, str]]:
    """Texts of labels by identifier and column.

    Args:
        file: The CSV file.
        labels: The columns that are labels.
        id_column: Column of identifiers; its usual name, or the first one, if None.
        identifier: What makes an identifier of a text in that column.

    Raises:
        SourceError: if the file cannot be read, lacks a column, or has an identifier twice.
    """
    try:
        if file.exists() and not file.is_file():
            raise SourceError(f"{file}: a folder, pipe or device; give a file")
        with open(file, "rb") as stream:
            return _read(file, read_rows(stream, file, "strict"), labels, id_column, identifier)
    except FileNotFoundError:
        raise SourceError(f"{file}: no such file; check the path") from None
    except OSError as error:
        raise SourceError(f"{file}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise SourceError(f"{file}: not UTF-8 ({error.reason}); save it as UTF-8") from None


def _read(
    file: Path,
    rows: Iterator[tuple[int, list[str]]],
    labels: tuple[Target, ...],
    id_column: str | None,
    identifier: Callable[[str], str],
) -> dict[str, dict[str, str]]:
    header = next(rows, (0, []))[1]
    usual = [name for name in ID_COLUMNS if name in header] or header
    id_column = id_column or (usual[0] if usual else "")
    for column in [id_column, *(target.column for target in labels)]:
        if column not in header:
            raise SourceError(
                f"{file}: no column '{column}'; there are: {', '.join(header) or 'none'}"
            )
    id_at = header.index(id_column)
    found: dict[str, dict[str, str]] = {}
    for line, row in rows:
        if len(row) != len(header):
            raise SourceError(
                f"{file}: line {line}: {len(row)} fields, the header has {len(header)}; write an "
                "empty field where a label is missing"
            )
        name = identifier(row[id_at])
        if name in found:
            raise SourceError(
                f"{file}: line {line}: '{printable(name)}' has labels already; remove one of the "
                "two rows"
            )
        found[name] = {t.column: row[header.index(t.column)] for t in labels}
    return found
