"""`xxact predict`: formulas, scans, a table or a folder to predictions, printed or written."""

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from datamodules.io.arguments import ArgumentParser, printable
from datamodules.measured.options import add_options, options_from
from datamodules.measured.readers.files import formula_from_name
from lightning_modules.checkpoints.places import shipped
from lightning_modules.inference.answers.printed import describe, say, terminal_width
from lightning_modules.inference.prediction import Predictor
from lightning_modules.inference.rows import CONTRADICTION, ERROR
from lightning_modules.inference.table import (
    check_columns,
    is_scan,
    names_of_scans,
    read_folder,
    read_table,
    write_table,
)

#: Models that come with the project, and are taken where no other is named.
PROPERTIES, ALIGNED = "properties", "aligned"
#: Answers that are printed; more of them are a table's.
PRINTED = 20


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="xxact predict",
        description="Predict properties of a composition, a scan, the materials in a table or the "
        f"patterns in a folder; rows keep their order. Up to {PRINTED} answers are printed.",
    )
    parser.add_argument(
        "--checkpoint",
        help="of a regression run; or a model: its folder, its name in models/, hf://OWNER/NAME "
        f"({PROPERTIES}, which comes with the project)",
    )
    parser.add_argument(
        "--input",
        type=Path,
        help="a diffractometer's file; a folder of them; or a CSV with columns formula, and "
        "pattern (a diffractometer's file, relative to the table) or id (of a store)",
    )
    parser.add_argument(
        "--formula",
        help="composition, alone or of the scans of --input: Fe2O3; its elements only: Fe,O; or "
        "percentages with their errors: 'Fe 55±2, O 45±2 at%%' (or wt%%)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        help=f"CSV to write; may be left out for up to {PRINTED} rows, which are printed",
    )
    parser.add_argument(
        "--store",
        action="append",
        default=[],
        help="store with the patterns of the ids; repeatable",
    )
    parser.add_argument(
        "--aligned",
        metavar="CHECKPOINT",
        help="of an alignment, or a model, to flag formulas and patterns that contradict each "
        "other; calibrate it first with `xxact report evidence` (with the project's own "
        f"{PROPERTIES}: its own {ALIGNED})",
    )
    parser.add_argument(
        "--library",
        action="append",
        default=[],
        metavar="STORE",
        help="store of known materials: the nearest are told beside each answer, with their "
        "labels; needs --aligned; repeatable",
    )
    parser.add_argument(
        "--pictures",
        type=Path,
        metavar="FOLDER",
        help="draw each row that has a pattern: the scan, and what the model saw of it",
    )
    parser.add_argument(
        "--formula-from-name",
        action="store_true",
        help="for scans: the files' names begin with the formula, as in MnO_run2.xy",
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, … (default: auto)")
    parser.add_argument("--batch-size", type=int, default=256, help="rows at a time (256)")
    parser.add_allow_task()
    add_options(parser)
    return parser


def _read(
    path: Path | None, formula: str | None, from_name: bool, axis: str
) -> tuple[list[dict[str, Any]], Path]:
    """The rows to predict, and the folder that their patterns' paths start from.

    Raises:
        ValueError: if there are none, or what was given does not go together.
    """
    if formula is not None and not formula.strip():
        raise ValueError("--formula: is empty; give a composition such as Fe2O3")
    if path is None:
        if formula is None:
            raise ValueError("nothing to predict; give --input, --formula or both")
        if from_name:
            raise ValueError("--formula-from-name: is for scans; give some with --input")
        return [{"formula": formula}], Path()
    if formula is not None and from_name:
        raise ValueError("--formula and --formula-from-name: which formula is meant? Give one")
    if path.is_dir():
        rows, folder = read_folder(path, from_name), path
    elif path.is_file() and is_scan(path, axis):
        rows = [{"pattern": path.name, "formula": formula_from_name(path) if from_name else ""}]
        folder = path.parent
    elif not path.exists():
        raise ValueError(f"{path}: no such file")
    else:
        rows, folder = read_table(path), path.parent
        for name, given in (("--formula", formula), ("--formula-from-name", from_name)):
            if given:
                raise ValueError(
                    f"{name}: is for scans; in the table {path} write a column formula"
                )
        if column := names_of_scans(rows[0], folder):
            print(
                f"xxact: {path}: the scans of its column {printable(column)} are not read; call it "
                "`pattern` if they are meant",
                file=sys.stderr,
            )
        return rows, folder
    return [row | {"formula": formula} if formula else row for row in rows], folder


def choose_models(
    checkpoint: str | None, aligned: str | None
) -> tuple[str | Path, str | Path | None]:
    """The regression and the aligned model to take; says so where they are the project's own.

    Raises:
        ValueError: if none is named and none came with the project.
    """
    if checkpoint is not None:
        return checkpoint, aligned
    own = shipped(PROPERTIES)
    if own is None:
        raise ValueError(
            f"--checkpoint: give a regression's; this copy of the project has no "
            f"models/{PROPERTIES}"
        )
    beside = shipped(ALIGNED) if aligned is None else None
    with_it = f" and models/{ALIGNED}" if beside else ""
    print(f"with models/{PROPERTIES}{with_it}, which came with the project (README.md in them)\n")
    return own, aligned or beside


def main(args: Sequence[str]) -> int:
    """Run `xxact predict`."""
    given = _parser().parse_args(args)
    output: Path | None = given.output
    if output is not None and output.exists():
        raise ValueError(f"{output}: exists already; delete it or choose another with --output")
    table, folder = _read(given.input, given.formula, given.formula_from_name, given.axis)
    is_small = len(table) <= PRINTED
    if output is None and not is_small:
        raise ValueError(
            f"{given.input}: {len(table)} rows are too many to print (up to {PRINTED} are); name "
            "the table to write with --output FILE.csv"
        )
    checkpoint, aligned = choose_models(given.checkpoint, given.aligned)
    predictor = Predictor(
        checkpoint,
        given.store,
        given.device,
        given.batch_size,
        aligned,
        options_from(given),
        folder,
        given.axis,
        given.allow_task,
        given.library,
        given.pictures,
    )
    if given.input is not None:
        check_columns(given.input, table, predictor.columns)
    counts: Counter[str] = Counter()
    rows = _told(predictor, table, counts, is_small)
    if output is None:
        for _ in rows:
            pass
    else:
        write_table(output, rows, len(table), bar=not is_small)
    return _conclude(predictor, table, counts, output)


def _told(
    predictor: Predictor, table: Sequence[dict[str, Any]], counts: Counter[str], aloud: bool
) -> Iterator[dict[str, Any]]:
    """The predicted rows; counts those with an error and a contradiction, prints them if asked."""
    width, confidence = terminal_width(), predictor.confidence
    for number, row in enumerate(predictor.stream(table)):
        counts[ERROR] += bool(row[ERROR])
        counts[CONTRADICTION] += row[CONTRADICTION] == "yes"
        if aloud:
            if number:
                print()
            say(describe(row, predictor.units, confidence, width))
        yield row


def _conclude(
    predictor: Predictor,
    table: Sequence[dict[str, Any]],
    counts: Counter[str],
    output: Path | None,
) -> int:
    """Say what holds for all rows; the exit status."""
    failed = counts[ERROR]
    is_small = len(table) <= PRINTED
    if is_small:
        print()
    if output is not None:
        print(f"{output}: {len(table) - failed} of {len(table)} rows predicted", end="")
        print(f"; {failed} failed, see the column {ERROR!r}" if failed else "")
    if (flagged := counts[CONTRADICTION]) and not (is_small and len(table) == 1):
        print(f"{flagged} rows whose formula and pattern seem to contradict each other")
    if predictor.task.targets.conformal.isnan().all():
        print(
            "no intervals: the run was not calibrated (it did not end, or has no calibration split)"
        )
    if failed < len(table) and any(row.get("pattern") for row in table):
        print("measured patterns: intervals were calibrated on simulated ones, no guarantee")
    if failed == len(table):
        where = "" if output is None else f"{output}: "
        see = "the reasons are above" if is_small else f"see its column {ERROR!r}"
        print(f"xxact: error: {where}no row could be predicted; {see}", file=sys.stderr)
        return 1
    return 0
