from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules.batch import INDEX, WEIGHT
from datamodules.grid import Grid
from datamodules.rendering.augmentation import Augmentation
from datamodules.store.collection import Collection
from datamodules.store.splits import (
    SPLITS,
    SplitConfig,
    assign,
    keep_fraction,
    split_rows,
    spread,
    to_keys,
)
from datamodules.store.store import StoreError, formula_key
from datamodules.xrd_datamodule import XRDDataModule
from tests.factories import make_store

KEYS = np.array([formula_key(f"A{i // 3}B") for i in range(30_000)], np.uint64)


def test_every_row_is_in_exactly_one_split_of_about_the_stated_size() -> None:
    config = SplitConfig(validation=0.1, calibration=0.05, test=0.2)
    rows = assign(KEYS, config)
    assert sorted(rows) == sorted(SPLITS)
    assert np.array_equal(np.sort(np.concatenate(list(rows.values()))), np.arange(len(KEYS)))
    for name in SPLITS[1:]:
        assert len(rows[name]) / len(KEYS) == pytest.approx(getattr(config, name), abs=0.015)


def test_polymorphs_of_a_formula_stay_together() -> None:
    for rows in assign(KEYS, SplitConfig()).values():
        assert np.all(np.bincount(rows // 3)[np.unique(rows // 3)] == 3)


def test_a_rows_side_depends_neither_on_order_nor_on_size() -> None:
    order = np.random.default_rng(0).permutation(len(KEYS))[:5000]
    whole, part = assign(KEYS, SplitConfig()), assign(KEYS[order], SplitConfig())
    for name in SPLITS:
        assert set(order[part[name]]) <= set(whole[name])


def test_another_seed_gives_another_split() -> None:
    first = set(assign(KEYS, SplitConfig())["test"])
    second = set(assign(KEYS, SplitConfig(seed=1))["test"])
    assert len(first & second) < 0.3 * len(first)


def test_fractions_are_nested_and_by_formula() -> None:
    rows = assign(KEYS, SplitConfig())["train"]
    kept = {f: set(keep_fraction(rows, KEYS[rows], f, 0)) for f in (0.01, 0.1, 0.5, 1.0)}
    assert kept[0.01] < kept[0.1] < kept[0.5] < kept[1.0] == set(rows)
    for fraction, some in kept.items():
        assert len(some) / len(rows) == pytest.approx(fraction, rel=0.3)
        formulas = np.array(sorted(some)) // 3
        assert np.all(np.bincount(formulas)[np.unique(formulas)] == 3)


def test_a_fraction_touches_training_only(tmp_path: Path) -> None:
    make_store(tmp_path, 300)
    grid = Grid(10, 60, 0.05)
    whole = XRDDataModule([str(tmp_path)], grid=grid)
    tenth = XRDDataModule([str(tmp_path)], grid=grid, fraction=0.1)
    assert 0 < len(tenth.rows("train")) < 0.25 * len(whole.rows("train"))
    for name in SPLITS[1:]:
        assert np.array_equal(tenth.rows(name), whole.rows(name))


@pytest.mark.parametrize("by", ["formula", "system", "random"])
def test_splits_by_system_and_at_random(by: str, tmp_path: Path) -> None:
    make_store(tmp_path, 400)
    data = XRDDataModule([str(tmp_path)], split=SplitConfig(by=by, test=0.3))  # type: ignore[arg-type]
    test = data.rows("test")
    assert 0.15 < len(test) / 400 < 0.45
    for together in ("formula", "system"):
        keys = Collection([tmp_path]).column(f"{together}_key")
        shared = set(keys[test]) & set(keys[data.rows("train")])
        stays = {"formula": ("formula",), "system": ("formula", "system"), "random": ()}[by]
        assert bool(shared) != (together in stays) or (by == "formula" and together == "system")


def test_ids_are_hashed_as_text() -> None:
    ids = np.array(["a", "b", "a"], object)
    keys = to_keys(ids)
    assert keys.dtype == np.uint64
    assert keys[0] == keys[2] == formula_key("a")
    assert keys[0] != keys[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"validation": 0.5, "test": 0.5}, "leaves nothing for training"),
        ({"test": -0.1}, "test is -0.1"),
        ({"test": float("nan")}, "test is nan"),
        ({"by": "prototype"}, "by is 'prototype'"),
    ],
)
def test_impossible_splits_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SplitConfig(**settings)


@pytest.mark.parametrize("fraction", [0.0, -1.0, 1.1])
def test_impossible_fractions_are_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match="fraction is"):
        keep_fraction(np.arange(3), KEYS[:3], fraction, 0)


