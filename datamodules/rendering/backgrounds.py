"""What lies under and between a pattern's lines: backgrounds, what their subtraction leaves, noise.

Legend: B rows, L points of the grid, A impurities, K knots.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d, interpolate, max_pool1d

from datamodules.batch import IMPURITY_PROFILE, IMPURITY_SLOT, Batch
from datamodules.grid import Grid
from datamodules.randomness import normal
from datamodules.rendering.augmentation import N_RESIDUE, NARROWEST_NOISE, Perturbation
from datamodules.rendering.lines import proportions
from datamodules.rendering.peaks import background_profile

_ROUNDING = 4e-7
"""Intensities below this share of the maximum are rounding errors of the float32 FFT."""
_ENVELOPE_STEP = 0.2
"""Degrees between the points of a lower envelope."""
_KNOTS = 96
"""Backgrounds are smooth: they are computed at so many points and interpolated."""


def add_impurity_profiles(
    dense: Tensor, measured: Tensor, batch: Batch, changes: Perturbation
) -> Tensor:
    """Adds dense impurities with their share of the summed intensity over the measured points."""
    if changes.impurity is None or IMPURITY_PROFILE not in batch:
        return dense
    slot = batch[IMPURITY_SLOT]
    extra = torch.nan_to_num(batch[IMPURITY_PROFILE].to(torch.float32), nan=0.0).clamp(min=0.0)
    extra = extra * measured[slot]
    share = changes.impurity[slot]
    total = extra.sum(dim=1)
    factor = share / (1.0 - share) * dense[slot].sum(dim=1) / total.clamp(min=1e-30)
    factor = torch.where(total > 0, factor * proportions(slot, changes), 0.0)
    return dense.index_add(0, slot, extra * factor[:, None])


def finish(intensity: Tensor, measured: Tensor | None, changes: Perturbation, grid: Grid) -> Tensor:
    """Background, noise, scale and square root; `measured` is None where all points are."""
    # The division makes the only copy; what follows works in place.
    intensity = intensity / _largest(intensity, measured)
    intensity.masked_fill_(intensity < _ROUNDING, 0.0)
    if changes.background is not None and changes.background_shape is not None:
        x = torch.linspace(-1.0, 1.0, intensity.shape[1], device=intensity.device)
        curve = background_profile(changes.background_shape, x)
        intensity += curve.mul_(changes.background[:, None])
    counted = intensity
    if changes.scattering is not None and changes.scattering_shape is not None:
        knots_BK = scattering_profile(changes.scattering_shape, grid)
        knots_BK = knots_BK * changes.scattering[:, None]
        counted = intensity + _to_grid(knots_BK, grid)
        if changes.residue is not None:
            intensity += _to_grid(knots_BK * residue_profile(changes.residue), grid)
    if changes.envelope is not None:
        # Of the pattern without noise: a subtraction follows the middle of the noise. Not in place:
        # the counts are those before it.
        below = lower_envelope(intensity, changes.envelope_width, grid)
        intensity = intensity - below * changes.envelope[:, None]
    if changes.noise is not None and changes.noise_keys is not None:
        sigma = (counted / changes.noise[:, None]).sqrt_()
        if changes.noise_width is None:
            number = normal(changes.noise_keys, intensity.shape[1])
        else:
            number = smooth_noise(changes.noise_keys, changes.noise_width, grid)
        intensity += sigma.mul_(number)
    if any(change is not None for change in (changes.noise, changes.residue, changes.envelope)):
        intensity.clamp_(min=0.0)
    if measured is not None:
        intensity *= measured
    return intensity.div_(_largest(intensity, None)).sqrt_()


def _largest(intensity: Tensor, measured: Tensor | None) -> Tensor:
    inside = intensity if measured is None else intensity * measured
    return inside.amax(dim=1, keepdim=True).clamp_(min=1e-30)


def _to_grid(knots: Tensor, grid: Grid) -> Tensor:
    """Straight lines between knots that span the grid, (B, K) to (B, L)."""
    on_grid = interpolate(knots[:, None], grid.n_points, mode="linear", align_corners=True)
    return on_grid[:, 0]


def scattering_profile(shape: Tensor, grid: Grid) -> Tensor:
    """A background with a maximum of 1: air, up to two humps and a constant, each there or not.

    Air scattering falls exponentially over 3 to 30°. Humps are Gaussians of 8 to 25° FWHM, one
    centred at 12 to 40° (glass, a polymer's holder, the amorphous part), one at 25 to 60°.

    Args:
        shape: Uniform numbers, (B, N_SCATTERING).
        grid: For the angles.

    Returns:
        At knots that span the grid, (B, K).
    """
    x = torch.linspace(grid.two_theta_min, grid.two_theta_max, _KNOTS, device=shape.device)
    unit = shape.T[:, :, None]
    # Half of all patterns lack each part; something there is always.
    weight = (2.0 * unit[[0, 2, 5, 8]] - 1.0).clamp(min=0.0)
    curve = weight[0] * torch.exp((grid.two_theta_min - x) / (3.0 * 10.0 ** unit[1]))
    for number, centre, width in (
        (1, 12.0 + 28.0 * unit[3], 8.0 + 17.0 * unit[4]),
        (2, 25.0 + 35.0 * unit[6], 8.0 + 17.0 * unit[7]),
    ):
        curve = curve + weight[number] * torch.exp(
            -4.0 * math.log(2.0) * ((x - centre) / width) ** 2
        )
    curve = curve + (weight[3] + 0.05)
    return curve / curve.amax(dim=1, keepdim=True)


def residue_profile(coefficients: Tensor) -> Tensor:
    """Σ cₖ cos(kπx) over the window, x from 0 to 1, scaled so that σ is that of the coefficients.

    Args:
        coefficients: (B, N_RESIDUE).

    Returns:
        At knots that span the window, (B, K).
    """
    k = torch.arange(N_RESIDUE, device=coefficients.device)
    x = torch.linspace(0.0, math.pi, _KNOTS, device=coefficients.device)
    # cos² has a mean of 1/2 for all but k = 0.
    return coefficients @ torch.cos(k[:, None] * x) * math.sqrt(2.0 / (N_RESIDUE + 1))


def lower_envelope(intensity: Tensor, width: float, grid: Grid) -> Tensor:
    """What lies under lines that are narrower than the width: an opening, smoothed; (B, L).

    The largest of the smallest values in windows of the width (erosion, then dilation), at every
    0.2°, averaged over half the width. Smoothed it may exceed the pattern, as estimates do.

    Args:
        intensity: (B, L).
        width: Degrees.
        grid: For the step.
    """
    every = max(1, round(_ENVELOPE_STEP / grid.step))
    half = round(width / (2.0 * every * grid.step))
    knots = -max_pool1d(-intensity, every, every, ceil_mode=True)
    eroded = -max_pool1d(-knots, 2 * half + 1, 1, half)
    opened = max_pool1d(eroded, 2 * half + 1, 1, half)
    smooth = avg_pool1d(opened, half // 2 * 2 + 1, 1, half // 2, count_include_pad=False)
    return interpolate(smooth[:, None], intensity.shape[1], mode="linear")[:, 0]


def smooth_noise(keys: Tensor, fwhm: Tensor, grid: Grid) -> Tensor:
    """White noise after a Gaussian, scaled to a standard deviation of 1 again, (B, L).

    Drawn as its Fourier coefficients, of which the Gaussian leaves few.

    Args:
        keys: Of random numbers, (B,).
        fwhm: Of the Gaussian, degrees, (B,); at least NARROWEST_NOISE.
        grid: For the step.
    """
    # One period is longer than the window, or its ends would be alike.
    n = 2 * math.ceil((grid.n_points + 5.0 / grid.step) / 2.0)
    # Above this frequency (1/degree) the narrowest Gaussian leaves less than a thousandth.
    highest = 1.4 / NARROWEST_NOISE
    n_modes = min(n // 2 - 1, math.ceil(highest * n * grid.step))
    frequency = torch.arange(1, n_modes + 1, device=keys.device) / (n * grid.step)
    exponent = -(math.pi**2) * frequency**2 / (4.0 * math.log(2.0))
    transfer = torch.exp(fwhm[:, None] ** 2 * exponent)
    # σ² of the inverse transform is (2/n)² Σ T² for coefficients a + ib of σ = 1 each.
    scale = n / (2.0 * torch.linalg.vector_norm(transfer, dim=1, keepdim=True))
    numbers = normal(keys, 2 * n_modes).view(len(keys), n_modes, 2) * (transfer * scale)[..., None]
    coefficients = torch.nn.functional.pad(torch.view_as_complex(numbers.contiguous()), (1, 0))
    return torch.fft.irfft(coefficients, n)[:, : grid.n_points]
