"""The hypothetical crystals of NREL and Colorado School of Mines, read as they are published.

Two files: a table of energies (`composition, structure_id, energyperatom`) and a compressed archive
of POSCARs (`…/POSCAR_<structure_id>`), many structures for a formula.
"""

from __future__ import annotations

import csv
import hashlib
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.elements import SYMBOLS
from datamodules.prepare.crystals.composition import Stated
from datamodules.prepare.crystals.crystal import Crystal, EntryError
from datamodules.prepare.sources.source import (
    Entry,
    Part,
    Progress,
    Source,
    SourceError,
    Target,
    file_part,
    number,
)

ENERGIES = "hypothetical_structure_energies.csv"
STRUCTURES = "relaxed_hypothetical_structures.tar.gz"
COLUMNS = ["composition", "structure_id", "energyperatom"]

REFERENCES = {
    "Al": -3.708505, "As": -4.609708, "B": -6.579379, "Ba": -1.956624, "Be": -3.734748,
    "Bi": -4.009009, "Br": -1.157975, "Ca": -2.040908, "Cd": -0.910028, "Cl": -1.293173,
    "Cs": -0.887113, "F": -1.479354, "Ga": -2.973528, "Ge": -4.554747, "Hf": -8.072647,
    "Hg": -0.235352, "I": -1.180644, "In": -2.700684, "K": -1.119372, "La": -4.082941,
    "Li": -1.893858, "Mg": -1.600797, "N": -7.914639, "Na": -1.328620, "O": -4.349560,
    "P": -5.333749, "Pb": -3.682550, "Rb": -1.001875, "S": -3.678664, "Sb": -3.912160,
    "Sc": -5.045210, "Si": -5.358771, "Sn": -3.963182, "Sr": -1.722668, "Ti": -5.550491,
    "W": -9.726864, "Y": -5.425257, "Zn": -1.245540, "Zr": -6.566331,
}  # fmt: skip
"""Energy of each element, eV/atom: formation energy = energy − Σ xᵢ · reference.

They were fitted so that formation energies agree with those of the Materials Project for 2 788
formulas that both have (median residual 0.025 eV/atom). Differences within a formula do not depend
on them; between formulas, formation energies are as good as this fit.
"""

COLLAPSED = 0.5
"""Share of the sum of two atoms' radii (Slater's) below which their distance tells of a collapsed
cell; the nearest atoms in the sound structures have 0.62."""

MAX_MEMBER, MAX_TOTAL = 1 << 20, 1 << 29
"""Bytes of one structure and of all: what unpacks to more is no set of POSCARs."""


