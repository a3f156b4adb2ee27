"""The embedded data set: AFLOW prototypes and new compounds by substituting similar elements.

The labels are computed, not DFT: density, volume per atom and an electrostatic energy. They depend
on composition *and* structure, which is what the set is for: trying the whole path without a
download. Substituted compounds of one prototype have different formulas, so a split by formula
puts the same prototype on both sides.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from datamodules.prepare.crystals.crystal import Crystal, EntryError
from datamodules.prepare.crystals.substitution import (
    NEAR,
    bond_ratio,
    chemical_scale,
    near_elements,
    shortest_distances,
)
from datamodules.prepare.sources.source import Entry, Part, Progress, Source, Target

SUBSTITUTES = 24
"""New compounds tried for each prototype (fewer where its elements allow no more)."""
LARGEST = 32
"""Atoms in the cell; larger prototypes come only as they are, since they take most of the time."""
VOLUME_RATIO = (0.3, 1.5)
"""Volume over that of the elements: 0.42–1.06 for nine of ten prototypes as they are."""

_CUBIC_CENTIMETRES_PER_MOLE = 0.602214076
"""1 Å³ an atom."""


@dataclass(frozen=True)
class PrototypeSource(Source):
    """pymatgen's AFLOW prototypes, each as it is and with substituted elements.

    Attributes:
        substitutes: New compounds tried for each prototype.
    """

    substitutes: int = SUBSTITUTES
    name = "prototypes"
    licence = "pymatgen, MIT; cite the AFLOW library"
    citation = (
        "M. J. Mehl et al., The AFLOW Library of Crystallographic Prototypes: Part 1, "
        "Comput. Mater. Sci. 136, S1–S828 (2017), doi:10.1016/j.commatsci.2017.01.017"
    )

    @property
    def targets(self) -> tuple[Target, ...]:
        """The electrostatic energy; density and volume are columns of every store."""
        return (Target("electrostatic_energy", "electrostatic_energy", "eV/atom"),)

    def options(self) -> dict[str, Any]:
        """The number of substitutes."""
        return {**super().options(), "substitutes": self.substitutes, "window": NEAR}

    def parts(self) -> list[Part]:
        """One part: the library that this pymatgen ships."""
        import pymatgen.core

        candidates = list(self.records(None, None))
        checksum = f"pymatgen {pymatgen.core.__version__}"
        return [Part("aflow", checksum, entries=len(candidates))]

    def records(self, part: Part | None, progress: Progress | None) -> Iterator[Any]:
        """Yields (number of the prototype, symbols that replace its elements) of each candidate."""
        for number, structure in enumerate(_library()):
            amounts = {e.symbol: int(n) for e, n in structure.composition.items()}
            yield number, tuple(amounts)
            count = self.substitutes if len(structure) <= LARGEST else 0
            for replaced in substitutions(amounts, number, count):
                yield number, replaced

    def entry(self, record: Any, position: int) -> Entry:
        """Builds a candidate.

        Raises:
            EntryError: if no volume can be predicted, or an absurd one is.
        """
        number, symbols = record
        prototype = _library()[number]
        old = [element.symbol for element in prototype.composition]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if list(symbols) == old:
                structure = prototype
            else:
                replacing = dict(zip(old, symbols, strict=True))
                structure = prototype.copy()
                structure.replace_species(replacing)
                structure = _rescaled(structure, number, replacing)
                _check_volume(structure)
            energy = electrostatic_energy(structure)
        return Entry(self.identify(record), _crystal(structure), {"electrostatic_energy": energy})

    def identify(self, record: Any) -> str:
        """Number and label of the prototype, and the elements in it."""
        number, symbols = record
        return f"aflow-{number:03d}-{_labels()[number]}-{'-'.join(symbols)}"


@dataclass(frozen=True)
class BarePrototypeSource(PrototypeSource):
    """The prototypes as they are, without labels, for those who make other crystals of them."""

    substitutes: int = 0

    @property
    def targets(self) -> tuple[Target, ...]:
        """None."""
        return ()

    def entry(self, record: Any, position: int) -> Entry:
        """Gives a prototype."""
        return Entry(self.identify(record), _crystal(_library()[record[0]]))


def substitutions(amounts: dict[str, int], number: int, count: int) -> list[tuple[str, ...]]:
    """Draws distinct substitutions by chemically similar elements.

    Each element is replaced by one at most `NEAR` away on Pettifor's scale (Mendeleev numbers);
    different elements stay different, and no two have one formula: exchanging the elements of two
    equivalent sites gives the same crystal.

    Args:
        amounts: The prototype's elements and the atoms of each in its cell.
        number: The prototype's number, which seeds the draw.
        count: Substitutions to draw; fewer come back if there are no more.
    """
    choices = [near_elements(symbol, _pool()) or [symbol] for symbol in amounts]
    random = np.random.Generator(np.random.Philox(key=number))
    drawn: list[tuple[str, ...]] = []
    formulas = {frozenset(amounts.items())}
    for _ in range(20 * count):
        if len(drawn) == count:
            break
        # `random()` alone is documented to be the same in every version of NumPy.
        picks = [int(random.random() * len(near)) for near in choices]
        replaced = tuple(near[i] for near, i in zip(choices, picks, strict=True))
        formula = frozenset(zip(replaced, amounts.values(), strict=True))
        if len(set(replaced)) == len(replaced) and formula not in formulas:
            formulas.add(formula)
            drawn.append(replaced)
    return drawn


def electrostatic_energy(structure: Any) -> float | None:
    """Madelung energy of point charges from electronegativity differences, eV/atom.

    The charge of an atom is the cell's mean Pauling electronegativity minus its own, in elementary
    charges: always neutral, ±1.1 in NaCl. Zero for elements, None if an element (a noble gas in a
    compound) has no electronegativity.

    Args:
        structure: An ordered pymatgen structure.
    """
    from pymatgen.analysis.ewald import EwaldSummation

    if len(structure.composition) == 1:
        return 0.0
    electronegativity = np.array([site.specie.X for site in structure])
    if not np.isfinite(electronegativity).all():
        return None
    charged = structure.copy()
    charged.add_oxidation_state_by_site((electronegativity.mean() - electronegativity).tolist())
    return float(EwaldSummation(charged).total_energy) / len(structure)


def _rescaled(structure: Any, number: int, replacing: dict[str, str]) -> Any:
    """The structure with the volume that its bond lengths suggest.

    Args:
        structure: The prototype with its elements replaced.
        number: The prototype's number.
        replacing: New symbols by old ones.
    """
    spread = float(np.std([site.specie.X for site in structure]))
    ratio = bond_ratio(_shortest_distances(number), replacing, spread)
    rescaled = structure.copy()
    rescaled.scale_lattice(structure.volume / ratio**3)
    return rescaled


@cache
def _shortest_distances(number: int) -> dict[tuple[str, str], float]:
    """Of a prototype: all its substitutes have its distances."""
    return shortest_distances(_library()[number])


def _crystal(structure: Any) -> Crystal:
    symbols = [site.specie.symbol for site in structure]
    return Crystal.from_symbols(structure.lattice.matrix, structure.frac_coords, symbols)


def _check_volume(structure: Any) -> None:
    """Refuses volumes far from those of the elements: the substitutes do not fit the prototype."""
    elements = sum(float(e.molar_volume) * n for e, n in structure.composition.items())
    ratio = structure.volume / (elements / _CUBIC_CENTIMETRES_PER_MOLE)
    if not VOLUME_RATIO[0] <= ratio <= VOLUME_RATIO[1]:
        raise EntryError("substitutes do not fit the prototype", f"volume ratio {ratio:.2f}")


@cache
def _library() -> list[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pymatgen.analysis.prototypes import AFLOW_PROTOTYPE_LIBRARY

        return [prototype["snl"].structure for prototype in AFLOW_PROTOTYPE_LIBRARY]


@cache
def _labels() -> list[str]:
    from pymatgen.analysis.prototypes import AFLOW_PROTOTYPE_LIBRARY

    return [prototype["tags"]["aflow"] for prototype in AFLOW_PROTOTYPE_LIBRARY]


@cache
def _pool() -> frozenset[str]:
    """Elements that may be put into a prototype; a hydrogen's bond length is its partner's."""
    return frozenset(set(chemical_scale()) - {"H"})
