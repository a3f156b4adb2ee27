"""Parents: known crystals that give structure types, chemical systems, references and a hull."""

from __future__ import annotations

import heapq
import json
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.elements import SYMBOLS
from datamodules.io.files import replace_file
from datamodules.prepare.crystals.crystal import Crystal
from datamodules.prepare.crystals.substitution import (
    closest_contact,
    shortest_distances,
    to_structure,
)
from datamodules.prepare.crystals.symmetry import dataset
from datamodules.prepare.hypothetical.evaluation import CONTACT
from datamodules.prepare.hypothetical.potential import Potential
from datamodules.prepare.hypothetical.scan import scaled
from datamodules.prepare.slices import check
from datamodules.prepare.sources.source import Entry, Progress, Source, SourceError
from datamodules.randomness import Purpose, hash_uint64

LARGEST = 60
"""Atoms in the primitive cell of a parent; larger ones take most of the time."""
LARGEST_TYPE = 20
"""Atoms in the primitive cell of a parent that gives a structure type."""
CHUNK = 128
"""Parents that are examined, or lost, at once."""


@dataclass(frozen=True)
class Parent:
    """A known crystal.

    Attributes:
        id: In its source.
        crystal: Its primitive cell, ordered.
        sites: The Wyckoff letter of each atom.
        space_group: International number.
        energy: The potential's, at the volume that the source gives, eV/atom; None if it has none.
        label: The formation energy that the source gives, eV/atom; None if it gives none.
    """

    id: str
    crystal: Crystal
    sites: str
    space_group: int
    energy: float | None
    label: float | None

    @cached_property
    def amounts(self) -> dict[int, int]:
        """Atoms of each element in the reduced formula, by atomic number."""
        counts = Counter(self.crystal.numbers.tolist())
        divisor = gcd(*counts.values())
        return {number: count // divisor for number, count in sorted(counts.items())}

    @cached_property
    def distances(self) -> dict[tuple[str, str], float]:
        """The shortest distances between its elements; see `shortest_distances`."""
        return shortest_distances(to_structure(self.crystal))

    @cached_property
    def type(self) -> tuple[Any, ...]:
        """What crystals of one structure type have in common: space group and occupied positions.

        The positions are those of each element, without saying which element it is.
        """
        positions: dict[int, list[str]] = {}
        for number, site in zip(self.crystal.numbers.tolist(), self.sites, strict=True):
            positions.setdefault(number, []).append(site)
        return (
            self.space_group,
            *sorted((len(sites), "".join(sorted(sites))) for sites in positions.values()),
        )


def sample(source: Source, most: int) -> Iterator[list[Entry]]:
    """Entries of a source: at most so many, chosen evenly by hash, in the source's order.

    Yields:
        Chunks of those that can be used, as when a store is made of them.

    Raises:
        SourceError: if a part of the source cannot be read.
    """
    chosen: list[tuple[int, int, int, Any]] = []
    for number, part in enumerate(source.parts()):
        for position, record in enumerate(source.records(part, Progress())):
            word = hash_uint64(number, int(Purpose.FRACTION), position)[0]
            # The largest of the negative hashes are the smallest hashes; ties cannot be.
            item = (-int(word), number, position, record)
            if len(chosen) < most:
                heapq.heappush(chosen, item)
            elif item[0] > chosen[0][0]:
                heapq.heapreplace(chosen, item)
    chosen.sort(key=lambda item: item[1:3])
    for start in range(0, len(chosen), CHUNK):
        some = chosen[start : start + CHUNK]
        yield [entry for _, _, *place in some if (entry := _entry(source, *place)) is not None]


def _entry(source: Source, position: int, record: Any) -> Entry | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            entry = source.entry(record, position)
            check(entry)
    except SourceError:
        raise
    except Exception:  # whatever is wrong with one entry
        return None
    return entry


def examine(path: Path, label: str | None, potential: Potential, entries: list[Entry]) -> None:
    """Writes what is to know of some parents into a file.

    Entries that no parent can be made of (disordered, damaged, too large) are left out.

    Args:
        path: The file.
        label: The target that is a formation energy, or None.
        potential: What gives energies.
        entries: The parents.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parents = [p for p in (_parent(entry, label) for entry in entries) if p is not None]
        energies = potential.energies([_crystal(parent) for parent in parents])
    for parent, energy in zip(parents, energies, strict=True):
        parent["energy"] = float(energy) if np.isfinite(energy) else None
    replace_file(path, json.dumps(parents, allow_nan=False).encode())


def _parent(entry: Entry, label: str | None) -> dict[str, Any] | None:
    crystal = entry.crystal
    if crystal.hydrogens or crystal.occupancies.min() < 0.999:
        return None
    if len(crystal.numbers) > 4 * LARGEST:
        return None
    symmetry = _symmetry(crystal)
    if symmetry is None or len(symmetry["symbols"]) > LARGEST:
        return None
    if closest_contact(_crystal(symmetry)) < CONTACT:
        return None
    value = entry.targets.get(label) if label is not None else None
    return {"id": entry.id, **symmetry, "label": value}


def _symmetry(crystal: Crystal) -> dict[str, Any] | None:
    """Primitive cell, space group and Wyckoff letters; None if there is no symmetry to be found."""
    found = dataset(crystal)
    if found is None:
        return None
    primitive = found.prim_std_cell
    sites = dict(zip(found.mapping_std_prim, found.wyckoffs, strict=True))
    return {
        "lattice": primitive.basis,
        "coordinates": primitive.positions,
        "symbols": [SYMBOLS[number] for number in primitive.numbers],
        "sites": "".join(sites[atom] for atom in range(primitive.num_atoms)),
        "space_group": found.number,
    }


def _crystal(parent: dict[str, Any]) -> Crystal:
    return Crystal.from_symbols(
        np.array(parent["lattice"]), np.array(parent["coordinates"]), parent["symbols"]
    )


def load(paths: Iterable[Path]) -> list[Parent]:
    """Reads what `examine` wrote."""
    return [
        Parent(
            id=parent["id"],
            crystal=_crystal(parent),
            sites=parent["sites"],
            space_group=parent["space_group"],
            energy=parent["energy"],
            label=parent["label"],
        )
        for path in paths
        for parent in json.loads(path.read_bytes())
    ]


def structure_types(parents: Iterable[Parent]) -> dict[tuple[int, ...], list[Parent]]:
    """One parent for each structure type (the first), by the amounts of its reduced formula."""
    types: dict[tuple[int, ...], list[Parent]] = {}
    seen: set[tuple[Any, ...]] = set()
    for parent in parents:
        if len(parent.crystal.numbers) <= LARGEST_TYPE and parent.type not in seen:
            seen.add(parent.type)
            types.setdefault(tuple(sorted(parent.amounts.values())), []).append(parent)
    return types


def with_elements(parent: Parent, replacing: Mapping[int, int], volume: float) -> Crystal:
    """The parent's crystal with other elements, and its cell scaled evenly.

    Args:
        parent: The parent.
        replacing: New atomic numbers by old ones.
        volume: Of the result, Å³/atom.

    Raises:
        EntryError: if that makes no sense, such as a density beyond every element's.
    """
    symbols = [SYMBOLS[replacing[number]] for number in parent.crystal.numbers.tolist()]
    lattice = scaled(parent.crystal, volume).lattice
    return Crystal.from_symbols(lattice, parent.crystal.coordinates, symbols)
