"""Powder diffraction lines of a crystal, by a compiled kernel.

Kinematical diffraction without anomalous dispersion or temperature factors:

    f(s) = Z − 41.78214 s² Σₖ aₖ exp(−bₖ s²),        s = sin θ / λ = |g| / 2
    F(h) = Σⱼ occupancyⱼ fⱼ(s) exp(2πi h·xⱼ),         Q = 2π |g|,  g = hB,  B = A⁻ᵀ

Source: De Graef & McHenry, *Structure of Materials*, chapters 11 and 12; the coefficients aₖ, bₖ
are those of pymatgen. Without anomalous dispersion I(h) = I(−h) (Friedel's law), so half of the
sphere is summed and doubled.

The Miller indices are enumerated by completing squares in |hB|² one index after the other, which
visits every reflection inside the sphere and hardly any outside of it, however skewed the cell.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from datamodules.prepare.crystals.crystal import Crystal
from datamodules.prepare.crystals.scattering import scattering_table
from datamodules.radiation import CU_K_ALPHA, lorentz_polarization

WAVELENGTH = CU_K_ALPHA
"""Å; it only sets the window, the limits and the Lorentz–polarization factor."""
TWO_THETA_MIN = 4.0
"""Degrees; wider than 5–90°, so that strain and zero shift never pull in an empty edge."""
TWO_THETA_MAX = 95.0
MERGE_WITHIN = 5e-4
"""Degrees 2θ from a cluster's first line. At 1e-3 profiles still agree with pymatgen to 1e-5."""
MIN_RELATIVE_INTENSITY = 1e-5
"""Of the strongest line, after Lorentz–polarization."""

Float = NDArray[np.float64]
_lorentz_polarization: Any = njit(cache=True)(lorentz_polarization)
Int = NDArray[np.int64]

# Reflections weaker than this part of F(000)² are absences; thousands together stay invisible.
_ABSENT = 1e-13


def max_g(wavelength: float = WAVELENGTH, two_theta_max: float = TWO_THETA_MAX) -> float:
    """Returns |g| = 2 sin θ / λ in Å⁻¹ at a scattering angle in degrees."""
    return float(2 * np.sin(np.radians(two_theta_max / 2)) / wavelength)


def diffraction_lines(
    crystal: Crystal,
    *,
    wavelength: float = WAVELENGTH,
    two_theta_min: float = TWO_THETA_MIN,
    two_theta_max: float = TWO_THETA_MAX,
) -> tuple[Float, Float]:
    """Computes the powder lines of a crystal.

    Lines within `MERGE_WITHIN` of a cluster's first line become one with summed intensity at the
    intensity-weighted mean Q; lines below `MIN_RELATIVE_INTENSITY` are dropped.

    Args:
        crystal: The crystal; every element must have a scattering factor.
        wavelength: Å; with the window it decides which lines are kept.
        two_theta_min: Start of the window in degrees.
        two_theta_max: End of the window in degrees.

    Returns:
        q: Scattering vectors Q = 4π sin θ / λ, shape (n_lines,), Å⁻¹, ascending.
        intensity: Multiplicity × |F|² without Lorentz–polarization, shape (n_lines,), scaled so
            that the strongest line *after* Lorentz–polarization is 1. Both are empty if no
            reflection lies in the window.
    """
    q, intensity, _ = _in_window(
        crystal, wavelength, two_theta_min, two_theta_max, MIN_RELATIVE_INTENSITY, {}
    )
    return q, intensity


def unscaled_lines(
    crystal: Crystal,
    *,
    wavelength: float,
    two_theta_min: float,
    two_theta_max: float,
    debye_waller: Mapping[int, float],
) -> tuple[Float, Float]:
    """Computes all powder lines of a crystal, however weak, in electrons² a cell.

    Args:
        crystal: As in `diffraction_lines`; so are `wavelength` (Å) and the window (degrees).
        wavelength: Å.
        two_theta_min: Degrees.
        two_theta_max: Degrees.
        debye_waller: B of f exp(−B s²) in Å² by atomic number; 0 for elements that are not in it.

    Returns:
        q: Scattering vectors, shape (n_lines,), Å⁻¹, ascending.
        intensity: Multiplicity × |F|² without Lorentz–polarization, shape (n_lines,).
    """
    q, intensity, strongest = _in_window(
        crystal, wavelength, two_theta_min, two_theta_max, 0.0, debye_waller
    )
    return q, intensity * strongest


