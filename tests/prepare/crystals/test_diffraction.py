"""Diffraction lines against pymatgen's XRDCalculator, and against what symmetry demands."""

from __future__ import annotations

import numpy as np
import pytest
from pymatgen.analysis.diffraction.core import AbstractDiffractionPatternCalculator
from pymatgen.analysis.diffraction.xrd import ATOMIC_SCATTERING_PARAMS, XRDCalculator
from pymatgen.core import Element, Lattice, Species, Structure

from datamodules.grid import Grid
from datamodules.inspect import profile
from datamodules.prepare.crystals import diffraction
from datamodules.prepare.crystals.crystal import Crystal
from datamodules.prepare.crystals.diffraction import (
    WAVELENGTH,
    diffraction_lines,
)
from datamodules.prepare.crystals.scattering import (
    atomic_scattering_factor,
    coefficients,
    has_scattering_factor,
    scattering_table,
)
from datamodules.prepare.sources.prototypes import _library
from datamodules.radiation import lorentz_polarization
from tests.prepare.examples import ROCK_SALT, crystal_of, random_structure


def lp(q: np.ndarray) -> np.ndarray:
    """As pymatgen has it: without the 1 / (1 + P) of an unpolarised tube."""
    return 2 * lorentz_polarization(q * WAVELENGTH / (4 * np.pi))


def pymatgen_profile(structure: Structure) -> np.ndarray:
    """Gaussian peaks of 0.1° at pymatgen's lines, on the model's grid, maximum 1."""
    pattern = XRDCalculator().get_pattern(structure, two_theta_range=(4, 95))
    q = 4 * np.pi * np.sin(np.radians(np.asarray(pattern.x) / 2)) / WAVELENGTH
    return profile(q, np.asarray(pattern.y) / lp(q), Grid())[1]


def difference(structure: Structure, crystal: Crystal | None = None) -> float:
    """Largest difference of the profiles, relative to their maximum."""
    _, ours = profile(*diffraction_lines(crystal or crystal_of(structure)), Grid())
    return float(np.abs(ours - pymatgen_profile(structure)).max())


SKEWED = {
    "rhombohedral, 24°": Structure(
        Lattice.from_parameters(10.47, 10.47, 10.47, 24.17, 24.17, 24.17),
        ["Bi", "Bi", "Te", "Te", "Te"],
        [[x, x, x] for x in (0.4, 0.6, 0.0, 0.212, 0.788)],
    ),
    "sheared by three cells": Structure(
        Lattice(np.array([[1, 0, 0], [3, 1, 0], [-2, 4, 1]]) @ np.diag([3.9, 4.1, 5.2])),
        ["Ba", "Ti", "O"],
        [[0.1, 0.2, 0.3], [0.6, 0.7, 0.1], [0.4, 0.4, 0.9]],
    ),
    "needle": Structure(
        Lattice.from_parameters(3, 3, 60, 89, 91, 120), ["Si", "C"], [[0, 0, 0], [0.3, 0.6, 0.07]]
    ),
    "plate": Structure(
        Lattice.from_parameters(18, 17, 2.6, 95, 87, 100), ["Fe", "O"], [[0, 0, 0], [0.3, 0.6, 0.4]]
    ),
    "left-handed": Structure(
        Lattice([[0, 4.2, 0], [5.1, 0.3, 0], [0.2, 0, 6.3]]),
        ["Cu", "S"],
        [[0, 0, 0], [0.25, 0.4, 0.1]],
    ),
}


@pytest.mark.parametrize("name", SKEWED)
def test_profiles_of_skewed_cells_agree_with_pymatgen(name: str) -> None:
    assert difference(SKEWED[name]) < 1e-4


@pytest.mark.parametrize("seed", range(12))
def test_profiles_of_random_triclinic_cells_agree_with_pymatgen(seed: int) -> None:
    assert difference(random_structure(seed, 1 + seed)) < 1e-4


@pytest.mark.parametrize("number", range(0, 288, 12))
def test_profiles_of_prototypes_agree_with_pymatgen(number: int) -> None:
    assert difference(_library()[number]) < 1e-4


def test_profiles_of_all_elements_agree_with_pymatgen() -> None:
    numbers = [z for z in range(1, 119) if has_scattering_factor(z)]
    assert numbers == list(range(1, 99))
    for z in numbers:
        structure = Structure(
            Lattice.tetragonal(3.1, 4.3), [Element.from_Z(z), "O"], [[0, 0, 0], [0.5, 0.5, 0.3]]
        )
        assert difference(structure) < 1e-4, z


def test_partial_occupancy_oxidation_states_and_deuterium_agree_with_pymatgen() -> None:
    lattice = Lattice.orthorhombic(4.1, 5.3, 6.2)
    mixed = Structure(
        lattice,
        [{"Fe": 0.6, "Mn": 0.3}, {Species("O", -2): 1.0}, {Species("Li", 1): 0.5}],
        [[0, 0, 0], [0.5, 0.4, 0.2], [0.1, 0.8, 0.6]],
    )
    heavy_water = Structure(lattice, ["O", "D", "D"], [[0, 0, 0], [0.2, 0.1, 0], [-0.2, 0.1, 0]])
    assert difference(mixed) < 1e-4
    assert difference(heavy_water) < 1e-4


