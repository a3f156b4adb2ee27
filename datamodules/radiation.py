"""X-rays: wavelengths of laboratory tubes, and the intensity factor that depends on the angle."""

from __future__ import annotations

from typing import TypeVar

CU_K_ALPHA = 1.54184
"""Intensity-weighted mean wavelength of copper's Kα doublet, Å (the value pymatgen uses)."""

ANODES = {
    "Cr": (2.28973, 2.29365),
    "Fe": (1.93608, 1.94002),
    "Co": (1.78900, 1.79289),
    "Ni": (1.65794, 1.66178),
    "Cu": (1.54059, 1.54443),
    "Mo": (0.70932, 0.71361),
    "Ag": (0.55942, 0.56381),
}
"""Kα1 and Kα2 in Å by anode.

Source: Bearden, Rev. Mod. Phys. 39 (1967) 78, on the scale of the International Tables, vol. C.
"""

#: A NumPy array or a torch tensor: only operators are applied to it.
Array = TypeVar("Array")


def lorentz_polarization(sin_theta: Array, polarization: float = 1.0) -> Array:
    """The Lorentz–polarization factor (1 + P cos²2θ) / ((1 + P) sin²θ cos θ).

    Args:
        sin_theta: Sine of θ (half the scattering angle), in (0, 1); an array or a tensor of any
            shape.
        polarization: P: 1 for an unpolarised tube, cos²2θ of a monochromator, 0 for a beam that is
            polarised perpendicular to the scattering plane.

    Returns:
        The factor, of the shape of `sin_theta`.

    Source: Pecharsky & Zavalij, Fundamentals of Powder Diffraction, 2nd ed., ch. 8.
    """
    square = sin_theta**2  # type: ignore[operator]
    cos_theta, cos_2theta = (1.0 - square) ** 0.5, 1.0 - 2.0 * square
    factor: Array = (1.0 + polarization * cos_2theta**2) / (
        (1.0 + polarization) * square * cos_theta
    )
    return factor
