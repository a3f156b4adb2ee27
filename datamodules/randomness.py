"""Random numbers that are functions of (seed, epoch, material, purpose), not of a generator.

Who serves a material (which rank, which worker, before or after a resume) cannot change its mask
or its augmentation, and a checkpoint needs no generator's state. The hash is the finaliser of
SplitMix64, computed in two's complement int64, so that CPU, GPU and the NumPy reference agree to
the bit.

Source: Steele, Lea & Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
"""

from __future__ import annotations

import math
from enum import IntEnum
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    import torch

_Integers = TypeVar("_Integers", "torch.Tensor", np.ndarray)

_GOLDEN = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB


class Purpose(IntEnum):
    """What a random number is for; numbers of different purposes are independent.

    Never renumber: the values are part of what makes an old run reproducible.
    """

    ORDER = 1
    SPLIT = 2
    FRACTION = 3
    DROPOUT = 4
    VALIDATION = 5
    MASK = 10
    SCALE = 11
    MODALITY = 12
    POOL = 13
    HINT = 14
    PAIR = 14
    STRAIN = 20
    ZERO_SHIFT = 21
    DISPLACEMENT = 22
    WIDTH = 23
    DOUBLET = 24
    LINE_JITTER = 25
    DEBYE_WALLER = 26
    NOISE = 27
    BACKGROUND = 28
    IMPURITY = 29
    WINDOW = 30
    TEXTURE = 31
    CELL_STRAIN = 32
    DRIFT = 33
    SCATTERING = 34
    ABERRATION = 35
    VIEW = 40


def _signed(value: int) -> int:
    """The int64 with the same 64 bits."""
    return (int(value) + 2**63) % 2**64 - 2**63


def _shift_right(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Logical shift (torch's `>>` copies the sign)."""
    return (x >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def _mix(x: torch.Tensor) -> torch.Tensor:
    """The finaliser, in place: fresh memory would cost more than the arithmetic."""
    x.bitwise_xor_(_shift_right(x, 30)).mul_(_signed(_FIRST))
    x.bitwise_xor_(_shift_right(x, 27)).mul_(_signed(_SECOND))
    return x.bitwise_xor_(_shift_right(x, 31))


def keys(
    seed: torch.Tensor | int,
    epoch: torch.Tensor | int,
    index: torch.Tensor,
    purpose: torch.Tensor | int,
) -> torch.Tensor:
    """One key a material, from which `uniform` and `normal` draw.

    Args:
        seed: The run's seed, or a () int64 tensor.
        epoch: The epoch, or a () int64 tensor.
        index: Row numbers, shape (B,), int64; the result lies on their device.
        purpose: A `Purpose`, or several, shape (K, 1): all at the price of one.

    Returns:
        Keys, shape (B,) or (K, B), int64.
    """
    key: Any = index.new_zeros(())
    for word in (seed, epoch, purpose, index):
        value = _signed(word) if isinstance(word, int) else word.to(index.device)
        key = _mix((key ^ value) + _signed(_GOLDEN))
    return key


def _bits(keys: torch.Tensor, n: int) -> torch.Tensor:
    """Hashes of (key, counter), shape (..., n), int64."""
    import torch

    counter = torch.arange(1, n + 1, device=keys.device)
    return _mix(keys[..., None] + counter * _signed(_GOLDEN))


def uniform(keys: torch.Tensor, n: int) -> torch.Tensor:
    """Uniform numbers with 24 random bits each, two from one hash.

    Args:
        keys: From `keys`, shape (...), int64.
        n: Numbers a key. The first numbers do not depend on n.

    Returns:
        Shape (..., n), float32, in [0, 1).
    """
    import torch

    bits = _bits(keys, (n + 1) // 2)
    pairs = torch.stack([_shift_right(bits, 40), bits & 0xFFFFFF], dim=-1)
    return pairs.flatten(-2)[..., :n].to(torch.float32) * 2.0**-24


def normal(keys: torch.Tensor, n: int) -> torch.Tensor:
    """Standard normal numbers by the Box–Muller transform.

    Args:
        keys: From `keys`, shape (B,), int64.
        n: Numbers a key. The first numbers do not depend on n.

    Returns:
        Shape (B, n), float32.
    """
    import torch

    radius, angle = _polar(_bits(keys, (n + 1) // 2))
    pairs = torch.stack([torch.cos(angle), torch.sin(angle)], dim=-1).mul_(radius[..., None])
    return pairs.flatten(1)[:, :n]


def normal_at(keys: torch.Tensor, counter: torch.Tensor) -> torch.Tensor:
    """One standard normal number for each key and counter, for ragged rows.

    Args:
        keys: Shape (P,), int64.
        counter: Shape (P,), int64, not negative.

    Returns:
        Shape (P,), float32: the number 2 × counter of `normal(keys, …)`.
    """
    import torch

    radius, angle = _polar(_mix(keys + (counter + 1) * _signed(_GOLDEN)))
    return radius * torch.cos(angle)


def uniform_at(keys: torch.Tensor, counter: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Two uniform numbers for each key and counter, for ragged rows.

    Args:
        keys: Shape (P,), int64.
        counter: Shape (P,), int64, not negative.

    Returns:
        Shapes (P,), float32, in [0, 1): the numbers 2 × counter and the next of `uniform(keys, …)`.
    """
    import torch

    bits = _mix(keys + (counter + 1) * _signed(_GOLDEN))
    upper, lower = _shift_right(bits, 40), bits & 0xFFFFFF
    return upper.to(torch.float32) * 2.0**-24, lower.to(torch.float32) * 2.0**-24


def _polar(bits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Radius and angle of the Box–Muller transform from 64 random bits (which it overwrites)."""
    import torch

    # 1 - u lies in (0, 1]: its logarithm is finite.
    uniform = _shift_right(bits, 40).to(torch.float32).mul_(-(2.0**-24)).add_(1.0)
    angle = bits.bitwise_and_(0xFFFFFF).to(torch.float32).mul_(2.0 * math.pi * 2.0**-24)
    return uniform.log_().mul_(-2.0).sqrt_(), angle


def _mix_uint64(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(_FIRST)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(_SECOND)
    return x ^ (x >> np.uint64(31))


def hash_uint64(*words: int | np.ndarray) -> np.ndarray:
    """The hash behind `keys`, in NumPy: `hash_uint64(seed, epoch, purpose, index)`.

    Args:
        words: Integers, or arrays of one shape; hashed one after the other.

    Returns:
        uint64, shape of the arrays (or (1,)).
    """
    key = np.zeros(1, np.uint64)
    for word in words:
        value = (
            np.array([int(word) % 2**64], np.uint64)
            if isinstance(word, int)
            else np.asarray(word).astype(np.uint64, copy=False)
        )
        key = _mix_uint64((key ^ value) + np.uint64(_GOLDEN))
    return key


def to_unit_interval(hashes: np.ndarray) -> np.ndarray:
    """Hashes as float64 in [0, 1), by their upper 53 bits."""
    return (hashes >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permutation(seed: int, epoch: int, n: int) -> np.ndarray:
    """The order of n rows in an epoch, shape (n,), int64; the same with every NumPy version."""
    hashes = hash_uint64(seed, epoch, int(Purpose.ORDER), np.arange(n, dtype=np.uint64))
    # The hash is one-to-one in its last word: no ties, so that every way to sort agrees.
    return np.argsort(hashes)


def step_seed(seed: int, step: int, rank: int) -> int:
    """A seed for torch's generators at one step of one rank (dropout), in [0, 2**63)."""
    return int(hash_uint64(seed, step, int(Purpose.DROPOUT), rank)[0] >> np.uint64(1))
