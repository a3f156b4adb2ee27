"""What preparation needs of a crystal structure: flat arrays, checked for sense."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from datamodules.elements import SYMBOLS

MAX_ATOMS = 5000
MAX_VOLUME = 100_000.0
"""Å³; 180 000 reflections. Larger cells are mistakes more often than crystals."""
MAX_EDGE = 1000.0
"""Å."""
VOLUME_PER_ATOM = (1.0, 1000.0)
"""Å³: from twice as dense as metallic hydrogen at 400 GPa to an atom alone in a box."""

MAX_DENSITY = 30.0
"""g/cm³; a third above osmium's 22.6, the densest at ambient pressure. Denser cells are one atom
listed several times, or lengths in wrong units."""
OCCUPANCY_TOLERANCE = 1.001e-3
"""Above 1: occupancies rounded to three digits, 0.667 + 0.334."""

_AMU_PER_CUBIC_ANGSTROM = 1.66053906892
"""g/cm³; the atomic mass constant of CODATA 2022."""


class EntryError(ValueError):
    """One entry of the input cannot be used.

    Attributes:
        reason: A fixed phrase, the same for all entries with this trouble, to count by.
        detail: What exactly is wrong here.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type[EntryError], tuple[str, str]]:
        return type(self), (self.reason, self.detail)


class Note(NamedTuple):
    """What deserves a word about an entry that is used.

    Attributes:
        phrase: A fixed phrase, the same for all entries of which this is true, to count by.
        detail: What exactly is true here.
    """

    phrase: str
    detail: str = ""


