"""From lines (or dense intensities) to the model's patterns, on the batch's device.

Lines are spread over the grid by quintic B-splines and convolved with the peak shape by FFT, with
the spline divided out: what remains is the peak shape itself, sampled at the grid's points.

Legend: B rows, L points of the grid, P lines of all rows, N points of the padded grid,
F frequencies, K widths in a pattern.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from datamodules.batch import (
    EPOCH,
    IMPURITY_INTENSITY,
    IMPURITY_OFFSETS,
    IMPURITY_PROFILE,
    IMPURITY_Q,
    IMPURITY_SLOT,
    INDEX,
    LINE_INTENSITY,
    LINE_OFFSETS,
    LINE_Q,
    MEASURED,
    PROFILE,
    SEED,
    TARGETS,
    VIEW,
    VIEW_MEASURED,
    XRD,
    Batch,
)
from datamodules.grid import Grid
from datamodules.radiation import lorentz_polarization
from datamodules.randomness import Purpose, keys
from datamodules.rendering.augmentation import Augmentation, Perturbation, draw
from datamodules.rendering.backgrounds import add_impurity_profiles, finish
from datamodules.rendering.lines import (
    change_lines,
    drift_of_intensity,
    rows_of,
    scale_impurities,
    shifted_angles,
)
from datamodules.rendering.peaks import (
    PeakShape,
    dtype_of_positions,
    peak_fwhm,
    quintic_spline,
    split_doublet,
)

_PAD_DEGREES = 5.0
"""Room for lines beyond either end whose tails reach into the window."""
#: Sine of 89.5°: keeps the intensity factor of lines near 180° finite.
_LARGEST_SINE = math.sin(math.radians(89.5))
_MIN_FWHM_STEPS = 2.5
"""A narrower peak is not resolved by the grid: its sampled shape would ring. Widths stop here."""
_RENDERED_FROM = (
    LINE_Q,
    LINE_INTENSITY,
    LINE_OFFSETS,
    PROFILE,
    IMPURITY_Q,
    IMPURITY_INTENSITY,
    IMPURITY_OFFSETS,
    IMPURITY_PROFILE,
    IMPURITY_SLOT,
)


def _fft_length(at_least: int) -> int:
    """The next even number without prime factors above 5."""
    n = at_least + at_least % 2
    while True:
        rest = n
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return n
        n += 2


class Renderer:
    """Turns a gathered batch into patterns on one grid.

    Args:
        grid: The model's grid.
        shape: Peaks where no augmentation draws other ones.
        augmentation: Ranges of the random changes in training; none without it.
        strain_powers: Of each target, n where a strain ε turns its value into value · (1 + ε)ⁿ:
            3 for a volume, -3 for a density, 0 for what keeps its label. Empty: all keep theirs.
        views: Ranges of the changes to a second pattern of each material in training, `VIEW`,
            drawn independently of the first one's; there is none while all of them are off.
    """

    def __init__(
        self,
        grid: Grid,
        shape: PeakShape | None = None,
        augmentation: Augmentation | None = None,
        strain_powers: Sequence[int] = (),
        views: Augmentation | None = None,
    ) -> None:
        self.grid = grid
        self.shape = shape or PeakShape()
        self.augmentation = augmentation or Augmentation()
        self.strain_powers = tuple(strain_powers)
        self.views = views or Augmentation()
        self._smallest_fwhm = _MIN_FWHM_STEPS * grid.step
        if self.shape.fwhm < self._smallest_fwhm:
            warnings.warn(
                f"peaks of fwhm {self.shape.fwhm:g}° are not resolved by the grid's step "
                f"{grid.step:g}°; they are drawn with {self._smallest_fwhm:g}°",
                stacklevel=2,
            )
            self.shape = replace(self.shape, fwhm=self._smallest_fwhm)
        pad = math.ceil(_PAD_DEGREES / grid.step)
        self._n_padded = _fft_length(grid.n_points + 2 * pad)
        self._before = (self._n_padded - grid.n_points) // 2
        self._constants: dict[torch.device, tuple[Tensor, Tensor, Tensor]] = {}

    def __call__(self, batch: Batch, *, augment: bool) -> Batch:
        """The batch with `XRD` and `MEASURED` in place of what they were rendered from.

        In training also `VIEW` and `VIEW_MEASURED`, where views are asked for.

        Args:
            batch: As gathered, on any device; not changed.
            augment: Whether to draw random changes (training) or not.
        """
        changes = Perturbation()
        if augment:
            changes = draw(self.augmentation, batch[SEED], batch[EPOCH], batch[INDEX])
        xrd, measured = self.render(batch, changes)
        rest = {key: value for key, value in batch.items() if key not in _RENDERED_FROM}
        rest |= {**self.strained_labels(batch, changes), XRD: xrd, MEASURED: measured}
        if augment and self.views.is_on:
            # The key in place of the row's number: no number of the first pattern comes again.
            seed, epoch = batch[SEED], batch[EPOCH]
            key = keys(seed, epoch, batch[INDEX], Purpose.VIEW)
            rest[VIEW], rest[VIEW_MEASURED] = self.render(batch, draw(self.views, seed, epoch, key))
        return rest

    def strained_labels(self, batch: Batch, changes: Perturbation) -> Batch:
        """`TARGETS` of strained cells, (B, T), if any changes; dense profiles are not strained."""
        strain_B = changes.strain
        if strain_B is None or not any(self.strain_powers):
            return {}
        if PROFILE in batch:
            strain_B = strain_B.masked_fill(torch.isfinite(batch[PROFILE]).any(dim=1), 0.0)
        stretch_B1 = (1.0 + strain_B).unsqueeze(1)
        powers = [stretch_B1**power for power in self.strain_powers]
        return {TARGETS: batch[TARGETS] * torch.cat(powers, dim=1)}

    def render(self, batch: Batch, changes: Perturbation) -> tuple[Tensor, Tensor]:
        """Patterns with stated changes.

        Returns:
            Square root of the intensity, (B, L) float32, maximum 1 over the measured points; and
            which points are measured, (B, L) bool.
        """
        shape = (len(batch[INDEX]), self.grid.n_points)
        device = batch[INDEX].device
        measured = torch.ones(shape, dtype=torch.bool, device=device)
        if LINE_Q in batch:
            intensity = self.lines_to_profile(batch, changes)
        else:
            intensity = torch.zeros(shape, device=device)
        if PROFILE in batch:
            dense = batch[PROFILE].to(torch.float32)
            is_dense = torch.isfinite(dense)
            from_profile = is_dense.any(dim=1, keepdim=True)
            dense = torch.nan_to_num(dense, nan=0.0).clamp_(min=0.0)
            dense = add_impurity_profiles(dense, is_dense, batch, changes)
            measured = is_dense | ~from_profile
            intensity = torch.where(from_profile, dense, intensity)
        if changes.window is not None:
            measured &= self._window(changes.window)
        everywhere = PROFILE not in batch and changes.window is None
        return finish(intensity, None if everywhere else measured, changes, self.grid), measured

    def lines_to_profile(self, batch: Batch, changes: Perturbation) -> Tensor:
        """Intensities per degree on the grid, shape (B, L), not scaled.

        Every line has the area multiplicity × |F|² × LP (times what the changes say).
        """
        q, area = batch[LINE_Q], batch[LINE_INTENSITY]
        rows = rows_of(batch[LINE_OFFSETS], len(q))
        n_rows = len(batch[INDEX])
        q, area = change_lines(q, area, rows, batch[LINE_OFFSETS], changes)
        owner = None
        if changes.impurity is not None and IMPURITY_Q in batch:
            extra_q = batch[IMPURITY_Q]
            owner = rows_of(batch[IMPURITY_OFFSETS], len(extra_q))
            q = torch.cat([q, extra_q])
            area = torch.cat([area, batch[IMPURITY_INTENSITY]])
            rows = torch.cat([rows, batch[IMPURITY_SLOT][owner]])
        q = q.to(dtype_of_positions(q.device))
        if changes.strain is not None:
            q = q / (1.0 + changes.strain[rows])
        if changes.debye_waller is not None:
            s_squared = (q / (4 * math.pi)) ** 2
            area = area * torch.exp(-2.0 * changes.debye_waller[rows] * s_squared.to(area.dtype))
        if changes.intensity_drift is not None:
            area = area * drift_of_intensity(q, rows, changes.intensity_drift)

        sine = q * (self.grid.wavelength / (4.0 * math.pi))
        two_theta = torch.rad2deg(2.0 * torch.asin(sine.clamp(max=1.0)))
        # A line beyond 180° does not exist; the clamp keeps its LP factor finite.
        lp = lorentz_polarization(sine.clamp(max=_LARGEST_SINE), self.shape.polarization)
        area = torch.where(sine < 1.0, area * lp.to(area.dtype), 0.0)
        if owner is not None:
            inside = (two_theta >= self.grid.two_theta_min) & (two_theta < self.grid.two_theta_max)
            area = scale_impurities(area, inside, rows, owner, batch[IMPURITY_SLOT], changes)
        nodes, weights = self._widths(two_theta.to(area.dtype), rows, n_rows, changes)
        if changes.doublet is not None:
            sine, area, rows = split_doublet(sine, area, rows, changes.doublet)
            # Both lines of a doublet are as wide as their mean.
            weights = None if weights is None else torch.cat([weights, weights])
            two_theta = torch.rad2deg(2.0 * torch.asin(sine.clamp(max=1.0)))

        shifted = shifted_angles(two_theta, rows, changes)
        return self._convolve(shifted, area, rows, n_rows, nodes, weights, changes.eta)

    def _widths(
        self, two_theta: Tensor, rows: Tensor, n_rows: int, changes: Perturbation
    ) -> tuple[Tensor, Tensor | None]:
        """The narrowest and the widest peak of each pattern, and each line's share of them.

        Returns:
            Widths (B, K = 2), degrees, and shares (P, K); the plain width (1, 1) and None where it
            is the only one.
        """
        if changes.caglioti_w is None:
            return two_theta.new_full((1, 1), self.shape.fwhm), None
        assert changes.caglioti_u is not None
        assert changes.caglioti_v is not None
        u, v, w = changes.caglioti_u, changes.caglioti_v, changes.caglioti_w
        size = changes.crystallite_size
        wavelength = self.grid.wavelength
        smallest = self._smallest_fwhm
        ends = torch.linspace(
            self.grid.two_theta_min, self.grid.two_theta_max, 16, device=rows.device
        )
        over_window = peak_fwhm(
            ends,
            u[:, None],
            v[:, None],
            w[:, None],
            size[:, None] if size is not None else None,
            wavelength,
        ).clamp(min=smallest)
        low = over_window.amin(dim=1, keepdim=True)
        # A constant width would make the nodes coincide.
        high = torch.maximum(over_window.amax(dim=1, keepdim=True), 1.02 * low)
        fwhm = peak_fwhm(
            two_theta.clamp(max=170.0),
            u[rows],
            v[rows],
            w[rows],
            size[rows] if size is not None else None,
            wavelength,
        )
        # Linear in 1/FWHM: height and area are then those of a peak of the line's own width.
        inverse = 1.0 / torch.maximum(torch.minimum(fwhm, high[rows, 0]), low[rows, 0])
        narrow, wide = 1.0 / low[rows, 0], 1.0 / high[rows, 0]
        weight = (inverse - wide) / (narrow - wide)
        return torch.cat([low, high], dim=1), torch.stack([weight, 1.0 - weight], dim=1)

    def _convolve(
        self,
        two_theta: Tensor,
        area: Tensor,
        rows: Tensor,
        n_rows: int,
        nodes: Tensor,
        weights: Tensor | None,
        eta: Tensor | None,
    ) -> Tensor:
        n, k = self._n_padded, nodes.shape[1]
        position = (two_theta - self.grid.two_theta_min) / self.grid.step + self._before
        # Lines outside the padded grid count for nothing.
        area = torch.where((position >= 2.0) & (position < n - 3.0), area, 0.0)
        position = position.clamp(2.0, n - 4.0)
        floor = position.floor()
        spline = quintic_spline((position - floor).to(area.dtype))  # (6, P)
        values = spline * (area / self.grid.step)
        first = floor.long() - 2
        if weights is None:
            index = rows * n + first + torch.arange(6, device=rows.device)[:, None]
        else:
            values = values * weights.T[:, None, :]  # (K, 6, P)
            channel = torch.arange(k, device=rows.device)[:, None, None]
            index = (rows * k + channel) * n + first
            index = index + torch.arange(6, device=rows.device)[:, None]
        deposit = area.new_zeros(n_rows * k * n)
        deposit.index_add_(0, index.flatten(), values.flatten())
        spectrum = torch.fft.rfft(deposit.view(n_rows, k, n))
        lorentz, gauss, inverse_spline = self._frequencies(rows.device)
        width = nodes[:, :, None]
        transfer = (width**2 * gauss).exp_()
        if eta is not None:
            transfer = transfer.lerp((width * lorentz).exp_(), eta[:, None, None])
        elif self.shape.eta:
            transfer = transfer.lerp((width * lorentz).exp_(), self.shape.eta)
        # The product as pairs of reals: torch would first copy `transfer` to complex numbers.
        product = torch.view_as_real(spectrum).mul_(transfer.mul_(inverse_spline)[..., None])
        for channel in product.unbind(dim=1)[1:]:
            product[:, 0] += channel
        spectrum = torch.view_as_complex(product[:, 0])
        profile = torch.fft.irfft(spectrum, n)
        return profile[:, self._before : self._before + self.grid.n_points]

    def _frequencies(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """-π f, -π² f²/(4 ln 2) and the inverse transform of the spline; each (F,), f in 1/degree.

        exp(first × FWHM) is the transform of a Lorentzian of unit area, exp(second × FWHM²) that
        of a Gaussian.
        """
        if device not in self._constants:
            f = torch.fft.rfftfreq(self._n_padded, self.grid.step, dtype=torch.float64)
            inverse = 1.0 / torch.sinc(f * self.grid.step) ** 6
            values = (-math.pi * f, -(math.pi**2) * f**2 / (4 * math.log(2)), inverse)
            lorentz, gauss, inverse = (value.to(device, torch.float32) for value in values)
            self._constants[device] = (lorentz, gauss, inverse)
        return self._constants[device]

    def _window(self, cut: Tensor) -> Tensor:
        """Points that remain when `cut` (B, 2) degrees are taken off the start and the end."""
        point = torch.arange(self.grid.n_points, device=cut.device)
        first = torch.ceil(cut[:, :1] / self.grid.step)
        last = self.grid.n_points - 1 - torch.ceil(cut[:, 1:] / self.grid.step)
        return (point >= first) & (point <= last)
