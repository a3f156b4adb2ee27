"""Simulated patterns against pymatgen's, and against the patterns that models see."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pymatgen.analysis.diffraction.xrd import XRDCalculator
from pymatgen.core import Lattice, Species, Structure

from datamodules.batch import INDEX, LINE_INTENSITY, LINE_OFFSETS, LINE_Q
from datamodules.grid import Grid
from datamodules.prepare.simulation import EntryError, Simulator, to_crystal
from datamodules.rendering.augmentation import Perturbation
from datamodules.rendering.peaks import PeakShape
from datamodules.rendering.renderer import Renderer
from tests.prepare.examples import ROCK_SALT, random_structure

MIXED = Structure(
    Lattice.orthorhombic(4.1, 5.3, 6.2),
    [{"Fe": 0.6, "Mn": 0.3}, {Species("O", -2): 1.0}, {Species("Li", 1): 0.5}, "D"],
    [[0, 0, 0], [0.5, 0.4, 0.2], [0.1, 0.8, 0.6], [0.4, 0.1, 0.7]],
)
STRUCTURES = {"rock salt": ROCK_SALT, "mixed": MIXED, "triclinic": random_structure(3)}


def theirs(structure: Structure, wavelength: float, **options: Any) -> tuple[Any, Any]:
    """Angles and intensities of pymatgen's lines."""
    factors = options.pop("debye_waller_factors", None)
    calculator = XRDCalculator(wavelength, debye_waller_factors=factors)
    pattern = calculator.get_pattern(structure, **options)
    return np.asarray(pattern.x), np.asarray(pattern.y)


def drawn(x: Any, at: Any, heights: Any, fwhm: float) -> Any:
    """Gaussian peaks, maximum 100."""
    y = (heights * np.exp(-4 * np.log(2) * ((x[:, None] - at) / fwhm) ** 2)).sum(1)
    return 100 * y / y.max()


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize(("wavelength", "window"), [(1.54184, (0, 90)), (0.71073, (11, 47.5))])
def test_lines_are_pymatgens(name: str, wavelength: float, window: tuple[float, float]) -> None:
    simulator = Simulator(wavelength, window)
    q, intensity = simulator.lines(STRUCTURES[name])
    x, y = theirs(STRUCTURES[name], wavelength, two_theta_range=window)
    assert intensity.max() == pytest.approx(100)
    # Some lines nearer than 0.0005° are one here: what both are as a curve is compared.
    grid = np.arange(*window, 0.01)
    ours = drawn(grid, simulator.to_two_theta(q), intensity, 0.1)
    np.testing.assert_allclose(ours, drawn(grid, x, y, 0.1), atol=0.01)
    np.testing.assert_allclose(intensity.sum(), y.sum(), rtol=1e-3)


def test_intensities_are_pymatgens_also_raw_and_damped() -> None:
    raw = Simulator(scale=None).lines(ROCK_SALT)
    x, y = theirs(ROCK_SALT, 1.54184, scaled=False)
    np.testing.assert_allclose(raw.intensity, y, rtol=1e-6)
    np.testing.assert_allclose(Simulator().to_two_theta(raw.q), x, atol=1e-6)
    for ours, factors in (({"Na": 1.3}, {"Na": 1.3}), (0.7, {"Na": 0.7, "Cl": 0.7})):
        _, damped = Simulator(debye_waller=ours).lines(ROCK_SALT)
        expected = theirs(ROCK_SALT, 1.54184, debye_waller_factors=factors)[1]
        np.testing.assert_allclose(damped, expected, rtol=1e-6)
        assert not np.allclose(damped, 100 * y / y.max(), rtol=1e-2)


def test_scattering_factors_hold_at_short_wavelengths() -> None:
    """The table of factors is as fine at Q = 17 Å⁻¹ as in the window of a store."""
    _, intensity = Simulator(0.56, (0, 99), scale=None).lines(ROCK_SALT)
    _, y = theirs(ROCK_SALT, 0.56, two_theta_range=(0, 99), scaled=False)
    np.testing.assert_allclose(intensity, y, rtol=1e-6)


