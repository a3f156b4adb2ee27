"""Tables and folders that are predicted, and tables of predictions."""

import csv
import io
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from datamodules.measured import PatternError, read_scan
from datamodules.measured.readers.files import SUFFIXES, find_patterns, formula_from_name
from lightning_modules.inference.rows import SURPLUS

#: Characters of a field; a longer one is no table's.
_LONGEST = 1_000_000
#: Suffixes that tables have as well as scans.
_OF_TABLES = (".csv", ".txt", ".dat")
_ONLY_TABLES = ".tsv"
_KEYS = ("formula", "id", "pattern")


def read_table(path: Path) -> list[dict[str, Any]]:
    """Read a CSV with a column `formula`, `id` or `pattern`.

    Args:
        path: The file.

    Raises:
        ValueError: if the file cannot be read, lacks these columns, names one twice or has no rows.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    limit = csv.field_size_limit(_LONGEST)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restkey=SURPLUS, strict=True)
            header = list(reader.fieldnames or [])
            rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: not a CSV table in UTF-8 ({error})") from error
    finally:
        csv.field_size_limit(limit)
    if not set(_KEYS) & set(header):
        raise ValueError(
            f"{path}: has columns {', '.join(header) or 'none'}; needs `formula`, and `pattern` (a "
            "diffractometer's file) or `id` (of a store's material), or one of them"
        )
    if len(set(header)) < len(header):
        raise ValueError(f"{path}: a column is named twice in {', '.join(header)}")
    if not rows:
        raise ValueError(f"{path}: has no rows")
    return rows


def check_columns(path: Path, rows: Sequence[dict[str, Any]], added: Sequence[str]) -> None:
    """Refuse a table that has a column which predictions will add.

    Raises:
        ValueError: naming the column.
    """
    if taken := sorted(set(rows[0]) & set(added)):
        raise ValueError(f"{path}: column {taken[0]} has the name of a result; rename it")


def read_folder(path: Path, with_formulas: bool) -> list[dict[str, Any]]:
    """A row for each pattern in a folder, in the order of their names.

    Args:
        path: The folder; its subfolders are searched too.
        with_formulas: Whether a file's name begins with its formula, as in `MnO_run2.xy`.

    Raises:
        ValueError: if there is none.
    """
    found = find_patterns(path)
    # Tables of labels lie among patterns, and patterns are rarely .csv.
    files = [file for file in found if file.suffix.lower() != ".csv"] or found
    if len(files) < len(found):
        print(
            f"{path}: {len(found) - len(files)} .csv left out, taken for tables; name them in a "
            "table if they are patterns",
            file=sys.stderr,
        )
    if not files:
        raise ValueError(f"{path}: no pattern in it ({' '.join(sorted(SUFFIXES))})")
    rows: list[dict[str, Any]] = []
    for file in files:
        row: dict[str, Any] = {"pattern": str(file.relative_to(path)), "formula": ""}
        if with_formulas:
            row["formula"] = formula_from_name(file)
        rows.append(row)
    return rows


def names_of_scans(row: Mapping[str, Any], folder: Path) -> str | None:
    """The column of a table without patterns that names scans all the same, if there is one.

    Args:
        row: The table's first.
        folder: What relative paths start from.
    """
    if "pattern" in row:
        return None
    for name, value in row.items():
        if isinstance(value, str) and Path(value).suffix.lower() in SUFFIXES - {".cif"}:
            try:
                if (folder / value).is_file():
                    return name
            except (OSError, ValueError):
                continue
    return None


def is_scan(path: Path, axis: str) -> bool:
    """Whether a file is a diffractometer's and not a table of materials.

    Args:
        path: The file. What reads as a table is one; a `.csv` is one unless it reads as a scan, and
            what has a suffix that neither has is a scan that cannot be read.
        axis: What the first column of text files is: "two_theta" or "q".
    """
    suffix = path.suffix.lower()
    if not path.is_file() or suffix == _ONLY_TABLES:
        return False
    if suffix in _OF_TABLES or suffix not in SUFFIXES:
        try:
            read_table(path)
            return False
        except ValueError:
            pass
    if suffix == ".csv":
        try:
            read_scan(path, axis)
        except PatternError:
            return False
    return True


def cell(value: Any) -> Any:
    """What has parts, such as the nearest materials, as JSON."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value


def write_table(output: Path, rows: Iterable[dict[str, Any]], total: int, bar: bool = True) -> None:
    """Write a table as its rows come; what ends it early leaves whole rows.

    Args:
        output: The file, which must not exist.
        rows: The rows.
        total: How many there will be, for the bar.
        bar: Whether to show how far it is.

    Raises:
        OSError: if it cannot be written; `filename` is the output.
    """
    written = whole = 0
    output.parent.mkdir(parents=True, exist_ok=True)
    # In a log, a line now and then.
    interval = 0.2 if sys.stderr.isatty() else 10.0
    try:
        with (
            output.open("xb", buffering=0) as file,
            tqdm(
                total=total, unit=" rows", mininterval=interval, file=sys.stderr, disable=not bar
            ) as progress,
        ):
            try:
                for row in rows:
                    text = io.StringIO(newline="")
                    writer = csv.DictWriter(text, list(row))
                    if not whole:
                        writer.writeheader()
                    writer.writerow({name: cell(value) for name, value in row.items()})
                    line = memoryview(text.getvalue().encode("utf-8", "backslashreplace"))
                    while line:
                        line = line[file.write(line) :]
                    written, whole = written + 1, file.tell()
                    progress.update()
            finally:
                file.truncate(whole)
    except BaseException as error:
        if not whole:
            output.unlink(missing_ok=True)
        elif not isinstance(error, GeneratorExit):
            print(f"xxact: {output} has the first {written} of {total} rows", file=sys.stderr)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(output)
        raise