def test_the_default_grid_is_that_of_the_oracle() -> None:
    grid = Grid()
    angles = grid.two_theta()
    assert grid.n_points == 4250
    assert (angles[0], round(angles[-1], 9)) == (5.0, 89.98)
    assert grid.q()[0] == pytest.approx(grid.q_min)
    assert grid.q_min == pytest.approx(4 * np.pi * np.sin(np.radians(2.5)) / 1.54184)
    assert grid.q_max == pytest.approx(4 * np.pi * np.sin(np.radians(45)) / 1.54184)
    assert Grid(**grid.to_dict()) == grid


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"step": 0.0}, "step 0.0"),
        ({"step": 1e-9}, "points"),
        ({"step": 100.0}, "points"),
        ({"two_theta_min": 90.0}, "impossible"),
        ({"two_theta_min": 0.0}, "impossible"),
        ({"two_theta_max": 200.0}, "impossible"),
        ({"wavelength": -1.0}, "wavelength"),
        ({"wavelength": float("inf")}, "finite"),
    ],
)
def test_impossible_grids_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Grid(**settings)


def served(loader: Any) -> list[int]:
    return [
        row
        for batch in loader
        for row, weight in zip(batch[INDEX].tolist(), batch[WEIGHT].tolist(), strict=True)
        if weight
    ]


def test_a_validation_is_bounded_and_spread_over_all_stores(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 2), ("c", 3)):
        make_store(tmp_path / name, 200, seed=seed)
    split = SplitConfig(validation=0.3, calibration=0.3)

    def data(*names: str, **changes: Any) -> XRDDataModule:
        stores = [str(tmp_path / name) for name in names]
        return XRDDataModule(stores, split=split, global_batch_size=8, **changes)

    whole, bounded = data("a", "b"), data("a", "b", max_validation=40)
    rows = served(whole.val_dataloader())
    assert sorted(rows) == whole.rows("validation").tolist()
    chosen = served(bounded.val_dataloader())
    # A part of the whole, the first one, which a limit on batches takes too.
    assert 36 <= len(chosen) <= 40
    assert chosen == rows[: len(chosen)]
    assert {row // 200 for row in rows[:16]} == {0, 1}
    assert 0.25 < np.mean(np.array(chosen) < 200) < 0.75
    # Whole formulas: what lies within one can be judged.
    keys = bounded.collection.column("formula_key")
    assert not set(keys[chosen]) & set(keys[list(set(rows) - set(chosen))])
    # The same with another seed of the run, another global batch, and beside another store.
    again = data("a", "b", max_validation=40, seed=5)
    assert served(again.val_dataloader()) == chosen
    longer = served(data("a", "b", "c").val_dataloader())
    assert [row for row in longer if row < 400] == rows
    assert 36 <= len(served(bounded.calibration_dataloader())) <= 40
    # What is judged at the end is not bounded.
    assert len(served(bounded.test_dataloader())) == len(bounded.rows("test"))
    with pytest.raises(ValueError, match="max_validation is 0; give at least 1"):
        data("a", max_validation=0)


def test_a_formula_larger_than_the_bound_is_cut() -> None:
    rows, keys = np.arange(10), np.full(10, 7, np.uint64)
    assert spread(rows, keys, 0, 4).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("changes", "enough"),
    [
        ({"strain": 0.04}, True),
        ({"strain": 0.06}, False),
        ({"strain": 0.04, "zero_shift": 0.5}, False),
    ],
)
def test_changes_that_pull_an_empty_edge_into_the_window_are_refused(
    changes: dict[str, float], enough: bool, tmp_path: Path
) -> None:
    # The store ends at 6.01 Å⁻¹, the grid at 5.76.
    make_store(tmp_path, 30)
    how = Augmentation(**changes)
    if enough:
        XRDDataModule([str(tmp_path)], augmentation=how)
        return
    with pytest.raises(StoreError, match=r"an edge of the window empty; lower .* to 0\.0[34]"):
        XRDDataModule([str(tmp_path)], augmentation=how)
    with pytest.raises(StoreError, match="an edge of the window empty"):
        XRDDataModule([str(tmp_path)], views=how)
    XRDDataModule([str(tmp_path)], augmentation=how, augment=False)


def test_a_repeated_stores_training_rows_come_as_often_and_no_others(tmp_path: Path) -> None:
    first, second = make_store(tmp_path / "a", 60), make_store(tmp_path / "b", 40, seed=1)
    both = Collection([first.folder, second.folder])
    once = split_rows(both, SplitConfig())
    times = split_rows(both, SplitConfig(), repeat={str(second.folder): 3})
    for name in SPLITS:
        rows, counts = np.unique(times[name], return_counts=True)
        assert np.array_equal(rows, once[name])
        assert np.array_equal(counts, np.where((rows >= 60) & (name == "train"), 3, 1)), name
