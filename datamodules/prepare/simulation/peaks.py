"""Lines drawn as peaks on any grid of angles or of Q, by a compiled kernel.

    S(x) = η L(x) + (1 − η) G(x),  both of area 1 and of the same full width at half maximum
    FWHM² = U tan²θ + V tan θ + W + (0.9 λ / (D cos θ))²   (in degrees², the last term converted)

Sources: Caglioti, Paoletti & Ricci, Nucl. Instrum. 3 (1958) 223; Scherrer's equation as in
Pecharsky & Zavalij, Fundamentals of Powder Diffraction, 2nd ed., ch. 2.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

Float = NDArray[np.float64]

SCHERRER_CONSTANT = 0.9
DEFAULT_FWHM = 0.1
"""Degrees."""
DEFAULT_FWHM_Q = 0.01
"""Å⁻¹."""
# A peak is drawn as far as it is above this part of the highest one.
_FAINT = 1e-8
_PER_FWHM = 2.0
"""Points that a peak's width must have, for its maximum not to depend on where they lie."""


@dataclass(frozen=True)
class Grid:
    """Where a profile is wanted, and the shape of its peaks.

    Attributes:
        points: Ascending, shape (n,): 2θ in degrees or Q in Å⁻¹.
        in_q: Whether the points are Q.
        fwhm: Full width at half maximum in the unit of the points; or, of angles, Caglioti's
            (U, V, W) in degrees².
        eta: 0 Gaussian to 1 Lorentzian.
        size: Crystallite size D in Å; None for no broadening by it.

    Raises:
        ValueError: naming what is impossible.
    """

    points: Float
    in_q: bool
    fwhm: float | tuple[float, float, float]
    eta: float = 0.0
    size: float | None = None

    def __post_init__(self) -> None:
        name = "q" if self.in_q else "two_theta"
        x = self.points
        if x.ndim != 1 or len(x) < 2:
            raise ValueError(f"{name}: has shape {x.shape}; give at least two ascending points")
        if not (np.isfinite(x).all() and (np.diff(x) > 0).all()):
            raise ValueError(f"{name}: the points are not finite and ascending; sort them")
        if x[0] < 0 or (not self.in_q and x[-1] > 180):
            span = "0° to 180°" if not self.in_q else "0 Å⁻¹ upwards"
            raise ValueError(f"{name}: {x[0]:g} to {x[-1]:g}; the points must lie in {span}")
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta {self.eta}: must lie in 0 (Gaussian) to 1 (Lorentzian)")
        if self.size is not None and not 1 <= self.size < math.inf:
            raise ValueError(f"size {self.size} Å: must be a finite length of at least 1 Å")
        if isinstance(self.fwhm, tuple) and (self.in_q or len(self.fwhm) != 3):
            raise ValueError("fwhm: (U, V, W) are for angles; give one number, in Å⁻¹, for Q")
        if not isinstance(self.fwhm, tuple) and not 0 < self.fwhm < math.inf:
            raise ValueError(f"fwhm {self.fwhm}: give a positive width")

    @classmethod
    def of(
        cls,
        two_theta: ArrayLike | None,
        q: ArrayLike | None,
        fwhm: float | tuple[float, float, float] | None,
        eta: float,
        size: float | None,
    ) -> Grid:
        """The grid of whichever is given; see `Simulator.profile`.

        Raises:
            ValueError: if both or neither are given, or a value is impossible.
        """
        given = two_theta if q is None else q
        if given is None or (two_theta is not None and q is not None):
            raise ValueError("profile: give either two_theta=… in degrees or q=… in Å⁻¹")
        if fwhm is None:
            fwhm = DEFAULT_FWHM if q is None else DEFAULT_FWHM_Q
        if isinstance(fwhm, Sequence):
            fwhm = tuple(float(value) for value in fwhm)  # type: ignore[assignment]
        points = np.ascontiguousarray(given, dtype=np.float64)
        return cls(points, q is not None, fwhm, float(eta), size)

    def reach(self, wavelength: float) -> tuple[float, float]:
        """The window, in the unit of the points, whose lines can be seen on the grid."""
        widest = float(self.widths(self.points[[0, -1]], wavelength).max())
        # At 100 widths a Lorentzian is at 3e-5 of its height, a Gaussian is nothing at 3.
        margin = (100.0 if self.eta else 3.0) * widest
        return max(0.0, float(self.points[0]) - margin), float(self.points[-1]) + margin

    def widths(self, positions: Float, wavelength: float) -> Float:
        """FWHM of peaks at some positions, both in the unit of the points.

        Raises:
            ValueError: if Caglioti's polynomial is negative at one of them.
        """
        if self.in_q:
            squared = np.full(len(positions), float(self.fwhm) ** 2)  # type: ignore[arg-type]
            if self.size is not None:
                squared += (2 * np.pi * SCHERRER_CONSTANT / self.size) ** 2
            return np.sqrt(squared)
        theta = np.radians(np.minimum(positions, 179.0) / 2)
        if isinstance(self.fwhm, tuple):
            u, v, w = self.fwhm
            squared = u * np.tan(theta) ** 2 + v * np.tan(theta) + w
        else:
            squared = np.full(len(positions), self.fwhm**2)
        if self.size is not None:
            squared += np.degrees(SCHERRER_CONSTANT * wavelength / (self.size * np.cos(theta))) ** 2
        if not (squared > 0).all():
            where = positions[int(np.argmin(squared))]
            raise ValueError(
                f"fwhm {self.fwhm}: U tan²θ + V tan θ + W is not positive at {where:g}°"
            )
        return np.sqrt(squared)

    @cached_property
    def _coarsest(self) -> float:
        return float(np.diff(self.points).max())

    def draw(self, positions: Float, areas: Float, wavelength: float) -> Float:
        """Draws lines as peaks.

        Args:
            positions: Of the lines, shape (n_lines,), in the unit of the points.
            areas: Of their peaks, shape (n_lines,).
            wavelength: Å, for the size broadening.

        Returns:
            Intensity a unit of the points, shape (n,). Warns where the points are too far apart.
        """
        profile = np.zeros(len(self.points))
        if not len(positions):
            return profile
        widths = self.widths(positions, wavelength)
        if _PER_FWHM * self._coarsest > widths.min() * (1 + 1e-9):
            warnings.warn(
                f"peaks of fwhm {widths.min():.3g} on points up to {self._coarsest:.3g} apart: "
                "their heights depend on where the points lie; take more points or a larger fwhm",
                stacklevel=4,
            )
        _draw(self.points, positions, areas, widths, self.eta, profile)
        return profile


@njit(cache=True, error_model="numpy")
def _draw(
    points: Float, positions: Float, areas: Float, widths: Float, eta: float, profile: Float
) -> None:
    """Adds peaks to `profile`; each as far as it matters beside the highest."""
    lorentz, gauss = 2 / np.pi, 2 * np.sqrt(np.log(2) / np.pi)
    highest = (areas / widths).max()
    for i in range(len(positions)):
        height = areas[i] / widths[i]
        if not height > _FAINT * highest:
            continue
        above = height / (_FAINT * highest)
        reach = np.sqrt(np.log(above) / (4 * np.log(2)))
        if eta > 0:
            reach = max(reach, 0.5 * np.sqrt(eta * above))
        reach *= widths[i]
        first = np.searchsorted(points, positions[i] - reach)
        last = np.searchsorted(points, positions[i] + reach)
        for j in range(first, last):
            square = 4 * ((points[j] - positions[i]) / widths[i]) ** 2
            shape = (1 - eta) * gauss * np.exp(-np.log(2) * square)
            if eta > 0:
                shape += eta * lorentz / (1 + square)
            profile[j] += height * shape