def _in_window(
    crystal: Crystal,
    wavelength: float,
    two_theta_min: float,
    two_theta_max: float,
    min_relative: float,
    debye_waller: Mapping[int, float],
) -> tuple[Float, Float, float]:
    g_max = max_g(wavelength, two_theta_max)
    table, step = scattering_table((g_max / 2) ** 2, tuple(sorted(debye_waller.items())))
    lines: tuple[Float, Float, float] = _lines(
        crystal.lattice,
        crystal.coordinates,
        crystal.numbers,
        crystal.occupancies,
        table,
        step,
        wavelength,
        max_g(wavelength, two_theta_min),
        g_max,
        MERGE_WITHIN,
        min_relative,
    )
    return lines


@njit(cache=True, fastmath={"contract"}, error_model="numpy")
def _lines(
    lattice: Float,
    coordinates: Float,
    numbers: Int,
    occupancies: Float,
    table: Float,
    step: float,
    wavelength: float,
    g_min: float,
    g_max: float,
    merge_within: float,
    min_relative: float,
) -> tuple[Float, Float, float]:
    """The lines of a crystal as of `diffraction_lines`, and the strongest intensity with LP."""
    g2, intensity = _reflections(
        lattice, coordinates, numbers, occupancies, table, step, g_min * g_min, g_max * g_max
    )
    g2, intensity = _sorted_by_bins(g2, intensity, g_min * g_min, g_max * g_max)
    return _merged(g2, intensity, wavelength, merge_within, min_relative)


@njit(cache=True, fastmath={"contract"}, error_model="numpy")
def _squares(lattice: Float) -> tuple[Int, Float]:
    """Completes squares: |hB|² = c₂(l + m₂₀h + m₂₁k)² + c₁(k + m₁₀h)² + c₀h².

    Returns the order of the axes, chosen so that the two outer loops are short (the smallest face
    of the cell), and (c₀, c₁, c₂, m₁₀, m₂₀, m₂₁).
    """
    volume = np.linalg.det(lattice)
    reciprocal = np.empty((3, 3))
    face = np.empty(3)
    for i in range(3):
        b, c = lattice[(i + 1) % 3], lattice[(i + 2) % 3]
        reciprocal[i, 0] = (b[1] * c[2] - b[2] * c[1]) / volume
        reciprocal[i, 1] = (b[2] * c[0] - b[0] * c[2]) / volume
        reciprocal[i, 2] = (b[0] * c[1] - b[1] * c[0]) / volume
        face[i] = np.sqrt((reciprocal[i] ** 2).sum())
    inner = 0
    for i in range(1, 3):
        if face[i] < face[inner]:
            inner = i
    order = np.array([(inner + 1) % 3, (inner + 2) % 3, inner])
    metric = np.empty((3, 3))
    for i in range(3):
        for j in range(3):
            metric[i, j] = (reciprocal[order[i]] * reciprocal[order[j]]).sum()
    c2 = metric[2, 2]
    m20, m21 = metric[2, 0] / c2, metric[2, 1] / c2
    c1 = metric[1, 1] - c2 * m21 * m21
    m10 = (metric[1, 0] - c2 * m20 * m21) / c1
    c0 = metric[0, 0] - c2 * m20 * m20 - c1 * m10 * m10
    return order, np.array([c0, c1, c2, m10, m20, m21])


