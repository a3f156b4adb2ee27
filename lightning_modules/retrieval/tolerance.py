"""A comparison that forgives cells that are wrong along each axis by itself.

Such a cell moves each line by a share of Q of its own, so no isotropic strain brings all of them to
their places. Here the scan and the materials' lines are smeared by `SMEARED` of their Q on an axis
ln sin θ = ln Q + constant, where an isotropic strain is a shift. The score is otherwise that of
`matching`: the cosine of the square roots over the measured range, less the strain's penalty.

Shapes: K materials, M strains, A points of the axis.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules import batch as keys
from datamodules.radiation import lorentz_polarization
from lightning_modules.inference.neighbours import Library
from lightning_modules.retrieval.matching import Profile, penalty

#: σ of the smearing, as a share of Q: chosen on cells strained by 1 % along each axis
#: (docs/results.md).
SMEARED = 0.008
#: Step of the axis.
_STEP = 0.002
#: Materials that are smeared at a time.
_BATCH = 1024


def smear(values: Tensor) -> Tensor:
    """Smears intensities on the axis, (…, A), by a Gaussian."""
    reach = math.ceil(4 * SMEARED / _STEP)
    x = torch.arange(-reach, reach + 1, device=values.device) * (_STEP / SMEARED)
    kernel = torch.exp(-0.5 * x.square())[None, None].to(values)
    return F.conv1d(values.reshape(-1, 1, values.shape[-1]), kernel, padding=reach).view_as(values)


@torch.no_grad()
def tolerant_scores(
    profile: Profile,
    library: Library,
    rows: Tensor,
    strain: float,
    polarization: float = 1.0,
) -> Tensor:
    """Compares a scan with some materials, with smeared lines.

    Args:
        profile: The scan's.
        library: The materials.
        rows: Row numbers, (K,).
        strain: Largest isotropic strain, either way.
        polarization: P of the scan as it was converted.

    Returns:
        Scores, at most 1, (K,).
    """
    grid = profile.grid
    scan = torch.from_numpy(np.log(np.sin(np.radians(grid.two_theta() / 2))))
    low = float(scan[0])
    n_points = round((float(scan[-1]) - low) / _STEP) + 1

    def binned(place: Tensor, weights: Tensor, row: Tensor, n: int) -> Tensor:
        point = ((place - low) / _STEP).round().long()
        inside = (point >= 0) & (point < n_points)
        found = torch.zeros(n * n_points)
        found.index_add_(0, (row * n_points + point)[inside], weights[inside].float())
        return found.view(n, n_points)

    here = torch.zeros(len(scan), dtype=torch.long)
    root = smear(binned(scan, profile.intensity, here, 1))[0].clamp(min=0).sqrt()
    # Between the bins that low angles leave empty, too, the scan was measured.
    inside = scan[profile.measured]
    axis = low + _STEP * torch.arange(n_points)
    seen = ((axis >= inside.min()) & (axis <= inside.max())).float()
    root = root * seen
    n = math.ceil(strain / _STEP)
    shifts = torch.arange(-n, n + 1)
    # Where on the scan the lines of a material lie whose lattice is larger: lower, by the strain.
    places = torch.arange(n_points) - shifts[:, None]
    there = ((places >= 0) & (places < n_points)).float()
    places = places.clamp(0, n_points - 1)
    bank_MA, seen_MA = root[places] * there, seen[places] * there
    taken = penalty(shifts * _STEP)
    found = []
    for part in rows.split(_BATCH):
        lines = library.lines(part.numpy())
        sine = lines[keys.LINE_Q].double() * grid.wavelength / (4 * math.pi)
        owner = torch.repeat_interleave(
            torch.arange(len(part)), lines[keys.LINE_OFFSETS].diff().long()
        )
        kept = (sine > 0.5 * math.exp(low)) & (sine < 0.9999)
        sine, owner = sine[kept], owner[kept]
        weights = lines[keys.LINE_INTENSITY][kept] * lorentz_polarization(sine, polarization)
        smeared_KA = smear(binned(sine.log(), weights, owner, len(part))).clamp(min=0)
        length = (smeared_KA @ seen_MA.T).clamp(min=1e-12).sqrt()
        cosine_KM = smeared_KA.sqrt() @ bank_MA.T / (length * root.norm().clamp(min=1e-12))
        found.append((cosine_KM - taken).max(dim=1).values)
    return torch.cat(found)
