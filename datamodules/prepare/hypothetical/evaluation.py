"""All structures of one formula: made, scanned, filtered, compared with each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datamodules.prepare.crystals.crystal import Crystal, EntryError
from datamodules.prepare.crystals.substitution import closest_contact
from datamodules.prepare.hypothetical.potential import Potential
from datamodules.prepare.hypothetical.scan import VOLUMES, bulk_modulus, fitted_minimum, scaled

CONTACT = 0.72
"""No two atoms nearer than this share of the sum of their radii."""
BULK_MODULUS = (2.0, 500.0)
"""GPa."""
LARGEST_VOLUME = 60.0
"""Å³/atom."""
SMALLEST_VOLUME = 4.0
"""Å³/atom predicted; denser starts are damaged, and have so many neighbours that a potential that
counts angles needs gigabytes for them. Diamond has 5.7."""
FORMATION_ENERGY = (-5.0, 1.5)
"""eV/atom."""
SAME_ENERGY = 5e-4
"""eV/atom. Two structures of a formula that are this near, and have the same volume, are one."""
SAME_VOLUME = 2e-3
"""Relative."""
ROUGH = 0.002
"""eV/atom that the energy at the fitted minimum may lie above the lowest of the scan."""


@dataclass(frozen=True)
class Evaluated:
    """A crystal at the minimum of its energy.

    Attributes:
        crystal: The crystal.
        energy: The potential's, eV/atom.
        bulk_modulus: GPa, of the scan.
        formation_energy: eV/atom.
    """

    crystal: Crystal
    energy: float
    bulk_modulus: float
    formation_energy: float


Outcome = Evaluated | EntryError


@dataclass(frozen=True)
class Limits:
    """What the user chooses of the filters.

    Attributes:
        window: eV/atom above the formula's lowest energy from which a structure is left out.
        relax_steps: Steps of relaxation at most; 0 leaves cell and atoms as the scan found them.
    """

    window: float
    relax_steps: int


def evaluate(
    starts: Sequence[Crystal | EntryError],
    potential: Potential,
    references: Mapping[int, float],
    limits: Limits,
    relax: Callable[[Potential, Crystal, int], Crystal],
) -> list[Outcome]:
    """Brings the structures of one formula to their minimum and filters them.

    Args:
        starts: Crystals with a predicted volume, or why there is none; all of one formula.
        potential: What gives the energies.
        references: Energy of each element by atomic number, eV/atom.
        limits: The user's limits.
        relax: Relaxes a crystal with a potential in at most so many steps.

    Returns:
        What became of each, in their order.
    """
    outcomes = scan(starts, potential)
    outcomes = [_sound(outcome) for outcome in outcomes]
    if limits.relax_steps:
        outcomes = _relaxed(outcomes, potential, limits.relax_steps, relax)
    outcomes = [_formed(outcome, references) for outcome in outcomes]
    return _distinct(_in_window(outcomes, limits.window))


def scan(starts: Sequence[Crystal | EntryError], potential: Potential) -> list[Outcome]:
    """The minimum of each crystal's energy over its volume; no formation energies yet.

    The energy is the potential's at the fitted minimum, not the fit's.
    """
    outcomes: list[Outcome] = []
    starts = [_possible(start) for start in starts]
    crystals = [start for start in starts if isinstance(start, Crystal)]
    points = [
        scaled(crystal, factor * crystal.volume_per_atom)
        for crystal in crystals
        for factor in VOLUMES
    ]
    energies = iter(potential.energies(points).reshape(-1, len(VOLUMES)))
    for start in starts:
        if isinstance(start, EntryError):
            outcomes.append(start)
        else:
            outcomes.append(_minimum(start, next(energies)))
    found = [i for i, outcome in enumerate(outcomes) if isinstance(outcome, _Found)]
    at_minimum = potential.energies([outcomes[i].crystal for i in found])  # type: ignore[union-attr]
    for i, energy in zip(found, at_minimum, strict=True):
        outcomes[i] = _confirmed(outcomes[i], float(energy))  # type: ignore[arg-type]
    return outcomes


def _possible(start: Crystal | EntryError) -> Crystal | EntryError:
    """Refuses starts that no volume of the scan can make a crystal of."""
    if isinstance(start, EntryError):
        return start
    if (volume := start.volume_per_atom) < SMALLEST_VOLUME:
        return EntryError("small volume per atom", f"{volume:.4g} Å³ predicted")
    if (contact := closest_contact(start) * VOLUMES[-1] ** (1 / 3)) < CONTACT:
        return EntryError("atoms too near", f"{contact:.2f} of the sum of their radii")
    return start


@dataclass(frozen=True)
class _Found(Evaluated):
    """A fitted minimum that awaits the energy there.

    Attributes:
        volumes: Of the scan, Å³/atom.
        energies: Of the scan, eV/atom.
    """

    volumes: NDArray[np.float64]
    energies: NDArray[np.float64]


def _minimum(start: Crystal, energies: NDArray[np.float64]) -> Outcome:
    if not np.isfinite(energies).all():
        return EntryError("no energy", "the potential has none at some volume")
    volumes = np.array(VOLUMES) * start.volume_per_atom
    minimum = fitted_minimum(volumes, energies)
    if minimum is None:
        lowest = VOLUMES[int(np.argmin(energies))]
        return EntryError("no minimum inside the scan", f"lowest at {lowest:.2f} of the volume")
    crystal = scaled(start, minimum.volume)
    return _Found(crystal, np.nan, minimum.bulk_modulus, np.nan, volumes, energies)


def _confirmed(found: _Found, energy: float) -> Outcome:
    if not energy <= found.energies.min() + ROUGH:
        above = energy - found.energies.min()
        return EntryError("no smooth minimum", f"{above:.3f} eV/atom above the scan's lowest")
    volume = found.crystal.volume_per_atom
    modulus = bulk_modulus(
        volume, np.append(found.volumes, volume), np.append(found.energies, energy)
    )
    return Evaluated(found.crystal, energy, modulus, np.nan)


def _sound(outcome: Outcome) -> Outcome:
    """Refuses what no crystal is like."""
    if isinstance(outcome, EntryError):
        return outcome
    if (contact := closest_contact(outcome.crystal)) < CONTACT:
        return EntryError("atoms too near", f"{contact:.2f} of the sum of their radii")
    low, high = BULK_MODULUS
    if not low <= outcome.bulk_modulus <= high:
        return EntryError("absurd bulk modulus", f"{outcome.bulk_modulus:.4g} GPa")
    if (volume := outcome.crystal.volume_per_atom) >= LARGEST_VOLUME:
        return EntryError("large volume per atom", f"{volume:.4g} Å³")
    return outcome


def _relaxed(
    outcomes: list[Outcome],
    potential: Potential,
    steps: int,
    relax: Callable[[Potential, Crystal, int], Crystal],
) -> list[Outcome]:
    relaxed: list[Outcome] = []
    for outcome in outcomes:
        if isinstance(outcome, Evaluated):
            try:
                crystal = relax(potential, outcome.crystal, steps)
                energy = float(potential.energies([crystal])[0])
                if not np.isfinite(energy):
                    raise EntryError("relaxation failed", "no energy of the relaxed crystal")
                outcome = _sound(Evaluated(crystal, energy, outcome.bulk_modulus, np.nan))
            except EntryError as error:
                outcome = error
        relaxed.append(outcome)
    return relaxed


def _formed(outcome: Outcome, references: Mapping[int, float]) -> Outcome:
    if isinstance(outcome, EntryError):
        return outcome
    energy = formation_energy(outcome.crystal.numbers, outcome.energy, references)
    low, high = FORMATION_ENERGY
    if not low <= energy <= high:
        return EntryError("absurd formation energy", f"{energy:.3f} eV/atom")
    return Evaluated(outcome.crystal, outcome.energy, outcome.bulk_modulus, energy)


def formation_energy(
    numbers: NDArray[np.int64], energy: float, references: Mapping[int, float]
) -> float:
    """Energy in eV/atom over that of the elements.

    Args:
        numbers: Atomic numbers of all atoms.
        energy: eV/atom.
        references: Energy of each element by atomic number, eV/atom.
    """
    return energy - float(np.mean([references[int(number)] for number in numbers]))


def _in_window(outcomes: list[Outcome], window: float) -> list[Outcome]:
    kept = [outcome.energy for outcome in outcomes if isinstance(outcome, Evaluated)]
    lowest = min(kept, default=np.nan)
    return [
        EntryError("too far above the formula's lowest", f"{outcome.energy - lowest:.3f} eV/atom")
        if isinstance(outcome, Evaluated) and outcome.energy - lowest >= window
        else outcome
        for outcome in outcomes
    ]


def _distinct(outcomes: list[Outcome]) -> list[Outcome]:
    """Keeps the first of structures with equal energy and volume: they are one crystal."""
    kept: list[tuple[float, float]] = []
    distinct: list[Outcome] = []
    for outcome in outcomes:
        if isinstance(outcome, Evaluated):
            volume = outcome.crystal.volume_per_atom
            if any(
                abs(outcome.energy - energy) < SAME_ENERGY and abs(volume / other - 1) < SAME_VOLUME
                for energy, other in kept
            ):
                detail = f"{outcome.energy:.4f} eV/atom, {volume:.3f} Å³/atom"
                outcome = EntryError("same energy and volume as another of the formula", detail)
            else:
                kept.append((outcome.energy, volume))
        distinct.append(outcome)
    return distinct
