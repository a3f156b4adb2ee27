"""Public data sets that `--download` knows: where they are, and when they are complete."""

from __future__ import annotations

import csv
import re
from pathlib import Path

from datamodules.io.arguments import masked
from datamodules.prepare.downloads.download import (
    Check,
    Downloader,
    check_all,
    check_bz2,
    check_gzip,
    check_sha256,
    known_checksums,
    note_source,
)
from datamodules.prepare.sources import nrel
from datamodules.prepare.sources.alexandria import AlexandriaSource
from datamodules.prepare.sources.csv_cif import CsvSource
from datamodules.prepare.sources.source import SourceError, Target

ALEXANDRIA_URL = "https://alexandria.icams.rub.de/data"
MP20_REVISION = "f857f598d6f6cca5dc1ea0582d228f12dcc2c2ea"
MP20_URL = f"https://raw.githubusercontent.com/txie-93/cdvae/{MP20_REVISION}/data/mp_20"

NREL_REVISION = "3de03d190c7c84354c3fc8cad39d7597764a45df"
NREL_URL = f"https://raw.githubusercontent.com/prashungorai/combined-gnn/{NREL_REVISION}"

NREL_BYTES = 50 << 20
"""Largest size of a file; the archive has 2 MB."""
NREL_TABLE_BYTES = 462_464
"""Of the table of energies at this revision."""

MP20_ROWS = {"train.csv": 27136, "val.csv": 9047, "test.csv": 9046}
MP20_BYTES = 200 << 20
ALEXANDRIA_BYTES = 1 << 30
"""Largest size of one file; they have 50 and 60 MB."""
MP20_TARGETS = (
    Target("formation_energy_per_atom", "formation_energy", "eV/atom"),
    Target("band_gap", "band_gap", "eV"),
    Target("e_above_hull", "hull_distance", "eV/atom"),
)
MP20_LICENCE = "MIT (CDVAE); Materials Project data: CC-BY 4.0"
MP20_CITATION = (
    "T. Xie et al., Crystal Diffusion Variational Autoencoder for Periodic Material Generation, "
    "ICLR 2022; A. Jain et al., Commentary: The Materials Project, APL Mater. 1, 011002 (2013), "
    "doi:10.1063/1.4812323"
)


def parse_numbers(text: str) -> list[int]:
    """Reads file numbers such as "0-3,7".

    Raises:
        SourceError: if it is none.
    """
    numbers: list[int] = []
    for item in text.split(","):
        found = re.fullmatch(r"\s*(\d{1,5})(?:-(\d{1,5}))?\s*", item)
        if not found or int(found[2] or found[1]) < int(found[1]):
            raise SourceError(f"--files {text}: not a list of numbers; write for example 0-3,7")
        numbers += range(int(found[1]), int(found[2] or found[1]) + 1)
    return sorted(set(numbers))


