"""Taking Kα2 off a pattern."""

from __future__ import annotations

import numpy as np

from datamodules.measured.errors import PatternError
from datamodules.measured.wavelength import Wavelength, is_doublet


def strip_kalpha2(
    two_theta: np.ndarray, intensity: np.ndarray, wavelength: Wavelength
) -> np.ndarray:
    """Rachinger's correction: what Kα1 gives at a smaller angle, Kα2 repeats further up.

    I₁(2θ) = I(2θ) − r·I₁(2θ′) with sin θ′ = sin θ · λ₁/λ₂, from the first point on; the lowest
    intensity is taken for a flat background, which is not corrected. Noise adds up.

    Args:
        two_theta: Angles, shape (n,), ascending, degrees.
        intensity: Intensities, (n,).
        wavelength: Of two lines.

    Returns:
        Intensity of Kα1, (n,).

    Raises:
        PatternError: if the two lines are no Kα1 and Kα2.

    Source: W. A. Rachinger, J. Sci. Instrum. 25 (1948) 254.
    """
    # The shorter is Kα1, whatever the order and the weights that the file gives.
    (alpha1, weight), (alpha2, ratio) = sorted(wavelength.lines)
    if not is_doublet(alpha1, alpha2) or not 0.0 < ratio < weight:
        raise PatternError(
            f"Kα2 cannot be taken off: {wavelength} is no doublet of a strong Kα1 and a weaker "
            "Kα2; give it by name, such as --wavelength CuKa"
        )
    ratio = ratio / weight
    sine = np.sin(np.radians(two_theta / 2.0)) * alpha1 / alpha2
    partner = np.degrees(2.0 * np.arcsin(sine))
    floor = float(np.percentile(intensity, 5))
    signal = intensity - floor
    out = signal.copy()
    after = np.searchsorted(two_theta, partner)
    for i in range(len(out)):
        k = after[i]
        if k == 0:
            # Its Kα1 lies before the scan: taken to be alike.
            out[i] = signal[i] / (1.0 + ratio)
            continue
        # At low angles the doublet is closer than a step: the partner lies between the last
        # corrected point and this one, where the line between them is solved for this one.
        a, b = two_theta[k - 1], two_theta[k]
        w = (partner[i] - a) / (b - a)
        if k == i:
            out[i] = (signal[i] - ratio * (1.0 - w) * out[i - 1]) / (1.0 + ratio * w)
        else:
            out[i] = signal[i] - ratio * ((1.0 - w) * out[k - 1] + w * out[k])
    return out + floor
