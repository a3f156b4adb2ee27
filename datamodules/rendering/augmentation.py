"""Physical augmentation: its ranges, and the numbers drawn for each pattern of a batch."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from datamodules.randomness import Purpose, keys, normal, uniform
from datamodules.store.structure import RECIPROCAL_METRIC

N_BACKGROUND = 4
"""Chebyshev polynomials in a background, degrees 0 to 3."""
N_DRIFT = 3
"""Cosines over Q in the drift of intensities."""
N_RESIDUE = 10
"""Cosines over the window in the residue of a background."""
N_SCATTERING = 9
"""Uniform numbers that a background's air, humps and constant follow from."""
MOST_IMPURITIES = 8
ENVELOPE_TAKEN = (0.8, 1.3)
"""Range of the share of a lower envelope that is taken off. With an envelope of 3° intensities then
are distributed as in simulated scans after the background's subtraction: docs/measured.md."""
NARROWEST_ENVELOPE = 1.0
"""Degrees; a narrower envelope would take off the lines."""
NARROWEST_NOISE = 0.2
"""Smallest FWHM of the Gaussian that smooths noise, degrees: finer waves are not drawn."""

Range = tuple[float, float]


#: Targets that an isotropic strain ε changes, by the factor (1 + ε)ⁿ.
STRAIN_POWERS = {"volume_per_atom": 3, "density": -3, **dict.fromkeys(RECIPROCAL_METRIC, -2)}


