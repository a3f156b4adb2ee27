"""Rendered batches for tests of backbone and tasks, without a store."""

import torch
from torch import Tensor

from datamodules import batch as keys
from datamodules.batch import Batch
from datamodules.grid import Grid

#: 40 patches of 10 points: small enough to train in a test.
GRID = Grid(two_theta_min=10.0, two_theta_max=50.0, step=0.1)


def make_batch(
    n: int = 8, seed: int = 0, grid: Grid = GRID, unmeasured_after: float = 180.0
) -> Batch:
    """Patterns of a few Gaussian peaks whose positions follow from the composition.

    Args:
        n: Materials.
        seed: Another seed gives other materials.
        grid: The 2θ grid.
        unmeasured_after: 2θ (degrees) from which the second half of the batch is not measured.
    """
    generator = torch.Generator().manual_seed(seed)
    elements = torch.zeros(n, 6, dtype=torch.long)
    fractions = torch.zeros(n, 6)
    for row in range(n):
        k = int(torch.randint(1, 4, (1,), generator=generator))
        elements[row, :k] = (torch.randperm(60, generator=generator)[:k] + 1).sort().values
        shares = torch.rand(k, generator=generator) + 0.1
        fractions[row, :k] = shares / shares.sum()
    two_theta = torch.from_numpy(grid.two_theta()).float()
    mean_z = (elements * fractions).sum(dim=1)
    span = grid.two_theta_max - grid.two_theta_min
    first = grid.two_theta_min + (mean_z % 7) / 7 * 0.2 * span
    peaks = first[:, None] + torch.arange(5) * span * 0.17
    xrd = torch.exp(-0.5 * ((two_theta - peaks[:, :, None]) / 0.3) ** 2).sum(dim=1)
    xrd = (xrd / xrd.amax(dim=1, keepdim=True)).sqrt()
    measured = torch.ones(n, grid.n_points, dtype=torch.bool)
    measured[n // 2 :] = two_theta < unmeasured_after
    return {
        keys.ELEMENTS: elements,
        keys.FRACTIONS: fractions,
        keys.XRD: xrd.masked_fill(~measured, 0.0),
        keys.MEASURED: measured,
        keys.TARGETS: torch.zeros(n, 0),
        keys.INDEX: torch.arange(n),
        # Neighbours share a formula, four a chemical system.
        keys.FORMULA_KEY: torch.arange(n) // 2,
        keys.SYSTEM_KEY: torch.arange(n) // 4,
        keys.WEIGHT: torch.ones(n),
        keys.EPOCH: torch.tensor(0),
        keys.SEED: torch.tensor(seed),
    }


def with_view(batch: Batch) -> Batch:
    """The batch with a second pattern of each material: the first one, shifted and cut off."""
    measured = batch[keys.MEASURED].clone()
    measured[:, :20] = False
    view = batch[keys.XRD].roll(2, dims=1).masked_fill(~measured, 0.0)
    return batch | {keys.VIEW: view, keys.VIEW_MEASURED: measured}


def identified(
    index: Tensor, formula_key: Tensor, system_key: Tensor, counts: Tensor | None = None
) -> Batch:
    """What tells the rows of a batch apart; all of them count unless told otherwise."""
    counts = torch.ones_like(index, dtype=torch.bool) if counts is None else counts
    return {
        keys.INDEX: index,
        keys.FORMULA_KEY: formula_key,
        keys.SYSTEM_KEY: system_key,
        keys.WEIGHT: counts.float(),
    }
