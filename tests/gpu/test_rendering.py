"""A GPU draws the patterns that the CPU draws, without being waited for."""

import dataclasses

import pytest
import torch

from datamodules import batch as keys
from datamodules.batch import Batch
from datamodules.randomness import keys as random_keys
from datamodules.randomness import uniform
from datamodules.rendering.augmentation import Augmentation
from datamodules.rendering.peaks import PeakShape
from datamodules.rendering.renderer import Renderer
from tests.datamodules.patterns import EVERYTHING, GRID, HARDER, add_impurity, one, random_batch
from tests.gpu.conftest import no_waiting

pytestmark = pytest.mark.gpu

PLAIN = Augmentation()
NOISELESS = dataclasses.replace(EVERYTHING, noise=(0.0, 0.0))
HARDER_NOISELESS = dataclasses.replace(HARDER, noise=(0.0, 0.0), noise_width=(0.0, 0.0))


def ragged_batch(n_rows: int = 32, seed: int = 0) -> Batch:
    batch = add_impurity(random_batch(n_rows, seed), 2, *one(33.0))
    batch[keys.TARGETS] = torch.ones(n_rows, 1)
    return batch


def on(device: torch.device, batch: Batch) -> Batch:
    return {key: value.to(device) for key, value in batch.items()}


def renderer(how: Augmentation) -> Renderer:
    return Renderer(GRID, PeakShape(0.1), how, strain_powers=(3,), views=how)


@pytest.mark.parametrize(
    "how",
    [PLAIN, NOISELESS, EVERYTHING, HARDER_NOISELESS, HARDER],
    ids=["plain", "noiseless", "all", "harder noiseless", "harder"],
)
def test_intensities_equal_the_cpus_to_1e_5(device: torch.device, how: Augmentation) -> None:
    batch = ragged_batch()
    expected = renderer(how)(batch, augment=True)
    got = renderer(how)(on(device, batch), augment=True)
    assert got.keys() == expected.keys()
    assert got[keys.XRD].device.type == device.type
    for name in {keys.XRD, keys.VIEW} & expected.keys():
        # The model reads the root, whose slope at 0 is endless: intensities are compared.
        error = (got[name].cpu().square() - expected[name].square()).abs()
        if how.noise[1]:
            # Noise where there is next to nothing is the root of a rounding error.
            assert error.max() < 2e-3
            assert (error > 1e-5).float().mean() < 2e-3
        else:
            assert error.max() < 1e-5
    torch.testing.assert_close(got[keys.TARGETS].cpu(), expected[keys.TARGETS])
    for name in {keys.MEASURED, keys.VIEW_MEASURED} & expected.keys():
        assert (got[name].cpu() != expected[name]).float().mean() < 1e-4


def test_random_numbers_equal_the_cpus_to_the_bit(device: torch.device) -> None:
    index = torch.arange(1000) << 31
    expected = uniform(random_keys(3, 2, index, 7), 5)
    assert torch.equal(uniform(random_keys(3, 2, index.to(device), 7), 5).cpu(), expected)


def test_a_deterministic_run_draws_the_same_bits_again(device: torch.device) -> None:
    torch.use_deterministic_algorithms(True)
    batch = on(device, ragged_batch())
    first, again = (renderer(EVERYTHING)(batch, augment=True) for _ in range(2))
    for name in first:
        assert torch.equal(first[name], again[name]), name


@pytest.mark.parametrize("how", [PLAIN, EVERYTHING, HARDER], ids=["plain", "all", "harder"])
def test_rendering_waits_for_nothing(device: torch.device, how: Augmentation) -> None:
    render, batch = renderer(how), on(device, ragged_batch())
    render(batch, augment=True)  # its tables are copied once
    with no_waiting(device):
        render(batch, augment=True)


def test_ragged_batches_share_the_plans_of_their_transforms(device: torch.device) -> None:
    render = renderer(EVERYTHING)
    shapes = set()
    fft, inverse = torch.fft.rfft, torch.fft.irfft

    def spy(x: torch.Tensor, *more: int) -> torch.Tensor:
        shapes.add(x.shape)
        return (inverse if x.is_complex() else fft)(x, *more)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch.fft, "rfft", spy)
        patched.setattr(torch.fft, "irfft", spy)
        for seed in range(10):
            batch = on(device, ragged_batch(seed=seed))
            render(batch, augment=True)
            if device.type == "cuda":
                plans = torch.backends.cuda.cufft_plan_cache[torch.cuda.current_device()].size
                assert plans <= 4
    assert len(shapes) == 2