def test_what_is_left_of_the_difference_is_pymatgens_binning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """pymatgen puts all lines within 1e-5° at the first one's angle; ours are at the mean."""
    monkeypatch.setattr(AbstractDiffractionPatternCalculator, "TWO_THETA_TOL", 1e-8)
    for structure in [*SKEWED.values(), *_library()[5:288:48], ROCK_SALT]:
        assert difference(structure) < 2e-5


def test_single_lines_agree_with_pymatgen() -> None:
    q, intensity = diffraction_lines(crystal_of(ROCK_SALT))
    pattern = XRDCalculator().get_pattern(ROCK_SALT, two_theta_range=(4, 95))
    two_theta = 2 * np.degrees(np.arcsin(q * WAVELENGTH / (4 * np.pi)))
    np.testing.assert_allclose(two_theta, pattern.x, atol=1e-6)
    np.testing.assert_allclose(100 * intensity * lp(q), pattern.y, rtol=1e-6)


def test_strongest_line_is_one_after_lorentz_polarization() -> None:
    for seed in range(5):
        q, intensity = diffraction_lines(crystal_of(random_structure(seed)))
        assert (intensity * lp(q)).max() == pytest.approx(1, abs=1e-12)
        assert (np.diff(q) > 0).all()


def test_another_description_of_the_same_crystal_gives_the_same_lines() -> None:
    for seed in range(5):
        structure = random_structure(seed, 4)
        changed = structure.copy()
        changed.translate_sites(range(4), [0.123, 0.456, 0.789], to_unit_cell=False)
        changed.make_supercell([[1, 2, 0], [0, 1, -3], [2, 0, 1]])
        q, intensity = diffraction_lines(crystal_of(structure))
        q_changed, intensity_changed = diffraction_lines(crystal_of(changed))
        np.testing.assert_allclose(q_changed, q, rtol=1e-9)
        np.testing.assert_allclose(intensity_changed, intensity, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("name", SKEWED)
def test_no_reflection_is_missed(name: str) -> None:
    """Counts against brute force over far more indices than the bound allows."""
    crystal = crystal_of(SKEWED[name])
    g_max = diffraction.max_g()
    table, step = scattering_table((g_max / 2) ** 2)
    one_atom = crystal.coordinates[:1], crystal.numbers[:1], crystal.occupancies[:1]
    g2, _ = diffraction._reflections(crystal.lattice, *one_atom, table, step, 0.0, g_max**2)
    limits = np.ceil(g_max * np.linalg.norm(crystal.lattice, axis=1)).astype(int) + 3
    h = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in limits), indexing="ij"), -1)
    g = np.linalg.norm(h.reshape(-1, 3) @ np.linalg.inv(crystal.lattice).T, axis=1)
    inside = np.sort(g[(g > 1e-9) & (g <= g_max)])
    assert 2 * len(g2) == len(inside)
    np.testing.assert_allclose(np.sort(np.repeat(g2, 2)), inside**2, rtol=1e-9)


def test_coefficients_are_pymatgens() -> None:
    theirs = {Element(symbol).Z: rows for symbol, rows in ATOMIC_SCATTERING_PARAMS.items()}
    assert coefficients() == theirs


@pytest.mark.parametrize("s_max", [diffraction.max_g() / 2, 2.0])
def test_tabulated_scattering_factors_are_exact(s_max: float) -> None:
    table, step = scattering_table(s_max**2)
    s2 = np.linspace(0, s_max**2, 5001)
    cell, t = np.divmod(s2 / step, 1)
    powers = t[:, None] ** np.arange(4)
    for z in range(1, 99):
        f = (table[z, cell.astype(int)] * powers).sum(-1)
        assert np.abs(f - atomic_scattering_factor(z, s2)).max() < 1e-7 * z


def test_close_lines_are_merged_at_their_mean_with_their_sum() -> None:
    close = Lattice.orthorhombic(4.0, 4.0 + 2e-5, 9.0)
    apart = Lattice.orthorhombic(4.0, 4.0 + 2e-3, 9.0)
    q_close, intensity = diffraction_lines(crystal_of(Structure(close, ["Fe"], [[0, 0, 0]])))
    q_apart, split = diffraction_lines(crystal_of(Structure(apart, ["Fe"], [[0, 0, 0]])))
    first = np.argmin(np.abs(q_close - 2 * np.pi / 4))
    assert q_close[first] == pytest.approx(2 * np.pi / (4 + 1e-5), rel=1e-8)
    pair = np.abs(q_apart - 2 * np.pi / 4) < 2e-3
    assert pair.sum() == 2
    assert intensity[first] == pytest.approx(split[pair].sum(), rel=1e-3)


def test_no_lines_in_the_window_gives_empty_arrays() -> None:
    crystal = Crystal(0.9 * np.eye(3), np.zeros((1, 3)), np.array([1]), np.ones(1), np.ones(1))
    q, intensity = diffraction_lines(crystal)
    assert len(q) == len(intensity) == 0