@dataclass(frozen=True)
class NrelSource(Source):
    """The two files.

    Attributes:
        folder: Where they are, by their published names.
    """

    folder: Path
    name = "nrel"
    licence = "MIT (github prashungorai/combined-gnn)"
    citation = (
        "S. Pandey et al., Predicting energy and stability of known and hypothetical crystals "
        "using graph neural network, Patterns 2, 100361 (2021), doi:10.1016/j.patter.2021.100361"
    )

    @property
    def targets(self) -> tuple[Target, ...]:
        """The energy as published, and the formation energy by `REFERENCES`."""
        return (
            Target("energyperatom", "formation_energy", "eV/atom"),
            Target("energyperatom", "energy", "eV/atom"),
        )

    def options(self) -> dict[str, Any]:
        """The labels and the references."""
        return {**super().options(), "references": REFERENCES}

    def parts(self) -> list[Part]:
        """One part: both files.

        Raises:
            SourceError: if one is missing or of another form.
        """
        files = [file_part(self.folder / name) for name in (ENERGIES, STRUCTURES)]
        energies = self._energies()
        both = hashlib.sha256("".join(part.checksum for part in files).encode()).hexdigest()
        return [Part(self.name, f"sha256:{both}", files[1].bytes, len(energies))]

    def records(self, part: Part, progress: Progress) -> Iterator[Any]:
        """Yields (id, POSCAR, composition, energy) as the archive has them; None where missing.

        Raises:
            SourceError: if the archive is damaged or unpacks to more than can be.
        """
        energies = self._energies()
        path = self.folder / STRUCTURES
        total = 0
        try:
            with tarfile.open(path, "r|gz") as archive:
                for member in archive:
                    _, is_poscar, identifier = member.name.rpartition("POSCAR_")
                    total += member.size
                    if total > MAX_TOTAL:
                        raise SourceError(f"{path}: unpacks to over 512 MB; get it again")
                    if not member.isfile() or not is_poscar:
                        continue
                    if member.size > MAX_MEMBER:
                        yield identifier, None, *energies.pop(identifier, (None, None))
                        continue
                    stream = archive.extractfile(member)
                    text = b"" if stream is None else stream.read()
                    progress.consumed = min(part.bytes or 0, archive.offset)
                    row = energies.pop(identifier, (None, None))
                    yield identifier, text.decode("utf-8", "replace"), *row
        except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
            raise SourceError(
                f"{path}: not a whole archive ({error}); delete it and run the same command again"
            ) from None
        for identifier, row in energies.items():
            yield identifier, None, *row

    def entry(self, record: Any, position: int) -> Entry:
        """Reads a structure.

        Raises:
            EntryError: if it cannot be used, or its cell collapsed in the relaxation.
        """
        identifier, text, composition, energy = record
        if text is None:
            raise EntryError("no structure", "none in the archive, or one over 1 MB")
        if energy is None:
            raise EntryError("no energy", "the table has no row for this structure")
        from pymatgen.io.vasp import Poscar  # Half a second, which other sources need not pay.

        try:
            structure = Poscar.from_str(text).structure
        except Exception as error:  # pymatgen's errors are of any kind
            raise EntryError("unreadable POSCAR", f"{type(error).__name__}: {error}") from None
        crystal = Crystal.from_symbols(
            structure.lattice.matrix,
            structure.frac_coords,
            [site.specie.symbol for site in structure],
        )
        check_collapse(crystal)
        value = number(energy, "energyperatom")
        targets = {"formation_energy": formation_energy(crystal, value), "energy": value}
        return Entry(identifier, crystal, targets, (Stated("column composition", composition),))

    def identify(self, record: Any) -> str:
        """The published identifier."""
        return str(record[0])

    def _energies(self) -> dict[str, tuple[str, str]]:
        """Composition and energy as written, by identifier, in the table's order."""
        path = self.folder / ENERGIES
        try:
            with open(path, encoding="utf-8-sig", newline="") as stream:
                rows = csv.reader(stream, strict=True)
                header = next(rows, [])
                if not set(COLUMNS) <= set(header):
                    raise SourceError(
                        f"{path}: needs the columns {', '.join(COLUMNS)}; there are: "
                        f"{', '.join(header) or 'none'}"
                    )
                at = [header.index(name) for name in COLUMNS]
                whole = [row for row in rows if len(row) > max(at)]
                return {row[at[1]]: (row[at[0]], row[at[2]]) for row in whole}
        except FileNotFoundError:
            raise SourceError(f"{path}: no such file; run the same command again") from None
        except (OSError, csv.Error, UnicodeDecodeError) as error:
            raise SourceError(f"{path}: cannot be read ({error}); get it again") from None


def formation_energy(crystal: Crystal, energy: float | None) -> float | None:
    """Energy less that of the elements by `REFERENCES`, eV/atom; None if one has no reference.

    Args:
        crystal: The crystal.
        energy: Its energy, eV/atom.
    """
    elements, amounts = crystal.composition()
    known = [REFERENCES.get(SYMBOLS[z]) for z in elements]
    if energy is None or None in known:
        return None
    return energy - float(amounts @ np.array(known, np.float64)) / float(amounts.sum())


def check_collapse(crystal: Crystal) -> None:
    """Refuses a cell that collapsed in the relaxation.

    Raises:
        EntryError: if two atoms are nearer than `COLLAPSED` of the sum of their radii.
    """
    n = len(crystal.numbers)
    radii = _radii()[crystal.numbers]
    images = np.array(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij")).reshape(3, -1).T
    for i in range(n):
        between = crystal.coordinates - crystal.coordinates[i]
        between -= np.round(between)
        vectors = (between[:, None] + images) @ crystal.lattice
        distance = np.sqrt((vectors**2).sum(axis=-1))
        distance[i, 13] = np.inf  # the atom itself
        nearest = distance.min(axis=1)
        share = nearest / (radii + radii[i])
        j = int(np.argmin(share))
        if share[j] < COLLAPSED:
            raise EntryError(
                "collapsed cell",
                f"{crystal.symbol(i)} and {crystal.symbol(j)}, {nearest[j]:.3f} Å apart, "
                f"{share[j]:.2f} of the sum of their radii",
            )


@cache
def _radii() -> NDArray[np.float64]:
    """Atomic radii after J. C. Slater (1964) by atomic number, Å; 0 where there is none."""
    from pymatgen.core import Element

    radii = [0.0] + [float(Element.from_Z(z).atomic_radius or 0.0) for z in range(1, len(SYMBOLS))]
    return np.array(radii)