@njit(cache=True, fastmath={"contract"}, error_model="numpy")
def _phases(coordinates: Float, limit: int) -> tuple[Float, Float]:
    """Tables of cos and sin of 2π n x for n = −limit … limit, shape (n_atoms, 2 limit + 1)."""
    n = coordinates.shape[0]
    cosine, sine = np.empty((n, 2 * limit + 1)), np.empty((n, 2 * limit + 1))
    for j in range(n):
        x = coordinates[j] - np.floor(coordinates[j])
        c1, s1 = np.cos(2 * np.pi * x), np.sin(2 * np.pi * x)
        c, s = 1.0, 0.0
        cosine[j, limit], sine[j, limit] = c, s
        for m in range(1, limit + 1):
            c, s = c * c1 - s * s1, c * s1 + s * c1
            cosine[j, limit + m], sine[j, limit + m] = c, s
            cosine[j, limit - m], sine[j, limit - m] = c, -s
    return cosine, sine


@njit(cache=True, fastmath={"contract"}, error_model="numpy")
def _reflections(
    lattice: Float,
    coordinates: Float,
    numbers: Int,
    occupancies: Float,
    table: Float,
    step: float,
    g2_min: float,
    g2_max: float,
) -> tuple[Float, Float]:
    """|g|² and 2|F|² of half of the reflections between two radii, unsorted, absences left out."""
    order, squares = _squares(lattice)
    c0, c1, c2, m10, m20, m21 = squares
    atoms = np.argsort(numbers, kind="mergesort")
    n = len(atoms)
    z, occupancy = numbers[atoms], occupancies[atoms]
    f000 = (z * occupancy).sum()

    # Exact bounds of each index alone: |hᵢ| ≤ |g| |aᵢ|.
    limits = np.empty(3, np.int64)
    for i in range(3):
        limits[i] = int(np.sqrt(g2_max * (lattice[order[i]] ** 2).sum())) + 1
    h_cos, h_sin = _phases(coordinates[atoms, order[0]], limits[0])
    k_cos, k_sin = _phases(coordinates[atoms, order[1]], limits[1])
    l_cos, l_sin = _phases(coordinates[atoms, order[2]], limits[2])

    width = 2 * limits[2] + 1
    s_re, s_im = np.empty(width), np.empty(width)
    f_re, f_im = np.empty(width), np.empty(width)
    squared = np.empty(width)
    capacity = 256
    out_g2, out_intensity = np.empty(capacity), np.empty(capacity)
    count = 0

    for h in range(limits[0] + 1):
        rest_k = g2_max - c0 * h * h
        if rest_k < 0:
            break
        radius = np.sqrt(rest_k / c1)
        k_first, k_last = int(np.ceil(-m10 * h - radius)), int(np.floor(-m10 * h + radius))
        if h == 0:
            k_first = 0
        for k in range(max(k_first, -limits[1]), min(k_last, limits[1]) + 1):
            rest_l = rest_k - c1 * (k + m10 * h) ** 2
            if rest_l < 0:
                continue
            radius = np.sqrt(rest_l / c2)
            shift = m20 * h + m21 * k
            l_first, l_last = int(np.ceil(-shift - radius)), int(np.floor(-shift + radius))
            if h == 0 and k == 0:
                l_first = 1
            l_first, l_last = max(l_first, -limits[2]), min(l_last, limits[2])
            length = l_last - l_first + 1
            if length <= 0:
                continue
            base = g2_max - rest_l
            for i in range(length):
                squared[i] = base + c2 * (l_first + i + shift) ** 2
                f_re[i] = 0.0
                f_im[i] = 0.0
            offset = l_first + limits[2]
            j = 0
            while j < n:
                element = z[j]
                for i in range(length):
                    s_re[i] = 0.0
                    s_im[i] = 0.0
                while j < n and z[j] == element:
                    a, b = h_cos[j, limits[0] + h], h_sin[j, limits[0] + h]
                    c, d = k_cos[j, limits[1] + k], k_sin[j, limits[1] + k]
                    re = occupancy[j] * (a * c - b * d)
                    im = occupancy[j] * (a * d + b * c)
                    row_cos = l_cos[j, offset : offset + length]
                    row_sin = l_sin[j, offset : offset + length]
                    for i in range(length):
                        s_re[i] += re * row_cos[i] - im * row_sin[i]
                        s_im[i] += re * row_sin[i] + im * row_cos[i]
                    j += 1
                for i in range(length):
                    position = squared[i] * 0.25 / step
                    cell = int(position)
                    t = position - cell
                    p = table[element, cell]
                    f = p[0] + t * (p[1] + t * (p[2] + t * p[3]))
                    f_re[i] += f * s_re[i]
                    f_im[i] += f * s_im[i]
            if count + length > capacity:
                capacity = 2 * capacity + length
                out_g2 = _grown(out_g2, count, capacity)
                out_intensity = _grown(out_intensity, count, capacity)
            for i in range(length):
                value = f_re[i] * f_re[i] + f_im[i] * f_im[i]
                if value > _ABSENT * f000 * f000 and squared[i] >= g2_min and squared[i] <= g2_max:
                    out_g2[count] = squared[i]
                    out_intensity[count] = 2 * value
                    count += 1
    return out_g2[:count], out_intensity[:count]


