"""Patterns against plain NumPy formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from datamodules.batch import (
    EPOCH,
    IMPURITY_PROFILE,
    INDEX,
    LINE_INTENSITY,
    LINE_OFFSETS,
    LINE_Q,
    MEASURED,
    PROFILE,
    SEED,
    XRD,
)
from datamodules.grid import Grid
from datamodules.radiation import lorentz_polarization
from datamodules.rendering.augmentation import Perturbation
from datamodules.rendering.peaks import (
    PeakShape,
)
from datamodules.rendering.renderer import Renderer
from tests.datamodules.patterns import (
    EVERYTHING,
    GRID,
    WAVELENGTH,
    add_impurity,
    expected_rows,
    lines,
    lp,
    make_batch,
    moments,
    one,
    random_batch,
)


@pytest.mark.parametrize(
    ("shape", "tolerance"),
    [
        ({"fwhm": 0.1}, 1e-4),
        ({"fwhm": 0.3}, 1e-4),
        ({"fwhm": 0.1, "eta": 0.5}, 1e-3),
        ({"fwhm": 0.2, "eta": 1.0}, 1e-3),
        ({"fwhm": 0.1, "polarization": 0.0}, 1e-4),
        ({"fwhm": 0.1, "polarization": 0.8}, 1e-4),
    ],
)
def test_a_pattern_is_the_sum_of_its_peaks(shape: dict[str, float], tolerance: float) -> None:
    batch = random_batch()
    expected = expected_rows(
        batch, shape["fwhm"], shape.get("eta", 0), shape.get("polarization", 1)
    )
    error = abs(lines(batch, **shape) - expected).max(axis=1)
    assert np.all(error < tolerance * expected.max(axis=1))


def test_every_line_has_the_area_of_its_intensity_and_lp_factor() -> None:
    for position in (5.5, 20.0, 45.003, 89.0):
        area, centre = moments(lines(make_batch(one(position, 3.0)))[0])
        assert area == pytest.approx(3.0 * lp(position), rel=1e-3)
        assert centre == pytest.approx(position, abs=1e-3)


def test_lorentz_polarization_at_angles_known_by_hand() -> None:
    sine = torch.sin(torch.deg2rad(torch.tensor([45.0, 30.0], dtype=torch.float64)))
    root2, root3 = np.sqrt(2), np.sqrt(3)
    np.testing.assert_allclose(lorentz_polarization(sine), [root2, 1.25 / (0.5 * root3 / 2)])
    np.testing.assert_allclose(lorentz_polarization(sine, 0.0), [2 * root2, 1 / (0.25 * root3 / 2)])


def test_the_model_sees_the_square_root_with_maximum_one() -> None:
    batch = random_batch()
    xrd, measured = Renderer(GRID).render(batch, Perturbation())
    expected = expected_rows(batch)
    expected = np.sqrt(expected / expected.max(axis=1, keepdims=True))
    assert xrd.shape == measured.shape == (6, 4250)
    assert xrd.dtype == torch.float32
    assert measured.all()
    assert abs(xrd.numpy() - expected).max() < 2e-3
    torch.testing.assert_close(xrd.amax(dim=1), torch.ones(6))


def test_lines_outside_the_window_do_not_scale_it() -> None:
    inside, outside = one(40.0), one(92.0, 1000.0)
    both = make_batch((inside[0] + outside[0], inside[1] + outside[1]), inside)
    xrd, _ = Renderer(GRID).render(both, Perturbation())
    # The transform rounds by some 1e-8 of the strongest line, which is a thousand times higher.
    torch.testing.assert_close(xrd[0] ** 2, xrd[1] ** 2, atol=3e-5, rtol=0)


def test_lines_that_no_angle_reaches_are_left_out() -> None:
    impossible = 4 * np.pi / WAVELENGTH * 1.01
    inside = one(40.0)
    batch = make_batch(([*inside[0], impossible], [*inside[1], 1.0]), inside)
    xrd, _ = Renderer(GRID).render(batch, Perturbation())
    assert torch.isfinite(xrd).all()
    torch.testing.assert_close(xrd[0], xrd[1])


def test_a_row_without_lines_in_the_window_is_zero_not_nan() -> None:
    xrd, _ = Renderer(GRID).render(make_batch(one(93.0), ([], []), one(40.0)), Perturbation())
    assert torch.isfinite(xrd).all()
    assert not xrd[1].any()


def test_rows_do_not_touch_each_other() -> None:
    batch = random_batch(4)
    together = lines(batch)
    bounds = batch[LINE_OFFSETS].tolist()
    for row in range(4):
        part = slice(bounds[row], bounds[row + 1])
        alone = make_batch((batch[LINE_Q][part].tolist(), batch[LINE_INTENSITY][part].tolist()))
        np.testing.assert_allclose(together[row], lines(alone)[0], atol=2e-6 * together.max())


def test_inputs_are_not_changed() -> None:
    batch = random_batch()
    copy = {key: value.clone() for key, value in batch.items()}
    renderer = Renderer(GRID)
    rendered = renderer(batch, augment=True)
    assert all(torch.equal(batch[key], copy[key]) for key in copy)
    assert set(rendered) == {INDEX, SEED, EPOCH, XRD, MEASURED}


def test_a_dense_store_gives_the_same_pattern_as_its_lines() -> None:
    batch = random_batch()
    expected, _ = Renderer(GRID).render(batch, Perturbation())
    dense = expected_rows(batch)
    dense = (dense / dense.max(axis=1, keepdims=True)).astype(np.float16)
    got, measured = Renderer(GRID).render(
        {PROFILE: torch.from_numpy(dense), INDEX: batch[INDEX]}, Perturbation()
    )
    assert measured.all()
    # float16 keeps three digits; the square root of the smallest ones shows it.
    torch.testing.assert_close(got, expected, atol=3e-3, rtol=0)


def test_lines_and_dense_profiles_mix_in_one_batch() -> None:
    batch = random_batch(2)
    alone, _ = Renderer(GRID).render(batch, Perturbation())
    dense = torch.full((2, GRID.n_points), torch.nan, dtype=torch.float16)
    dense[1, 50:] = torch.linspace(0, 1, GRID.n_points - 50).half()
    xrd, measured = Renderer(GRID).render({**batch, PROFILE: dense}, Perturbation())
    torch.testing.assert_close(xrd[0], alone[0])
    assert measured[0].all()
    assert measured[1].tolist() == [False] * 50 + [True] * (GRID.n_points - 50)
    torch.testing.assert_close(xrd[1, 50:] ** 2, dense[1, 50:].float(), atol=1e-3, rtol=0)


def test_negative_and_unmeasured_dense_points_become_zero() -> None:
    dense = torch.ones(1, GRID.n_points, dtype=torch.float16)
    dense[0, 7] = -3.0
    dense[0, 9] = torch.nan
    xrd, measured = Renderer(GRID).render({PROFILE: dense, INDEX: torch.arange(1)}, Perturbation())
    assert xrd[0, 7] == 0
    assert measured[0, 7]
    assert xrd[0, 9] == 0
    assert not measured[0, 9]


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"fwhm": 0.0}, "fwhm"), ({"eta": 2.0}, "eta"), ({"polarization": -1.0}, "polarization")],
)
def test_impossible_peaks_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PeakShape(**settings)


def test_peaks_finer_than_the_grid_warn_and_are_widened() -> None:
    with pytest.warns(UserWarning, match="not resolved"):
        renderer = Renderer(Grid(step=0.1), PeakShape(0.1))
    assert renderer.shape.fwhm == pytest.approx(0.25)


@pytest.mark.parametrize("augment", [False, True])
def test_rendering_never_reads_a_value_back_from_the_device(augment: bool) -> None:
    # Tensors of the meta device have no values: whatever waits for one (on a GPU: for the device)
    # raises. Tables are made on the batch's device, too.
    batch = add_impurity(random_batch(), 2, *one(33.0))
    batch[PROFILE] = torch.zeros(6, GRID.n_points, dtype=torch.float16)
    batch[IMPURITY_PROFILE] = torch.zeros(1, GRID.n_points, dtype=torch.float16)
    on_meta = {key: value.to("meta") for key, value in batch.items()}
    rendered = Renderer(GRID, augmentation=EVERYTHING)(on_meta, augment=augment)
    assert rendered[XRD].device.type == rendered[MEASURED].device.type == "meta"
    assert rendered[XRD].shape == (6, GRID.n_points)
