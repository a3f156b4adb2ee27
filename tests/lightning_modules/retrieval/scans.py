"""Scans of synthetic materials, as a diffractometer would write them."""

from pathlib import Path

import numpy as np
import torch

from datamodules.batch import INDEX, LINE_INTENSITY, LINE_OFFSETS, LINE_Q
from datamodules.grid import Grid
from datamodules.measured import Scan
from datamodules.measured.wavelength import parse_wavelength
from datamodules.rendering.augmentation import Perturbation
from datamodules.rendering.peaks import PeakShape
from datamodules.rendering.renderer import Renderer
from tests.factories import make_material

GRID = Grid()


def intensity(
    number: int, strain: float = 0.0, shift: float = 0.0, fwhm: float = 0.2
) -> np.ndarray:
    """A material's intensities on the grid, at most 1."""
    material = make_material(number)
    lines = {
        LINE_Q: torch.from_numpy(material.q),
        LINE_INTENSITY: torch.from_numpy(material.intensity),
        LINE_OFFSETS: torch.tensor([0, len(material.q)]),
        INDEX: torch.tensor([number]),
    }
    changes = Perturbation(strain=torch.tensor([strain]), zero_shift=torch.tensor([shift]))
    return Renderer(GRID, PeakShape(0.2)).render(lines, changes)[0][0].numpy().astype(float) ** 2


def scan(*shares: tuple[int, float], wavelength: str | None = "CuKa", **changes: float) -> Scan:
    """Materials in proportions of their intensity, with background and counting noise."""
    total = np.zeros(GRID.n_points)
    for number, share in shares:
        one = intensity(number, **changes)
        total += share * one / one.sum()
    counts = 20_000 * total / total.max() + 300
    counts = np.random.default_rng(0).poisson(counts).astype(float)
    inside = (GRID.two_theta() > 10) & (GRID.two_theta() < 85)
    radiation = None if wavelength is None else parse_wavelength(wavelength)
    return Scan(GRID.two_theta()[inside], counts[inside], wavelength=radiation, format="test")


def write(path: Path, what: Scan) -> Path:
    """The scan as two columns, without its wavelength."""
    rows = zip(what.x, what.intensity, strict=True)
    path.write_text("".join(f"{x:.3f} {y:.0f}\n" for x, y in rows))
    return path