def download_alexandria(
    downloader: Downloader,
    version: str,
    folder: Path,
    numbers: list[int] | None = None,
    base_url: str = ALEXANDRIA_URL,
) -> tuple[Path, ...]:
    """Downloads files of Alexandria.

    Args:
        downloader: What fetches.
        version: Path on the server, such as "pbe/2025.07.02".
        folder: Where they are kept.
        numbers: Numbers of the files; None means all that the server lists.
        base_url: The server's folder of data.

    Raises:
        SourceError: if they cannot be had.
    """
    if not re.fullmatch(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*", version) or ".." in version:
        raise SourceError(f"--download {version}: not a path such as pbe/2025.07.02")
    url = f"{base_url.rstrip('/')}/{version}"
    if numbers is None:
        listed = re.findall(r"alexandria_\d{5}\.json\.bz2", downloader.text(f"{url}/"))
        names = sorted(set(listed))
        if not names:
            raise SourceError(f"{url}/: lists no alexandria_NNNNN.json.bz2; check --download")
    else:
        names = [f"alexandria_{n:05d}.json.bz2" for n in numbers]
    paths = _fetch_all(downloader, url, folder, dict.fromkeys(names, check_bz2), ALEXANDRIA_BYTES)
    note_source(
        folder,
        f"Alexandria {version}",
        AlexandriaSource.licence,
        AlexandriaSource.citation,
        {f"{url}/{name}": path for name, path in zip(names, paths, strict=True)},
    )
    return paths


def download_mp20(downloader: Downloader, folder: Path, base_url: str = MP20_URL) -> CsvSource:
    """Downloads MP-20, the 45 229 structures of the CDVAE paper with at most 20 atoms.

    Args:
        downloader: What fetches.
        folder: Where the files are kept.
        base_url: The folder of the three files.

    Raises:
        SourceError: if they cannot be had.
    """
    checks = {name: _rows_check(rows) for name, rows in MP20_ROWS.items()}
    paths = _fetch_all(downloader, base_url.rstrip("/"), folder, checks, MP20_BYTES)
    urls = {f"{base_url.rstrip('/')}/{path.name}": path for path in paths}
    note_source(folder, "MP-20", MP20_LICENCE, MP20_CITATION, urls)
    return CsvSource(
        paths,
        cif_column="cif",
        labels=MP20_TARGETS,
        id_column="material_id",
        licence_note=MP20_LICENCE,
        citation_note=MP20_CITATION,
    )


def download_nrel(
    downloader: Downloader, folder: Path, base_url: str = NREL_URL
) -> nrel.NrelSource:
    """Downloads the hypothetical crystals of `datamodules.prepare.sources.nrel`, about 2.5 MB.

    The revision is pinned and with it the content. Checked are the table's length and the archive's
    own checksums; a checksum of the whole archive is not known to us.

    Args:
        downloader: What fetches.
        folder: Where the files are kept.
        base_url: The folder of the two files.

    Raises:
        SourceError: if they cannot be had.
    """
    checks: dict[str, Check] = {nrel.ENERGIES: _check_energies, nrel.STRUCTURES: check_gzip}
    url = base_url.rstrip("/")
    paths = _fetch_all(downloader, url, folder, checks, NREL_BYTES)
    source = nrel.NrelSource(folder)
    urls = {f"{url}/{path.name}": path for path in paths}
    note_source(folder, "NREL's hypothetical crystals", source.licence, source.citation, urls)
    return source


def _check_energies(path: Path) -> str | None:
    """Whether the table of energies has its length, however its lines end."""
    if path.stat().st_size > 2 * NREL_TABLE_BYTES:
        return "larger than the table of energies"
    size = len(path.read_bytes().replace(b"\r\n", b"\n"))
    return None if size == NREL_TABLE_BYTES else f"{size} bytes instead of {NREL_TABLE_BYTES}"


def _fetch_all(
    downloader: Downloader, url: str, folder: Path, checks: dict[str, Check], max_bytes: int
) -> tuple[Path, ...]:
    """Fetches files; what was downloaded once has the same content ever after."""
    known = known_checksums(folder)
    paths = []
    for name, check in checks.items():
        digest = known.get(masked(f"{url}/{name}"))
        both = check_all(check, check_sha256(digest)) if digest else check
        paths.append(downloader.fetch(f"{url}/{name}", folder / name, both, max_bytes))
    return tuple(paths)


def _rows_check(expected: int) -> Check:
    """A check by the number of rows: a CSV has no other end mark."""

    def check(path: Path) -> str | None:
        csv.field_size_limit(1 << 24)
        try:
            with open(path, encoding="utf-8-sig", newline="") as stream:
                rows = max(sum(1 for row in csv.reader(stream, strict=True) if row) - 1, 0)
        except (csv.Error, UnicodeDecodeError) as error:
            return f"broken CSV ({error})"
        return None if rows == expected else f"{rows} rows instead of {expected}"

    return check