@dataclass(frozen=True)
class Augmentation:
    """Ranges of the random changes to a training pattern; 0 (or an empty range) switches one off.

    All are off by default: a recipe names what it switches on.

    Changes of single lines (all but impurities, what lies between lines, and the window) need a
    store of the peaks layout; patterns of the profile layout keep their lines as they are.

    Attributes:
        strain: Largest isotropic strain ε, relative; d becomes d (1 + ε), ε uniform in ±strain
            around `strain_mean`. Labels of volume, density and reduced cell follow
            (`STRAIN_POWERS`); other labels stay.
        strain_mean: Middle of the strains, relative, of either sign: cells computed with PBE are
            about a percent too large, so measured ones need a negative one.
        cell_strain: Largest anisotropic strain, relative: three principal strains εᵢ, uniform in
            ±cell_strain, less their mean (volumes stay). Merged lines carry no hkl, so each has a
            random direction n, uniform on the sphere, but for those along the texture's; its d
            becomes d (1 + Σ εᵢ nᵢ²). Labels of the reduced cell do not follow.
        zero_shift: Largest shift of all angles, degrees, uniform in ±zero_shift.
        displacement: Largest sample displacement over the goniometer's radius s/R; angles shift by
            -2 (s/R) cos θ (radians), s/R uniform in ±displacement.
        crystallite_size: Range of the Scherrer size D, Å, log-uniform; adds Kλ/(D cos θ) (radians,
            K = 0.9) to the width in quadrature. (0, 0): no size broadening.
        caglioti_u: Range of U in FWHM² = U tan²θ + V tan θ + W, degrees².
        caglioti_v: Range of V, degrees².
        caglioti_w: Range of W, degrees². (0, 0) for all three: the plain width.
        eta: Range of the pseudo-Voigt mixing, 0 Gaussian to 1 Lorentzian. (0, 0): the plain one.
        doublet: Probability that Kα1 and Kα2 (2:1) are drawn in place of their mean.
        axial_divergence: Largest δ (radians) of the shift -δ cot 2θ of all lines, uniform from 0;
            δ = K h²/(3 R²) for axial size h, radius R and a collimator's K of at most 1. The centre
            of gravity alone: the asymmetric tail is narrower than the lines of the recipes.
        transparency: Largest t = 1/(2 μ R) (radians) of the shift -t sin 2θ, uniform from 0, for a
            sample of linear absorption μ.
        line_jitter: σ of a log-normal factor with mean 1 on each line: coarse grains.
        texture: σ of ln r, normal, in the factor (r² cos²α + sin²α/r)^(-3/2) of March and Dollase
            on each line; below r = 1 platelets, above needles. α is 0 for one strong line, chosen
            at random by its intensity, and for those at integer multiples of its Q, which are other
            orders of one lattice plane; other lines have a random angle, uniform on the sphere.
        intensity_drift: σ of the logarithm of a smooth random factor over Q on all lines:
            roughness, a beam wider than the sample, absorption.
        debye_waller: Largest overall B, Å²; intensities times exp(-2 B (sin θ/λ)²).
        impurity: Largest share of other materials' patterns in the summed intensity, uniform.
        impurity_share: Range of that share, log-uniform, in place of it. (0, 0): `impurity` holds.
        impurity_probability: Probability that there is an impurity.
        impurities: Most materials that one pattern is mixed with, uniform from 1; they divide the
            share in log-normal proportions (σ = 1).
        background: Largest height of a smooth background, relative to the pattern's maximum.
        scattering: Range of the height of a background that was taken off, relative to the lines'
            maximum, log-uniform: air, up to two humps, a constant. Its counting noise stays.
            (0, 0): none.
        residue: σ of what the subtraction leaves of it (or takes too much), relative to it, smooth
            over some 10°; what is below zero is cut.
        envelope: Width (degrees 2θ, at least NARROWEST_ENVELOPE) of the lower envelope that a
            subtraction takes off with a background: tails of lines, and what lies under crowded
            ones. A morphological opening of the noise-free pattern, smoothed over half the width;
            0.8 to 1.3 of it, uniform. What is below zero is cut.
        noise: Range of the counts at the maximum, log-uniform; counting noise has
            σ = √(intensity/counts). (0, 0): no noise.
        noise_width: Range of the FWHM (degrees) of the Gaussian that smoothed the noise, as
            widening of measured lines does; σ is that after smoothing. (0, 0): white noise.
        window: Largest range cut off at either end of the pattern, degrees.
    """

    strain: float = 0.0
    strain_mean: float = 0.0
    cell_strain: float = 0.0
    zero_shift: float = 0.0
    displacement: float = 0.0
    axial_divergence: float = 0.0
    transparency: float = 0.0
    crystallite_size: Range = (0.0, 0.0)
    caglioti_u: Range = (0.0, 0.0)
    caglioti_v: Range = (0.0, 0.0)
    caglioti_w: Range = (0.0, 0.0)
    eta: Range = (0.0, 0.0)
    doublet: float = 0.0
    line_jitter: float = 0.0
    texture: float = 0.0
    intensity_drift: float = 0.0
    debye_waller: float = 0.0
    impurity: float = 0.0
    impurity_share: Range = (0.0, 0.0)
    impurity_probability: float = 0.0
    impurities: int = 1
    background: float = 0.0
    scattering: Range = (0.0, 0.0)
    residue: float = 0.0
    envelope: float = 0.0
    noise: Range = (0.0, 0.0)
    noise_width: Range = (0.0, 0.0)
    window: float = 0.0

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            numbers = value if isinstance(value, (tuple, list)) else (value,)
            if not all(math.isfinite(number) for number in numbers):
                raise ValueError(f"augmentation: {item.name} is {value}; give finite numbers")
            if isinstance(value, (tuple, list)):
                if len(value) != 2 or value[0] > value[1]:
                    raise ValueError(
                        f"augmentation: {item.name} is {value}; give a range [low, high]"
                    )
                # YAML gives lists; a frozen (hashable) dataclass wants tuples.
                object.__setattr__(self, item.name, tuple(value))
            elif value < 0 and item.name != "strain_mean":
                raise ValueError(f"augmentation: {item.name} is {value}; give 0 or more")
        for name in ("doublet", "impurity_probability"):
            if getattr(self, name) > 1:
                raise ValueError(
                    f"augmentation: {name} is {getattr(self, name)}; a probability is at most 1"
                )
        for name in (
            *("impurity", "strain", "strain_mean", "cell_strain"),
            *("displacement", "axial_divergence", "transparency"),
        ):
            if abs(getattr(self, name)) >= 0.5:
                raise ValueError(
                    f"augmentation: {name} is {getattr(self, name)}; give a share below 0.5"
                )
        if self.impurity_share[1] > 0.9:
            raise ValueError(
                f"augmentation: impurity_share is {self.impurity_share}; give shares of at most 0.9"
            )
        if not 1 <= self.impurities <= MOST_IMPURITIES or self.impurities != int(self.impurities):
            raise ValueError(
                f"augmentation: impurities is {self.impurities}; give a whole number from 1 to "
                f"{MOST_IMPURITIES}"
            )
        logarithmic = ("crystallite_size", "noise", "scattering", "impurity_share")
        for name in (*logarithmic, "noise_width", "caglioti_u", "caglioti_w"):
            if getattr(self, name)[0] < 0:
                raise ValueError(f"augmentation: {name} is {getattr(self, name)}; give 0 or more")
        for name in logarithmic:
            low, high = getattr(self, name)
            if high > 0 and low <= 0:
                raise ValueError(
                    f"augmentation: {name} is [{low}, {high}]; a log-uniform range starts above 0"
                )
        if not 0 <= self.eta[0] <= self.eta[1] <= 1:
            raise ValueError(f"augmentation: eta is {self.eta}; it lies between 0 and 1")
        if self.noise_width[1] > 0 and self.noise_width[0] < NARROWEST_NOISE:
            raise ValueError(
                f"augmentation: noise_width is {self.noise_width}; smoothed noise is at least "
                f"{NARROWEST_NOISE}° wide; leave it away for white noise"
            )
        if 0 < self.envelope < NARROWEST_ENVELOPE:
            raise ValueError(
                f"augmentation: envelope is {self.envelope}; give 0 or at least "
                f"{NARROWEST_ENVELOPE}°"
            )
        for name, needed in {
            "noise_width": ("noise",),
            "residue": ("scattering",),
            "scattering": ("noise", "residue"),
        }.items():
            if self._is_set(name) and not any(self._is_set(other) for other in needed):
                raise ValueError(
                    f"augmentation: {name} changes nothing without {' or '.join(needed)}"
                )

    def _is_set(self, name: str) -> bool:
        value = getattr(self, name)
        return bool(value[1] if isinstance(value, tuple) else value)

    @property
    def is_on(self) -> bool:
        """Whether anything is changed at all."""
        return self != Augmentation()

    @property
    def largest_shift(self) -> float:
        """How far a line may be moved along 2θ, degrees, but for strain.

        Axial divergence is left out: where lines come in from beyond the window, it is small.
        """
        return self.zero_shift + math.degrees(2.0 * self.displacement + self.transparency)

    @property
    def largest_strain(self) -> float:
        """How far a line's d may be stretched or shrunk, relative."""
        # A principal strain of ±c and two of ∓c: less their mean, 4 c/3 remains.
        return self.strain + abs(self.strain_mean) + 4.0 / 3.0 * self.cell_strain

    @property
    def has_impurity(self) -> bool:
        """Whether any pattern gets another material's lines."""
        largest = max(self.impurity, self.impurity_share[1])
        return largest > 0 and self.impurity_probability > 0

    @property
    def has_width(self) -> bool:
        """Whether widths follow Caglioti and Scherrer in place of the plain width."""
        return self.crystallite_size[1] > 0 or any(
            value != 0 for value in (*self.caglioti_u, *self.caglioti_v, *self.caglioti_w)
        )