@njit(cache=True)
def _grown(values: Float, count: int, capacity: int) -> Float:
    grown = np.empty(capacity)
    grown[:count] = values[:count]
    return grown


@njit(cache=True, fastmath={"contract"}, error_model="numpy")
def _sorted_by_bins(g2: Float, intensity: Float, low: float, high: float) -> tuple[Float, Float]:
    """Sorts by |g|²: counting sort into as many bins as values, then insertion within a bin.

    Reflections are nearly uniform in |g|², so this is linear; a comparison sort took as long as
    the structure factors.
    """
    n = len(g2)
    scale = (n - 1) / (high - low)
    bins = np.empty(n, np.int64)
    starts = np.zeros(n + 1, np.int64)
    for i in range(n):
        bins[i] = min(max(int((g2[i] - low) * scale), 0), n - 1)
        starts[bins[i] + 1] += 1
    for i in range(n):
        starts[i + 1] += starts[i]
    fill = starts[:-1].copy()
    sorted_g2, sorted_intensity = np.empty(n), np.empty(n)
    for i in range(n):
        x, y, first = g2[i], intensity[i], starts[bins[i]]
        position = fill[bins[i]]
        fill[bins[i]] += 1
        while position > first and sorted_g2[position - 1] > x:
            sorted_g2[position] = sorted_g2[position - 1]
            sorted_intensity[position] = sorted_intensity[position - 1]
            position -= 1
        sorted_g2[position], sorted_intensity[position] = x, y
    return sorted_g2, sorted_intensity


@njit(cache=True, error_model="numpy")
def _merged(
    g2: Float, intensity: Float, wavelength: float, merge_within: float, min_relative: float
) -> tuple[Float, Float, float]:
    """Merges clusters of lines, applies the threshold after LP, scales, and tells the scale."""
    n = len(g2)
    q, total, after = np.empty(n), np.empty(n), np.empty(n)
    count, i, strongest = 0, 0, 0.0
    while i < n:
        theta = np.arcsin(min(np.sqrt(g2[i]) * wavelength / 2, 1.0))
        end = (2 * np.sin(theta + np.radians(merge_within) / 2) / wavelength) ** 2
        weight, weighted = 0.0, 0.0
        while i < n and g2[i] <= end:
            weight += intensity[i]
            weighted += intensity[i] * np.sqrt(g2[i])
            i += 1
        g = weighted / weight
        sine = g * wavelength / 2
        # Twice the factor, as pymatgen has it: without the 1 / (1 + P) of an unpolarised tube.
        lp = 2 * _lorentz_polarization(sine, 1.0)
        q[count], total[count], after[count] = 2 * np.pi * g, weight, weight * lp
        strongest = max(strongest, after[count])
        count += 1
    kept = 0
    for i in range(count):
        if after[i] > min_relative * strongest:
            q[kept], total[kept] = q[i], total[i] / strongest
            kept += 1
    return q[:kept].copy(), total[:kept].copy(), strongest
