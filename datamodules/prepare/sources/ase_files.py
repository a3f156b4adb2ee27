"""Whatever ASE reads: extended XYZ, databases, trajectories, folders of POSCARs, and more.

ASE is an extra (`pip install xxact[ase]`). Its readers are not made for strangers' files.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.io.arguments import printable
from datamodules.prepare.crystals.crystal import EntryError
from datamodules.prepare.crystals.structures import of_atoms
from datamodules.prepare.sources.cif_folder import digest_file
from datamodules.prepare.sources.csv_cif import ID_COLUMNS
from datamodules.prepare.sources.reading.labels import read_labels
from datamodules.prepare.sources.source import (
    PER_SITE,
    Entry,
    LabelledSource,
    Part,
    Progress,
    SourceError,
    file_part,
    label,
    open_compressed,
    part_names,
)

_XYZ = (".xyz", ".extxyz", ".xyz.gz", ".extxyz.gz", ".xyz.bz2", ".extxyz.bz2")
_DATABASES = ("db", "aselmdb")
_LOOKED_AT = 100
"""Images in which a label that is asked for must be found."""
_IDENTIFIERS = tuple(name for name in ID_COLUMNS if name != "name")
"""Keys of an image that identify it; a name seldom does."""


@dataclass(frozen=True)
class AseSource(LabelledSource):
    """Files that ASE reads, or folders of them.

    Of a named file every image is an entry; of each file of a folder the last image is one (that of
    a relaxation is the relaxed one).

    Attributes:
        paths: Files and folders in their order.
        labels_file: CSV file of labels by identifier; without it they come from the images.
    """

    paths: tuple[Path, ...]
    labels_file: Path | None = None
    name = "ase"

    def parts(self) -> list[Part]:
        """The files and folders; of the first images it is looked whether they have the labels.

        Raises:
            SourceError: if ASE is not there or does not know a file, or no image has a label.
        """
        _require_ase()
        found = "" if self.labels_file is None else f"+{digest_file(self.labels_file)[0].hex()}"
        parts = []
        for name, path in part_names(self.paths).items():
            if not path.is_dir():
                part = file_part(path, name)
                parts.append(Part(name, part.checksum + found, part.bytes))
                continue
            digest, size, names = hashlib.sha256(), 0, _names(path)
            if not names:
                raise SourceError(f"{path}: no files in it; check the path")
            for file in names:
                content, length = digest_file(path / file)
                digest.update(os.fsencode(file) + b"\0" + content)
                size += length
            parts.append(Part(name, f"sha256:{digest.hexdigest()}{found}", size, len(names)))
        for part in parts:
            self._look(part)
        return parts

    def records(self, part: Part, progress: Progress) -> Iterator[Any]:
        """Yields (identifier, what ASE is to read) of each image.

        Raises:
            SourceError: if a file is damaged or of no kind that ASE knows.
        """
        path = part_names(self.paths)[part.name]
        if path.is_dir():
            yield from ((name, path / name) for name in _names(path))
        elif path.name.endswith(_XYZ):
            for i, text in enumerate(_frames(path, progress)):
                yield f"{path.name}#{i}", text
        else:
            yield from _images(path)

    def entry(self, record: Any, position: int) -> Entry:
        """Reads an image.

        Raises:
            EntryError: if it cannot be used.
        """
        name, atoms = record[0], _atoms(record[1])
        values = _values(atoms)
        identifier = self._identifier(name, values)
        crystal = of_atoms(atoms)
        if self.labels_file is not None:
            texts: dict[str, Any] = self._labels.get(identifier) or self._labels.get(
                Path(identifier).with_suffix("").as_posix(), {}
            )
        else:
            texts = values
        targets = {
            t.name: label(texts.get(self._key(t.column)), t.column, len(crystal.numbers))
            for t in self.labels
        }
        return Entry(identifier, crystal, targets)

    def identify(self, record: Any) -> str:
        """The image's identifier, or its place."""
        try:
            return self._identifier(record[0], _values(_atoms(record[1])))
        except Exception:  # it was rejected: perhaps because it cannot be read
            return str(record[0])

    @cached_property
    def _labels(self) -> dict[str, dict[str, str]]:
        if self.labels_file is None:
            return {}
        return read_labels(self.labels_file, self.labels, self.id_column)

    def _key(self, column: str) -> str:
        """The column of a label in the images, or in the file of labels."""
        return column if self.labels_file is not None else column.removesuffix(PER_SITE)

    def _identifier(self, name: str, values: dict[str, Any]) -> str:
        keys = (self.id_column,) if self.id_column and self.labels_file is None else _IDENTIFIERS
        for key in keys:
            if values.get(key) not in (None, ""):
                return str(values[key])
        return name

    def _look(self, part: Part) -> None:
        """Refuses labels and identifiers that none of the first images has."""
        if self.labels_file is not None:
            self._labels  # noqa: B018  (reads and checks the file)
            return
        wanted = {t.column.removesuffix(PER_SITE) for t in self.labels}
        wanted |= {self.id_column} if self.id_column else set()
        there: set[str] = set()
        for _, image in islice(self.records(part, Progress()), _LOOKED_AT):
            try:
                there |= {
                    key for key, value in _values(_atoms(image)).items() if np.ndim(value) == 0
                }
            except EntryError:
                continue
            if wanted <= there:
                return
        if missing := sorted(wanted - there):
            names = printable(", ".join(sorted(there)) or "none")
            raise SourceError(
                f"{part.name}: no image has '{missing[0]}'; there are: {names} (energies are a "
                f"cell's: energy{PER_SITE})"
            )


