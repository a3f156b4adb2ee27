import pytest
import torch

from datamodules.randomness import Purpose, keys
from lightning_modules.objectives.masking import check_ratio, n_hidden, span_mask

N = 85


def mask_keys(n: int, epoch: int = 0) -> torch.Tensor:
    return keys(3, epoch, torch.arange(n), Purpose.MASK)


@pytest.mark.parametrize("ratio", [0.15, 0.5, 0.75])
def test_hides_the_stated_share_and_each_patch_once(ratio: float) -> None:
    measured = torch.ones(200, N, dtype=torch.bool)
    mask = span_mask(measured, mask_keys(200), ratio, span=4)
    assert mask.hidden.shape == (200, n_hidden(N, ratio))
    assert mask.visible.valid.all()
    assert mask.masked.all()
    everything = torch.cat((mask.visible.indices, mask.hidden), dim=1).sort(dim=1).values
    assert torch.equal(everything, torch.arange(N).expand(200, -1))


def test_every_patch_is_hidden_about_as_often() -> None:
    mask = span_mask(torch.ones(4000, N, dtype=torch.bool), mask_keys(4000), 0.5, span=4)
    share = torch.bincount(mask.hidden.flatten(), minlength=N) / 4000
    assert share.min() > 0.45
    assert share.max() < 0.55


def test_hides_spans_not_single_patches() -> None:
    def runs_of(span: int) -> float:
        mask = span_mask(torch.ones(500, N, dtype=torch.bool), mask_keys(500), 0.3, span)
        hidden = torch.zeros(500, N, dtype=torch.bool).scatter(1, mask.hidden, True)
        starts = (hidden[:, 1:] & ~hidden[:, :-1]).sum() + hidden[:, 0].sum()
        return float(hidden.sum() / starts)

    assert runs_of(6) > 2.5 * runs_of(1)


def test_unmeasured_patches_are_neither_read_nor_masked() -> None:
    measured = torch.rand(300, N, generator=torch.Generator().manual_seed(0)) < 0.6
    measured[0] = False
    measured[1, 1:] = False
    for ratio in (0.15, 0.5, 0.9):
        mask = span_mask(measured, mask_keys(300), ratio, span=3)
        seen = torch.zeros(300, N, dtype=torch.bool)
        seen.scatter_(1, mask.visible.indices, mask.visible.valid)
        masked = torch.zeros(300, N, dtype=torch.bool).scatter(1, mask.hidden, mask.masked)
        assert not (seen & masked).any()
        # Every measured patch is one of the two: none is lost.
        assert torch.equal(seen | masked, measured)
        expected = (measured.sum(dim=1) * ratio).long()
        assert torch.equal(masked.sum(dim=1), expected)


def test_masks_follow_from_epoch_and_material_not_from_the_batch() -> None:
    measured = torch.ones(6, N, dtype=torch.bool)
    first = span_mask(measured, mask_keys(6), 0.5, 4)
    part = span_mask(measured[2:4], mask_keys(6)[2:4], 0.5, 4)
    assert torch.equal(first.hidden[2:4], part.hidden)
    later = span_mask(measured, mask_keys(6, epoch=1), 0.5, 4)
    assert not torch.equal(first.hidden, later.hidden)


@pytest.mark.parametrize(("ratio", "span"), [(0.0, 4), (1.0, 4), (0.001, 4), (-1, 4), (0.5, 0)])
def test_impossible_masks_are_refused(ratio: float, span: int) -> None:
    with pytest.raises(ValueError, match=r"mask_ratio is|mask_span is"):
        check_ratio(N, ratio, span)
