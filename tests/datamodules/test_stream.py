from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.batch import (
    ELEMENTS,
    EPOCH,
    FORMULA_KEY,
    FRACTIONS,
    IMPURITY_SLOT,
    INDEX,
    MEASURED,
    SEED,
    SYSTEM_KEY,
    TARGETS,
    WEIGHT,
    XRD,
)
from datamodules.grid import Grid
from datamodules.rendering.augmentation import Augmentation
from datamodules.rendering.peaks import PeakShape
from datamodules.store.collection import Collection
from datamodules.store.splits import SplitConfig
from datamodules.stream.batches import Batches, choose_impurities
from datamodules.stream.stream import Stream, check_world_size
from datamodules.xrd_datamodule import XRDDataModule
from tests.datamodules.patterns import EVERYTHING, HARDER
from tests.factories import make_store

N = 53
GRID = Grid(10.0, 60.0, 0.25)
PEAKS = PeakShape(0.7)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    make_store(folder, N, rows_per_shard=10)
    return folder


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Large enough for all splits."""
    folder = tmp_path_factory.mktemp("large")
    make_store(folder, 100, rows_per_shard=23)
    return folder


def make_stream(folder: Path, batch: int = 12, train: bool = True, **changes: Any) -> Stream:
    dataset = Batches(Collection([folder]), ["band_gap"], 6, seed=3)
    return Stream(dataset, np.arange(N)[::-1].copy(), batch, train=train, seed=3, **changes)


def indices(stream: Stream, n: int | None = None) -> list[list[int]]:
    iterator: Iterator[Any] = iter(stream)
    return [b[INDEX].tolist() for _, b in zip(range(n or len(stream)), iterator, strict=False)]


def flat(batches: list[list[int]]) -> list[int]:
    return [i for batch in batches for i in batch]


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_training_sees_each_row_once_over_all_ranks_but_for_the_tail(
    folder: Path, world_size: int
) -> None:
    ranks = [make_stream(folder, rank=rank, world_size=world_size) for rank in range(world_size)]
    for _ in range(2):
        seen = [flat(indices(stream)) for stream in ranks]
        assert len({len(rows) for rows in seen}) == 1
        together = flat(seen)
        assert len(together) == len(set(together)) == N // 12 * 12


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_share_the_global_batches_of_one_process(folder: Path, world_size: int) -> None:
    alone = indices(make_stream(folder))
    ranks = [indices(make_stream(folder, rank=r, world_size=world_size)) for r in range(world_size)]
    assert [flat(list(parts)) for parts in zip(*ranks, strict=True)] == alone


def test_every_row_is_in_some_epoch(folder: Path) -> None:
    stream = make_stream(folder)
    seen = set()
    for _ in range(6):
        seen |= set(flat(indices(stream)))
    assert seen == set(range(N))


def test_epochs_have_other_orders_and_seeds_too(folder: Path) -> None:
    stream = make_stream(folder)
    assert indices(stream) != indices(stream)
    other = Stream(Batches(Collection([folder]), [], 6, 4), np.arange(N), 12, train=True, seed=4)
    assert indices(make_stream(folder)) != indices(other)


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("batch", [12, 6, 60])
def test_evaluation_sees_each_row_once_in_batches_of_one_shape(
    folder: Path, world_size: int, batch: int
) -> None:
    seen = []
    for rank in range(world_size):
        stream = make_stream(folder, batch, False, rank=rank, world_size=world_size)
        batches = list(stream)
        assert len(batches) == len(stream) == -(-N // batch)
        for b in batches:
            assert b[INDEX].shape == (batch // world_size,)
            assert b[ELEMENTS].shape == (batch // world_size, 6)
            seen += b[INDEX][b[WEIGHT] > 0].tolist()
    assert sorted(seen) == list(range(N))


def test_evaluation_starts_anew_with_each_iterator(folder: Path) -> None:
    stream = make_stream(folder, 12, False)
    first = next(iter(stream))[INDEX]  # as Lightning's sanity check leaves it
    assert torch.equal(next(iter(stream))[INDEX], first)
    assert len(list(stream)) == len(stream)


@pytest.mark.parametrize("consumed", [1, 3, 4])
@pytest.mark.parametrize("worlds", [(2, 3), (1, 4), (3, 1)])
def test_a_position_fits_any_world_size(
    folder: Path, worlds: tuple[int, int], consumed: int
) -> None:
    before, after = worlds
    whole = make_stream(folder)
    expected = indices(whole) + indices(whole)
    saved = make_stream(folder, rank=before - 1, world_size=before)
    indices(saved, consumed)
    state = saved.state_dict()
    got = []
    for rank in range(after):
        stream = make_stream(folder, rank=rank, world_size=after)
        stream.load_state_dict(state)
        rest = [] if consumed == 4 else indices(stream)
        got.append(rest + indices(stream))
    together = [flat(list(parts)) for parts in zip(*got, strict=True)]
    assert together == expected[consumed:]


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(folder: Path, workers: int) -> None:
    plain, with_workers = make_stream(folder), make_stream(folder, num_workers=workers)
    for _ in range(2):
        for a, b in zip(plain, with_workers, strict=True):
            assert a.keys() == b.keys()
            assert all(torch.equal(a[key].nan_to_num(), b[key].nan_to_num()) for key in a)


def test_batches_fetched_ahead_by_workers_are_not_counted(folder: Path) -> None:
    stream = make_stream(folder, num_workers=2)
    iterator = iter(stream)
    next(iterator)
    next(iterator)
    assert stream.state_dict()["consumed"] == 24


def test_iterators_that_are_never_used_cost_nothing(folder: Path) -> None:
    stream = make_stream(folder)
    iter(stream)
    abandoned = iter(stream)
    assert stream.state_dict()["consumed"] == 0
    assert indices(stream) == indices(make_stream(folder))
    del abandoned


def test_an_epoch_cut_short_by_the_caller_is_followed_by_the_next(folder: Path) -> None:
    stream = make_stream(folder, limit=2)
    whole = make_stream(folder)
    first, second = indices(whole), indices(whole)
    assert indices(stream, 2) == first[:2]
    assert indices(stream, 2) == second[:2]


def test_the_length_is_that_of_a_whole_epoch_after_a_resume(folder: Path) -> None:
    stream = make_stream(folder)
    indices(stream, 3)
    other = make_stream(folder)
    other.load_state_dict(stream.state_dict())
    assert len(other) == 4


def test_reading_draws_nothing_from_torchs_generator(folder: Path) -> None:
    torch.manual_seed(0)
    state = torch.random.get_rng_state()
    list(make_stream(folder))
    list(make_stream(folder, num_workers=1))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_datasets_pickle_small_and_serve_the_same(folder: Path) -> None:
    dataset = Batches(Collection([folder]), ["band_gap"], 6, seed=3)
    request = (0, np.array([5, 50, 0]), 3)
    first = dataset.__getitems__(request)
    data = pickle.dumps(dataset)
    assert len(data) < 1000
    second = pickle.loads(data).__getitems__(request)
    assert all(torch.equal(first[key].nan_to_num(), second[key].nan_to_num()) for key in first)


def test_world_sizes_that_do_not_divide_the_batch_name_the_nearest() -> None:
    check_world_size(12, 3)
    with pytest.raises(ValueError, match=r"128 cannot be shared by 3 processes; .* is 129"):
        check_world_size(128, 3)
    with pytest.raises(ValueError, match="is 126"):
        check_world_size(127, 3)
    with pytest.raises(ValueError, match="is 4"):
        check_world_size(1, 4)


def test_impurities_follow_from_the_material_not_from_its_batch() -> None:
    how = Augmentation(impurity_probability=0.5)
    pool = np.arange(1000, 2000)
    rows = np.arange(400)
    slots, partners = choose_impurities(1, 2, rows, how, pool)
    assert 0.4 < len(slots) / 400 < 0.6
    assert np.isin(partners, pool).all()
    assert len(np.unique(partners)) > 150
    shuffled = np.random.default_rng(0).permutation(400)
    slots2, partners2 = choose_impurities(1, 2, rows[shuffled], how, pool)
    assert dict(zip(shuffled[slots2], partners2, strict=True)) == dict(
        zip(slots, partners, strict=True)
    )
    assert len(choose_impurities(1, 2, rows, Augmentation(), pool)[0]) == 0
    everyone = Augmentation(impurity_probability=1.0)
    assert len(choose_impurities(1, 2, rows, everyone, pool)[0]) == 400


def make_data(*folders: Path, **changes: Any) -> XRDDataModule:
    return XRDDataModule(
        [str(f) for f in folders],
        **{"grid": GRID, "peaks": PEAKS, "global_batch_size": 8, **changes},
    )


@pytest.mark.parametrize("changes", [EVERYTHING, HARDER], ids=["everything", "harder"])
def test_augmentation_does_not_depend_on_rank_or_workers(
    large: Path, changes: Augmentation
) -> None:
    how = dataclasses.replace(changes, impurity_probability=0.5)
    data = make_data(large, augmentation=how)
    train = data.rows("train")
    dataset = Batches(data.collection, [], 6, 0, (how, train))
    alone = Stream(dataset, train, 8, train=True)
    halves = [Stream(dataset, train, 8, train=True, rank=r, world_size=2) for r in range(2)]
    some_impurity = 0
    for whole, *parts in zip(alone, *halves, strict=True):
        expected = data.renderer(whole, augment=True)
        got = [data.renderer(part, augment=True) for part in parts]
        some_impurity += len(whole[IMPURITY_SLOT])
        # Not to the bit: sums over a batch's lines group differently.
        torch.testing.assert_close(
            torch.cat([g[XRD] for g in got]), expected[XRD], atol=3e-3, rtol=0
        )
        assert torch.equal(torch.cat([g[MEASURED] for g in got]), expected[MEASURED])
    assert some_impurity


def test_a_recipe_names_what_is_changed_at_random(large: Path) -> None:
    assert not make_data(large).augmentation.is_on
    assert make_data(large, augmentation=EVERYTHING).augmentation == EVERYTHING
    assert not make_data(large, augmentation=EVERYTHING, augment=False).augmentation.is_on
    with pytest.raises(ValueError, match=r"data\.augment is true, but no range"):
        make_data(large, augment=True)


def test_a_batch_has_the_promised_shapes(large: Path) -> None:
    data = make_data(large, targets=["band_gap", "density"])
    data.setup("fit")
    for loader, augment in ((data.train_dataloader(), True), (data.val_dataloader(), False)):
        batch = data.renderer(next(iter(loader)), augment=augment)
        shapes = {key: (tuple(value.shape), value.dtype) for key, value in batch.items()}
        assert shapes == {
            ELEMENTS: ((8, 12), torch.int64),
            FRACTIONS: ((8, 12), torch.float32),
            XRD: ((8, 200), torch.float32),
            MEASURED: ((8, 200), torch.bool),
            TARGETS: ((8, 2), torch.float32),
            INDEX: ((8,), torch.int64),
            WEIGHT: ((8,), torch.float32),
            FORMULA_KEY: ((8,), torch.int64),
            SYSTEM_KEY: ((8,), torch.int64),
            EPOCH: ((), torch.int64),
            SEED: ((), torch.int64),
        }
        torch.testing.assert_close(batch[FRACTIONS].sum(1), torch.ones(8))


def test_rows_carry_their_own_labels(large: Path) -> None:
    data = make_data(large, targets=["density", "band_gap"])
    store = data.collection.stores[0]
    for batch in data.train_dataloader():
        for row, (density, gap) in zip(batch[INDEX].tolist(), batch[TARGETS].tolist(), strict=True):
            material = store.material(row)
            assert material.density == pytest.approx(density)
            expected = material.targets["band_gap"]
            assert np.isnan(gap) if expected is None else gap == pytest.approx(expected)


def test_statistics_are_of_the_training_split(large: Path) -> None:
    data = make_data(large, targets=["band_gap"])
    values = data.collection.column("band_gap")[data.rows("train")]
    values = values[~np.isnan(values)].astype(float)
    found = data.target_statistics()["band_gap"]
    assert found["count"] == len(values)
    assert found["mean"] == pytest.approx(values.mean())
    assert found["std"] == pytest.approx(values.std())


def test_the_renderer_knows_which_labels_follow_a_strain(large: Path) -> None:
    data = make_data(large, targets=["density", "band_gap", "volume_per_atom"])
    assert data.renderer.strain_powers == (-3, 0, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": ["hardness"]}, r"no target 'hardness'; there are band_gap, "),
        ({"global_batch_size": 96}, r"training split has \d+ materials, fewer than .* 96"),
        ({"fraction": 0.0}, "fraction is 0"),
        ({"fraction": 1.5}, "fraction is 1.5"),
        ({"max_elements": 2}, "up to 4 elements, data.max_elements is 2"),
        ({"num_workers": -1}, "num_workers is -1"),
        ({"grid": Grid(5.0, 120.0, 0.1)}, "narrow data.grid"),
    ],
)
def test_impossible_settings_are_refused_in_one_line(
    large: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        make_data(large, **changes).check("fit")
    assert "\n" not in str(caught.value)


def test_an_empty_validation_split_is_refused_unless_nothing_validates(large: Path) -> None:
    data = make_data(large, split=SplitConfig(validation=0.0))
    with pytest.raises(ValueError, match="validation split is empty"):
        data.check("fit")
    data.check("fit", validates=False)
    with pytest.raises(ValueError, match="cannot be shared by 3"):
        data.check("fit", world_size=3, validates=False)


def test_a_missing_store_is_told_when_the_module_is_made(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such store"):
        make_data(tmp_path / "nowhere")
