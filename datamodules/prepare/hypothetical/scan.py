"""To the minimum of the energy: a scan of a few volumes, and relaxation by ASE if asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.prepare.crystals.crystal import Crystal, EntryError
from datamodules.prepare.hypothetical.potential import GPA, Potential

VOLUMES = (0.70, 0.87, 1.08, 1.34)
"""Of the scan, in units of the predicted volume, which 98 of 100 minima are 0.70 to 1.34 times."""

ENOUGH = 0.05
"""eV/Å: the largest force (or stress times the volume, over the atoms) that is left."""
_VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
"""Components of a symmetric tensor in ASE's order."""


@dataclass(frozen=True)
class Minimum:
    """Where the fitted energy is lowest.

    Attributes:
        volume: Å³/atom.
        bulk_modulus: There, in GPa.
    """

    volume: float
    bulk_modulus: float


def scaled(crystal: Crystal, volume: float) -> Crystal:
    """The crystal with its cell scaled evenly.

    Args:
        crystal: A crystal.
        volume: Of the result, in Å³/atom.
    """
    factor = (volume / crystal.volume_per_atom) ** (1 / 3)
    return replace(crystal, lattice=crystal.lattice * factor)


def fitted_minimum(volumes: NDArray[np.float64], energies: NDArray[np.float64]) -> Minimum | None:
    """The minimum of the Birch–Murnaghan equation of state of third order through four points.

    Its energy is a cubic polynomial in V^(−2/3).
    Source: F. Birch, Phys. Rev. 71, 809 (1947).

    Args:
        volumes: Å³/atom, ascending, shape (4,).
        energies: eV/atom, shape (4,).

    Returns:
        None if there is no minimum between the first and the last volume.
    """
    if not np.isfinite(energies).all():
        return None
    middle = float(np.median(volumes))
    strain = (volumes / middle) ** (-2 / 3)
    fit = np.polynomial.Polynomial.fit(strain, energies, 3).convert()
    inside = [
        x
        for x in _roots(*fit.deriv().coef)
        if strain[-1] < x < strain[0] and float(fit.deriv(2)(x)) > 0
    ]
    if not inside:
        return None
    # A cubic has one minimum at most.
    volume = middle * inside[0] ** -1.5
    return Minimum(volume, _bulk_modulus(fit, inside[0], volume))


def _roots(c: float, b: float = 0.0, a: float = 0.0) -> list[float]:
    """Real roots of a x² + b x + c, also where a is nearly zero (a companion matrix fails there).

    Source: W. H. Press et al., Numerical Recipes, section 5.6.
    """
    square = b * b - 4 * a * c
    if square < 0:
        return []
    q = -(b + math.copysign(math.sqrt(square), b)) / 2
    return [float(over / under) for over, under in ((q, a), (c, q)) if under]


def bulk_modulus(
    volume: float, volumes: NDArray[np.float64], energies: NDArray[np.float64]
) -> float:
    """V d²E/dV² in GPa at a volume, of the polynomial in V^(−2/3) through all points.

    Args:
        volume: Å³/atom, a minimum.
        volumes: Å³/atom, shape (n,).
        energies: eV/atom, shape (n,).
    """
    middle = float(np.median(volumes))
    fit = np.polynomial.Polynomial.fit((volumes / middle) ** (-2 / 3), energies, len(volumes) - 1)
    return _bulk_modulus(fit, (volume / middle) ** (-2 / 3), volume)


def _bulk_modulus(fit: np.polynomial.Polynomial, strain: float, volume: float) -> float:
    """Of a fit of the energy (eV/atom) over x = (V/V₀)^(−2/3), where its slope is zero."""
    curvature = float(fit.deriv(2)(strain)) * (2 / 3 * strain / volume) ** 2
    return volume * curvature * GPA


def relax(potential: Potential, crystal: Crystal, steps: int) -> Crystal:
    """Follows the forces on atoms and cell downhill.

    Optimizer: FIRE. Source: E. Bitzek et al., Phys. Rev. Lett. 97, 170201 (2006).

    Args:
        potential: What gives forces and stress.
        crystal: Where to start.
        steps: At most; fewer if the forces fall below `ENOUGH` before.

    Raises:
        EntryError: if the potential leads nowhere.
    """
    from ase import Atoms
    from ase.calculators.calculator import Calculator, all_changes
    from ase.filters import FrechetCellFilter
    from ase.optimize import FIRE

    def current(atoms: Any) -> Crystal:
        lattice = np.ascontiguousarray(atoms.cell.array)
        coordinates = np.ascontiguousarray(atoms.get_scaled_positions(wrap=False))
        if not (np.isfinite(lattice).all() and np.isfinite(coordinates).all()):
            raise EntryError("relaxation failed", "cell or atoms went astray")
        return replace(crystal, lattice=lattice, coordinates=coordinates)

    class _Calculator(Calculator):
        implemented_properties = ["energy", "forces", "stress"]  # noqa: RUF012 (as ASE has it)

        def calculate(
            self, atoms: Any = None, properties: Any = None, system_changes: Any = all_changes
        ) -> None:
            """Fills the results of one geometry."""
            super().calculate(atoms, properties, system_changes)
            found = potential.derivatives(current(atoms))
            stress = found.stress
            self.results = {
                "energy": found.energy * len(crystal.numbers),
                "forces": found.forces,
                "stress": np.array([stress[i, j] for i, j in _VOIGT]),
            }

    atoms = Atoms(
        numbers=crystal.numbers,
        cell=crystal.lattice,
        scaled_positions=crystal.coordinates,
        pbc=True,
        calculator=_Calculator(),
    )
    with FIRE(FrechetCellFilter(atoms), logfile=None) as optimizer:
        optimizer.run(fmax=ENOUGH, steps=steps)
    return current(atoms)
