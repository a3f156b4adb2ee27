"""What random changes do to single lines: their intensities, positions and the share of impurities.

Legend: B rows, P lines of all rows, A impurities.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from datamodules.randomness import normal_at, uniform_at
from datamodules.rendering.augmentation import N_DRIFT, Perturbation

_ALONG = 1e-3
"""Lines at integer multiples of a line's Q, within this share, are other orders of its plane."""
_DRIFT_Q = 6.0
"""Half a period of the slowest wave in the drift of intensities, Å⁻¹: 2θ of 95° at Cu Kα."""
_SMALLEST_ANGLE = 3.0
"""Axial divergence shifts lines below it no more than those at it, degrees 2θ."""


def rows_of(offsets: Tensor, n_lines: int) -> Tensor:
    """The row that owns each line, shape (P,); without waiting for the device."""
    rows = torch.arange(len(offsets) - 1, device=offsets.device)
    return torch.repeat_interleave(rows, offsets.diff(), output_size=n_lines)


def change_lines(
    q: Tensor, intensity: Tensor, rows: Tensor, offsets: Tensor, changes: Perturbation
) -> tuple[Tensor, Tensor]:
    """Jitter, texture and anisotropic strain: changes that differ from line to line.

    Args:
        q: Scattering vectors, Å⁻¹, (P,).
        intensity: Multiplicity × |F|², (P,).
        rows: The row of each line, (P,), ascending.
        offsets: The first line of each row, (B + 1,).
        changes: The random changes of the rows.

    Returns:
        Scattering vectors and intensities, (P,).
    """
    counter = torch.arange(len(q), device=q.device) - offsets[rows]
    if changes.line_jitter and changes.line_keys is not None:
        sigma = changes.line_jitter
        factor = normal_at(changes.line_keys[rows], counter) * sigma - 0.5 * sigma**2
        intensity = intensity * torch.exp(factor)
    if changes.direction_keys is None:
        return q, intensity
    cosine, turn = _directions(q, intensity, rows, counter, changes.direction_keys)
    if changes.texture is not None:
        intensity = intensity * march_dollase(changes.texture[rows], cosine)
    if changes.cell_strain is not None:
        across = 1.0 - cosine**2
        along_x = across * torch.cos(2.0 * math.pi * turn) ** 2
        components = torch.stack([along_x, across - along_x, cosine**2], dim=1)
        q = q / (1.0 + (changes.cell_strain[rows] * components).sum(dim=1))
    return q, intensity


def _directions(
    q: Tensor, intensity: Tensor, rows: Tensor, counter: Tensor, keys: Tensor
) -> tuple[Tensor, Tensor]:
    """A direction for each line: the cosine to an axis, and the turn around it from 0 to 1; (P,).

    The axis is normal to the plane of one line, drawn with a probability that goes as I/Q², as the
    line's height does at small angles; its other orders lie along it. The others' directions are
    uniform on the half sphere.
    """
    cosine, turn = uniform_at(keys[rows], counter)
    # The largest of log w - log(-log u) is one drawn with probabilities w (Gumbel).
    unit, _ = uniform_at(keys[rows] + 1, counter)
    score = torch.log(intensity / q**2) - torch.log(-torch.log(unit.clamp(1e-7, 1.0 - 1e-7)))
    best = torch.full((len(keys),), -math.inf, device=q.device, dtype=score.dtype)
    best = best.scatter_reduce(0, rows, score, "amax")
    chosen = torch.where(score == best[rows], q, 0.0)
    axis = torch.zeros(len(keys), device=q.device, dtype=q.dtype)
    axis = axis.scatter_reduce(0, rows, chosen, "amax")[rows].clamp(min=1e-6)
    order = torch.round(q / axis).clamp(min=1.0)
    return torch.where((q / (axis * order) - 1.0).abs() < _ALONG, 1.0, cosine), turn


