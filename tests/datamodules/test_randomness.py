import numpy as np
import pytest
import torch

from datamodules.randomness import (
    Purpose,
    hash_uint64,
    keys,
    normal,
    permutation,
    step_seed,
    to_unit_interval,
    uniform,
)


@pytest.mark.parametrize("seed", [0, 7, 2**31, 2**63 + 5, -3])
@pytest.mark.parametrize("epoch", [0, 12])
def test_torch_hash_equals_the_numpy_reference_to_the_bit(seed: int, epoch: int) -> None:
    index = np.concatenate([np.arange(100), [2**40, 2**62]])
    expected = hash_uint64(seed, epoch, int(Purpose.MASK), index)
    got = keys(seed, epoch, torch.from_numpy(index), Purpose.MASK)
    assert np.array_equal(got.numpy().view(np.uint64), expected)


def test_seed_and_epoch_may_be_tensors() -> None:
    index = torch.arange(10)
    as_tensors = keys(torch.tensor(3), torch.tensor(4), index, Purpose.SCALE)
    assert torch.equal(as_tensors, keys(3, 4, index, Purpose.SCALE))


def test_uniform_equals_its_definition_in_numpy() -> None:
    key = keys(1, 2, torch.arange(50), Purpose.MASK)
    counter = np.arange(1, 5, dtype=np.uint64)
    golden = np.uint64(0x9E3779B97F4A7C15)
    state = key.numpy().view(np.uint64)[:, None] + counter * golden
    # SplitMix64's output function, written out once more.
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    state ^= state >> np.uint64(31)
    high, low = state >> np.uint64(40), state & np.uint64(0xFFFFFF)
    expected = np.stack([high, low], -1).reshape(50, 8).astype(np.float32) / np.float32(2**24)
    assert np.array_equal(uniform(key, 8).numpy(), expected)


def test_first_numbers_do_not_depend_on_how_many_are_drawn() -> None:
    key = keys(1, 2, torch.arange(5), Purpose.MASK)
    assert torch.equal(uniform(key, 3), uniform(key, 10)[:, :3])
    assert torch.equal(normal(key, 3), normal(key, 10)[:, :3])


def test_a_row_gets_the_same_numbers_in_any_batch() -> None:
    alone = uniform(keys(5, 1, torch.tensor([42]), Purpose.NOISE), 7)
    among = uniform(keys(5, 1, torch.tensor([3, 42, 9]), Purpose.NOISE), 7)
    assert torch.equal(alone[0], among[1])


@pytest.mark.parametrize("other", [(1, 0, Purpose.MASK), (0, 1, Purpose.MASK), (0, 0, 20)])
def test_seed_epoch_and_purpose_give_other_numbers(other: tuple[int, int, int]) -> None:
    index = torch.arange(2000)
    first = uniform(keys(0, 0, index, Purpose.MASK), 1)[:, 0]
    second = uniform(keys(other[0], other[1], index, other[2]), 1)[:, 0]
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.07


def test_uniform_and_normal_have_their_moments() -> None:
    key = keys(0, 0, torch.arange(400), Purpose.NOISE)
    flat, bell = uniform(key, 500), normal(key, 501)
    assert flat.min() >= 0.0
    assert flat.max() < 1.0
    assert abs(flat.mean() - 0.5) < 0.003
    assert abs(flat.std() - 12**-0.5) < 0.003
    assert abs(bell.mean()) < 0.01
    assert abs(bell.std() - 1.0) < 0.01
    assert abs((bell**4).mean() - 3.0) < 0.1
    assert abs(np.corrcoef(bell[:, 0], bell[:, 1])[0, 1]) < 0.15


def test_permutation_holds_each_row_once_and_differs_between_epochs() -> None:
    first, second = permutation(3, 0, 1000), permutation(3, 1, 1000)
    assert np.array_equal(np.sort(first), np.arange(1000))
    assert np.array_equal(np.sort(second), np.arange(1000))
    assert (first == second).sum() < 20
    assert np.array_equal(first, permutation(3, 0, 1000))


def test_permutation_is_pinned_so_that_old_runs_can_be_repeated() -> None:
    assert permutation(0, 0, 8).tolist() == [2, 1, 5, 6, 3, 4, 0, 7]


def test_step_seeds_are_valid_for_torch_and_differ() -> None:
    seeds = {step_seed(0, step, rank) for step in range(20) for rank in range(3)}
    assert len(seeds) == 60
    for seed in seeds:
        torch.Generator().manual_seed(seed)


def test_unit_interval_is_uniform() -> None:
    values = to_unit_interval(hash_uint64(1, np.arange(100_000, dtype=np.uint64)))
    counts, _ = np.histogram(values, 10, (0.0, 1.0))
    assert abs(counts - 10_000).max() < 500