def test_without_the_factor_intensities_are_structure_factors() -> None:
    q, squared = Simulator(lorentz_polarization=False, scale=None).lines(ROCK_SALT)
    _, intensity = Simulator(polarization=0.8, scale=None).lines(ROCK_SALT)
    theta = np.arcsin(q * 1.54184 / (4 * np.pi))
    factor = 2 * (1 + 0.8 * np.cos(2 * theta) ** 2) / (1.8 * np.sin(theta) ** 2 * np.cos(theta))
    np.testing.assert_allclose(intensity, squared * factor, rtol=1e-9)
    sharp = XRDCalculator().get_pattern(ROCK_SALT).x
    assert len(sharp) == len(q)


@pytest.mark.parametrize("name", STRUCTURES)
def test_profiles_are_pymatgens_lines_as_gaussians(name: str) -> None:
    grid = np.arange(10, 80, 0.02)
    ours = Simulator().profile(STRUCTURES[name], two_theta=grid, fwhm=0.15)
    x, y = theirs(STRUCTURES[name], 1.54184, two_theta_range=(9, 81))
    np.testing.assert_allclose(ours, drawn(grid, x, y, 0.15), atol=0.01)


@pytest.mark.parametrize("eta", [0.0, 0.6])
def test_profiles_are_what_models_see(eta: float) -> None:
    grid = Grid(10, 80, 0.02)
    ours = Simulator().profile(MIXED, two_theta=grid.two_theta(), fwhm=0.2, eta=eta)
    q, intensity = Simulator(
        two_theta_range=(0.0, 95), lorentz_polarization=False, scale=None
    ).lines(MIXED)
    batch = {
        LINE_Q: torch.tensor(q),
        LINE_INTENSITY: torch.tensor(intensity),
        LINE_OFFSETS: torch.tensor([0, len(q)]),
        INDEX: torch.zeros(1, dtype=torch.long),
    }
    xrd, _ = Renderer(grid, PeakShape(fwhm=0.2, eta=eta)).render(batch, Perturbation())
    # The renderer leaves out tails of lines more than 5° outside of the window.
    np.testing.assert_allclose(ours, 100 * xrd[0].double() ** 2, atol=0.05 if eta else 1e-3)


def test_a_profile_that_is_not_scaled_integrates_to_the_intensities() -> None:
    grid = np.linspace(20, 90, 9000)
    simulator = Simulator(two_theta_range=(20, 90), scale=None)
    inside = simulator.lines(ROCK_SALT).intensity.sum()
    for options in ({}, {"fwhm": (0.02, -0.01, 0.05)}, {"size": 400.0}):
        area = np.trapezoid(simulator.profile(ROCK_SALT, two_theta=grid, **options), grid)
        assert area == pytest.approx(inside, rel=1e-3)


def test_peaks_are_as_wide_as_asked_for() -> None:
    """The full width at half maximum of single lines: plain, Caglioti's, Scherrer's, of Q."""

    def width(x: Any, y: Any) -> float:
        above = x[y > y.max() / 2]
        return float(above[-1] - above[0])

    near = np.arange(31.0, 32.8, 0.0005)  # (200) of rock salt at 31.7°
    tangent = np.tan(np.radians(31.73 / 2))
    for eta in (0.0, 0.5, 1.0):
        y = Simulator().profile(ROCK_SALT, two_theta=near, fwhm=0.2, eta=eta)
        assert width(near, y) == pytest.approx(0.2, abs=0.002)
    y = Simulator().profile(ROCK_SALT, two_theta=near, fwhm=(0.3, -0.05, 0.04))
    expected = np.sqrt(0.3 * tangent**2 - 0.05 * tangent + 0.04)
    assert width(near, y) == pytest.approx(expected, abs=0.002)
    y = Simulator().profile(ROCK_SALT, two_theta=near, fwhm=0.01, size=500)
    scherrer = np.degrees(0.9 * 1.54184 / (500 * np.cos(np.radians(31.73 / 2))))
    assert width(near, y) == pytest.approx(np.hypot(0.01, scherrer), abs=0.002)
    q = np.arange(2.1, 2.4, 0.0001)  # (200) at 2.228 Å⁻¹
    y = Simulator().profile(ROCK_SALT, q=q, fwhm=0.03)
    assert width(q, y) == pytest.approx(0.03, abs=0.0003)
    assert q[y.argmax()] == pytest.approx(4 * np.pi / 5.64, abs=1e-4)