def march_dollase(r: Tensor, cosine: Tensor) -> Tensor:
    """Factor of a line's intensity, (r² cos²α + sin²α/r)^(-3/2); its mean over the sphere is 1.

    Args:
        r: March's parameter: 1 without texture, below it where plates lie flat (α = 0 stronger).
        cosine: cos α between the line's plane and that of the texture.

    Source: W. A. Dollase, J. Appl. Cryst. 19 (1986) 267.
    """
    square = cosine**2
    return (r**2 * square + (1.0 - square) / r) ** -1.5


def drift_of_intensity(q: Tensor, rows: Tensor, drift: Tensor) -> Tensor:
    """A smooth positive factor over Q, exp(Σ cₖ cos(k π Q/6 Å⁻¹)), (P,).

    Args:
        q: Å⁻¹, (P,).
        rows: (P,).
        drift: cₖ for k = 1, …, (B, N_DRIFT).
    """
    k = torch.arange(1, N_DRIFT + 1, device=q.device)
    waves = torch.cos(q[:, None] * k * (math.pi / _DRIFT_Q)).to(drift.dtype)
    return torch.exp((drift[rows] * waves).sum(dim=1))


def shifted_angles(two_theta: Tensor, rows: Tensor, changes: Perturbation) -> Tensor:
    """Angles as a misaligned instrument and a transparent sample show them, degrees, (P,).

    Source: Pecharsky & Zavalij, Fundamentals of Powder Diffraction, on peak positions: p₁ cot 2θ of
        axial divergence, p₄ sin 2θ of transparency, p₅ cos θ of displacement, p₆ of the zero.
    """
    shifted = two_theta
    if changes.zero_shift is not None:
        shifted = shifted + changes.zero_shift[rows]
    if changes.displacement is not None:
        cosine = torch.cos(torch.deg2rad(two_theta / 2.0))
        shifted = shifted - torch.rad2deg(2.0 * changes.displacement[rows] * cosine)
    if changes.axial_divergence is not None:
        tangent = torch.tan(torch.deg2rad(two_theta.clamp(_SMALLEST_ANGLE, 170.0)))
        shifted = shifted - torch.rad2deg(changes.axial_divergence[rows] / tangent)
    if changes.transparency is not None:
        sine = torch.sin(torch.deg2rad(two_theta))
        shifted = shifted - torch.rad2deg(changes.transparency[rows] * sine)
    return shifted


def proportions(slots: Tensor, changes: Perturbation) -> Tensor:
    """Each impurity's part in what its row's impurities have together, (A,); 1 for a single one.

    Equal parts where no others are drawn: the other pattern of a material may have asked for them.

    Args:
        slots: The row of each impurity, (A,), ascending.
        changes: The random changes of the rows.
    """
    first = torch.searchsorted(slots, slots)
    if changes.impurity_keys is None:
        return 1.0 / (torch.searchsorted(slots, slots, right=True) - first)
    number = torch.arange(len(slots), device=slots.device) - first
    part = torch.exp(normal_at(changes.impurity_keys[slots], number))
    total = part.new_zeros(len(changes.impurity_keys)).index_add_(0, slots, part)
    return part / total[slots]


def scale_impurities(
    area: Tensor,
    inside: Tensor,
    rows: Tensor,
    owner: Tensor,
    slots: Tensor,
    changes: Perturbation,
) -> Tensor:
    """Scales the impurities' lines to their shares of the summed intensity in the window.

    Args:
        area: Areas of all lines, the impurities' last, (P,).
        inside: Which lines lie in the window, (P,) bool.
        rows: The row of each line, (P,).
        owner: The impurity of each of the last lines, (P′,).
        slots: The row of each impurity, (A,), ascending.
        changes: The random changes of the rows, with `impurity`.
    """
    assert changes.impurity is not None
    share, n_main = changes.impurity, len(area) - len(owner)
    counted = torch.where(inside, area, 0.0)
    main = area.new_zeros(len(share)).index_add_(0, rows[:n_main], counted[:n_main])
    extra = area.new_zeros(len(slots)).index_add_(0, owner, counted[n_main:])
    factor = share[slots] / (1.0 - share[slots]) * main[slots] / extra.clamp(min=1e-30)
    factor = torch.where(extra > 0, factor * proportions(slots, changes), 0.0)
    return torch.cat([area[:n_main], area[n_main:] * factor[owner]])
