"""Powder patterns of structures: lines, or a profile on any grid; one or many at once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datamodules.elements import ATOMIC_NUMBERS
from datamodules.prepare.crystals.crystal import Crystal, EntryError
from datamodules.prepare.crystals.diffraction import (
    MIN_RELATIVE_INTENSITY,
    max_g,
    unscaled_lines,
)
from datamodules.prepare.crystals.scattering import MAX_S, has_scattering_factor
from datamodules.prepare.crystals.structures import to_crystal
from datamodules.prepare.simulation.many import in_order
from datamodules.prepare.simulation.peaks import Grid
from datamodules.radiation import CU_K_ALPHA, lorentz_polarization

Float = NDArray[np.float64]

MAX_REFLECTIONS = 20_000_000
"""Inside a sphere of Q; as many take some seconds and 1 GB."""
_BACKSCATTERING = 179.9
"""Degrees; at 180° the Lorentz factor is infinite."""


class Lines(NamedTuple):
    """Powder lines.

    Attributes:
        q: Scattering vectors Q = 4π sin θ / λ, shape (n,), Å⁻¹, ascending.
        intensity: Shape (n,).
    """

    q: Float
    intensity: Float


@dataclass(frozen=True)
class Simulator:
    """Simulates powder patterns; kinematical, without anomalous dispersion or texture.

    The intensity of a line is multiplicity × |F|² × the Lorentz–polarization factor
    2 (1 + P cos²2θ) / ((1 + P) sin²θ cos θ), which for P = 1 is pymatgen's. There is no absorption.

    Attributes:
        wavelength: Å, or a name: "CuKa", "MoKa", … are the mean of Kα1 and Kα2, "CuKa1" is Kα1
            alone, "CuKb" Kβ (anodes Cr, Fe, Co, Ni, Cu, Mo and Ag).
        two_theta_range: First and last angle of `lines` in degrees.
        scale: Height of the highest line, or of the highest point of a profile; None leaves what
            was computed, electrons² a cell.
        lorentz_polarization: Whether intensities have that factor.
        polarization: P: 1 for an unpolarised tube, cos²2θ of a monochromator, 0 for a synchrotron.
        debye_waller: B of f exp(−B sin²θ/λ²) in Å²: one for all atoms, or by element's symbol.

    Raises:
        ValueError: naming what is impossible.
    """

    wavelength: float | str = CU_K_ALPHA
    two_theta_range: tuple[float, float] = (0.0, 90.0)
    scale: float | None = 100.0
    lorentz_polarization: bool = True
    polarization: float = 1.0
    debye_waller: float | Mapping[str, float] = 0.0

    def __post_init__(self) -> None:
        if not 0.01 <= self.angstrom <= 10.0:
            raise ValueError(f"wavelength {self.wavelength} Å: must lie in 0.01 to 10 Å")
        low, high = self.two_theta_range
        if not 0 <= low < high <= 180:
            raise ValueError(f"two_theta_range {low:g} to {high:g}: must lie in 0° to 180°")
        if self.scale is not None and not 0 < self.scale < math.inf:
            raise ValueError(f"scale {self.scale}: give a positive number, or None for none")
        if not 0 <= self.polarization <= 1:
            raise ValueError(f"polarization {self.polarization}: must lie in 0 to 1")
        for symbol, value in self._damping.items():
            if not (value >= 0 and math.isfinite(value)):
                raise ValueError(f"debye_waller {value} Å² of Z = {symbol}: must not be negative")

    @cached_property
    def angstrom(self) -> float:
        """The wavelength in Å; the weighted mean of a doublet."""
        total = sum(weight for _, weight in self._radiation)
        return sum(value * weight for value, weight in self._radiation) / total

    @cached_property
    def _radiation(self) -> tuple[tuple[float, float], ...]:
        """Wavelengths in Å and their weights."""
        if not isinstance(self.wavelength, str):
            return ((float(self.wavelength), 1.0),)
        # Imported here: SciPy, which measured patterns need, takes a second.
        from datamodules.measured.wavelength import parse_wavelength

        return parse_wavelength(self.wavelength).lines

    @cached_property
    def _damping(self) -> dict[int, float]:
        """B in Å² by atomic number, where it is not 0."""
        if not isinstance(self.debye_waller, Mapping):
            return dict.fromkeys(ATOMIC_NUMBERS.values(), float(self.debye_waller))
        for symbol in self.debye_waller:
            if symbol not in ATOMIC_NUMBERS:
                raise ValueError(f"debye_waller: {symbol!r} is no element's symbol")
        return {ATOMIC_NUMBERS[symbol]: float(b) for symbol, b in self.debye_waller.items()}

    def to_two_theta(self, q: ArrayLike) -> Float:
        """Scattering angles in degrees of Q in Å⁻¹, any shape; NaN beyond backscattering."""
        sine = np.asarray(q, np.float64) * self.angstrom / (4 * np.pi)
        return 2 * np.degrees(np.arcsin(np.where(sine <= 1, sine, np.nan)))

    def lines(self, structure: Any) -> Lines:
        """Computes the lines of a structure.

        Lines nearer than 0.0005° are one at their mean; lines below 10⁻⁵ of the highest are left
        out.

        Args:
            structure: A pymatgen `Structure`, ASE `Atoms`, the path of a CIF, or a tuple of arrays;
                see `to_crystal`.

        Raises:
            EntryError: if it is no crystal, has an element without scattering factors, or is too
                large for the window.
        """
        return self._lines(to_crystal(structure))

    def profile(
        self,
        structure: Any,
        *,
        two_theta: ArrayLike | None = None,
        q: ArrayLike | None = None,
        fwhm: float | tuple[float, float, float] | None = None,
        eta: float = 0.0,
        size: float | None = None,
        doublet: bool = False,
    ) -> Float:
        """Computes the profile of a structure on a grid.

        Args:
            structure: As in `lines`.
            two_theta: Ascending angles in degrees, at any distances, shape (n,); or else
            q: scattering vectors in Å⁻¹.
            fwhm: Full width at half maximum in the unit of the grid (0.1° or 0.01 Å⁻¹ if left out),
                or Caglioti's (U, V, W) in degrees².
            eta: Pseudo-Voigt mixing, 0 Gaussian to 1 Lorentzian.
            size: Crystallite size in Å, which broadens by Scherrer's equation (K = 0.9).
            doublet: Whether to draw Kα1 and Kα2 apart, where the wavelength is such a name.

        Returns:
            Shape (n,), its highest point `scale`; not scaled it is intensity a degree (or Å⁻¹), so
            that it integrates to the lines' intensities. Warns if the points are too far apart for
            the peaks.

        Raises:
            EntryError: as `lines`.
            ValueError: if the grid or a width is impossible.
        """
        grid = Grid.of(two_theta, q, fwhm, eta, size)
        return self._profile(grid, doublet, to_crystal(structure))

    def many_lines(
        self, structures: Iterable[Any], *, workers: int = 1, skip_bad: bool = False
    ) -> Iterator[Lines | None]:
        """Computes the lines of many structures, in their order, as they become ready.

        Args:
            structures: Any iterable; it is read as the results are taken.
            workers: Processes. More than one start anew, so a script that is run must have its
                `if __name__ == "__main__":`.
            skip_bad: Give None for what `lines` would refuse, instead of stopping there.

        Raises:
            EntryError: as `lines`, naming the structure's place; not with `skip_bad`.
        """
        return in_order(self._lines, structures, workers, skip_bad)

    def many_profiles(
        self,
        structures: Iterable[Any],
        *,
        two_theta: ArrayLike | None = None,
        q: ArrayLike | None = None,
        fwhm: float | tuple[float, float, float] | None = None,
        eta: float = 0.0,
        size: float | None = None,
        doublet: bool = False,
        workers: int = 1,
        skip_bad: bool = False,
    ) -> Iterator[Float | None]:
        """Computes the profiles of many structures; arguments as of `profile` and `many_lines`."""
        grid = Grid.of(two_theta, q, fwhm, eta, size)
        self._check(grid, doublet)
        return in_order(partial(self._profile, grid, doublet), structures, workers, skip_bad)

    def _lines(self, crystal: Crystal) -> Lines:
        q, intensity = self._computed(crystal, *self.two_theta_range)
        if self.lorentz_polarization:
            intensity = intensity * self._factor(q, self.angstrom)
        highest = intensity.max(initial=0.0)
        kept = intensity > MIN_RELATIVE_INTENSITY * highest
        q, intensity = q[kept], intensity[kept]
        return Lines(q, intensity if self.scale is None else intensity * (self.scale / highest))

    def _check(self, grid: Grid, doublet: bool) -> None:
        if doublet and len(self._radiation) == 1:
            raise ValueError(
                f"doublet: wavelength {self.wavelength} is one line; give a name such as 'CuKa'"
            )
        limit = 4 * np.pi / self.angstrom
        if grid.in_q and grid.points[-1] >= limit:
            raise ValueError(
                f"q: {grid.points[-1]:g} Å⁻¹ cannot be reached at {self.angstrom:g} Å (up to "
                f"{limit:.4g}); give a shorter wavelength"
            )

    def _profile(self, grid: Grid, doublet: bool, crystal: Crystal) -> Float:
        self._check(grid, doublet)
        low, high = grid.reach(self.angstrom)
        if grid.in_q:
            low, high = (
                180.0 if edge * self.angstrom >= 4 * np.pi else float(self.to_two_theta(edge))
                for edge in (low, high)
            )
        q, intensity = self._computed(crystal, low, min(high, 180.0))
        radiation = self._radiation if doublet else ((self.angstrom, 1.0),)
        total = sum(weight for _, weight in radiation)
        positions, areas = [], []
        for wavelength, weight in radiation:
            reached = q * wavelength < 4 * np.pi * math.sin(math.radians(_BACKSCATTERING / 2))
            some = q[reached]
            area = intensity[reached] * (weight / total)
            if self.lorentz_polarization:
                area = area * self._factor(some, wavelength)
            # On an axis of Q as a diffractometer has it: with the mean wavelength for both lines.
            apparent = some * (wavelength / self.angstrom)
            positions.append(apparent if grid.in_q else self.to_two_theta(apparent))
            areas.append(area)
        profile = grid.draw(np.concatenate(positions), np.concatenate(areas), self.angstrom)
        highest = profile.max()
        if self.scale is not None and highest > 0:
            profile *= self.scale / highest
        return profile

    def _computed(self, crystal: Crystal, low: float, high: float) -> tuple[Float, Float]:
        """Q and multiplicity × |F|² of the lines between two angles in degrees."""
        for number in set(crystal.numbers.tolist()):
            if not has_scattering_factor(number):
                raise EntryError("no scattering factor", f"Z = {number}")
        high = min(high, _BACKSCATTERING)
        g = max_g(self.angstrom, high)
        if g / 2 > MAX_S:
            raise ValueError(
                f"Q up to {2 * np.pi * g:.3g} Å⁻¹ at {self.angstrom:g} Å: the scattering factors "
                f"hold up to {4 * np.pi * MAX_S:.3g} Å⁻¹; give a narrower range"
            )
        reflections = 4 / 3 * np.pi * g**3 * crystal.volume
        if reflections > MAX_REFLECTIONS:
            raise EntryError(
                "too many reflections", f"{reflections:.2g} up to {high:g}°; narrow the range"
            )
        return unscaled_lines(
            crystal,
            wavelength=self.angstrom,
            two_theta_min=low,
            two_theta_max=high,
            debye_waller=self._damping if self.debye_waller else {},
        )

    def _factor(self, q: Float, wavelength: float) -> Float:
        sine = q * (wavelength / (4 * np.pi))
        return 2 * lorentz_polarization(sine, self.polarization)