def test_a_doublet_is_drawn_apart() -> None:
    grid = np.arange(73, 86, 0.005)
    simulator = Simulator("CuKa")
    one = simulator.profile(ROCK_SALT, two_theta=grid, fwhm=0.04)
    two = simulator.profile(ROCK_SALT, two_theta=grid, fwhm=0.04, doublet=True)
    q = 4 * np.pi * np.sqrt(20) / 2 / 5.64  # (420)
    at = [2 * np.degrees(np.arcsin(q * w / (4 * np.pi))) for w in (1.54059, 1.54443)]
    peaks = [two[np.abs(grid - x).argmin()] for x in at]
    assert peaks[0] == pytest.approx(100, rel=0.01)
    assert peaks[1] == pytest.approx(50, rel=0.02)
    assert at[0] < grid[one.argmax()] < at[1]
    with pytest.raises(ValueError, match="is one line; give a name"):
        Simulator("CuKa1").profile(ROCK_SALT, two_theta=grid, doublet=True)


def test_all_forms_of_a_structure_are_one(tmp_path: Path) -> None:
    expected = Simulator().lines(MIXED)
    lattice, species = MIXED.lattice, [{"Fe": 0.6, "Mn": 0.3}, "O2-", {"Li": 0.5}, "D"]
    parameters = (*lattice.abc, *lattice.angles)
    rows = MIXED.frac_coords[[0, 0, 1, 2, 3]]
    for given in (
        (lattice.matrix, species, MIXED.frac_coords),
        (parameters, species, MIXED.frac_coords.tolist()),
        (lattice.matrix, [26, 25, 8, 3, 1], rows, [0.6, 0.3, 1, 0.5, 1]),
        (lattice.matrix, [*species[:2], "Li", "D"], MIXED.frac_coords, [1, 1, 0.5, 1]),
        to_crystal(MIXED),
    ):
        q, intensity = Simulator().lines(given)
        np.testing.assert_allclose(q, expected.q, rtol=1e-9)
        np.testing.assert_allclose(intensity, expected.intensity, rtol=1e-6)
    (tmp_path / "salt.cif").write_text(ROCK_SALT.to(fmt="cif"))
    read = Simulator().lines(tmp_path / "salt.cif")
    np.testing.assert_allclose(read.q, Simulator().lines(ROCK_SALT).q, rtol=1e-6)


def test_atoms_of_ase_are_read() -> None:
    ase = pytest.importorskip("ase")
    salt = ROCK_SALT
    atoms = ase.Atoms(
        [site.specie.symbol for site in salt], salt.cart_coords, cell=salt.lattice.matrix, pbc=True
    )
    found, expected = Simulator().lines(atoms), Simulator().lines(salt)
    np.testing.assert_allclose(found.intensity, expected.intensity, rtol=1e-6)
    with pytest.raises(EntryError, match="not periodic"):
        Simulator().lines(ase.Atoms("NaCl"))


@pytest.mark.parametrize("parameters", [(4, 5, 6, 70, 80, 100), (3, 3, 7, 90, 90, 120)])
def test_cell_parameters_give_pymatgens_cell(parameters: tuple[float, ...]) -> None:
    crystal = to_crystal((parameters, ["Fe"], [[0, 0, 0]]))
    expected = Lattice.from_parameters(*parameters).matrix
    np.testing.assert_allclose(crystal.lattice @ crystal.lattice.T, expected @ expected.T)


def test_many_are_the_same_as_one_by_one_in_order() -> None:
    structures = [random_structure(seed, 3) for seed in range(200)]
    grid = np.arange(10, 60, 0.1)
    simulator = Simulator()
    lines = list(simulator.many_lines(structures))
    profiles = simulator.many_profiles(iter(structures), two_theta=grid, fwhm=0.3, workers=2)
    for number, profile in enumerate(profiles):
        if number % 20 == 0:
            alone = simulator.profile(structures[number], two_theta=grid, fwhm=0.3)
            # Another process may align its arrays otherwise, and sum in another order.
            np.testing.assert_allclose(profile, alone, rtol=1e-12, atol=1e-12)
            np.testing.assert_array_equal(lines[number][1], simulator.lines(structures[number])[1])
    assert number == len(structures) - 1


