"""Atomic scattering factors for X-rays, without anomalous dispersion.

    f(s) = Z − 41.78214 s² Σₖ aₖ exp(−bₖ s²),        s = sin θ / λ

Source: De Graef & McHenry, *Structure of Materials*, chapter 12; the coefficients aₖ, bₖ are those
of pymatgen. They were fitted up to s = 2 Å⁻¹; beyond, the formula returns to Z, which is wrong.
"""

from __future__ import annotations

import json
import math
from functools import cache, lru_cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

MAX_S = 2.0
"""Å⁻¹; Q = 25 Å⁻¹. The coefficients hold up to here."""

Float = NDArray[np.float64]

# Steps of s² in the table: at least so many, and none wider than that of the store's window, for
# which the cubic errs by less than 1e-8 Z.
_TABLE_STEPS = 1024
_WIDEST_STEP = 2.25e-4


def atomic_scattering_factor(number: int, s_squared: Float) -> Float:
    """Evaluates f(s) of an element from its coefficients.

    Args:
        number: Atomic number.
        s_squared: (sin θ / λ)² in Å⁻², any shape.

    Returns:
        f in electrons, the shape of `s_squared`.

    Raises:
        KeyError: if pymatgen has no coefficients for the element.
    """
    a, b = np.asarray(coefficients()[number], dtype=np.float64).T
    s2 = np.asarray(s_squared, dtype=np.float64)
    return number - 41.78214 * s2 * (a * np.exp(-b * s2[..., None])).sum(-1)


@cache
def coefficients() -> dict[int, list[list[float]]]:
    """Rows of (aₖ, bₖ) by atomic number."""
    from pymatgen.core import Element

    # The table's file: its module, pymatgen.analysis.diffraction.xrd, draws in matplotlib and
    # scipy.stats, which take 1.4 s of each worker's start.
    table = files("pymatgen.analysis.diffraction") / "atomic_scattering_params.json"
    # "D" has hydrogen's coefficients and its atomic number.
    return {int(Element(s).Z): rows for s, rows in json.loads(table.read_bytes()).items()}


def has_scattering_factor(number: int) -> bool:
    """Tells whether the element can be simulated (pymatgen's table ends at californium)."""
    return number in coefficients()


@lru_cache(maxsize=4)
def scattering_table(
    s2_max: float, debye_waller: tuple[tuple[int, float], ...] = ()
) -> tuple[Float, float]:
    """Tabulates f(s) exp(−B s²) of all elements as cubics in s².

    Args:
        s2_max: End of the table in Å⁻².
        debye_waller: (atomic number, B in Å²) of elements whose B is not 0.

    Returns:
        Coefficients of the cubics, shape (n_elements + 1, n_steps, 4), and the step in Å⁻².
    """
    n_steps = max(_TABLE_STEPS, math.ceil(s2_max / _WIDEST_STEP) + 2)
    step = s2_max / (n_steps - 2)
    knots = np.arange(n_steps + 1) * step
    table = np.zeros((max(coefficients()) + 1, n_steps, 4))
    damped = dict(debye_waller)
    for number, rows in coefficients().items():
        a, b = np.asarray(rows, dtype=np.float64).T
        decay = a * np.exp(-b * knots[:, None])
        f = number - 41.78214 * knots * decay.sum(-1)
        slope = -41.78214 * (decay.sum(-1) - knots * (b * decay).sum(-1)) * step
        if factor := damped.get(number, 0.0):
            damping = np.exp(-factor * knots)
            f, slope = f * damping, (slope - factor * step * f) * damping
        f0, f1, d0, d1 = f[:-1], f[1:], slope[:-1], slope[1:]
        table[number] = np.stack(
            [f0, d0, 3 * (f1 - f0) - 2 * d0 - d1, 2 * (f0 - f1) + d0 + d1], axis=-1
        )
    return table, step