@dataclass
class Perturbation:
    """The numbers of one batch; None where the change is off. Units as in `Augmentation`.

    Shapes are (B,) but for `background_shape` (B, N_BACKGROUND) and `window` (B, 2: degrees cut
    off at the start and at the end); `cell_strain` (B, 3: principal strains); `intensity_drift`
    (B, N_DRIFT), `residue` (B, N_RESIDUE) and `scattering_shape` (B, N_SCATTERING). `line_keys`
    (B,) are the keys of each line's jitter, `direction_keys` of its direction, `impurity_keys` of
    the proportions of several impurities; `texture` is March's r, `envelope` the share of the lower
    envelope that is taken off, `envelope_width` its width.
    """

    strain: Tensor | None = None
    cell_strain: Tensor | None = None
    texture: Tensor | None = None
    direction_keys: Tensor | None = None
    intensity_drift: Tensor | None = None
    axial_divergence: Tensor | None = None
    transparency: Tensor | None = None
    impurity_keys: Tensor | None = None
    scattering: Tensor | None = None
    scattering_shape: Tensor | None = None
    residue: Tensor | None = None
    envelope: Tensor | None = None
    envelope_width: float = 0.0
    noise_width: Tensor | None = None
    zero_shift: Tensor | None = None
    displacement: Tensor | None = None
    crystallite_size: Tensor | None = None
    caglioti_u: Tensor | None = None
    caglioti_v: Tensor | None = None
    caglioti_w: Tensor | None = None
    eta: Tensor | None = None
    doublet: Tensor | None = None
    line_jitter: float = 0.0
    line_keys: Tensor | None = None
    debye_waller: Tensor | None = None
    impurity: Tensor | None = None
    background: Tensor | None = None
    background_shape: Tensor | None = None
    noise: Tensor | None = None
    noise_keys: Tensor | None = None
    window: Tensor | None = None


