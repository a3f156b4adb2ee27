"""A scan against the lines of known materials, with a small free strain and zero shift.

The score is the cosine between the square roots of two profiles over the measured range, less
`STRAIN_PENALTY` (ε/1 %)². √ gives weak lines their say and takes weight from wrong intensities
(texture); without the penalty crystals of one structure type, which differ little but in size, take
each other's places (docs/results.md). A strain ε and a zero shift z move a material's line at 2θ to
2 arcsin(sin θ / (1 + ε)) + z. Moving the scan instead of the lines, the other way, compares all
pairs of (ε, z) with all materials by one matrix product.

First all materials on a coarse grid with lines of at least `COARSE_FWHM`, then the best of them
with lines as wide as the scan's own, strain and shift refined around the coarse optimum.

Shapes: K materials, M moves (pairs of strain and shift), L points of the grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.grid import Grid
from datamodules.rendering.augmentation import Perturbation
from datamodules.rendering.peaks import PeakShape
from datamodules.rendering.renderer import Renderer
from lightning_modules.inference.neighbours import Library

#: Degrees; lines of the first comparison. Wide, so that a coarse grid of moves misses none.
COARSE_FWHM = 0.3
#: Points of the grid in the width of a line: fewer would make its height a matter of luck.
_POINTS = 5
#: What a strain of 1 % takes from the score; grows with its square.
STRAIN_PENALTY = 0.005
_COARSE_STRAIN, _COARSE_SHIFT = 0.001, 0.075
#: Materials that are rendered at a time, on the coarse grid and on the scan's.
_COARSE_BATCH, _BATCH = 512, 64
#: Rounds of the refinement; each halves the steps.
_ROUNDS = 4
#: Lines narrower than this many steps would ring.
_RESOLVED = 2.5


@dataclass(frozen=True)
class Freedom:
    """How far lines may move.

    Attributes:
        strain: Largest isotropic strain of the lattice spacings, either way: temperature,
            composition, and what a functional of DFT makes too large.
        shift: Largest zero shift, either way, degrees.

    Raises:
        ValueError: if one is negative, or so large that any pattern would fit any other.
    """

    strain: float = 0.02
    shift: float = 0.15

    def __post_init__(self) -> None:
        if not 0.0 <= self.strain <= 0.1:
            raise ValueError(f"strain is {self.strain}; give a share from 0 to 0.1")
        if not 0.0 <= self.shift <= 1.0:
            raise ValueError(f"zero shift is {self.shift}°; give degrees from 0 to 1")


@dataclass
class Profile:
    """A scan's intensity on a grid, ready to be compared.

    Attributes:
        grid: The grid.
        intensity: (L,) float32, 0 where not measured.
        measured: Which points were measured, (L,) bool.
        fwhm: Width of its lines, degrees.
        doublet: Whether its lines are Kα1 and Kα2 of copper.
    """

    grid: Grid
    intensity: Tensor
    measured: Tensor
    fwhm: float
    doublet: bool = False

    def thinned(self) -> Profile:
        """The means of neighbouring points, as many as lines of its width allow."""
        points = max(1, int(self.fwhm / (_POINTS * self.grid.step)))
        n = self.grid.n_points // points
        step = self.grid.step * points
        start = self.grid.two_theta_min + 0.5 * (points - 1) * self.grid.step
        grid = Grid(start, start + n * step, step, self.grid.wavelength)
        intensity = self.intensity[: n * points].view(n, points).mean(dim=1)
        measured = self.measured[: n * points].view(n, points).all(dim=1)
        return replace(self, grid=grid, intensity=intensity * measured, measured=measured)

    def widened(self, fwhm: float) -> Profile:
        """With lines of at least a width, by a Gaussian."""
        if fwhm <= self.fwhm:
            return self
        sigma = math.sqrt(fwhm**2 - self.fwhm**2) / math.sqrt(8 * math.log(2)) / self.grid.step
        reach = math.ceil(4 * sigma)
        x = torch.arange(-reach, reach + 1, dtype=torch.float32)
        kernel = torch.exp(-0.5 * (x / sigma) ** 2)[None, None]

        def smooth(values: Tensor) -> Tensor:
            return F.conv1d(values[None, None], kernel, padding=reach)[0, 0]

        wide = smooth(self.intensity) / smooth(self.measured.float()).clamp(min=1e-6)
        return replace(self, intensity=wide * self.measured, fwhm=fwhm)


def moved(grid: Grid, strain: Tensor, shift: Tensor) -> Tensor:
    """Where on the scan the line lies that an unmoved material has at each point of the grid.

    Args:
        grid: The grid.
        strain: Of any shape.
        shift: Degrees, of the same shape.

    Returns:
        Positions in points of the grid, (…, L).
    """
    sine = torch.from_numpy(np.sin(np.radians(grid.two_theta() / 2))).float().to(strain.device)
    there = torch.rad2deg(2 * torch.asin((sine / (1 + strain[..., None])).clamp(max=1.0)))
    return (there + shift[..., None] - grid.two_theta_min) / grid.step


def sample(values: Tensor, position: Tensor) -> Tensor:
    """Values (L,) at positions in points, linear between them and 0 beyond the ends."""
    inside = (position >= 0) & (position <= len(values) - 1)
    position = position.clamp(0, len(values) - 1)
    low = position.floor().long().clamp(max=len(values) - 2)
    return torch.lerp(values[low], values[low + 1], position - low) * inside


@dataclass
class Fits:
    """How materials fit a scan.

    Attributes:
        rows: Rows of the library, (K,) int64.
        scores: At most 1, (K,).
        strain: Best strain of each, (K,).
        shift: Best zero shift, degrees, (K,).
    """

    rows: Tensor
    scores: Tensor
    strain: Tensor
    shift: Tensor

    def __getitem__(self, chosen: Tensor) -> Fits:
        """Some of them."""
        return Fits(self.rows[chosen], self.scores[chosen], self.strain[chosen], self.shift[chosen])

    def best(self, top: int) -> Fits:
        """The best of them, best first; those that come first stay first among equals."""
        return self[torch.argsort(self.scores, descending=True, stable=True)[:top]]

    @classmethod
    def joined(cls, parts: list[Fits]) -> Fits:
        """Several as one."""
        names = ("rows", "scores", "strain", "shift")
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


def penalty(strain: Tensor) -> Tensor:
    """What strains take from the score."""
    return STRAIN_PENALTY * (strain / 0.01).square()


def _steps(largest: float, step: float) -> Tensor:
    """Values from -largest to largest, about `step` apart, 0 among them."""
    n = math.ceil(largest / step)
    return torch.linspace(-largest, largest, 2 * n + 1)


class Matcher:
    """Compares scans with materials of a library.

    Args:
        library: The materials.
        freedom: How far lines may move.
        device: Where to compute.
        polarization: P of the scans as they were converted.
    """

    def __init__(
        self,
        library: Library,
        freedom: Freedom | None = None,
        device: str | torch.device = "cpu",
        polarization: float = 1.0,
    ) -> None:
        self.library, self.freedom = library, freedom or Freedom()
        self.device, self.polarization = torch.device(device), polarization
        self._moves = torch.cartesian_prod(
            _steps(self.freedom.strain, _COARSE_STRAIN), _steps(self.freedom.shift, _COARSE_SHIFT)
        ).to(self.device)

    def _renderer(self, profile: Profile) -> Renderer:
        fwhm = max(profile.fwhm, _RESOLVED * profile.grid.step)
        return Renderer(profile.grid, PeakShape(fwhm, polarization=self.polarization))

    def _render(self, renderer: Renderer, rows: Tensor, changes: Perturbation) -> Tensor:
        """Square roots of the intensities of some rows, (K, L), at most 1."""
        lines = {k: v.to(self.device) for k, v in self.library.lines(rows.numpy()).items()}
        return renderer.render(lines, changes)[0]

    def _changes(self, profile: Profile, n: int) -> Perturbation:
        changes = Perturbation()
        if profile.doublet:
            changes.doublet = torch.ones(n, dtype=torch.bool, device=self.device)
        return changes

    @torch.no_grad()
    def coarse(self, profile: Profile, rows: np.ndarray) -> Fits:
        """Compares a scan with all of some rows, with lines of at least `COARSE_FWHM`.

        Args:
            profile: The scan's.
            rows: Row numbers, (K,), at least one.
        """
        pooled = profile.widened(COARSE_FWHM).thinned()
        renderer = self._renderer(pooled)
        positions = moved(pooled.grid, *self._moves.unbind(dim=1))
        root = pooled.intensity.to(self.device).sqrt()
        bank_ML = sample(root, positions)
        seen_ML = sample(pooled.measured.float().to(self.device), positions)
        found = []
        for part in torch.from_numpy(np.asarray(rows, np.int64)).split(_COARSE_BATCH):
            root_KL = self._render(renderer, part, self._changes(pooled, len(part)))
            length = (root_KL.square() @ seen_ML.T).clamp(min=1e-12).sqrt()
            cosine_KM = root_KL @ bank_ML.T / (length * root.norm())
            scores, best = (cosine_KM - penalty(self._moves[:, 0])).max(dim=1)
            found.append(Fits(part, scores.cpu(), *self._moves[best].cpu().unbind(dim=1)))
        return Fits.joined(found)

    @torch.no_grad()
    def fine(self, profile: Profile, fits: Fits) -> Fits:
        """Compares a scan with some rows, with lines of its own width; moves are refined.

        Args:
            profile: The scan's.
            fits: From `coarse`.
        """
        profile = profile.thinned()
        renderer = self._renderer(profile)
        root = profile.intensity.to(self.device).sqrt()
        measured, total = profile.measured.float().to(self.device), root.norm()
        around = torch.cartesian_prod(*[torch.tensor([-1.0, 0.0, 1.0], device=self.device)] * 2)
        found = []
        for part in torch.arange(len(fits.rows)).split(_BATCH):
            rows = fits.rows[part]
            root_KL = self._render(renderer, rows, self._changes(profile, len(rows)))
            square_KL = root_KL.square()
            strain, shift = fits.strain[part].to(self.device), fits.shift[part].to(self.device)
            score = torch.zeros(len(part), device=self.device)
            for turn in range(1, _ROUNDS + 1):
                step = around * torch.tensor([_COARSE_STRAIN, _COARSE_SHIFT]).to(around) / 2**turn
                strains = (strain[:, None] + step[:, 0]).clamp(
                    -self.freedom.strain, self.freedom.strain
                )
                shifts = (shift[:, None] + step[:, 1]).clamp(
                    -self.freedom.shift, self.freedom.shift
                )
                position_KML = moved(profile.grid, strains, shifts)
                product = torch.einsum("kml,kl->km", sample(root, position_KML), root_KL)
                length = torch.einsum("kml,kl->km", sample(measured, position_KML), square_KL)
                cosine_KM = product / (length.clamp(min=1e-12).sqrt() * total)
                score, best = (cosine_KM - penalty(strains)).max(dim=1)
                strain = strains.gather(1, best[:, None])[:, 0]
                shift = shifts.gather(1, best[:, None])[:, 0]
            found.append(Fits(rows, score.cpu(), strain.cpu(), shift.cpu()))
        return Fits.joined(found)

    @torch.no_grad()
    def placed(self, profile: Profile, fits: Fits) -> Tensor:
        """Intensities of some rows as they lie on a scan, (K, L), 0 where it was not measured.

        Args:
            profile: The scan's.
            fits: The rows with their strains and shifts.
        """
        changes = self._changes(profile, len(fits.rows))
        changes.strain, changes.zero_shift = fits.strain.to(self.device), fits.shift.to(self.device)
        root_KL = self._render(self._renderer(profile), fits.rows, changes)
        return root_KL.square().cpu() * profile.measured
