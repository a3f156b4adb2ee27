"""Probes find what is there, and nothing where nothing is."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lightning_modules.experiments.probing.probe import recall
from lightning_modules.experiments.probing.probes import (
    Judged,
    crystal_system,
    judge,
    linear_map,
    map_2d,
)


def data(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vectors, a label that is linear in them, and classes by its sign."""
    x = np.random.default_rng(seed).normal(size=(n, 6))
    y = x @ np.array([1.0, -2.0, 0.5, 0.0, 0.0, 0.0])
    return x, y, (y > 0).astype(float)


def judged(n: int, new: int = 0) -> Judged:
    """Two materials a formula; the chemical systems of the first `new` materials are new."""
    return Judged(np.arange(n) // 2, np.arange(n) < new, np.arange(n))


def test_a_label_in_the_vector_is_found_and_noise_is_not() -> None:
    (x, y, _), (x_v, y_v, _), (x_t, y_t, _) = (data(n, i) for i, n in enumerate((400, 100, 100)))
    y_t[::10] = np.nan
    found = judge((x, y), (x_v, y_v), (x_t, y_t), judged(100), 0.001)
    there = np.isfinite(y_t)
    assert found["linear"]["error"] < 0.01
    assert found["linear"]["n"] == 90
    assert found["linear"]["rank"] > 0.99 > found["neighbours"]["rank"] > 0.5
    assert found["linear"]["error"] < found["neighbours"]["error"] < found["constant"]["error"]
    median = np.abs(y_t[there] - np.median(y)).mean()
    assert found["constant"]["error"] == pytest.approx(median)
    for probe in found.values():
        assert probe["low"] < probe["error"] < probe["high"]
    noise = np.random.default_rng(9).normal(size=(400, 6))
    blind = judge((noise, y), (x_v, y_v), (x_t, y_t), judged(100), 0.001)
    assert abs(blind["linear"]["rank"]) < 0.5
    assert blind["linear"]["error"] > 0.8 * blind["constant"]["error"]


def test_classes_are_judged_by_wrong_answers() -> None:
    (x, _, c), (x_v, _, c_v), (x_t, _, c_t) = (data(n, i) for i, n in enumerate((300, 80, 80)))
    found = judge((x, c), (x_v, c_v), (x_t, c_t), judged(80), None)
    assert found["linear"]["error"] < 0.1
    most = float(np.mean(c) > 0.5)
    assert found["constant"]["error"] == pytest.approx(np.mean(c_t != most))


def test_new_chemical_systems_and_pairs_of_one_formula_are_judged_apart() -> None:
    (x, y, _), (x_v, y_v, _), (x_t, y_t, _) = (data(n, i) for i, n in enumerate((400, 100, 100)))
    y_t = y_t.copy()
    y_t[:20] += 5.0  # what training knows nothing of
    found = judge((x, y), (x_v, y_v), (x_t, y_t), judged(100, new=20), 0.001)
    assert found["linear"]["new_system"] == pytest.approx(5.0, abs=0.05)
    assert found["linear"]["known_system"] < 0.01
    assert found["linear"]["error"] == pytest.approx(1.0, abs=0.05)
    assert found["linear"]["pairs"] == 1.0
    assert found["constant"]["pairs"] == 0.5
    alone = Judged(np.arange(100), np.zeros(100, bool), np.arange(100))
    single = judge((x, y), (x_v, y_v), (x_t, y_t), alone, 0.001)
    assert "pairs" not in single["linear"]
    assert "new_system" not in single["linear"]


def test_the_test_split_chooses_nothing() -> None:
    rng = np.random.default_rng(0)
    x, x_v, x_t = (rng.normal(size=(n, 2)) for n in (300, 100, 100))
    # Noise: validation asks for many neighbours. The test's labels are what three would predict.
    y, y_v = rng.normal(size=300), rng.normal(size=100)
    few = make_pipeline(StandardScaler(), KNeighborsRegressor(3, weights="distance")).fit(x, y)
    found = judge((x, y), (x_v, y_v), (x_t, few.predict(x_t)), judged(100), 0.001)
    assert found["neighbours"]["error"] > 0.1


def test_crystal_systems_begin_at_their_first_space_group() -> None:
    groups = np.array([1, 2, 3, 15, 16, 74, 75, 142, 143, 167, 168, 194, 195, 230])
    np.testing.assert_array_equal(crystal_system(groups), np.repeat(np.arange(7.0), 2))
    assert np.isnan(crystal_system(np.array([np.nan, 0.0]))).all()


def test_recall_counts_materials_of_the_same_formula_as_found() -> None:
    first = torch.eye(4)
    second = torch.eye(4)[[1, 0, 2, 3]]  # 0 and 1 are mixed up
    different = recall(first, second, np.arange(4))
    assert different["composition_to_xrd/recall_at_1"] == 0.5
    assert different["xrd_to_composition/recall_at_5"] == 1.0
    assert different["pool_size"] == 4
    assert recall(first, second, np.array([7, 7, 8, 9]))["composition_to_xrd/recall_at_1"] == 1.0


def test_a_linear_map_brings_the_modalities_together() -> None:
    rng = np.random.default_rng(0)
    source, mixing = rng.normal(size=(300, 5)), rng.normal(size=(5, 8))
    target = source @ mixing
    mapped, true = linear_map((source[:250], target[:250]), (source[250:], target[250:]))
    assert (np.argmax(mapped @ true.T, axis=1) == np.arange(50)).mean() > 0.9
    np.testing.assert_allclose(np.linalg.norm(mapped, axis=1), 1.0)


def test_a_map_keeps_neighbours_together() -> None:
    rng = np.random.default_rng(0)
    centres = 20 * rng.normal(size=(3, 10))
    vectors = np.concatenate([c + rng.normal(size=(20, 10)) for c in centres])
    placed = map_2d(vectors)
    group = np.repeat(np.arange(3), 20)
    distance = np.linalg.norm(placed[:, None] - placed, axis=2) + 1e9 * np.eye(60)
    assert (group[distance.argmin(axis=1)] == group).all()
