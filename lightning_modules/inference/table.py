"""`xxact predict`: a table or a folder of patterns to a table of predictions."""

import csv
import io
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from datamodules.io.arguments import ArgumentParser
from datamodules.measured.options import add_options, options_from
from datamodules.measured.readers.files import SUFFIXES, find_patterns, formula_from_name
from lightning_modules.inference.prediction import CONTRADICTION, ERROR, SURPLUS, Predictor

#: Characters of a field; a longer one is no table's.
_LONGEST = 1_000_000
_KEYS = ("formula", "id", "pattern")


def read_table(path: Path, added: Sequence[str]) -> list[dict[str, Any]]:
    """Read a CSV with a column `formula`, `id` or `pattern`.

    Args:
        path: The file.
        added: Columns that predictions will add; the table must not have them.

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
    if taken := sorted(set(header) & set(added)):
        raise ValueError(f"{path}: column {taken[0]} has the name of a result; rename it")
    if not rows:
        raise ValueError(f"{path}: has no rows")
    return rows


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


def main(args: Sequence[str]) -> int:
    """Run `xxact predict`."""
    parser = ArgumentParser(
        prog="xxact predict",
        description="Predict properties of the materials in a table or of the patterns in a "
        "folder; rows keep their order.",
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="of a regression run")
    parser.add_argument(
        "--input",
        type=Path,
        required=True,
        help="CSV with columns formula, and pattern (a diffractometer's file, relative to the "
        "table) or id (of a store); or a folder of patterns",
    )
    parser.add_argument("--output", type=Path, help="CSV to write (default: INPUT.predictions.csv)")
    parser.add_argument(
        "--store",
        action="append",
        default=[],
        help="store with the patterns of the ids; repeatable",
    )
    parser.add_argument(
        "--aligned",
        type=Path,
        metavar="CHECKPOINT",
        help="of an alignment, to flag formulas and patterns that contradict each other; "
        "calibrate it first with `xxact report evidence`",
    )
    parser.add_argument(
        "--formula-from-name",
        action="store_true",
        help="for a folder: the files' names begin with the formula, as in MnO_run2.xy",
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, … (default: auto)")
    parser.add_argument("--batch-size", type=int, default=256, help="rows at a time (256)")
    parser.add_allow_task()
    add_options(parser)
    given = parser.parse_args(args)
    # `.` and `..` have no name of their own.
    named = given.input.resolve() if given.input.name in ("", "..") else given.input
    output: Path = given.output or named.with_suffix(".predictions.csv")
    if output.exists():
        raise ValueError(f"{output}: exists already; delete it or choose another with --output")
    is_folder = given.input.is_dir()
    if given.formula_from_name and not is_folder:
        raise ValueError("--formula-from-name: is for a folder; a table has a column formula")
    predictor = Predictor(
        given.checkpoint,
        given.store,
        given.device,
        given.batch_size,
        given.aligned,
        options_from(given),
        given.input if is_folder else given.input.parent,
        given.axis,
        given.allow_task,
    )
    if is_folder:
        table = read_folder(given.input, given.formula_from_name)
    else:
        table = read_table(given.input, predictor.columns)
    counts = _write(output, predictor.stream(table), len(table))
    failed = counts[ERROR]
    print(f"{output}: {len(table) - failed} of {len(table)} rows predicted", end="")
    print(f"; {failed} failed, see the column {ERROR!r}" if failed else "")
    if flagged := counts[CONTRADICTION]:
        print(f"{flagged} rows whose formula and pattern seem to contradict each other")
    if predictor.task.targets.conformal.isnan().all():
        print(
            "no intervals: the run was not calibrated (it did not end, or has no calibration split)"
        )
    if any(row.get("pattern") for row in table):
        print("measured patterns: intervals were calibrated on simulated ones, no guarantee")
    if failed == len(table):
        print(
            f"xxact: error: {output}: no row could be predicted; see its column {ERROR!r}",
            file=sys.stderr,
        )
        return 1
    return 0


def _write(output: Path, rows: Iterator[dict[str, Any]], total: int) -> Counter[str]:
    """Write a table as its rows come; what ends it early leaves whole rows.

    Args:
        output: The file, which must not exist.
        rows: The rows.
        total: How many there will be, for the bar.

    Returns:
        How many rows have an error, and how many a contradiction.

    Raises:
        OSError: if it cannot be written; `filename` is the output.
    """
    counts: Counter[str] = Counter()
    written = whole = 0
    output.parent.mkdir(parents=True, exist_ok=True)
    # In a log, a line now and then.
    interval = 0.2 if sys.stderr.isatty() else 10.0
    try:
        with (
            output.open("xb", buffering=0) as file,
            tqdm(total=total, unit=" rows", mininterval=interval, file=sys.stderr) as bar,
        ):
            try:
                for row in rows:
                    text = io.StringIO(newline="")
                    writer = csv.DictWriter(text, list(row))
                    if not whole:
                        writer.writeheader()
                    writer.writerow(row)
                    line = memoryview(text.getvalue().encode("utf-8", "backslashreplace"))
                    while line:
                        line = line[file.write(line) :]
                    written, whole = written + 1, file.tell()
                    counts[ERROR] += bool(row[ERROR])
                    counts[CONTRADICTION] += row[CONTRADICTION] == "yes"
                    bar.update()
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
    return counts
