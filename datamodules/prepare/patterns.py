"""`xxact prepare patterns`: a folder of measured patterns to a store of the profile layout."""

from __future__ import annotations

import csv
import hashlib
import json
import platform
import shutil
import sys
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.composition import Stated, candidates_of, parse_composition
from datamodules.grid import Grid
from datamodules.io.arguments import ArgumentParser
from datamodules.io.files import replace_file
from datamodules.measured import Options, convert, read_scan
from datamodules.measured.options import add_options, options_from
from datamodules.measured.readers.files import SUFFIXES, find_patterns, formula_from_name
from datamodules.measured.wavelength import wavelength_of_row
from datamodules.prepare.crystals.composition import reduced_formula
from datamodules.prepare.sources.source import SourceError, Target
from datamodules.prepare.targets import parse_targets
from datamodules.store.manifest import MANIFEST
from datamodules.store.store import (
    MAX_SHARD_ROWS,
    REJECTED,
    Manifest,
    Material,
    summarise_targets,
    write_shard,
)

_LEFT_OUT_TOLD = 20
_SOFTWARE = ("xxact", "numpy", "scipy", "pybaselines", "pyarrow")


@dataclass(frozen=True)
class Row:
    """A measured pattern: its file in the folder, formula, wavelength and labels as written."""

    file: str
    formula: str
    wavelength: str = ""
    labels: tuple[str, ...] = ()


def read_rows(
    folder: Path, table: Path | None, targets: tuple[Target, ...], columns: dict[str, str]
) -> list[Row]:
    """What is to be prepared, in the table's order; without a table all files, by their names.

    Args:
        folder: The patterns.
        table: CSV with a row a pattern, or None: names begin with the formula, as in MnO_2.xy.
        targets: Labels in the table.
        columns: Names of the columns `file`, `formula` and `wavelength`.

    Raises:
        SourceError: if there is nothing, or the table lacks a column.
    """
    if not folder.is_dir():
        raise SourceError(f"{folder}: no such folder; give the folder of the patterns")
    if table is None:
        files = find_patterns(folder)
        if not files:
            raise SourceError(f"{folder}: no pattern in it ({' '.join(sorted(SUFFIXES))})")
        return [Row(str(file.relative_to(folder)), formula_from_name(file)) for file in files]
    try:
        with table.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, strict=True)
            header = list(reader.fieldnames or [])
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"{table}: not a readable CSV table in UTF-8 ({error})") from None
    needed = [columns["file"], columns["formula"], *(target.column for target in targets)]
    if columns["wavelength"] != "wavelength":
        needed.append(columns["wavelength"])
    if missing := [name for name in needed if name not in header]:
        raise SourceError(
            f"{table}: no column {missing[0]!r}; there are {', '.join(header) or 'none'} (name "
            "others with --file-column, --formula-column, --wavelength-column, --targets)"
        )
    if not rows:
        raise SourceError(f"{table}: has no rows")
    return [
        Row(
            (row[columns["file"]] or "").strip(),
            (row[columns["formula"]] or "").strip(),
            (row.get(columns["wavelength"]) or "").strip(),
            tuple((row[target.column] or "").strip() for target in targets),
        )
        for row in rows
    ]


def _amounts(text: str) -> tuple[np.ndarray, np.ndarray]:
    """Atomic numbers and fractions, (n,) each; of percentages as they are stated.

    Raises:
        ValueError: if the text says too little, or nothing.
    """
    known = parse_composition(text)
    if not isinstance(known, Stated):
        return known
    if not known.shares:
        raise ValueError(f"{text}: names elements alone; training needs amounts or percentages")
    stated = candidates_of(known)
    there = stated.fractions[0] > 0
    return stated.elements[there], stated.fractions[0][there]


