"""The options of `xxact prepare hypothetical`."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from datamodules.prepare.hypothetical.potential import Chgnet
from datamodules.prepare.hypothetical.source import (
    CANDIDATES,
    MOST_PARENTS,
    WINDOW,
    HypotheticalSource,
)
from datamodules.prepare.sources.alexandria import AlexandriaSource
from datamodules.prepare.sources.cif_folder import CifFolderSource
from datamodules.prepare.sources.csv_cif import CsvSource
from datamodules.prepare.sources.parquet import ParquetSource
from datamodules.prepare.sources.prototypes import BarePrototypeSource
from datamodules.prepare.sources.source import Source, SourceError, Target

_KINDS = ("csv", "json", "parquet", "folder")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument(
        "parents", nargs="*", type=Path, metavar="PARENTS", help="files .csv[.gz], .json[.bz2] or "
        ".parquet, or a folder of CIF (default: the prototypes alone)",
    )  # fmt: skip
    parser.add_argument(
        "--candidates", type=int, default=CANDIDATES, metavar="N", help="structures tried; about "
        "seven in ten are kept; an unfinished store is continued with as many or more (default: "
        "%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--formation-energy", metavar="COLUMN", help="the parents' label in eV/atom to which the "
        "energies of the elements are fitted (default: the elements' own)",
    )  # fmt: skip
    parser.add_argument("--labels", type=Path, metavar="FILE.csv", help="of a folder of CIF")
    parser.add_argument("--id-column", help="of the parents")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="another one gives other formulas"
    )
    parser.add_argument(
        "--window", type=float, default=WINDOW, metavar="EV", help="eV/atom above a formula's "
        "lowest energy from which a structure is left out (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--relax", type=int, default=0, metavar="STEPS", help="relax cell and atoms (slow)"
    )
    parser.add_argument(
        "--most-parents", type=int, default=MOST_PARENTS, metavar="N", help="of more, so many are "
        "taken (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--licence", default=Source.licence, help="of the parents")
    parser.add_argument("--citation", default=Source.citation, help="of the parents")


def build(arguments: argparse.Namespace) -> HypotheticalSource:
    """The source that the options tell.

    Raises:
        SourceError: if they make no sense.
    """
    for option, least in (("candidates", 1), ("seed", 0), ("relax", 0), ("most_parents", 1)):
        if (value := getattr(arguments, option)) < least:
            name = option.replace("_", "-")
            raise SourceError(f"--{name} {value}: must be at least {least}")
    if not 0 < arguments.window < math.inf:
        raise SourceError(f"--window {arguments.window:g}: must be above 0 (eV/atom)")
    return HypotheticalSource(
        parents=_parents(arguments),
        potential=Chgnet(),
        label=None if arguments.formation_energy is None else "formation_energy",
        candidates=arguments.candidates,
        seed=arguments.seed,
        window=arguments.window,
        relax_steps=arguments.relax,
        most_parents=arguments.most_parents,
    )


def _parents(arguments: argparse.Namespace) -> Source:
    """The source that the parents' names tell."""
    files: tuple[Path, ...] = tuple(arguments.parents)
    column = arguments.formation_energy
    labels = () if column is None else (Target(column, "formation_energy", "eV/atom"),)
    kinds = {_kind(path) for path in files}
    if arguments.labels is not None and kinds != {"folder"}:
        raise SourceError("--labels: only with a folder of CIF files; a table has its own columns")
    if not files:
        if labels:
            raise SourceError("--formation-energy: the prototypes have none; name PARENTS")
        return BarePrototypeSource()
    if len(kinds) > 1 or (kinds == {"folder"} and len(files) > 1):
        raise SourceError("hypothetical: parents must be files of one kind, or one folder")
    if kinds == {"json"}:
        return AlexandriaSource(files, labels)
    licence, citation = arguments.licence, arguments.citation
    if kinds == {"folder"}:
        if labels and arguments.labels is None:
            raise SourceError("--formation-energy: needs the file it is in; name it with --labels")
        return CifFolderSource(
            folder=files[0],
            labels_file=arguments.labels,
            labels=labels,
            id_column=arguments.id_column,
            licence_note=licence,
            citation_note=citation,
        )
    table = CsvSource if kinds == {"csv"} else ParquetSource
    return table(
        files=files,
        labels=labels,
        id_column=arguments.id_column,
        licence_note=licence,
        citation_note=citation,
    )


def _kind(path: Path) -> str:
    name = path.name.removesuffix(".gz").removesuffix(".bz2")
    kind = "folder" if path.is_dir() else Path(name).suffix.removeprefix(".")
    if kind not in _KINDS:
        raise SourceError(
            f"{path}: neither .csv nor .json (also .gz, .bz2) nor .parquet nor a folder; give such "
            "parents"
        )
    return kind
