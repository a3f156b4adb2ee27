"""A potential of pairs that needs no weights, and compounds: hypothetical crystals for tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Element, Lattice, Structure

from datamodules.prepare.crystals.crystal import Crystal
from datamodules.prepare.crystals.substitution import to_structure
from datamodules.prepare.hypothetical.potential import Derivatives
from datamodules.prepare.hypothetical.source import HypotheticalSource
from datamodules.prepare.sources.csv_cif import CsvSource
from datamodules.prepare.sources.source import Target
from tests.prepare.examples import cif_text, crystal_of, write_csv

REACH = 6.0
RADIUS = {3: 1.3, 8: 0.9, 11: 1.6, 12: 1.4, 16: 1.2, 17: 1.3, 19: 2.0, 20: 1.7, 34: 1.3, 35: 1.4}
"""Å; other elements have 1.4."""


@dataclass(frozen=True)
class Pairs:
    """Soft Lennard-Jones pairs (8–4): deeper between elements whose atomic numbers differ more."""

    name: ClassVar[str] = "pairs"
    licence: ClassVar[str] = "none"
    citation: ClassVar[str] = "none"
    version: str = "pairs 1"

    def check(self) -> str:
        """The version."""
        return self.version

    def energies(self, crystals: Sequence[Crystal]) -> NDArray[np.float64]:
        """Energies in eV/atom."""
        return np.array([self.derivatives(crystal).energy for crystal in crystals])

    def derivatives(self, crystal: Crystal) -> Derivatives:
        """Energy, forces and stress."""
        structure = to_structure(crystal)
        first, second, images, distances = structure.get_neighbor_list(REACH)
        z = crystal.numbers
        radii = np.array([RADIUS.get(int(number), 1.4) for number in z])
        depth = 0.1 + 0.02 * np.abs(z[first] - z[second])
        ratio = (radii[first] + radii[second]) / distances
        energy = 0.5 * float((depth * (ratio**8 - 2 * ratio**4)).sum())
        slope = 8 * depth * (ratio**4 - ratio**8) / distances
        steps = (
            crystal.coordinates[second] + images - crystal.coordinates[first]
        ) @ crystal.lattice
        pulls = slope[:, None] * steps / distances[:, None]
        forces = np.zeros((len(z), 3))
        np.add.at(forces, first, pulls)
        stress = 0.5 * steps.T @ pulls / crystal.volume
        return Derivatives(energy / len(z), forces, stress)


METALS, ANIONS = ("Li", "Na", "Mg", "K", "Ca"), ("O", "S", "Cl", "Se", "Br")
FACES = [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]
"""Of a cube."""
PROTOTYPES: list[tuple[float, list[list[float]], list[list[float]]]] = [
    (2.0, FACES, [[x + 0.5, y, z] for x, y, z in FACES]),  # rock salt
    (1.155, FACES[:1], [[0.5, 0.5, 0.5]]),  # caesium chloride
    (2.309, FACES, [[x + 0.25, y + 0.25, z + 0.25] for x, y, z in FACES]),  # zinc blende
    (1.3, FACES[:1], [[0.3, 0.5, 0.5]]),  # a tetragonal one
]
"""Edge of the cube over the distance of its neighbours, and places of metal and anion."""


@cache
def compounds() -> tuple[tuple[str, Structure], ...]:
    """Every metal with every anion in two of the structure types, and the metals."""
    made = []
    for i, metal in enumerate(METALS):
        for j, anion in enumerate(ANIONS):
            distance = sum(RADIUS[Element(symbol).Z] for symbol in (metal, anion))
            for k in (i + j, i + 2 * j + 1):
                edge, first, second = PROTOTYPES[k % len(PROTOTYPES)]
                symbols = [metal] * len(first) + [anion] * len(second)
                lattice = Lattice.cubic(edge * distance)
                made.append((f"{metal}{anion}{k}", Structure(lattice, symbols, [*first, *second])))
        lattice = Lattice.cubic(2.8 * RADIUS[Element(metal).Z])
        made.append((metal, Structure(lattice, [metal] * 4, FACES)))
    return tuple(made)


def write_parents(path: Path) -> Path:
    """The compounds with labels: their energies over references of −0.1 times the atomic number."""
    rows: list[list[Any]] = [["bad", 0, "nonsense"]]
    for name, structure in compounds():
        crystal = crystal_of(structure)
        energy = Pairs().energies([crystal])[0]
        rows.append([name, energy + 0.1 * float(crystal.numbers.mean()), cif_text(structure)])
    return write_csv(path, rows, ["material_id", "e_form", "cif"])


def source_of(table: Path) -> HypotheticalSource:
    """A small set made of parents that `write_parents` wrote."""
    parents = CsvSource((table,), labels=(Target("e_form", "formation_energy", "eV/atom"),))
    return HypotheticalSource(
        parents=parents,
        prototypes=parents,
        potential=Pairs(),
        label="formation_energy",
        candidates=60,
        window=0.8,
    )
