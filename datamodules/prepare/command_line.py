"""`xxact prepare`: crystal structures to a store."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from datamodules.io.arguments import ArgumentParser, printable, printable_lines
from datamodules.prepare.downloads import public_data
from datamodules.prepare.downloads.download import Downloader
from datamodules.prepare.executors import workers
from datamodules.prepare.finish import reasons
from datamodules.prepare.hypothetical import arguments as hypothetical
from datamodules.prepare.pipeline import Result, prepare
from datamodules.prepare.sources import alexandria
from datamodules.prepare.sources.ase_files import AseSource
from datamodules.prepare.sources.cif_folder import CifFolderSource
from datamodules.prepare.sources.csv_cif import CsvSource
from datamodules.prepare.sources.parquet import ParquetSource
from datamodules.prepare.sources.prototypes import SUBSTITUTES, PrototypeSource
from datamodules.prepare.sources.source import Source, SourceError, Target
from datamodules.prepare.targets import parse_targets
from datamodules.store.store import NOTES, REJECTED, StoreError

DOWNLOADS = Path("data/downloads")
"""Where downloaded files are kept, under the current folder."""

_DOWNLOADS_CSV: dict[str, tuple[Callable[[Downloader, Path, str], Source], str]] = {
    "mp-20": (public_data.download_mp20, public_data.MP20_URL),
    "nrel": (public_data.download_nrel, public_data.NREL_URL),
}


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="xxact prepare",
        description="Turns crystal structures into a store: powder diffraction lines, "
        "compositions and labels. Interrupted, the same command continues.",
    )
    common = ArgumentParser(add_help=False)
    common.add_argument("--output", type=Path, required=True, metavar="STORE", help="its folder")
    common.add_argument("--workers", type=int, help="processes (default: one a core)")
    common.add_argument("--scheduler", metavar="ADDRESS", help="use a Dask cluster instead")
    common.add_argument("--limit", type=int, help="read at most so many entries of each file")
    common.add_argument("--space-groups", action="store_true", help=argparse.SUPPRESS)
    common.add_argument("--quiet", action="store_true", help="no progress bar")
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="SOURCE")

    kind = kinds.add_parser("prototypes", parents=[common], help="the embedded data set")
    kind.add_argument(
        "--substitutes", type=int, default=SUBSTITUTES, help="new compounds tried a prototype"
    )
    kind.set_defaults(source=_prototypes)

    kind = kinds.add_parser("csv", parents=[common], help="CSV files with a column of CIF text")
    kind.add_argument("files", nargs="*", type=Path, metavar="FILE.csv[.gz]")
    kind.add_argument(
        "--download", choices=sorted(_DOWNLOADS_CSV), help="fetch a public data set instead"
    )
    _add_download_options(kind)
    kind.add_argument("--cif-column")
    kind.add_argument("--formula-column", help="states the composition; compared with the atoms")
    _add_label_options(kind, "of the rows")
    kind.set_defaults(source=_csv)

    kind = kinds.add_parser("cif", parents=[common], help="a folder of CIF files")
    kind.add_argument("folder", type=Path, metavar="FOLDER")
    kind.add_argument("--labels", type=Path, metavar="FILE.csv", help="identifiers and labels")
    _add_label_options(kind, "of the labels")
    kind.set_defaults(source=_cif)

    kind = kinds.add_parser("alexandria", parents=[common], help="Alexandria's JSON files")
    kind.add_argument("files", nargs="*", type=Path, metavar="FILE.json.bz2")
    kind.add_argument("--download", metavar="VERSION", help="fetch files, e.g. pbe/2025.07.02")
    kind.add_argument(
        "--files", dest="files_numbers", metavar="0-3", help="numbers of the files to fetch"
    )
    _add_download_options(kind)
    kind.add_argument(
        "--targets",
        metavar="KEY[=NAME][:UNIT],…",
        help="keys of an entry's data (default: e_form, band_gap_ind, e_above_hull)",
    )
    kind.set_defaults(source=_alexandria)

    kind = kinds.add_parser("parquet", parents=[common], help="Parquet files as LeMat-Bulk's")
    kind.add_argument("files", nargs="+", type=Path, metavar="FILE.parquet")
    _add_label_options(kind, "of the rows (default: immutable_id)")
    kind.set_defaults(source=_parquet)

    kind = kinds.add_parser("ase", parents=[common], help="what ASE reads: XYZ, databases, POSCARs")
    kind.add_argument("paths", nargs="+", type=Path, metavar="FILE|FOLDER")
    kind.add_argument("--labels", type=Path, metavar="FILE.csv", help="identifiers and labels")
    _add_label_options(kind, "of the labels, or a key of the images")
    kind.set_defaults(source=_ase)

    kind = kinds.add_parser(
        "hypothetical", parents=[common], help="new crystals with a potential's energies"
    )
    hypothetical.add_arguments(kind)
    kind.set_defaults(source=hypothetical.build)
    # Has options of its own: `main` turns to it before this parser does.
    kinds.add_parser("patterns", add_help=False, help="measured patterns; see its own --help")
    return parser


def _add_label_options(parser: ArgumentParser, of_what: str) -> None:
    parser.add_argument("--targets", default="", metavar="COLUMN[=NAME][:UNIT],…")
    parser.add_argument("--id-column", help=of_what)
    parser.add_argument("--licence", default=Source.licence, help="of the data, for the manifest")
    parser.add_argument("--citation", default=Source.citation, help="of the data")


def _add_download_options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--keep-in", type=Path, metavar="FOLDER", help=f"for downloads (default: in {DOWNLOADS})"
    )
    parser.add_argument("--mirror", metavar="URL", help="another server with the same files")


def _prototypes(arguments: argparse.Namespace) -> Source:
    if arguments.substitutes < 0:
        raise SourceError(f"--substitutes {arguments.substitutes}: must not be negative")
    return PrototypeSource(arguments.substitutes)


def _csv(arguments: argparse.Namespace) -> Source:
    if bool(arguments.files) == bool(arguments.download):
        raise SourceError(f"csv: name either files or --download {' or '.join(_DOWNLOADS_CSV)}")
    if name := arguments.download:
        named = (arguments.id_column, arguments.cif_column, arguments.formula_column)
        if arguments.targets or any(named):
            raise SourceError(
                f"--download {name}: knows its columns; leave out --targets and others"
            )
        fetch, url = _DOWNLOADS_CSV[name]
        downloader = Downloader(quiet=arguments.quiet)
        return fetch(downloader, arguments.keep_in or DOWNLOADS / name, arguments.mirror or url)
    return CsvSource(
        files=tuple(arguments.files),
        labels=parse_targets(arguments.targets),
        id_column=arguments.id_column,
        cif_column=arguments.cif_column,
        formula_column=arguments.formula_column,
        licence_note=arguments.licence,
        citation_note=arguments.citation,
    )


def _cif(arguments: argparse.Namespace) -> Source:
    labels = parse_targets(arguments.targets)
    if labels and arguments.labels is None:
        raise SourceError("--targets: needs the file they are in; name it with --labels")
    return CifFolderSource(
        folder=arguments.folder,
        labels_file=arguments.labels,
        labels=labels,
        id_column=arguments.id_column,
        licence_note=arguments.licence,
        citation_note=arguments.citation,
    )


def _parquet(arguments: argparse.Namespace) -> Source:
    return ParquetSource(
        files=tuple(arguments.files),
        labels=parse_targets(arguments.targets),
        id_column=arguments.id_column,
        licence_note=arguments.licence,
        citation_note=arguments.citation,
    )


def _ase(arguments: argparse.Namespace) -> Source:
    return AseSource(
        paths=tuple(arguments.paths),
        labels_file=arguments.labels,
        labels=parse_targets(arguments.targets),
        id_column=arguments.id_column,
        licence_note=arguments.licence,
        citation_note=arguments.citation,
    )


def _alexandria(arguments: argparse.Namespace) -> Source:
    files = tuple(arguments.files)
    if bool(files) == bool(arguments.download):
        raise SourceError("alexandria: name either files or --download VERSION")
    if arguments.files_numbers is not None and not arguments.download:
        raise SourceError("--files: only together with --download; else name the files")
    labels: tuple[Target, ...] = alexandria.TARGETS
    if arguments.targets is not None:
        labels = parse_targets(arguments.targets)
    if arguments.download:
        numbers = arguments.files_numbers
        files = public_data.download_alexandria(
            Downloader(quiet=arguments.quiet),
            arguments.download,
            arguments.keep_in or DOWNLOADS / "alexandria" / arguments.download,
            None if numbers is None else public_data.parse_numbers(numbers),
            arguments.mirror or public_data.ALEXANDRIA_URL,
        )
    return alexandria.AlexandriaSource(files, labels)


def summary(output: Path, result: Result) -> str:
    """What was done, in a few lines."""
    counts, manifest = result.manifest.counts, result.manifest
    if result.seconds is None:
        head = f"{output}: was finished before with the same options and input; nothing to do"
    else:
        rate = result.prepared / result.seconds if result.seconds else 0.0
        head = f"{output}: {result.seconds:.1f} s, {rate:.0f} entries/s"
    size = sum(shard.bytes for shard in manifest.shards)
    lines = [
        head,
        f"  {counts['read']} read = {counts['written']} written + {counts['rejected']} rejected "
        f"+ {counts['duplicates']} duplicates",
        f"  {len(manifest.shards)} shards, {size / 1e6:.1f} MB, "
        f"{size / max(counts['written'], 1):.0f} bytes a material",
    ]
    if unknown := manifest.physics["symmetry"]["rows_without"]:
        lines.append(
            f"  {unknown} materials without a symmetry (their structural columns are null)"
        )
    for target in manifest.targets:
        lines.append(f"  {target.name} ({target.unit}): {target.count} labels")
    if counts["rejected"] + counts["duplicates"]:
        lines.append(f"  left out, see {output / REJECTED}:")
        lines += [f"    {n} × {reason}" for reason, n in reasons(output).items()]
    if manifest.notes:
        lines.append(f"  written, but see {output / NOTES}:")
        lines += [f"    {n} × {note}" for note, n in manifest.notes.items()]
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    """Runs `xxact prepare`.

    Args:
        argv: Arguments after `prepare`.

    Returns:
        The exit status: 0, 2 after a user's mistake, 130 after an interrupt.
    """
    if argv[:1] == ["patterns"]:
        from datamodules.prepare.patterns import main as prepare_patterns

        return prepare_patterns(argv[1:])
    arguments = _parser().parse_args(argv)
    build: Callable[[argparse.Namespace], Source] = arguments.source
    try:
        if arguments.limit is not None and arguments.limit < 1:
            raise SourceError(f"--limit {arguments.limit}: must be at least 1")
        if arguments.space_groups:
            print("xxact: --space-groups is no longer needed: every row has one", file=sys.stderr)
        source = build(arguments)
        where = workers(arguments.workers, arguments.scheduler)
        result = prepare(
            source,
            arguments.output,
            where,
            limit=arguments.limit,
            quiet=arguments.quiet,
        )
    except (SourceError, StoreError) as error:
        print(f"xxact: error: {printable(str(error), 2000)}", file=sys.stderr)
        return 2
    except OSError as error:
        print(
            f"xxact: error: {printable(str(error.filename or arguments.output))}: "
            f"{error.strerror}; finished "
            "entries are kept: mend it and run the same command again",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print(
            "xxact: interrupted; finished entries are kept: run the same command again to continue",
            file=sys.stderr,
        )
        return 130
    print(printable_lines(summary(arguments.output, result)))
    if not result.manifest.counts["written"]:
        output = printable(str(arguments.output))
        print(f"xxact: error: {output}: no entry could be used", file=sys.stderr)
        return 2
    return 0
