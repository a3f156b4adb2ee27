"""Lines, and the patterns that plain NumPy formulas make of them."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from datamodules.batch import (
    EPOCH,
    IMPURITY_INTENSITY,
    IMPURITY_OFFSETS,
    IMPURITY_Q,
    IMPURITY_SLOT,
    INDEX,
    LINE_INTENSITY,
    LINE_OFFSETS,
    LINE_Q,
    SEED,
    Batch,
)
from datamodules.grid import Grid
from datamodules.rendering.augmentation import Augmentation, Perturbation
from datamodules.rendering.peaks import (
    PeakShape,
)
from datamodules.rendering.renderer import Renderer

GRID = Grid()
WAVELENGTH = GRID.wavelength
#: Every random change at once.
EVERYTHING = Augmentation(
    strain=0.01,
    zero_shift=0.1,
    displacement=0.0005,
    crystallite_size=(200.0, 2000.0),
    caglioti_u=(0.0, 0.03),
    caglioti_v=(-0.02, 0.0),
    caglioti_w=(0.01, 0.03),
    eta=(0.0, 1.0),
    doublet=0.5,
    line_jitter=0.2,
    debye_waller=1.0,
    impurity=0.1,
    impurity_probability=0.1,
    background=0.05,
    noise=(1e3, 1e5),
    window=5.0,
)


#: What scans of laboratories have beside that.
HARDER = replace(
    EVERYTHING,
    strain_mean=-0.005,
    cell_strain=0.01,
    axial_divergence=5e-4,
    transparency=5e-4,
    texture=0.3,
    intensity_drift=0.2,
    impurity_share=(0.01, 0.3),
    impurities=3,
    scattering=(0.05, 1.0),
    residue=0.05,
    envelope=3.0,
    noise_width=(0.2, 0.5),
)


def make_batch(*rows: tuple[list[float], list[float]], index: list[int] | None = None) -> Batch:
    """A batch of rows of (scattering vectors, intensities)."""
    lengths = [0, *(len(q) for q, _ in rows)]
    return {
        LINE_Q: torch.tensor([x for q, _ in rows for x in q]),
        LINE_INTENSITY: torch.tensor([x for _, i in rows for x in i]),
        LINE_OFFSETS: torch.tensor(np.cumsum(lengths)),
        INDEX: torch.tensor(index or list(range(len(rows)))),
        SEED: torch.tensor(5),
        EPOCH: torch.tensor(2),
    }


def random_batch(n_rows: int = 6, seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(n_rows):
        n = int(rng.integers(5, 150))
        rows.append((np.sort(rng.uniform(0.4, 5.7, n)).tolist(), rng.exponential(size=n).tolist()))
    return make_batch(*rows)


def angle(q: Any, wavelength: float = WAVELENGTH) -> Any:
    return 2 * np.degrees(np.arcsin(np.asarray(q, float) * wavelength / (4 * np.pi)))


def lp(two_theta: Any, p: float = 1.0) -> Any:
    theta = np.radians(two_theta) / 2
    return (1 + p * np.cos(2 * theta) ** 2) / ((1 + p) * np.sin(theta) ** 2 * np.cos(theta))


def peak(x: Any, centre: Any, fwhm: Any, eta: float) -> Any:
    """Pseudo-Voigt of unit area."""
    d = x - centre
    gauss = 2 / fwhm * np.sqrt(np.log(2) / np.pi) * np.exp(-4 * np.log(2) * d**2 / fwhm**2)
    return (1 - eta) * gauss + eta * 2 / (np.pi * fwhm) / (1 + 4 * d**2 / fwhm**2)


def expected_rows(batch: Batch, fwhm: float = 0.1, eta: float = 0.0, p: float = 1.0) -> Any:
    """The sum of peaks, written out; shape (B, L)."""
    x = GRID.two_theta()
    out = []
    bounds = batch[LINE_OFFSETS].tolist()
    for first, last in itertools.pairwise(bounds):
        centre = angle(batch[LINE_Q][first:last].numpy())
        area = batch[LINE_INTENSITY][first:last].double().numpy() * lp(centre, p)
        out.append(peak(x[:, None], centre, fwhm, eta) @ area)
    return np.stack(out)


def lines(batch: Batch, changes: Perturbation | None = None, **shape: float) -> Any:
    renderer = Renderer(GRID, PeakShape(**shape))
    return renderer.lines_to_profile(batch, changes or Perturbation()).double().numpy()


def moments(profile: Any) -> tuple[float, float]:
    """Area and centre of a pattern with one peak."""
    x = GRID.two_theta()
    return profile.sum() * GRID.step, float((profile * x).sum() / profile.sum())


def one(two_theta: float, intensity: float = 1.0) -> tuple[list[float], list[float]]:
    return ([4 * np.pi * np.sin(np.radians(two_theta / 2)) / WAVELENGTH], [intensity])


def values(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers)


def measured_fwhm(profile: Any) -> float:
    x = np.arange(0, len(profile), 0.01)
    fine = np.interp(x, np.arange(len(profile)), profile)
    above = x[fine >= fine.max() / 2]
    return float((above[-1] - above[0]) * GRID.step)


def add_impurities(batch: Batch, *found: tuple[int, list[float], list[float]]) -> Batch:
    """A batch with (slot, scattering vectors, intensities) of impurities, slots ascending."""
    lengths = [0, *(len(q) for _, q, _ in found)]
    return {
        **batch,
        IMPURITY_SLOT: torch.tensor([slot for slot, _, _ in found]),
        IMPURITY_Q: torch.tensor([x for _, q, _ in found for x in q]),
        IMPURITY_INTENSITY: torch.tensor([x for _, _, i in found for x in i]),
        IMPURITY_OFFSETS: torch.tensor(np.cumsum(lengths)),
    }


def add_impurity(batch: Batch, slot: int, q: list[float], intensity: list[float]) -> Batch:
    return add_impurities(batch, (slot, q, intensity))
