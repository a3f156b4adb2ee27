"""The model's grid: equally spaced 2θ angles at one wavelength."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np

from datamodules.radiation import CU_K_ALPHA

_MAX_POINTS = 1_000_000


@dataclass(frozen=True)
class Grid:
    """Angles at which every pattern is given to the model.

    Attributes:
        two_theta_min: First angle, degrees.
        two_theta_max: End of the window, degrees, exclusive.
        step: Distance of neighbouring points, degrees.
        wavelength: Wavelength that the angles refer to, Å.

    Raises:
        ValueError: if the numbers do not describe a grid between 0° and 180°.
    """

    two_theta_min: float = 5.0
    two_theta_max: float = 90.0
    step: float = 0.02
    wavelength: float = CU_K_ALPHA

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not math.isfinite(value):
                raise ValueError(f"grid: {name} is {value}; give a finite number")
        if not 0.0 < self.two_theta_min < self.two_theta_max <= 180.0:
            raise ValueError(
                f"grid: the window {self.two_theta_min}°–{self.two_theta_max}° is impossible; "
                "2θ must satisfy 0 < two_theta_min < two_theta_max <= 180"
            )
        if self.wavelength <= 0.0:
            raise ValueError(f"grid: wavelength {self.wavelength} Å; give a positive one")
        if self.step <= 0.0:
            raise ValueError(f"grid: step {self.step}°; give a positive one")
        width = self.two_theta_max - self.two_theta_min
        if not 2 <= width / self.step <= _MAX_POINTS:
            raise ValueError(
                f"grid: step {self.step}° gives {width / self.step:.3g} points in {width:g}°; "
                f"choose a step that gives 2 to {_MAX_POINTS:,}"
            )

    @property
    def n_points(self) -> int:
        """Number of points, L."""
        # Rounded before ceil: (90 - 5) / 0.02 is not exactly 4250 in binary.
        return math.ceil(round((self.two_theta_max - self.two_theta_min) / self.step, 6))

    def two_theta(self) -> np.ndarray:
        """Angles of the points, shape (n_points,), float64, degrees."""
        return self.two_theta_min + self.step * np.arange(self.n_points)

    def q(self) -> np.ndarray:
        """Scattering vectors Q = 4π sin θ / λ of the points, shape (n_points,), Å⁻¹."""
        return 4.0 * np.pi * np.sin(np.radians(self.two_theta() / 2.0)) / self.wavelength

    @property
    def q_min(self) -> float:
        """Q at the first angle of the window, Å⁻¹."""
        return two_theta_to_q(self.two_theta_min, self.wavelength)

    @property
    def q_max(self) -> float:
        """Q at the (excluded) end of the window, Å⁻¹."""
        return two_theta_to_q(self.two_theta_max, self.wavelength)

    def to_dict(self) -> dict[str, float]:
        """The four numbers, for a manifest or a checkpoint; `Grid(**…)` restores the grid."""
        return asdict(self)


def two_theta_to_q(two_theta: float, wavelength: float) -> float:
    """Q in Å⁻¹ for a scattering angle in degrees and a wavelength in Å."""
    return 4.0 * math.pi * math.sin(math.radians(two_theta / 2.0)) / wavelength
