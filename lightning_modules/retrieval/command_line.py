"""`xxact retrieve`: the known materials that fit each scan, best first."""

from __future__ import annotations

import csv
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from datamodules.io.arguments import ArgumentParser, printable
from datamodules.measured import Options, PatternError, read_scan
from datamodules.measured.options import add_options, options_from
from datamodules.measured.wavelength import wavelength_of_row
from lightning_modules.checkpoints.places import shipped
from lightning_modules.inference.command_line import PRINTED
from lightning_modules.inference.devices import choose_device
from lightning_modules.inference.evidence import AlignedModel
from lightning_modules.inference.neighbours import ElementFilter, Library
from lightning_modules.inference.neighbours.filters import parse_elements
from lightning_modules.inference.table import is_scan, read_folder, read_table
from lightning_modules.retrieval.confidence import OWN, Confidence
from lightning_modules.retrieval.matching import Freedom
from lightning_modules.retrieval.pictures import draw
from lightning_modules.retrieval.retriever import EVERYTHING, Answer, Phase, Retriever

COLUMNS = ("file", "rank", "id", "formula", "score", "confident")
PHASE_COLUMNS = ("file", "phase", "id", "formula", "share", "score")


def main(args: Sequence[str]) -> int:
    """Runs `xxact retrieve`."""
    given = _parser().parse_args(args)
    if given.top < 1:
        raise ValueError(f"--top {given.top}: give at least 1")
    chosen = ElementFilter.of_text(given.elements, given.require, given.number_of_elements)
    freedom = Freedom(given.strain, given.shift)
    output: Path | None = given.output
    for path, option in ((output, "--output"), (given.phases, "--phases")):
        if path is not None and path.exists():
            raise ValueError(f"{path}: exists already; delete it or choose another with {option}")
    options = options_from(given)
    files = list(_scans(given, options, chosen))
    if output is None and len(files) > PRINTED:
        raise ValueError(
            f"{given.input}: {len(files)} scans are too many to print (up to {PRINTED} are); name "
            "the table to write with --output FILE.csv"
        )
    device = choose_device(given.device)
    checkpoint = given.checkpoint or shipped("aligned")
    model = None if checkpoint is None else AlignedModel(checkpoint, device, given.allow_task)
    library = Library(given.library, model, given.index)
    retriever = Retriever(
        library,
        freedom,
        given.candidates,
        false_confident=given.false_confident,
        confidence=Confidence.load(given.confidence),
        device=device,
    )
    pool = retriever.pool(chosen)
    if model is None and len(pool) > EVERYTHING:
        print(
            f"xxact: {len(pool)} materials are compared line by line, about "
            f"{len(pool) / 20_000:.0f} s a scan; an aligned model (--checkpoint) chooses the best "
            "thousand first",
            file=sys.stderr,
        )
    if given.pictures is not None:
        given.pictures.mkdir(parents=True, exist_ok=True)
    found, failed = _run(given, files, retriever, output)
    where = "" if output is None else f"{output}: "
    print(f"{where}{found} of {len(files)} scans compared with {len(pool)} materials")
    if not found:
        print(f"xxact: error: {given.input}: no scan could be compared", file=sys.stderr)
    return 1 if failed and not found else 0


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="xxact retrieve",
        description="Find the known materials whose patterns fit scans, best first; where none "
        "does, no match is called confident.",
    )
    parser.add_argument(
        "--library", action="append", required=True, metavar="STORE",
        help="store of known materials (`xxact prepare cif FOLDER` makes one of your own); "
        "repeatable",
    )  # fmt: skip
    parser.add_argument(
        "--input", type=Path, required=True,
        help="a scan, a folder of scans, or a CSV with a column pattern (files, relative to the "
        "table) and perhaps wavelength and elements",
    )  # fmt: skip
    parser.add_argument(
        "--checkpoint", type=Path,
        help="an aligned model (a run's checkpoint, a folder, a name in models/, hf://…), whose "
        "vectors choose the candidates in large libraries (default: models/aligned if it is "
        "there; none is needed)",
    )  # fmt: skip
    parser.add_argument(
        "--index", type=Path, metavar="FILE",
        help="keeps the library's vectors (default: a file beside the store, or in ~/.cache/xxact)",
    )  # fmt: skip
    group = parser.add_argument_group("what is known of the sample")
    group.add_argument("--elements", metavar="Fe,O", help="no other elements than these")
    group.add_argument("--require", metavar="Fe", help="these elements at least")
    group.add_argument(
        "--number-of-elements", metavar="N|N-M", help="so many elements, as 2 or 2-4"
    )
    group.add_argument(
        "--strain", type=float, default=0.02,
        help="how far lattice spacings may differ from the library's (0.02)",
    )  # fmt: skip
    group.add_argument(
        "--shift", type=float, default=0.15, metavar="DEGREES",
        help="how far all lines may be shifted (0.15)",
    )  # fmt: skip
    group = parser.add_argument_group("answers")
    group.add_argument("--top", type=int, default=10, help="matches a scan (10)")
    group.add_argument(
        "--output", type=Path,
        help=f"CSV to write; may be left out for up to {PRINTED} scans, whose answers are printed",
    )  # fmt: skip
    group.add_argument(
        "--phases", type=Path, metavar="CSV",
        help="write what part of each scan the first match explains, and a second phase",
    )  # fmt: skip
    group.add_argument(
        "--pictures", type=Path, metavar="FOLDER",
        help="draw each scan over the lines of the first three",
    )  # fmt: skip
    group.add_argument(
        "--false-confident", type=float, default=0.02, metavar="SHARE",
        help="how many scans of unknown materials may be called confident (0.02)",
    )  # fmt: skip
    group.add_argument(
        "--confidence", type=Path, metavar="FILE", default=OWN,
        help="what scores mean in your library, by `xxact report retrieval` (default: as measured "
        "with a library of 12 395)",
    )  # fmt: skip
    group.add_argument(
        "--candidates", type=int, default=1000, help="that the vectors choose (1000)"
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, … (default: auto)")
    parser.add_allow_task()
    add_options(parser)
    return parser


@dataclass
class _Asked:
    """A scan that is asked about: its name and file, and what is known of it."""

    name: str
    path: Path
    options: Options
    chosen: ElementFilter
    #: Why the table's row cannot be used.
    reason: str = ""


def _scans(given: Namespace, options: Options, chosen: ElementFilter) -> Iterator[_Asked]:
    path: Path = given.input
    if path.is_dir():
        for row in read_folder(path, with_formulas=False):
            yield _Asked(row["pattern"], path / row["pattern"], options, chosen)
    elif not path.exists() or is_scan(path, given.axis):
        yield _Asked(path.name, path, options, chosen)
    else:
        table = read_table(path)
        if "pattern" not in table[0]:
            raise ValueError(
                f"{path}: has columns {', '.join(map(str, table[0]))}; needs `pattern`, with each "
                "scan's file"
            )
        for row in table:
            name = str(row["pattern"] or "").strip()
            asked = _Asked(name, path.parent / name, options, chosen)
            try:
                if not name:
                    raise PatternError("the row has no pattern")
                if wavelength := wavelength_of_row(row.get("wavelength")):
                    asked.options = replace(options, wavelength=wavelength)
                if elements := str(row.get("elements") or "").strip():
                    asked.chosen = replace(chosen, allowed=parse_elements(elements, "elements"))
            except ValueError as error:
                asked.reason = str(error)
            yield asked


def _run(
    given: Namespace,
    files: Sequence[_Asked],
    retriever: Retriever,
    output: Path | None,
) -> tuple[int, int]:
    """Answers scan by scan; what ends it early leaves those that were done.

    Returns:
        How many scans were compared, and how many could not be.
    """
    labels = retriever.library.label_names
    found = failed = 0
    written = None if output is None else _Table(output, (*COLUMNS, *labels))
    parts = None if given.phases is None else _Table(given.phases, PHASE_COLUMNS)
    with tqdm(total=len(files), unit=" scans", disable=len(files) <= PRINTED) as bar:
        for asked in files:
            name = asked.name
            bar.update()
            try:
                answer = _answer(retriever, asked, given)
            except ValueError as error:
                if len(files) == 1:
                    raise
                failed += 1
                print(f"xxact: {printable(str(error), 1000)}", file=sys.stderr)
                continue
            found += 1
            rows = _rows(name, answer)
            if written is not None:
                written.add(rows)
            if parts is not None:
                parts.add([_part(name, i + 1, part) for i, part in enumerate(answer.phases)])
            if len(files) <= PRINTED:
                print(_printed(name, answer, rows))
            if given.pictures is not None:
                picture = given.pictures / (name.replace("/", "_") + ".png")
                draw(answer, retriever.library, picture, name)
                if len(files) <= PRINTED:
                    print(f"  picture: {picture}")
    return found, failed


class _Table:
    """A CSV table that is written as its rows come; there is none before the first ones.

    Args:
        path: The file, which must not exist.
        columns: Its columns.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path, self.columns = path, columns

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Appends rows, all or none of them."""
        is_new = not self.path.exists()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", newline="", encoding="utf-8", errors="backslashreplace") as file:
            whole = file.tell()
            try:
                writer = csv.DictWriter(file, list(self.columns))
                if is_new:
                    writer.writeheader()
                writer.writerows(rows)
                file.flush()
            except OSError as error:
                file.truncate(whole)
                error.filename = str(self.path)
                raise


def _answer(retriever: Retriever, asked: _Asked, given: Namespace) -> Answer:
    """What fits a scan.

    Raises:
        ValueError: naming the file, if it cannot be used, or no material has such elements.
    """
    if asked.reason:
        raise ValueError(f"{asked.name or given.input}: {asked.reason}")
    scan = read_scan(asked.path, given.axis)
    try:
        return retriever(scan, asked.options, given.top, asked.chosen)
    except ValueError as error:
        raise ValueError(f"{asked.path}: {error}") from None


def _rows(name: str, answer: Answer) -> list[dict[str, Any]]:
    return [
        {
            "file": name,
            "rank": match.rank,
            "id": match.known.id,
            "formula": match.known.formula,
            "score": round(match.score, 4),
            "confident": "yes" if match.confident else "no",
            **{key: _number(value) for key, value in match.known.labels.items()},
        }
        for match in answer.matches
    ]


def _part(name: str, number: int, part: Phase) -> dict[str, Any]:
    return {
        "file": name,
        "phase": number,
        "id": part.match.known.id,
        "formula": part.match.known.formula,
        "share": round(part.share, 3),
        "score": round(part.match.score, 4),
    }


def _number(value: float | None) -> float | int | None:
    """Six digits, as many as float32 has; whole numbers without a point."""
    if value is None:
        return None
    return int(value) if value == int(value) and abs(value) < 1e6 else float(f"{value:.6g}")


def _printed(name: str, answer: Answer, rows: Sequence[dict[str, Any]]) -> str:
    """What is said of a scan on a terminal."""
    first = answer.matches[0]
    if answer.confident:
        head = f"{first.known.formula} ({first.known.id})"
    else:
        head = "no confident match; the best are"
    lines = [f"{printable(name)}: {printable(head)}", *_aligned(rows)]
    one = answer.phases[0]
    said = f"the first explains {one.share:.0%} of the intensity"
    if len(answer.phases) == 2:
        two = answer.phases[1]
        said += (
            f"; what is left fits {two.match.known.formula} ({two.match.known.id}), "
            f"{two.share:.0%}: together {two.match.score:.3f}"
        )
    lines.append(f"  {printable(said)}")
    lines += [f"  warning: {printable(warning)}" for warning in answer.warnings]
    return "\n".join(lines)


def _aligned(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A table in columns, without the file."""
    names = [name for name in rows[0] if name != "file"]
    cells = [[printable(name.replace("_", " "), 40) for name in names]]
    for row in rows:
        cells.append(["" if row[n] is None else printable(str(row[n]), 40) for n in names])
    widths = [max(len(row[i]) for row in cells) for i in range(len(names))]
    return [
        "  "
        + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]