@dataclass(frozen=True)
class Crystal:
    """A unit cell as flat arrays, one row a species on a site.

    Attributes:
        lattice: Cell vectors as rows, shape (3, 3), Å.
        coordinates: Fractional coordinates, shape (n, 3).
        numbers: Atomic numbers, shape (n,), int64. Deuterium is 1.
        occupancies: Shape (n,), in (0, 1]; species that share a site are rows of equal coordinates.
        masses: Atomic masses, shape (n,), in atomic mass units; deuterium has its own.
        hydrogens: Hydrogen atoms in the cell whose places are unknown: they count in the
            composition, the density and the volume per atom, and do not scatter.
        notes: What whoever read it has to say about it.
    """

    lattice: NDArray[np.float64]
    coordinates: NDArray[np.float64]
    numbers: NDArray[np.int64]
    occupancies: NDArray[np.float64]
    masses: NDArray[np.float64]
    hydrogens: float = 0.0
    notes: tuple[Note, ...] = ()

    @classmethod
    def from_symbols(
        cls,
        lattice: NDArray[np.float64],
        coordinates: NDArray[np.float64],
        symbols: list[str],
        occupancies: NDArray[np.float64] | None = None,
        hydrogens: float = 0.0,
        notes: tuple[Note, ...] = (),
    ) -> Crystal:
        """Builds and checks a crystal from element symbols.

        Args:
            lattice: Cell vectors as rows, shape (3, 3), Å.
            coordinates: Fractional coordinates, shape (n, 3).
            symbols: n element symbols, without charges; "D" is deuterium, "T" is tritium.
            occupancies: Shape (n,); all 1 if left out.
            hydrogens: Hydrogen atoms in the cell whose places are unknown.
            notes: What there is to say about it.

        Raises:
            EntryError: if the crystal is not one: unknown element, no atoms, values that are not
                finite, no volume, or beyond the caps of this module.
        """
        species = _species()
        try:
            numbers = np.array([species[s][0] for s in symbols], dtype=np.int64)
            masses = np.array([species[s][1] for s in symbols], dtype=np.float64)
        except KeyError as error:
            raise EntryError("unknown element", repr(error.args[0])) from None
        if occupancies is None:
            occupancies = np.ones(len(symbols))
        crystal = cls(
            np.ascontiguousarray(lattice, dtype=np.float64),
            np.ascontiguousarray(coordinates, dtype=np.float64),
            numbers,
            np.ascontiguousarray(occupancies, dtype=np.float64),
            masses,
            float(hydrogens),
            notes,
        )
        crystal.check()
        return crystal

    @cached_property
    def volume(self) -> float:
        """Volume of the cell in Å³."""
        a, b, c = self.lattice.tolist()
        return abs(
            a[0] * (b[1] * c[2] - b[2] * c[1])
            + a[1] * (b[2] * c[0] - b[0] * c[2])
            + a[2] * (b[0] * c[1] - b[1] * c[0])
        )

    @cached_property
    def ordered(self) -> bool:
        """Whether every site is fully occupied."""
        return bool((self.occupancies == 1).all())

    @cached_property
    def amounts(self) -> dict[int, float]:
        """Atoms of each element in the cell, by atomic number."""
        elements, amounts = self.composition()
        return dict(zip(elements.tolist(), amounts.tolist(), strict=True))

    @property
    def n_atoms(self) -> float:
        """Atoms in the cell, weighted by occupancy."""
        return float(self.occupancies.sum()) + self.hydrogens

    @property
    def volume_per_atom(self) -> float:
        """Å³ an atom, weighted by occupancy."""
        return self.volume / self.n_atoms

    @property
    def density(self) -> float:
        """Mass density in g/cm³."""
        mass = float((self.masses * self.occupancies).sum()) + self.hydrogens * _species()["H"][1]
        return mass / self.volume * _AMU_PER_CUBIC_ANGSTROM

    def composition(self) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
        """Atomic numbers, ascending, and the number of atoms of each in the cell."""
        amounts = np.bincount(self.numbers, self.occupancies).astype(np.float64)
        amounts[1] += self.hydrogens
        elements = np.flatnonzero(amounts)
        return elements.astype(np.uint8), amounts[elements]

    def symbol(self, row: int) -> str:
        """The element's symbol of a row."""
        return SYMBOLS[int(self.numbers[row])]

    def check(self) -> None:
        """Refuses what is no crystal.

        Raises:
            EntryError: naming what is wrong.
        """
        if self.lattice.shape != (3, 3) or self.coordinates.shape != (len(self.numbers), 3):
            shapes = f"lattice {self.lattice.shape}, coordinates {self.coordinates.shape}"
            raise EntryError("malformed structure", shapes)
        if len(self.numbers) == 0:
            raise EntryError("no atoms")
        for what, values in (
            ("lattice", self.lattice),
            ("coordinates", self.coordinates),
            ("occupancies", self.occupancies),
        ):
            if not np.isfinite(values.sum()):
                raise EntryError("value that is not finite", what)
        if not (self.occupancies.min() > 0 and self.occupancies.max() <= 1 + OCCUPANCY_TOLERANCE):
            worst = self.occupancies[np.argmax(np.abs(self.occupancies - 0.5))]
            raise EntryError("occupancy outside of (0, 1]", f"{worst:g}")
        if len(self.numbers) > MAX_ATOMS:
            raise EntryError("too many atoms", f"{len(self.numbers)} > {MAX_ATOMS}")
        if (longest := max(math.hypot(*edge) for edge in self.lattice.tolist())) > MAX_EDGE:
            raise EntryError("cell edge too long", f"{longest:.5g} Å > {MAX_EDGE:g} Å")
        if (volume := self.volume) > MAX_VOLUME:
            raise EntryError("cell volume too large", f"{volume:.5g} Å³ > {MAX_VOLUME:g} Å³")
        low, high = VOLUME_PER_ATOM
        if not low <= self.volume_per_atom <= high:
            raise EntryError(
                "absurd volume per atom", f"{self.volume_per_atom:.4g} Å³, not in {low:g}–{high:g}"
            )
        if self.density > MAX_DENSITY:
            raise EntryError("absurd density", f"{self.density:.4g} g/cm³ > {MAX_DENSITY:g} g/cm³")


@cache
def _species() -> dict[str, tuple[int, float]]:
    """Atomic number and mass by symbol, deuterium included."""
    from pymatgen.core import Element

    symbols = [*Element.__members__, "D", "T"]
    return {s: (int(Element(s).Z), float(Element(s).atomic_mass)) for s in symbols}


def is_symbol(text: str) -> bool:
    """Whether a text is an element's symbol, nothing more and nothing less."""
    return text in _species()
