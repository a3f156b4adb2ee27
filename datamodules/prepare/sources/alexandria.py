"""Alexandria's own files: JSON of pymatgen's ComputedStructureEntry dictionaries, bzip2."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.prepare.crystals.composition import Stated, stated_amounts
from datamodules.prepare.crystals.crystal import Crystal, EntryError
from datamodules.prepare.sources.reading.json_entries import (
    MAX_RECORD,
    BrokenJson,
    iterate_entries,
    parse_entry,
)
from datamodules.prepare.sources.source import (
    Entry,
    Part,
    Progress,
    Source,
    SourceError,
    Target,
    check_compression,
    file_part,
    number,
    open_compressed,
    part_names,
)

TARGETS = (
    Target("e_form", "formation_energy", "eV/atom"),
    Target("band_gap_ind", "band_gap", "eV"),
    Target("e_above_hull", "hull_distance", "eV/atom"),
)


@dataclass(frozen=True)
class AlexandriaSource(Source):
    """Files of Alexandria, or of the same form: .json, .json.bz2 or .json.gz.

    Attributes:
        files: The files in their order.
        labels: Keys of an entry's `data` that are labels.
    """

    files: tuple[Path, ...]
    labels: tuple[Target, ...] = TARGETS
    name = "alexandria"
    licence = "CC-BY 4.0"
    citation = (
        "J. Schmidt et al., Improving machine-learning models in materials science through large "
        "datasets, Mater. Today Phys. 48, 101560 (2024), doi:10.1016/j.mtphys.2024.101560"
    )

    @property
    def targets(self) -> tuple[Target, ...]:
        """The labels, in the order of the store's columns."""
        return self.labels

    def parts(self) -> list[Part]:
        """The files.

        Raises:
            SourceError: if one cannot be read or is not compressed as its name says.
        """
        parts = []
        for name, path in part_names(self.files).items():
            parts.append(file_part(path, name))
            check_compression(path)
        return parts

    def records(self, part: Part, progress: Progress) -> Iterator[Any]:
        """Yields the text of each entry, or its length if it is too long to be one.

        Raises:
            SourceError: if the file is truncated or not of this form.
        """
        path = part_names(self.files)[part.name]
        with open_compressed(path, progress) as stream:
            try:
                for text in iterate_entries(stream):
                    yield text if len(text) <= MAX_RECORD else len(text)
            except BrokenJson as error:
                raise SourceError(
                    f"{path}: broken JSON: {error}; get the file again and run the same command "
                    "again"
                ) from None

    def entry(self, record: Any, position: int) -> Entry:
        """Parses an entry.

        Raises:
            EntryError: if it cannot be used.
        """
        if isinstance(record, int):
            raise EntryError("entry too long", f"{record} bytes > {MAX_RECORD}")
        try:
            entry = parse_entry(record)
        except ValueError as error:
            raise EntryError("invalid JSON", str(error)) from None
        try:
            data, structure = entry["data"], entry["structure"]
            identifier = data["mat_id"]
            crystal = crystal_from_dict(structure)
            targets = {t.name: number(data.get(t.column), t.column) for t in self.labels}
            stated = _stated(entry, data)
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise EntryError(
                "not an entry of Alexandria", f"{type(error).__name__}: {error}"
            ) from None
        if not isinstance(identifier, str) or not identifier:
            raise EntryError("no identifier")
        return Entry(identifier, crystal, targets, stated)

    def identify(self, record: Any) -> str | None:
        """The entry's `mat_id`, if it has one."""
        try:
            return str(parse_entry(record)["data"]["mat_id"])
        except (ValueError, KeyError, TypeError):
            return None


def _stated(entry: dict[str, Any], data: dict[str, Any]) -> tuple[Stated, ...]:
    """The compositions that an entry states: that of the cell, and the formula in `data`."""
    stated = []
    if isinstance(composition := entry.get("composition"), dict) and composition:
        stated.append(stated_amounts("composition", composition))
    if isinstance(formula := data.get("formula"), str) and formula:
        stated.append(Stated("data.formula", formula))
    return tuple(stated)


def crystal_from_dict(structure: dict[str, Any]) -> Crystal:
    """Reads the dictionary of a pymatgen Structure, without pymatgen.

    Args:
        structure: As `Structure.as_dict()` gives it: lattice matrix, and sites with species
            (element, occupancy; oxidation states are ignored) and fractional coordinates.

    Raises:
        EntryError: if it is no crystal.
        KeyError: if a part of it is missing.
    """
    symbols, coordinates, occupancies = [], [], []
    for site in structure["sites"]:
        for species in site["species"]:
            symbols.append(species["element"])
            occupancies.append(species["occu"])
            coordinates.append(site["abc"])
    try:
        return Crystal.from_symbols(
            np.array(structure["lattice"]["matrix"], dtype=np.float64),
            np.array(coordinates, dtype=np.float64).reshape(-1, 3),
            symbols,
            np.array(occupancies, dtype=np.float64),
        )
    except (ValueError, TypeError, OverflowError) as error:
        if isinstance(error, EntryError):
            raise
        raise EntryError("malformed structure", str(error)) from None
