"""Physics of single peaks: their intensity factors, widths, shapes and doublets, and backgrounds.

Legend: B rows, L points of the grid, P lines of all rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from datamodules.radiation import ANODES, CU_K_ALPHA
from datamodules.rendering.augmentation import N_BACKGROUND

SCHERRER_CONSTANT = 0.9

KA1_RATIO = ANODES["Cu"][0] / CU_K_ALPHA
"""λ(Kα1) over the doublet's mean for copper; Kα2, at half the intensity, follows from the mean."""
KA2_RATIO = 3.0 - 2.0 * KA1_RATIO


@dataclass(frozen=True)
class PeakShape:
    """The plain pattern's peaks: what validation sees, and training without augmentation.

    Attributes:
        fwhm: Full width at half maximum, degrees.
        eta: Pseudo-Voigt mixing, 0 Gaussian to 1 Lorentzian.
        polarization: P in the polarization factor 1 + P cos²2θ; 1 for an unpolarised tube, below
            for a monochromator or a synchrotron (cos²2θ of the monochromator; 0 fully polarised
            perpendicular to the scattering plane).
    """

    fwhm: float = 0.1
    eta: float = 0.0
    polarization: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.fwhm) and self.fwhm > 0):
            raise ValueError(f"peak shape: fwhm is {self.fwhm}°; give a positive width")
        if not 0 <= self.eta <= 1:
            raise ValueError(f"peak shape: eta is {self.eta}; it lies between 0 and 1")
        if not 0 <= self.polarization <= 1:
            raise ValueError(f"peak shape: polarization is {self.polarization}; it lies in 0 to 1")


def dtype_of_positions(device: torch.device) -> torch.dtype:
    """In what positions of lines are computed: float64, but on Apple's GPUs, which have none.

    In float32 a step of the last bit at 90° is a two-thousandth of a point, and moves the flank of
    a narrow peak by 1e-4 of its height: two devices, whose sines differ there, would draw other
    patterns.
    """
    return torch.float32 if device.type == "mps" else torch.float64


def peak_fwhm(
    two_theta: Tensor, u: Tensor, v: Tensor, w: Tensor, size: Tensor | None, wavelength: float
) -> Tensor:
    """Width of peaks: Caglioti's instrument and Scherrer's size broadening in quadrature.

    Args:
        two_theta: Angles, degrees.
        u: U of FWHM² = U tan²θ + V tan θ + W, degrees²; like v, w and size of the angles' shape.
        v: V, degrees².
        w: W, degrees².
        size: Crystallite size D, Å, or None.
        wavelength: Å.

    Returns:
        FWHM, degrees.

    Source: Caglioti, Paoletti & Ricci, Nucl. Instrum. 3 (1958) 223; Scherrer's equation as in
        Pecharsky & Zavalij, ch. 2.
    """
    theta = torch.deg2rad(two_theta / 2.0)
    tangent = torch.tan(theta)
    square = u * tangent**2 + v * tangent + w
    if size is not None:
        radians = SCHERRER_CONSTANT * wavelength / (size * torch.cos(theta))
        square = square + torch.rad2deg(radians) ** 2
    return torch.sqrt(square.clamp(min=0.0))


def quintic_spline(t: Tensor) -> Tensor:
    """Quintic B-spline at the six points around a position t in [0, 1) past the third; (6, P)."""
    s = 1.0 - t
    t2, s2 = t * t, s * s
    near_t = (66.0 - t2 * (60.0 - 30.0 * t2 + 10.0 * t2 * t)) / 120.0
    near_s = (66.0 - s2 * (60.0 - 30.0 * s2 + 10.0 * s2 * s)) / 120.0
    edge_t, edge_s = t2 * t2 * t / 120.0, s2 * s2 * s / 120.0
    far_s = _quintic_middle(1.0 + t)
    far_t = _quintic_middle(1.0 + s)
    return torch.stack([edge_s, far_s, near_t, near_s, far_t, edge_t])


def _quintic_middle(x: Tensor) -> Tensor:
    """Quintic B-spline at distances from 1 to 2."""
    return (51.0 + x * (75.0 + x * (-210.0 + x * (150.0 + x * (-45.0 + 5.0 * x))))) / 120.0


def split_doublet(
    sine: Tensor, area: Tensor, rows: Tensor, doublet: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Kα1 with 2/3 and Kα2 with 1/3 of the area where `doublet` (B,) is true, else the mean."""
    split = doublet[rows]
    first = torch.where(split, sine * KA1_RATIO, sine)
    second = torch.where(split, sine * KA2_RATIO, sine)
    return (
        torch.cat([first, second]),
        torch.cat([torch.where(split, area * (2.0 / 3.0), area), area * split * (1.0 / 3.0)]),
        torch.cat([rows, rows]),
    )


def background_profile(shape: Tensor, x: Tensor) -> Tensor:
    """Σ cₖ Tₖ(x) scaled to the range 0 to 1.

    Args:
        shape: Coefficients cₖ of the Chebyshev polynomials of degrees 0 to 3, (B, N_BACKGROUND).
        x: Positions, (L,), from -1 to 1.

    Returns:
        (B, L).
    """
    polynomials = torch.stack([torch.ones_like(x), x, 2 * x**2 - 1, 4 * x**3 - 3 * x])
    assert len(polynomials) == N_BACKGROUND
    curve = shape @ polynomials
    low, high = curve.amin(dim=1, keepdim=True), curve.amax(dim=1, keepdim=True)
    return (curve - low) / (high - low).clamp(min=1e-6)