def test_a_bad_structure_among_many_is_named_or_skipped() -> None:
    bad = Structure(Lattice.cubic(4), ["Fm"], [[0, 0, 0]])
    structures = [ROCK_SALT, bad, (np.eye(3), ["Xx"], [[0, 0, 0]]), MIXED]
    found = list(Simulator().many_lines(structures, skip_bad=True))
    assert [one is None for one in found] == [False, True, True, False]
    results = Simulator().many_lines(structures)
    next(results)
    with pytest.raises(EntryError, match="no scattering factor: structure 1: Z = 100"):
        next(results)


def test_structures_are_read_as_results_are_taken() -> None:
    read = 0

    def endless() -> Iterator[Structure]:
        nonlocal read
        while True:
            read += 1
            yield ROCK_SALT

    results = Simulator().many_lines(endless())
    for _ in range(3):
        next(results)
    assert read < 1000


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Simulator("Unobtainium"), "give Å"),
        (lambda: Simulator(0.0), "must lie in 0.01 to 10"),
        (lambda: Simulator(float("nan")), "must lie in 0.01 to 10"),
        (lambda: Simulator(two_theta_range=(60, 30)), "must lie in 0° to 180°"),
        (lambda: Simulator(scale=0.0), "give a positive number"),
        (lambda: Simulator(polarization=2), "must lie in 0 to 1"),
        (lambda: Simulator(debye_waller={"Qq": 1}), "'Qq' is no element"),
        (lambda: Simulator(debye_waller=-1), "must not be negative"),
        (lambda: Simulator(0.2, (0, 170)).lines(ROCK_SALT), "scattering factors hold up to"),
        (lambda: Simulator().profile(ROCK_SALT), "give either two_theta"),
        (lambda: Simulator().profile(ROCK_SALT, two_theta=[2, 1]), "not finite and ascending"),
        (lambda: Simulator().profile(ROCK_SALT, two_theta=[0, 181]), "must lie in 0° to 180°"),
        (lambda: Simulator().profile(ROCK_SALT, q=[1, 9]), "shorter wavelength"),
        (lambda: Simulator().profile(ROCK_SALT, q=[1, 2], fwhm=(1, 1, 1)), "are for angles"),
        (lambda: Simulator().profile(ROCK_SALT, two_theta=[9, 99], fwhm=[0, -1, 0.1]), "positive"),
        (lambda: Simulator().profile(ROCK_SALT, two_theta=[1, 2], size=0), "at least 1 Å"),
        (lambda: Simulator().profile(ROCK_SALT, two_theta=[1, 2], eta=2), "eta 2"),
        (lambda: Simulator().many_lines([ROCK_SALT], workers=0), "at least 1"),
        (lambda: to_crystal((np.eye(3), ["Fe"], [[0, 0]])), "malformed structure"),
        (lambda: to_crystal((np.eye(3), ["Fe"], "x")), "positions are not numbers"),
        (lambda: to_crystal(((4, 4, 4, 10, 20, 90), ["Fe"], [[0, 0, 0]])), "impossible cell"),
        (lambda: to_crystal((4 * np.eye(3), [119], [[0, 0, 0]])), "atomic number 119"),
        (lambda: to_crystal((4 * np.eye(3), ["Fe?"], [[0, 0, 0]])), "unknown element"),
    ],
)
def test_what_is_impossible_is_named(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_other_things_are_no_structures() -> None:
    with pytest.raises(TypeError, match="cannot simulate str"):
        Simulator().lines("NaCl.cif")


def test_points_too_far_apart_are_warned_of() -> None:
    with pytest.warns(UserWarning, match="take more points"):
        Simulator().profile(ROCK_SALT, two_theta=np.arange(10, 60, 0.1), fwhm=0.1)