def draw(augmentation: Augmentation, seed: Tensor, epoch: Tensor, index: Tensor) -> Perturbation:
    """The changes of a batch's patterns, which follow from (seed, epoch, material) alone.

    Shapes: B rows, K purposes, N numbers a purpose.

    Args:
        augmentation: The ranges.
        seed: () int64.
        epoch: () int64.
        index: Row numbers, shape (B,), int64.
    """
    a = augmentation
    p = Perturbation()
    if not a.is_on:
        return p
    # One hash for the numbers of all purposes: on a GPU each of them alone is a dozen kernels.
    purposes_K = torch.arange(Purpose.STRAIN, Purpose.ABERRATION + 1, device=index.device)
    keys_KB = keys(seed, epoch, index, purposes_K[:, None])
    unit_KBN = uniform(keys_KB, 5)

    def key(purpose: Purpose) -> Tensor:
        return keys_KB[purpose - Purpose.STRAIN]

    def in_range(purpose: Purpose, limits: Range, number: int = 0) -> Tensor:
        unit_B = unit_KBN[purpose - Purpose.STRAIN, :, number]
        return unit_B * (limits[1] - limits[0]) + limits[0]

    def log_range(purpose: Purpose, limits: Range, number: int = 0) -> Tensor:
        logarithms = (math.log(limits[0]), math.log(limits[1]))
        return in_range(purpose, logarithms, number).exp_()

    def symmetric(purpose: Purpose, largest: float) -> Tensor | None:
        return in_range(purpose, (-largest, largest)) if largest else None

    p.strain = symmetric(Purpose.STRAIN, a.strain)
    if a.strain_mean:
        middle = torch.full(index.shape, a.strain_mean, device=index.device)
        p.strain = middle if p.strain is None else p.strain + middle
    if a.cell_strain:
        principal = unit_KBN[Purpose.CELL_STRAIN - Purpose.STRAIN, :, :3]
        p.cell_strain = 2.0 * a.cell_strain * (principal - principal.mean(dim=1, keepdim=True))
    if a.texture:
        p.texture = torch.exp(a.texture * normal(key(Purpose.TEXTURE) + 1, 1)[:, 0])
    if a.texture or a.cell_strain:
        p.direction_keys = key(Purpose.TEXTURE)
    if a.intensity_drift:
        numbers = normal(key(Purpose.DRIFT), N_DRIFT)
        p.intensity_drift = numbers * (a.intensity_drift * math.sqrt(2.0 / N_DRIFT))
    if a.axial_divergence:
        p.axial_divergence = in_range(Purpose.ABERRATION, (0.0, a.axial_divergence), 0)
    if a.transparency:
        p.transparency = in_range(Purpose.ABERRATION, (0.0, a.transparency), 1)
    p.zero_shift = symmetric(Purpose.ZERO_SHIFT, a.zero_shift)
    p.displacement = symmetric(Purpose.DISPLACEMENT, a.displacement)
    if a.has_width:
        p.caglioti_u = in_range(Purpose.WIDTH, a.caglioti_u, 0)
        p.caglioti_v = in_range(Purpose.WIDTH, a.caglioti_v, 1)
        p.caglioti_w = in_range(Purpose.WIDTH, a.caglioti_w, 2)
        if a.crystallite_size[1] > 0:
            p.crystallite_size = log_range(Purpose.WIDTH, a.crystallite_size, 3)
    if a.eta[1] > 0:
        p.eta = in_range(Purpose.WIDTH, a.eta, 4)
    if a.doublet:
        p.doublet = unit_KBN[Purpose.DOUBLET - Purpose.STRAIN, :, 0] < a.doublet
    if a.line_jitter:
        p.line_jitter, p.line_keys = a.line_jitter, key(Purpose.LINE_JITTER)
    if a.debye_waller:
        p.debye_waller = in_range(Purpose.DEBYE_WALLER, (0.0, a.debye_waller))
    if a.has_impurity:
        # Whether and which is chosen where rows are gathered: `stream.choose_impurities`.
        if a.impurity_share[1] > 0:
            p.impurity = log_range(Purpose.IMPURITY, a.impurity_share)
        else:
            p.impurity = in_range(Purpose.IMPURITY, (0.0, a.impurity))
        if a.impurities > 1:
            p.impurity_keys = key(Purpose.IMPURITY) + 1
    if a.background:
        p.background = in_range(Purpose.BACKGROUND, (0.0, a.background))
        p.background_shape = normal(key(Purpose.BACKGROUND) + 1, N_BACKGROUND)
    if a.scattering[1] > 0:
        p.scattering = log_range(Purpose.SCATTERING, a.scattering)
        p.scattering_shape = uniform(key(Purpose.SCATTERING) + 1, N_SCATTERING)
        if a.residue:
            p.residue = a.residue * normal(key(Purpose.SCATTERING) + 2, N_RESIDUE)
    if a.envelope:
        p.envelope = in_range(Purpose.SCATTERING, ENVELOPE_TAKEN, 1)
        p.envelope_width = a.envelope
    if a.noise[1] > 0:
        if a.noise_width[1] > 0:
            p.noise_width = in_range(Purpose.NOISE, a.noise_width, 1)
        p.noise = log_range(Purpose.NOISE, a.noise)
        p.noise_keys = key(Purpose.NOISE) + 1
    if a.window:
        p.window = a.window * unit_KBN[Purpose.WINDOW - Purpose.STRAIN, :, :2]
    return p