def _require_ase() -> None:
    try:
        import ase  # noqa: F401
    except ModuleNotFoundError:
        raise SourceError(
            "prepare ase: needs ASE, which is not installed; pip install 'xxact[ase]'"
        ) from None


def _names(folder: Path) -> list[str]:
    """Regular files in a folder and those below, sorted; hidden ones are left out."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(p.as_posix() for p in paths if not any(part.startswith(".") for part in p.parts))


def _frames(path: Path, progress: Progress) -> Iterator[str]:
    """Cuts an XYZ file into its images: a number of atoms, a comment, a line an atom."""
    with open_compressed(path, progress) as stream:
        binary: Any = stream
        lines = io.TextIOWrapper(binary, encoding="utf-8", errors="replace")
        for first in lines:
            if not first.strip():
                continue
            if not first.strip().isdecimal():
                raise SourceError(
                    f"{path}: '{printable(first.strip(), 40)}' where a number of atoms must be; "
                    "mend the file and run the same command again"
                )
            n = int(first)
            frame = list(islice(lines, n + 1))
            if len(frame) < n + 1:
                raise SourceError(f"{path}: ends within an image; get the file again")
            yield first + "".join(frame)


def _images(path: Path) -> Iterator[tuple[str, Any]]:
    """The images of a file as ASE reads them; of a database, where each is."""
    from ase.db import connect
    from ase.io import iread
    from ase.io.formats import filetype

    try:
        kind = filetype(str(path))
        if kind in _DATABASES:
            database = connect(path)
            for row in database.select(columns=["id"], include_data=False):
                yield f"{path.name}#{row.id}", (database, row.id)
            return
        for i, atoms in enumerate(iread(path, ":", format=kind)):
            yield f"{path.name}#{i}", atoms
    except Exception as error:  # ASE's readers raise whatever they raise
        reason = printable(f"{type(error).__name__}: {error}", 200)
        raise SourceError(
            f"{path}: ASE cannot read it ({reason}); mend it, or leave it out"
        ) from None


def _atoms(image: Any) -> Any:
    """ASE's atoms of what `records` yielded.

    Raises:
        EntryError: if ASE cannot read it.
    """
    from ase import Atoms
    from ase.io import read

    try:
        if isinstance(image, Atoms):
            return image
        if isinstance(image, str):
            return read(io.StringIO(image), format="extxyz")
        if isinstance(image, Path):
            return read(image, -1)
        database, row = image
        return database.get(id=row).toatoms(add_additional_information=True)
    except Exception as error:  # ASE's readers raise whatever they raise
        raise EntryError("unreadable file", f"{type(error).__name__}: {error}") from None


def _values(atoms: Any) -> dict[str, Any]:
    """What an image says of itself: a database's keys, `info`, and results of a calculation."""
    pairs = atoms.info.get("key_value_pairs", {})
    results = {} if atoms.calc is None else getattr(atoms.calc, "results", {})
    return {**results, **pairs, **atoms.info}
