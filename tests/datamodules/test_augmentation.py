"""Every augmentation on its own, against its formula."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.batch import (
    EPOCH,
    IMPURITY_PROFILE,
    IMPURITY_SLOT,
    INDEX,
    LINE_Q,
    PROFILE,
    SEED,
    TARGETS,
    XRD,
)
from datamodules.randomness import Purpose, keys, normal
from datamodules.rendering.augmentation import N_BACKGROUND, Augmentation, Perturbation, draw
from datamodules.rendering.peaks import (
    KA1_RATIO,
    KA2_RATIO,
    PeakShape,
    background_profile,
)
from datamodules.rendering.renderer import Renderer
from tests.datamodules.patterns import (
    GRID,
    HARDER,
    WAVELENGTH,
    add_impurity,
    angle,
    expected_rows,
    lines,
    lp,
    make_batch,
    measured_fwhm,
    moments,
    one,
    peak,
    random_batch,
    values,
)


def test_strain_stretches_lattice_spacings() -> None:
    q, intensity = one(60.0)
    profile = lines(make_batch((q, intensity)), Perturbation(strain=values(0.01)))[0]
    assert moments(profile)[1] == pytest.approx(angle(q[0] / 1.01), abs=2e-3)


def test_zero_shift_moves_all_lines_alike_and_keeps_their_areas() -> None:
    changes = Perturbation(zero_shift=values(0.07, -0.05))
    profile = lines(make_batch(one(20.0), one(70.0)), changes)
    for row, (position, shift) in enumerate([(20.0, 0.07), (70.0, -0.05)]):
        area, centre = moments(profile[row])
        assert centre == pytest.approx(position + shift, abs=1e-3)
        assert area == pytest.approx(lp(position), rel=1e-3)


def test_displacement_moves_lines_by_minus_two_s_over_r_cos_theta() -> None:
    changes = Perturbation(displacement=values(0.002, 0.002))
    profile = lines(make_batch(one(20.0), one(80.0)), changes)
    for row, position in enumerate([20.0, 80.0]):
        shift = -np.degrees(2 * 0.002 * np.cos(np.radians(position / 2)))
        assert moments(profile[row])[1] == pytest.approx(position + shift, abs=1e-3)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("position", [12.0, 45.0, 85.0])
def test_widths_follow_caglioti_and_scherrer(position: float, eta: float) -> None:
    u, v, w, size = 0.03, -0.02, 0.02, 400.0
    changes = Perturbation(
        caglioti_u=values(u),
        caglioti_v=values(v),
        caglioti_w=values(w),
        crystallite_size=values(size),
        eta=values(eta),
    )
    theta = np.radians(position / 2)
    scherrer = np.degrees(0.9 * WAVELENGTH / (size * np.cos(theta)))
    fwhm = np.sqrt(u * np.tan(theta) ** 2 + v * np.tan(theta) + w + scherrer**2)
    profile = lines(make_batch(one(position)), changes)[0]
    assert measured_fwhm(profile) == pytest.approx(fwhm, rel=0.03)
    expected = lp(position) * peak(GRID.two_theta(), position, fwhm, eta)
    assert abs(profile - expected).max() < 0.03 * expected.max()


def test_a_doublet_is_two_lines_two_to_one() -> None:
    assert pytest.approx(1.0) == (2 * KA1_RATIO + KA2_RATIO) / 3
    batch = make_batch(one(80.0), one(80.0))
    profile = lines(batch, Perturbation(doublet=torch.tensor([True, False])))
    q = float(batch[LINE_Q][0])
    first, second = (angle(q, WAVELENGTH * ratio) for ratio in (KA1_RATIO, KA2_RATIO))
    assert second - first > 0.2
    x = GRID.two_theta()
    expected = lp(80.0) * (2 * peak(x, first, 0.1, 0) + peak(x, second, 0.1, 0)) / 3
    assert abs(profile[0] - expected).max() < 2e-3 * expected.max()
    assert moments(profile[0])[1] == pytest.approx(80.0, abs=2e-3)
    np.testing.assert_allclose(profile[1], lines(make_batch(one(80.0)))[0], atol=1e-5)


def test_line_jitter_is_log_normal_with_mean_one() -> None:
    n = 4000
    batch = make_batch(([3.0] * n, [1.0] * n))
    base = lines(batch)[0].sum()
    row_keys = keys(0, 0, torch.tensor([7]), Purpose.LINE_JITTER)
    changes = Perturbation(line_jitter=0.3, line_keys=row_keys)
    assert lines(batch, changes)[0].sum() / base == pytest.approx(1.0, abs=0.02)
    # Line by line it is the number of this material and line.
    single = make_batch(one(40.0))
    factor = lines(single, changes)[0].sum() / lines(single)[0].sum()
    number = float(normal(row_keys, 1)[0, 0])
    assert factor == pytest.approx(np.exp(0.3 * number - 0.045), rel=1e-4)


def test_overall_b_damps_by_the_debye_waller_factor() -> None:
    changes = Perturbation(debye_waller=values(1.5))
    for position in (20.0, 80.0):
        batch = make_batch(one(position))
        s = np.sin(np.radians(position / 2)) / WAVELENGTH
        ratio = lines(batch, changes)[0].sum() / lines(batch)[0].sum()
        assert ratio == pytest.approx(np.exp(-2 * 1.5 * s**2), rel=1e-4)


def test_an_impurity_has_its_share_of_the_summed_intensity() -> None:
    (q1, i1), (q2, i2) = one(30.0), one(60.0, 17.0)
    outside, _ = one(94.0)
    batch = add_impurity(make_batch((q1, i1), (q1, i1)), 1, q2 + outside, [*i2, 100.0])
    profile = lines(batch, Perturbation(impurity=values(0.2, 0.2)))
    half = GRID.n_points // 2
    assert profile[0, half:].sum() < 1e-4 * profile[0].sum()
    share = profile[1, half:].sum() / profile[1].sum()
    assert share == pytest.approx(0.2, rel=1e-3)
    np.testing.assert_allclose(profile[1, :half], profile[0, :half], atol=1e-5 * profile.max())


def test_dense_impurities_have_their_share_over_the_measured_points() -> None:
    rng = np.random.default_rng(0)
    dense = torch.from_numpy(rng.uniform(0, 1, (2, GRID.n_points)).astype(np.float16))
    dense[:, :100] = torch.nan
    extra = torch.from_numpy(rng.uniform(0, 5, (1, GRID.n_points)).astype(np.float16))
    batch = {
        PROFILE: dense,
        INDEX: torch.arange(2),
        IMPURITY_SLOT: torch.tensor([1]),
        IMPURITY_PROFILE: extra,
    }
    xrd, _ = Renderer(GRID).render(batch, Perturbation(impurity=values(0.3, 0.3)))
    main, other = dense[1, 100:].double(), extra[0, 100:].double()
    expected = main / main.sum() * 0.7 + other / other.sum() * 0.3
    torch.testing.assert_close(
        xrd[1, 100:].double() ** 2, expected / expected.max(), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(
        xrd[0, 100:].double() ** 2,
        dense[0, 100:].double() / dense[0, 100:].max(),
        atol=1e-5,
        rtol=0,
    )


def test_a_background_is_chebyshev_polynomials_scaled_to_its_height() -> None:
    x = np.linspace(-1, 1, 4250)
    coefficients = np.array([[0.3, -1.0, 0.5, 0.2]])
    assert coefficients.shape[1] == N_BACKGROUND
    curve = np.polynomial.chebyshev.chebval(x, coefficients[0])
    curve = (curve - curve.min()) / (curve.max() - curve.min())
    got = background_profile(torch.tensor(coefficients), torch.tensor(x))
    np.testing.assert_allclose(got[0], curve, atol=1e-6)
    batch = make_batch(one(40.0))
    changes = Perturbation(
        background=values(0.04), background_shape=torch.tensor(coefficients, dtype=torch.float32)
    )
    xrd, _ = Renderer(GRID).render(batch, changes)
    plain = expected_rows(batch)[0]
    expected = plain / plain.max() + 0.04 * curve
    assert abs(xrd[0].numpy() ** 2 - expected / expected.max()).max() < 1e-3


def test_noise_is_that_of_counting() -> None:
    batch = make_batch(one(40.0), one(40.0))
    counts = 1e4
    row_keys = keys(0, 0, torch.tensor([3, 4]), Purpose.NOISE)
    noisy, _ = Renderer(GRID).render(
        batch, Perturbation(noise=values(counts, counts), noise_keys=row_keys)
    )
    clean, _ = Renderer(GRID).render(batch, Perturbation())
    number = normal(row_keys, GRID.n_points)
    intensity = clean**2
    expected = (intensity + torch.sqrt(intensity / counts) * number).clamp(min=0)
    expected = torch.sqrt(expected / expected.amax(dim=1, keepdim=True))
    torch.testing.assert_close(noisy, expected, atol=1e-4, rtol=0)
    assert not torch.equal(noisy[0], noisy[1])


def test_a_window_marks_what_it_cuts_and_scales_by_the_rest() -> None:
    (q1, _), (q2, _) = one(6.0), one(40.0)
    batch = make_batch((q1 + q2, [1.0, 0.01]))
    changes = Perturbation(window=torch.tensor([[2.0, 3.0]]))
    xrd, measured = Renderer(GRID).render(batch, changes)
    x = torch.from_numpy(GRID.two_theta())
    expected = (x >= 7.0 - 1e-6) & (x <= 89.98 - 3.0 + 1e-6)
    assert torch.equal(measured[0], expected)
    assert not xrd[0, ~measured[0]].any()
    assert xrd.max() == 1.0
    assert abs(float(x[xrd[0].argmax()]) - 40.0) < 0.02


def test_everything_off_is_the_plain_pattern() -> None:
    batch = random_batch()
    renderer = Renderer(GRID, augmentation=Augmentation())
    plain = renderer(batch, augment=False)
    for key, value in renderer(batch, augment=True).items():
        assert torch.equal(value, plain[key])


#: Settings that change nothing by themselves.
NEEDED = {"residue": "scattering", "scattering": "noise", "noise_width": "noise"}


@pytest.mark.parametrize("name", [f.name for f in dataclasses.fields(Augmentation)])
def test_every_augmentation_can_be_switched_on_alone(name: str) -> None:
    on = {name: getattr(HARDER, name)}
    if name.startswith("impurit"):
        on |= {"impurity": 0.3, "impurity_probability": 1.0}
    for needing, needed in NEEDED.items():
        if name == needing:
            on[needed] = getattr(HARDER, needed)
    batch = random_batch()
    batch = add_impurity(batch, 2, *one(33.0))
    how = Augmentation(**on)
    # Broad enough to overlap: an envelope lies under overlapping lines alone.
    broad = PeakShape(1.0)
    got = Renderer(GRID, broad, how)(batch, augment=True)
    plain = Renderer(GRID, broad)(batch, augment=False)
    assert torch.isfinite(got[XRD]).all()
    changed = (got[XRD] - plain[XRD]).abs().amax(dim=1) > 1e-3
    assert changed.sum() >= (1 if name.startswith("impurit") else 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strain": -0.1}, "strain is -0.1; give 0 or more"),
        ({"strain": 0.6}, "share below 0.5"),
        ({"noise": (0.0, 10.0)}, "starts above 0"),
        ({"eta": (0.0, 1.2)}, "between 0 and 1"),
        ({"caglioti_u": (0.2, 0.1)}, "range"),
        ({"caglioti_w": (-0.2, 0.1)}, "0 or more"),
        ({"doublet": 1.5}, "probability"),
        ({"window": float("nan")}, "finite"),
        ({"strain_mean": -0.6}, "share below 0.5"),
        ({"impurities": 0}, "whole number from 1 to 8"),
        ({"impurities": 1.5}, "whole number from 1 to 8"),
        ({"impurity_share": (0.1, 0.95)}, "at most 0.9"),
        ({"impurity_share": (0.0, 0.5)}, "starts above 0"),
        ({"noise_width": (0.2, 0.5)}, "changes nothing without noise"),
        ({"envelope": 0.5}, "at least 1.0°"),
        ({"residue": 0.1}, "changes nothing without scattering"),
        ({"scattering": (0.1, 0.5)}, "changes nothing without noise or residue"),
        ({"noise": (1e3, 1e4), "noise_width": (0.05, 0.5)}, "at least 0.2° wide"),
    ],
)
def test_impossible_ranges_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Augmentation(**settings)


def test_labels_of_the_cell_follow_its_strain() -> None:
    batch = random_batch()
    n = len(batch[INDEX])
    batch[TARGETS] = torch.tensor([10.0, 4.0, -1.0]).repeat(n, 1)
    batch[TARGETS][0, 0] = torch.nan
    how = Augmentation(strain=0.02)
    renderer = Renderer(GRID, augmentation=how, strain_powers=(3, -3, 0))
    volume, density, energy = renderer(batch, augment=True)[TARGETS].unbind(1)
    strain = draw(how, batch[SEED], batch[EPOCH], batch[INDEX]).strain
    assert strain is not None
    torch.testing.assert_close(volume[1:], 10.0 * (1 + strain[1:]) ** 3)
    torch.testing.assert_close(density, 4.0 / (1 + strain) ** 3)
    assert volume[0].isnan()
    assert (energy == -1.0).all()
    assert torch.equal(renderer(batch, augment=False)[TARGETS][1:], batch[TARGETS][1:])


def test_a_profile_is_not_strained_nor_is_its_label() -> None:
    batch = random_batch()
    n = len(batch[INDEX])
    batch[PROFILE] = torch.full((n, GRID.n_points), torch.nan, dtype=torch.float16)
    batch[PROFILE][1] = 1.0
    batch[TARGETS] = torch.full((n, 1), 10.0)
    how = Augmentation(strain=0.02)
    volume = Renderer(GRID, augmentation=how, strain_powers=(3,))(batch, augment=True)[TARGETS]
    assert volume[1, 0] == 10.0
    assert (volume[[0, 2], 0] != 10.0).all()
