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

Range = tuple[float, float]


#: Targets that an isotropic strain ε changes, by the factor (1 + ε)ⁿ.
STRAIN_POWERS = {"volume_per_atom": 3, "density": -3, **dict.fromkeys(RECIPROCAL_METRIC, -2)}


@dataclass(frozen=True)
class Augmentation:
    """Ranges of the random changes to a training pattern; 0 (or an empty range) switches one off.

    All are off by default: a recipe names what it switches on.

    Changes of single lines (all but impurity, background, noise and window) need a store of the
    peaks layout; patterns of the profile layout keep their lines as they are.

    Attributes:
        strain: Largest isotropic strain ε, relative; d becomes d (1 + ε), ε uniform in ±strain.
            Merged lines carry no hkl, so there is no anisotropic one. Labels of volume, density and
            reduced cell follow (`STRAIN_POWERS`); other labels stay.
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
        line_jitter: σ of a log-normal factor with mean 1 on each line, a stand-in for texture.
        debye_waller: Largest overall B, Å²; intensities times exp(-2 B (sin θ/λ)²).
        impurity: Largest share of another material's pattern in the summed intensity.
        impurity_probability: Probability that there is an impurity.
        background: Largest height of a smooth background, relative to the pattern's maximum.
        noise: Range of the counts at the maximum, log-uniform; counting noise has
            σ = √(intensity/counts). (0, 0): no noise.
        window: Largest range cut off at either end of the pattern, degrees.
    """

    strain: float = 0.0
    zero_shift: float = 0.0
    displacement: float = 0.0
    crystallite_size: Range = (0.0, 0.0)
    caglioti_u: Range = (0.0, 0.0)
    caglioti_v: Range = (0.0, 0.0)
    caglioti_w: Range = (0.0, 0.0)
    eta: Range = (0.0, 0.0)
    doublet: float = 0.0
    line_jitter: float = 0.0
    debye_waller: float = 0.0
    impurity: float = 0.0
    impurity_probability: float = 0.0
    background: float = 0.0
    noise: Range = (0.0, 0.0)
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
            elif value < 0:
                raise ValueError(f"augmentation: {item.name} is {value}; give 0 or more")
        for name in ("doublet", "impurity_probability"):
            if getattr(self, name) > 1:
                raise ValueError(
                    f"augmentation: {name} is {getattr(self, name)}; a probability is at most 1"
                )
        for name in ("impurity", "strain", "displacement"):
            if getattr(self, name) >= 0.5:
                raise ValueError(
                    f"augmentation: {name} is {getattr(self, name)}; give a share below 0.5"
                )
        for name in ("crystallite_size", "noise", "caglioti_u", "caglioti_w"):
            if getattr(self, name)[0] < 0:
                raise ValueError(f"augmentation: {name} is {getattr(self, name)}; give 0 or more")
        for name in ("crystallite_size", "noise"):
            low, high = getattr(self, name)
            if high > 0 and low <= 0:
                raise ValueError(
                    f"augmentation: {name} is [{low}, {high}]; a log-uniform range starts above 0"
                )
        if not 0 <= self.eta[0] <= self.eta[1] <= 1:
            raise ValueError(f"augmentation: eta is {self.eta}; it lies between 0 and 1")

    @property
    def is_on(self) -> bool:
        """Whether anything is changed at all."""
        return self != Augmentation()

    @property
    def largest_shift(self) -> float:
        """How far a line may be moved along 2θ, degrees, but for strain."""
        return self.zero_shift + math.degrees(2.0 * self.displacement)

    @property
    def has_impurity(self) -> bool:
        """Whether any pattern gets another material's lines."""
        return self.impurity > 0 and self.impurity_probability > 0

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
    off at the start and at the end). `line_keys` (B,) are the keys of each line's jitter.
    """

    strain: Tensor | None = None
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
    purposes_K = torch.arange(Purpose.STRAIN, Purpose.WINDOW + 1, device=index.device)
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
        p.impurity = in_range(Purpose.IMPURITY, (0.0, a.impurity))
    if a.background:
        p.background = in_range(Purpose.BACKGROUND, (0.0, a.background))
        p.background_shape = normal(key(Purpose.BACKGROUND) + 1, N_BACKGROUND)
    if a.noise[1] > 0:
        p.noise = log_range(Purpose.NOISE, a.noise)
        p.noise_keys = key(Purpose.NOISE) + 1
    if a.window:
        p.window = a.window * unit_KBN[Purpose.WINDOW - Purpose.STRAIN, :, :2]
    return p
