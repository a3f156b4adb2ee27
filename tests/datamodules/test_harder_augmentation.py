"""Changes that scans of laboratories show: texture, cells, mixtures, backgrounds, aberrations."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from datamodules.batch import EPOCH, INDEX, MEASURED, SEED, TARGETS, XRD
from datamodules.randomness import Purpose, hash_uint64, keys, normal_at, uniform, uniform_at
from datamodules.rendering.augmentation import Augmentation, Perturbation, draw
from datamodules.rendering.backgrounds import (
    lower_envelope,
    residue_profile,
    scattering_profile,
    smooth_noise,
)
from datamodules.rendering.lines import change_lines, march_dollase
from datamodules.rendering.renderer import Renderer
from datamodules.stream.batches import choose_impurities
from tests.datamodules.patterns import (
    EVERYTHING,
    GRID,
    HARDER,
    add_impurities,
    add_impurity,
    angle,
    lines,
    make_batch,
    moments,
    one,
    random_batch,
    values,
)

ZERO = torch.tensor(0)


def drawn(how: Augmentation, n: int = 4000) -> Perturbation:
    return draw(how, ZERO, ZERO, torch.arange(n))


def test_settings_that_are_on_leave_the_numbers_of_others_as_they_are() -> None:
    before, after = drawn(EVERYTHING, 50), drawn(dataclasses.replace(HARDER, strain_mean=0.0), 50)
    for item in dataclasses.fields(Perturbation):
        old, new = getattr(before, item.name), getattr(after, item.name)
        if isinstance(old, torch.Tensor) and item.name != "impurity":
            assert torch.equal(old, new), item.name


def test_harder_changes_follow_from_seed_epoch_and_material() -> None:
    renderer = Renderer(GRID, augmentation=HARDER)
    batch = add_impurities(random_batch(), (2, *one(33.0)), (2, *one(50.0)), (4, *one(41.0)))
    first = renderer(batch, augment=True)
    assert torch.equal(renderer(batch, augment=True)[XRD], first[XRD])
    assert torch.isfinite(first[XRD]).all()
    assert first[XRD].amax(dim=1).eq(1.0).all()
    assert not first[XRD][~first[MEASURED]].any()
    for key in (SEED, EPOCH):
        other = renderer({**batch, key: batch[key] + 1}, augment=True)[XRD]
        assert (other - first[XRD]).abs().amax(dim=1).min() > 0.01


def test_uniform_numbers_of_lines_are_those_of_their_keys() -> None:
    key = keys(0, 0, torch.arange(3), Purpose.TEXTURE)
    first, second = uniform_at(key, torch.tensor([0, 1, 2]))
    pairs = uniform(key, 6).view(3, 3, 2)
    assert torch.equal(first, pairs[[0, 1, 2], [0, 1, 2], 0])
    assert torch.equal(second, pairs[[0, 1, 2], [0, 1, 2], 1])


def test_marchs_factor_keeps_the_mean_over_the_sphere() -> None:
    cosine = (torch.arange(20000) + 0.5) / 20000
    for r in (0.5, 1.0, 1.7):
        factor = march_dollase(torch.tensor(r), cosine)
        assert float(factor.mean()) == pytest.approx(1.0, abs=1e-3)
        assert float(factor[-1]) == pytest.approx(r**-3, rel=1e-3)


def test_orders_of_the_textured_plane_change_together_and_others_by_their_angles() -> None:
    # The line at Q = 1 is so strong that it is chosen; 2 and 3 are its orders, the rest are not.
    n = 300
    q = torch.cat([torch.tensor([1.0, 2.0, 3.0]), torch.linspace(3.05, 3.95, n)])
    intensity = torch.full_like(q, 1e-6)
    intensity[0] = 1e6
    rows, offsets = torch.zeros(len(q), dtype=torch.int64), torch.tensor([0, len(q)])
    r = values(0.6)
    changes = Perturbation(texture=r, direction_keys=keys(0, 0, torch.tensor([3]), Purpose.TEXTURE))
    same_q, changed = change_lines(q, intensity, rows, offsets, changes)
    factor = changed / intensity
    assert torch.equal(same_q, q)
    torch.testing.assert_close(factor[:3], (r**-3).expand(3))
    # (r² c² + (1 - c²)/r)^(-3/2) over uniform c: between the factors across and along.
    assert float(factor[3:].min()) == pytest.approx(0.6**1.5, rel=0.02)
    assert float(factor[3:].max()) < 0.6**-3
    assert float(factor[3:].mean()) == pytest.approx(1.0, abs=0.15)


def test_the_textured_plane_is_drawn_by_the_heights_of_lines() -> None:
    n = 3000
    q, intensity = torch.tensor([2.0, 3.0]).repeat(n), torch.tensor([4.0, 27.0]).repeat(n)
    rows, offsets = torch.arange(n).repeat_interleave(2), torch.arange(0, 2 * n + 1, 2)
    key = keys(0, 0, torch.arange(n), Purpose.TEXTURE)
    changes = Perturbation(texture=torch.full((n,), 0.5), direction_keys=key)
    _, changed = change_lines(q, intensity, rows, offsets, changes)
    chosen = torch.isclose(changed / intensity, torch.tensor(8.0)).view(n, 2)
    # I/Q² is 1 and 3.
    assert float(chosen[:, 1].float().mean()) == pytest.approx(0.75, abs=0.03)
    assert float(chosen.any(dim=1).float().mean()) == 1.0


def test_principal_strains_keep_the_volume_and_lines_lie_between_them() -> None:
    found = drawn(Augmentation(cell_strain=0.02))
    assert found.cell_strain is not None
    torch.testing.assert_close(found.cell_strain.sum(dim=1), torch.zeros(4000), atol=1e-7, rtol=0)
    assert 0.02 < float(found.cell_strain.abs().max()) <= 0.02 * 4 / 3
    assert Augmentation(cell_strain=0.02).largest_strain == pytest.approx(0.02 * 4 / 3)
    n = 2000
    q = torch.linspace(2.0, 3.9, n)
    rows, offsets = torch.zeros(n, dtype=torch.int64), torch.tensor([0, n])
    principal = torch.tensor([[-0.02, 0.005, 0.015]])
    changes = Perturbation(
        cell_strain=principal, direction_keys=keys(0, 0, torch.tensor([3]), Purpose.TEXTURE)
    )
    moved, intensity = change_lines(q, torch.ones(n), rows, offsets, changes)
    strain = q / moved - 1.0
    assert torch.equal(intensity, torch.ones(n))
    assert -0.0201 < float(strain.min()) < -0.018
    assert 0.014 < float(strain.max()) < 0.0151
    # Over the sphere every direction counts a third.
    assert float(strain.mean()) == pytest.approx(0.0, abs=6e-4)


def test_a_mean_strain_shifts_cells_and_their_labels() -> None:
    found = drawn(Augmentation(strain=0.01, strain_mean=-0.007)).strain
    assert found is not None
    assert float(found.mean()) == pytest.approx(-0.007, abs=3e-4)
    assert -0.0171 < float(found.min()) < float(found.max()) < 0.0031
    batch = random_batch()
    batch[TARGETS] = torch.full((len(batch[INDEX]), 1), 10.0)
    renderer = Renderer(GRID, augmentation=Augmentation(strain_mean=-0.01), strain_powers=(3,))
    volume = renderer(batch, augment=True)[TARGETS]
    torch.testing.assert_close(volume, torch.full_like(volume, 10.0 * 0.99**3))


def test_aberrations_shift_lines_as_cot_and_sin_of_the_angle() -> None:
    axial = Perturbation(axial_divergence=values(1e-3, 1e-3))
    deep = Perturbation(transparency=values(2e-3, 2e-3))
    batch = make_batch(one(15.0), one(75.0))
    for row, position in enumerate([15.0, 75.0]):
        radians = np.radians(position)
        shift = moments(lines(batch, axial)[row])[1] - position
        assert shift == pytest.approx(-np.degrees(1e-3 / np.tan(radians)), abs=1e-3)
        shift = moments(lines(batch, deep)[row])[1] - position
        assert shift == pytest.approx(-np.degrees(2e-3 * np.sin(radians)), abs=1e-3)


def test_intensities_drift_smoothly_over_q() -> None:
    coefficients = torch.tensor([[0.4, -0.2, 0.1]])
    for position in (20.0, 80.0):
        batch = make_batch(one(position))
        q = 4 * np.pi * np.sin(np.radians(position / 2)) / GRID.wavelength
        waves = np.cos(np.pi * q / 6.0 * np.arange(1, 4))
        changed = lines(batch, Perturbation(intensity_drift=coefficients))[0].sum()
        expected = np.exp(waves @ np.array([0.4, -0.2, 0.1]))
        assert changed / lines(batch)[0].sum() == pytest.approx(expected, rel=1e-4)
    drift = drawn(Augmentation(intensity_drift=0.2)).intensity_drift
    assert drift is not None
    x = torch.linspace(0, np.pi, 50)[:, None] * torch.arange(1, 4)
    assert float((drift @ torch.cos(x).T).std()) == pytest.approx(0.2, rel=0.05)


def test_several_impurities_divide_their_share() -> None:
    base = make_batch(one(20.0), one(20.0))
    q = [one(position)[0] for position in (40.0, 60.0, 80.0)]
    batch = add_impurities(base, (0, q[0], [3.0]), (1, q[1], [50.0]), (1, q[2], [0.1]))
    row_keys = keys(0, 0, torch.tensor([5, 6]), Purpose.IMPURITY)
    changes = Perturbation(impurity=values(0.2, 0.4), impurity_keys=row_keys)
    profile = lines(batch, changes)
    quarters = [slice(int((a - 5) / 0.02), int((a + 15) / 0.02)) for a in (5.0, 25.0, 45.0, 65.0)]
    parts = np.array([[row[part].sum() / row.sum() for part in quarters] for row in profile])
    assert parts[0, 1] == pytest.approx(0.2, rel=1e-3)
    assert parts[1, 1:].sum() == pytest.approx(0.4, rel=1e-3)
    # Which part is whose follows from the row's key, not from raw intensities.
    numbers = normal_at(row_keys[1].repeat(2), torch.arange(2)).exp()
    ratio = float(numbers[0] / numbers.sum())
    assert parts[1, 2] / 0.4 == pytest.approx(ratio, rel=2e-3)
    # Equal parts without keys: only the other pattern of the material asked for several.
    other = lines(batch, Perturbation(impurity=values(0.2, 0.4)))[1]
    for part in quarters[2:]:
        assert other[part].sum() / other.sum() == pytest.approx(0.2, rel=1e-2)


def test_numbers_of_impurities_are_uniform_and_the_first_is_the_single_one() -> None:
    rows, pool = np.arange(3000), np.arange(5000)
    single = Augmentation(impurity=0.1, impurity_probability=0.5)
    several = dataclasses.replace(single, impurities=3)
    slots, partners = choose_impurities(1, 2, rows, single, pool)
    more, others = choose_impurities(1, 2, rows, several, pool)
    # The numbers of runs before there could be several.
    key = hash_uint64(1, 2, int(Purpose.IMPURITY), slots.astype(np.uint64))
    assert np.array_equal(partners, (hash_uint64(key, 1) % np.uint64(5000)).astype(np.int64))
    found, first, number = np.unique(more, return_index=True, return_counts=True)
    assert np.array_equal(found, slots)
    assert np.array_equal(others[first], partners)
    assert (np.diff(more) >= 0).all()
    share = np.bincount(number, minlength=4)[1:] / len(found)
    np.testing.assert_allclose(share, 1 / 3, atol=0.05)
    assert len(np.unique(others)) > 2000


def test_the_share_of_impurities_is_log_uniform() -> None:
    how = Augmentation(impurity_share=(0.01, 0.5), impurity_probability=0.3)
    assert how.has_impurity
    share = drawn(how).impurity
    assert share is not None
    assert 0.01 <= float(share.min()) < float(share.max()) <= 0.5
    assert float(share.log().mean()) == pytest.approx(np.log(0.01 * 0.5) / 2, abs=0.05)


def test_a_background_that_was_taken_off_leaves_its_noise_and_no_height() -> None:
    n = 300
    shape = uniform(keys(0, 0, torch.tensor([1]), Purpose.SCATTERING), 9)
    curve = scattering_profile(shape, GRID)[0]
    assert float(curve.max()) == 1.0
    assert float(curve.min()) > 0.0
    changes = Perturbation(
        scattering=torch.full((n,), 0.3),
        scattering_shape=shape.expand(n, -1),
        noise=torch.full((n,), 1e4),
        noise_keys=keys(0, 0, torch.arange(n), Purpose.NOISE),
    )
    found = Renderer(GRID).render(make_batch(*[one(40.0)] * n), changes)[0].double() ** 2
    # Far from the line the positive half of a normal number remains: its square's mean is σ²/2.
    for position in (10.0, 70.0):
        at = int((position - GRID.two_theta_min) / GRID.step)
        b = 0.3 * float(np.interp(position, np.linspace(5, 89.98, len(curve)), curve))
        square = float((found[:, at - 40 : at + 40] ** 2).mean())
        assert square == pytest.approx(b / 1e4 / 2, rel=0.1)


def test_a_residue_is_relative_to_the_background_and_cut_at_zero() -> None:
    batch = make_batch(one(40.0))
    shape = uniform(keys(0, 0, torch.tensor([4]), Purpose.SCATTERING), 9)
    constant = torch.zeros(1, 10)
    for sign, expected in ((1.0, 1.0), (-1.0, 0.0)):
        constant[0, 0] = sign * 0.05
        changes = Perturbation(scattering=values(0.4), scattering_shape=shape, residue=constant)
        xrd, _ = Renderer(GRID).render(batch, changes)
        height = 0.4 * scattering_profile(shape, GRID)[0, -1] * residue_profile(constant)[0, -1]
        assert float(xrd[0, -1] ** 2) == pytest.approx(expected * float(height), rel=0.02)
    many = drawn(Augmentation(scattering=(0.1, 1.0), residue=0.03, noise=(1e3, 1e4)))
    assert many.residue is not None
    assert float(residue_profile(many.residue).std()) == pytest.approx(0.03, rel=0.05)
    assert many.scattering is not None
    assert float(many.scattering.log().mean()) == pytest.approx(np.log(0.1) / 2, abs=0.05)


def test_a_lower_envelope_is_what_is_wider_than_lines() -> None:
    x = torch.from_numpy(GRID.two_theta()).float()
    line = torch.exp(-4.0 * np.log(2.0) * ((x - 40.0) / 0.5) ** 2)
    hump = 0.3 * torch.exp(-4.0 * np.log(2.0) * ((x - 60.0) / 25.0) ** 2)
    found = lower_envelope((line + hump)[None], 3.0, GRID)[0]
    # The line is not in it; the hump is, but for what its slope changes over the window.
    torch.testing.assert_close(found, hump, atol=0.025, rtol=0)
    assert float(found[(x - 40.0).abs() < 0.5].max()) < float(hump[(x - 40.0).abs() < 3].max())
    batch = make_batch(([2.9, 3.0, 3.1, 1.5], [1.0, 1.0, 1.0, 3.0]))
    width = {"caglioti_u": values(0.0), "caglioti_v": values(0.0), "caglioti_w": values(4.0)}
    plain, _ = Renderer(GRID).render(batch, Perturbation(**width, eta=values(1.0)))
    taken = Perturbation(**width, eta=values(1.0), envelope=values(1.0), envelope_width=3.0)
    left, _ = Renderer(GRID).render(batch, taken)
    assert left.max() == 1.0
    assert float((left == 0).float().mean()) > float((plain == 0).float().mean()) + 0.02
    share = drawn(Augmentation(envelope=3.0)).envelope
    assert share is not None
    assert 0.8 <= float(share.min()) < 0.81 < 1.29 < float(share.max()) <= 1.3


def test_smoothed_noise_has_a_unit_variance_and_the_widths_of_its_gaussian() -> None:
    n = 300
    key = keys(0, 0, torch.arange(n), Purpose.NOISE)
    for fwhm in (0.2, 0.48):
        noise = smooth_noise(key, torch.full((n,), fwhm), GRID).double()
        assert noise.shape == (n, GRID.n_points)
        assert float(noise.std()) == pytest.approx(1.0, rel=0.02)
        assert float(noise.std(dim=0).min()) > 0.85
        # White noise after a Gaussian of σ is correlated as exp(-d²/(4 σ²)).
        sigma = fwhm / 2.3548
        for steps in (5, 15):
            found = float((noise[:, steps:] * noise[:, :-steps]).mean())
            expected = np.exp(-((steps * GRID.step) ** 2) / (4 * sigma**2))
            assert found == pytest.approx(expected, abs=0.02)
        # No period: the two ends know nothing of each other.
        assert abs(float((noise[:, 0] * noise[:, -1]).mean())) < 0.2


def test_impurities_stay_single_lines_where_only_the_main_phase_is_textured() -> None:
    batch = add_impurity(make_batch(one(30.0)), 0, *one(60.0))
    changes = Perturbation(
        impurity=values(0.5),
        cell_strain=torch.tensor([[0.02, 0.02, -0.04]]),
        direction_keys=keys(0, 0, torch.tensor([0]), Purpose.TEXTURE),
    )
    profile = lines(batch, changes)[0]
    half = GRID.n_points // 2
    x = GRID.two_theta()
    main = float((profile * x)[:half].sum() / profile[:half].sum())
    other = float((profile * x)[half:].sum() / profile[half:].sum())
    # The only line is the plane's: it takes the third principal strain.
    assert main == pytest.approx(float(angle(one(30.0)[0][0] / 0.96)), abs=5e-3)
    assert other == pytest.approx(60.0, abs=5e-3)
