"""The random numbers of all changes: what they follow from, their ranges, those of a view."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from datamodules.batch import (
    EPOCH,
    IMPURITY_INTENSITY,
    IMPURITY_OFFSETS,
    IMPURITY_Q,
    IMPURITY_SLOT,
    INDEX,
    LINE_INTENSITY,
    LINE_OFFSETS,
    LINE_Q,
    MEASURED,
    SEED,
    VIEW,
    VIEW_MEASURED,
    XRD,
)
from datamodules.randomness import Purpose, keys, uniform
from datamodules.rendering.augmentation import Augmentation, draw
from datamodules.rendering.renderer import Renderer
from tests.datamodules.patterns import (
    EVERYTHING,
    GRID,
    add_impurity,
    random_batch,
)


def test_augmentation_follows_from_seed_epoch_and_material() -> None:
    renderer = Renderer(GRID, augmentation=EVERYTHING)
    batch = random_batch()
    first = renderer(batch, augment=True)[XRD]
    assert torch.equal(renderer(batch, augment=True)[XRD], first)
    for key in (SEED, EPOCH):
        other = renderer({**batch, key: batch[key] + 1}, augment=True)[XRD]
        assert (other - first).abs().amax(dim=1).min() > 0.01
    torch.testing.assert_close(
        renderer({**batch, SEED: batch[SEED] + 1}, augment=False)[XRD],
        renderer(batch, augment=False)[XRD],
    )


def test_a_view_is_a_second_pattern_with_random_numbers_of_its_own() -> None:
    batch = add_impurity(random_batch(), 2, [2.0], [1.0])
    plain = Renderer(GRID)(batch, augment=True)
    assert VIEW not in plain
    with_view = Renderer(GRID, views=EVERYTHING)
    found = with_view(batch, augment=True)
    # The first pattern does not know of the second; its impurity is in the view alone.
    assert torch.equal(found[XRD], plain[XRD])
    assert VIEW not in with_view(batch, augment=False)
    both = Renderer(GRID, augmentation=EVERYTHING, views=EVERYTHING)(batch, augment=True)
    torch.testing.assert_close(both[VIEW], found[VIEW])
    assert (both[VIEW] - both[XRD]).abs().amax(dim=1).min() > 0.01
    assert not torch.equal(both[VIEW_MEASURED], both[MEASURED])
    for key in (SEED, EPOCH, INDEX):
        other = with_view({**batch, key: batch[key] + 1}, augment=True)[VIEW]
        assert (other - found[VIEW]).abs().amax(dim=1).min() > 0.01
    # A material's view is the same in whatever batch it comes.
    q, intensity, ends = (batch[key] for key in (LINE_Q, LINE_INTENSITY, LINE_OFFSETS))
    single = {
        **batch,
        INDEX: batch[INDEX][:1],
        LINE_Q: q[: ends[1]],
        LINE_INTENSITY: intensity[: ends[1]],
        LINE_OFFSETS: ends[:2],
        IMPURITY_SLOT: torch.zeros(0, dtype=torch.long),
        IMPURITY_Q: torch.zeros(0),
        IMPURITY_INTENSITY: torch.zeros(0),
        IMPURITY_OFFSETS: torch.zeros(1, dtype=torch.long),
    }
    torch.testing.assert_close(with_view(single, augment=True)[VIEW], found[VIEW][:1])


class Counter(TorchDispatchMode):
    """Counts torch's operations, each of which is a kernel on a GPU."""

    n = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.n += 1
        return function(*args, **(kwargs or {}))


def test_the_numbers_of_all_changes_are_drawn_at_once() -> None:
    seed, epoch, index = torch.tensor(3), torch.tensor(2), torch.arange(32)
    with Counter() as counter:
        drawn = draw(EVERYTHING, seed, epoch, index)
    assert counter.n <= 180  # a hash each took 992
    with Counter() as counter:
        draw(Augmentation(), seed, epoch, index)
    assert counter.n == 0
    # The numbers are those of each purpose alone.
    assert drawn.strain is not None
    alone = uniform(keys(seed, epoch, index, Purpose.STRAIN), 1)[:, 0]
    torch.testing.assert_close(drawn.strain, 0.02 * alone - 0.01, rtol=0, atol=1e-9)
    assert torch.equal(drawn.line_keys, keys(seed, epoch, index, Purpose.LINE_JITTER))


def test_drawn_numbers_fill_their_ranges() -> None:
    how = EVERYTHING
    n = 4000
    p = draw(how, torch.tensor(0), torch.tensor(0), torch.arange(n))
    for name, (low, high) in {
        "strain": (-0.01, 0.01),
        "zero_shift": (-0.1, 0.1),
        "displacement": (-0.0005, 0.0005),
        "crystallite_size": how.crystallite_size,
        "caglioti_u": how.caglioti_u,
        "caglioti_v": how.caglioti_v,
        "caglioti_w": how.caglioti_w,
        "eta": how.eta,
        "debye_waller": (0, 1),
        "impurity": (0, 0.1),
        "background": (0, 0.05),
        "noise": how.noise,
        "window": (0, 5),
    }.items():
        drawn = getattr(p, name)
        margin = 0.01 * (high - low)
        assert low - 1e-6 * abs(low) <= drawn.min() < low + margin, name
        assert high - 2 * margin < drawn.max() <= high * (1 + 1e-5), name
    assert p.doublet is not None
    assert float(p.doublet.float().mean()) == pytest.approx(0.5, abs=0.05)
    assert p.crystallite_size is not None
    assert float(p.crystallite_size.log().mean()) == pytest.approx(np.log(400000) / 2, abs=0.03)
    assert abs(np.corrcoef(p.strain, p.zero_shift)[0, 1]) < 0.05