def material(
    folder: Path, row: Row, targets: tuple[Target, ...], grid: Grid, options: Options, axis: str
) -> Material:
    """A row of the store.

    Raises:
        ValueError: saying what is wrong with the formula, a label or the pattern.
    """
    if not row.file:
        raise ValueError("the row names no file")
    elements, fractions = _amounts(row.formula)
    labels: dict[str, float | None] = {}
    for target, text in zip(targets, row.labels, strict=True):
        try:
            value = float(text) if text else np.nan
        except ValueError:
            raise ValueError(f"{target.column}: {text!r} is no number") from None
        labels[target.name] = value if np.isfinite(value) else None
    if wavelength := wavelength_of_row(row.wavelength):
        options = replace(options, wavelength=wavelength)
    pattern = convert(read_scan(folder / row.file, axis), grid, options)
    return Material(
        id=row.file,
        formula=reduced_formula(elements, fractions.astype(np.float64)),
        elements=elements,
        fractions=fractions,
        profile=pattern.profile.astype(np.float16),
        targets=labels,
    )


def prepare(
    folder: Path,
    rows: list[Row],
    output: Path,
    targets: tuple[Target, ...],
    grid: Grid,
    options: Options,
    axis: str,
    source: dict[str, Any],
) -> Manifest:
    """Writes the store whole or not at all; rows that cannot be used are in `rejected.jsonl`.

    Raises:
        SourceError: if the output exists, or no row can be used.
    """
    if output.exists():
        raise SourceError(
            f"{output}: exists already, of other patterns or options; delete it or choose another "
            "--output"
        )
    temporary = output.with_name(f".{output.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    materials: list[Material] = []
    rejected: list[dict[str, Any]] = []
    duplicates = 0
    seen: set[str] = set()
    for position, row in enumerate(rows):
        entry = {"file": row.file, "entry": position, "id": row.file}
        if row.file in seen:
            duplicates += 1
            rejected.append({**entry, "reason": "duplicate id", "detail": row.file})
            continue
        try:
            materials.append(material(folder, row, targets, grid, options, axis))
        except ValueError as error:
            rejected.append({**entry, "reason": "unusable", "detail": str(error)})
            continue
        seen.add(row.file)
    if not materials:
        raise SourceError(
            f"{folder}: none of {len(rows)} patterns can be used; the first: {_told(rejected[0])}"
        )
    temporary.mkdir(parents=True)
    try:
        names = [target.name for target in targets]
        shards = [
            write_shard(
                temporary / f"shard-{i:05d}.arrow",
                materials[start : start + MAX_SHARD_ROWS],
                names,
                "profile",
            )
            for i, start in enumerate(range(0, len(materials), MAX_SHARD_ROWS))
        ]
        lines = [json.dumps(entry, ensure_ascii=False) + "\n" for entry in rejected]
        replace_file(temporary / REJECTED, "".join(lines))
        manifest = Manifest(
            layout="profile",
            source=source,
            options=_plain(options) | {"axis": axis},
            counts={
                "read": len(rows),
                "written": len(materials),
                "rejected": len(rejected) - duplicates,
                "duplicates": duplicates,
            },
            shards=shards,
            targets=summarise_targets(temporary, shards, {t.name: t.unit for t in targets}),
            max_elements=max(shard.max_elements for shard in shards),
            grid=grid.to_dict(),
            physics={"intensity": "measured, background taken off, largest = 1; LP of the grid's"},
            software={
                "python": platform.python_version(),
                **{name: version(name) for name in _SOFTWARE},
            },
        )
        manifest.save(temporary)
        temporary.rename(output)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return manifest


def _told(entry: dict[str, Any]) -> str:
    """A rejected row in a line: its place in the table, its file and the reason."""
    detail = "met before" if entry["reason"] == "duplicate id" else entry["detail"]
    return f"row {entry['entry'] + 1}, {entry['file'] or 'without a file'}: {detail}"


def _plain(options: Options) -> dict[str, Any]:
    return {
        "wavelength": None if options.wavelength is None else options.wavelength.mean,
        "polarization": options.polarization,
        "strip_kalpha2": options.strip_kalpha2,
        "background": options.background,
        "fwhm": options.fwhm,
        "zero": options.zero,
    }


def _checksum(folder: Path, rows: list[Row]) -> str:
    """Of the table and of what its files hold: scans that came later, or again, change it."""
    digest = hashlib.blake2b(repr(rows).encode(), digest_size=16)
    for row in rows:
        file = folder / row.file
        if row.file and file.is_file():
            digest.update(hashlib.blake2b(file.read_bytes(), digest_size=16).digest())
    return digest.hexdigest()


def _is_there(output: Path, source: dict[str, Any], options: dict[str, Any], grid: Grid) -> bool:
    """Whether the output is a whole store of these very patterns, made with these options."""
    if not (output / MANIFEST).is_file():
        return False
    there = Manifest.load(output)
    return there.source == source and there.options == options and there.grid == grid.to_dict()


def main(argv: list[str]) -> int:
    """Runs `xxact prepare patterns`."""
    parser = ArgumentParser(
        prog="xxact prepare patterns",
        description="Turns a folder of measured patterns into a store of dense profiles on the "
        "model's grid, to train on together with simulated ones.",
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--output", type=Path, required=True, metavar="STORE", help="its folder")
    parser.add_argument(
        "--labels",
        type=Path,
        metavar="FILE.csv",
        help="a row a pattern: file, formula, optionally wavelength and labels",
    )
    parser.add_argument(
        "--formula-from-name",
        action="store_true",
        help="in place of a table: the files' names begin with the formula, as in MnO_run2.xy",
    )
    parser.add_argument(
        "--targets", default="", metavar="COLUMN[=NAME][:UNIT],…", help="labels in the table"
    )
    for name in ("file", "formula", "wavelength"):
        parser.add_argument(f"--{name}-column", default=name, help=f"if not {name}")
    parser.add_argument(
        "--fwhm",
        type=float,
        default=0.5,
        help="widen narrower lines to this: data.peaks.fwhm of the recipe (0.5)",
    )
    grid = Grid()
    parser.add_argument("--two-theta-min", type=float, default=grid.two_theta_min)
    parser.add_argument("--two-theta-max", type=float, default=grid.two_theta_max)
    parser.add_argument("--step", type=float, default=grid.step, help="as data.grid of the recipe")
    parser.add_argument("--licence", default="unknown", help="of the data")
    parser.add_argument("--citation", default="unknown", help="of the data")
    add_options(parser)
    given = parser.parse_args(argv)
    if (given.labels is None) != given.formula_from_name:
        raise SourceError(
            "patterns: formulas come from a table (--labels FILE.csv) or from the files' names "
            "(--formula-from-name); give one of the two"
        )
    targets = parse_targets(given.targets)
    if targets and given.labels is None:
        raise SourceError("--targets: needs the table they are in; name it with --labels")
    columns = {key: getattr(given, f"{key}_column") for key in ("file", "formula", "wavelength")}
    rows = read_rows(given.folder, given.labels, targets, columns)
    grid = Grid(given.two_theta_min, given.two_theta_max, given.step)
    options = options_from(given, given.fwhm)
    source = {
        "name": "measured patterns",
        "licence": given.licence,
        "citation": given.citation,
        "files": [
            {"name": given.folder.name, "bytes": None, "checksum": _checksum(given.folder, rows)}
        ],
    }
    if _is_there(given.output, source, _plain(options) | {"axis": given.axis}, grid):
        print(f"{given.output}: is there already, of the same patterns and options")
        return 0
    manifest = prepare(
        given.folder,
        rows,
        given.output,
        targets,
        grid,
        options,
        given.axis,
        source,
    )
    counts = manifest.counts
    print(
        f"{given.output}: {counts['read']} read = {counts['written']} written + "
        f"{counts['rejected']} rejected + {counts['duplicates']} duplicates"
    )
    left_out = (given.output / REJECTED).read_text(encoding="utf-8").splitlines()
    for line in left_out[:_LEFT_OUT_TOLD]:
        print(f"  left out: {_told(json.loads(line))}", file=sys.stderr)
    if len(left_out) > _LEFT_OUT_TOLD:
        more = len(left_out) - _LEFT_OUT_TOLD
        print(f"  and {more} more: {given.output / REJECTED}", file=sys.stderr)
    return 0
