from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from datamodules import batch as keys
from datamodules.grid import Grid
from lightning_modules.backbone import BackboneConfig, to_patches
from lightning_modules.masked_xrd import MaskedXRD
from lightning_modules.objectives.decoder import Repetitions
from lightning_modules.training.callbacks.every_run import ReconstructionPictures
from tests.lightning_modules.batches import GRID, make_batch

BACKBONE = BackboneConfig(
    width=64, heads=4, composition_layers=1, xrd_layers=2, fusion_layers=1, patch_points=10
)


def make_task(**arguments: object) -> MaskedXRD:
    torch.manual_seed(0)
    return MaskedXRD(BACKBONE, GRID, decoder_width=64, **arguments)  # type: ignore[arg-type]


#: Ways to ask for what is hidden; each has to pass the tests below.
VARIANTS: dict[str, dict[str, object]] = {
    "squared error": {},
    "cross-entropy": {"loss": "cross_entropy"},
    "fused vector": {"loss": "cross_entropy", "decoder_memory": "fused"},
    "among themselves": {"loss": "cross_entropy", "decoder_self_attention": True},
    "repetitions": {"loss": "cross_entropy", "repetitions": 1.0},
}
variants = pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)


def test_overfits_a_batch() -> None:
    assert learned(make_task(), steps=150) < 0.02


@pytest.mark.parametrize("variant", list(VARIANTS.values())[1:], ids=list(VARIANTS)[1:])
def test_overfits_the_places_of_a_batch(variant: dict[str, object]) -> None:
    assert learned(make_task(**variant), steps=60) < 0.2


def learned(task: MaskedXRD, steps: int) -> float:
    """The loss after so many steps on one batch: a share of the first one, above the least."""
    batch = make_batch(8)
    optimizer = torch.optim.AdamW(task.parameters(), lr=2e-3)
    losses = []
    mask = task.mask(batch, epoch=0)
    for _ in range(steps):
        loss = task.loss(batch, mask, task(batch, mask))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    hidden = mask.hidden.unsqueeze(-1).expand(-1, -1, 10)
    target = to_patches(batch[keys.XRD], 10).gather(1, hidden)
    best = 2 * target.clamp_min(1e-20).log() if task.loss_name == "cross_entropy" else target
    least = float(task.loss(batch, mask, best))
    return (losses[-1] - least) / (losses[0] - least)


@variants
def test_masked_points_cannot_influence_the_prediction(variant: dict[str, object]) -> None:
    # Perturbed after normalisation: what the encoder must not see cannot come in through scaling.
    task, batch = make_task(**variant).eval(), make_batch()
    mask = task.mask(batch, epoch=0)
    patches = to_patches(batch[keys.XRD], 10).clone()
    hidden = mask.hidden.unsqueeze(-1).expand(-1, -1, 10)
    spoiled = batch | {keys.XRD: patches.scatter(1, hidden, 123.0).flatten(1)}
    with torch.no_grad():
        assert torch.equal(task(spoiled, mask), task(batch, mask))
        assert torch.equal(task.reconstruct(spoiled).prediction, task.reconstruct(batch).prediction)
        # The test can fail: a visible patch does matter.
        seen = patches.clone()
        seen[torch.arange(8), mask.visible.indices[:, 3]] += 1.0
        assert not torch.equal(task(batch | {keys.XRD: seen.flatten(1)}, mask), task(batch, mask))


@variants
def test_visible_and_unmeasured_points_cannot_influence_the_loss(
    variant: dict[str, object],
) -> None:
    task, batch = make_task(**variant), make_batch(unmeasured_after=30.0)
    mask = task.mask(batch, epoch=0)
    prediction = task(batch, mask).detach()
    expected = task.loss(batch, mask, prediction)
    patches = to_patches(batch[keys.XRD], 10).clone()
    shown = mask.visible.indices.unsqueeze(-1).expand(-1, -1, 10)
    patches = patches.scatter(1, shown, 55.0).flatten(1)
    patches = patches.masked_fill(~batch[keys.MEASURED], float("nan"))
    assert torch.equal(task.loss(batch | {keys.XRD: patches}, mask, prediction), expected)


@variants
def test_every_parameter_gets_a_gradient_so_that_ddp_runs(variant: dict[str, object]) -> None:
    task, batch = make_task(**variant), make_batch()
    mask = task.mask(batch, epoch=0)
    task.loss(batch, mask, task(batch, mask)).backward()
    assert [name for name, p in task.named_parameters() if p.grad is None] == []


def test_the_decoder_of_the_fused_vector_reads_nothing_else() -> None:
    task, batch = make_task(decoder_memory="fused").eval(), make_batch()
    mask = task.mask(batch, epoch=0)
    with torch.no_grad():
        encoded = task.encode(batch, mask.visible)
        other = encoded._replace(
            composition_tokens=encoded.composition_tokens + 1.0, xrd_tokens=encoded.xrd_tokens - 1.0
        )
        assert torch.equal(task.decode(batch, other, mask), task.decode(batch, encoded, mask))
        fused = encoded._replace(fused=encoded.fused.flip(0))
        assert not torch.equal(task.decode(batch, fused, mask), task.decode(batch, encoded, mask))


def test_hidden_patches_know_of_those_that_are_asked_for_alone() -> None:
    task, batch = make_task(decoder_self_attention=True).eval(), make_batch(unmeasured_after=30.0)
    mask = task.mask(batch, epoch=0)
    assert not mask.masked[5:].all(), "some hidden slots hold nothing measured"
    encoded = task.encode(batch, mask.visible)
    unasked = mask._replace(hidden=torch.where(mask.masked, mask.hidden, 39))
    with torch.no_grad():
        before = task.decode(batch, encoded, mask)
        assert torch.equal(task.decode(batch, encoded, unasked)[mask.masked], before[mask.masked])
        first = torch.zeros_like(mask.masked)
        first[:, 0] = True
        moved = mask._replace(hidden=torch.where(first, 39, mask.hidden))
        others = mask.masked & ~first
        assert not torch.equal(task.decode(batch, encoded, moved)[others], before[others])


def test_a_density_is_drawn_with_as_much_intensity_a_point_as_is_visible() -> None:
    task, batch = make_task(loss="cross_entropy").eval(), make_batch(unmeasured_after=30.0)
    with torch.no_grad():
        made = task.reconstruct(batch)
    mask = task.mask(batch, epoch=0)
    for row in range(8):
        seen = to_patches(batch[keys.XRD], 10)[row, mask.visible.indices[row]]
        visible = seen[mask.visible.valid[row]].square().mean()
        drawn = made.prediction[row][made.masked[row]].square().mean()
        torch.testing.assert_close(drawn, visible)


def test_repetitions_are_shown_to_a_share_in_training_and_to_all_in_validation() -> None:
    task, batch = make_task(loss="cross_entropy", repetitions=0.5), make_batch(64)
    batch[keys.INDEX] = torch.arange(64)
    mask = task.mask(batch, epoch=0)
    asked: list[torch.Tensor] = []
    task.decoder.register_forward_pre_hook(lambda _, given: asked.append(given[-1]))
    with torch.no_grad():
        for epoch in (0, 0, 1):
            task(batch | {keys.EPOCH: torch.tensor(epoch)}, mask)
        task.eval()(batch, mask)
    shown = [hints.abs().amax(dim=(1, 2)) > 0 for hints in asked]
    assert 0.3 < shown[0].float().mean() < 0.7
    assert torch.equal(shown[0], shown[1])
    assert not torch.equal(shown[0], shown[2]), "drawn anew in each epoch"
    assert shown[3].all()


def test_reconstruction_marks_what_was_masked_and_what_lies_far_from_the_visible() -> None:
    task, batch = make_task(mask_span=5).eval(), make_batch(unmeasured_after=30.0)
    batch[keys.WEIGHT][7] = 0.0
    with torch.no_grad():
        result = task.reconstruct(batch)
    assert result.masked.shape == result.prediction.shape == (8, 400)
    assert not result.masked[~batch[keys.MEASURED]].any()
    assert not result.masked[7].any(), "a padding row counts nowhere"
    assert (result.prediction[:4][~result.masked[:4]] == 0).all()
    share = result.masked[:4].float().mean()
    assert share == pytest.approx(0.5)
    # 0.5 degrees are five points: a plain loop over the first pattern.
    mask = task.mask(batch, epoch=0)
    visible = torch.zeros(40, dtype=torch.bool)
    visible[mask.visible.indices[0]] = True
    for point in range(400):
        near = any(visible[other // 10] for other in range(max(0, point - 5), min(400, point + 6)))
        assert bool(result.far[0, point]) == (bool(result.masked[0, point]) and not near)


def test_random_scale_is_drawn_for_each_material_and_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    task, batch = make_task(), make_batch()
    seen: list[torch.Tensor] = []
    forward = task.forward

    def spy(given: dict, *rest: object) -> torch.Tensor:
        seen.append(given[keys.XRD].amax(dim=1))
        return forward(given, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(task, "forward", spy)
    monkeypatch.setattr(task, "log", lambda *a, **k: None)
    before = batch[keys.XRD].clone()
    task.training_step(batch, 0)
    task.training_step(batch | {keys.EPOCH: torch.tensor(1)}, 0)
    task.training_step(batch, 0)
    assert torch.equal(batch[keys.XRD], before)
    assert torch.equal(seen[0], seen[2])
    assert not torch.isclose(seen[0], seen[1]).any()
    assert seen[0].min() >= 0.5
    assert seen[0].max() <= 2.0
    assert seen[0].unique().numel() == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mask_ratio": 1.0}, "mask_ratio is 1.0: must hide at least one and not all of 40"),
        ({"mask_span": 0}, "mask_span is 0"),
        ({"scale_range": (0.0, 1.0)}, "scale_range is"),
        ({"repetitions": 1.5}, "repetitions is 1.5: a share lies in"),
        ({"hide_composition": 1.0}, "hide_composition is 1.0"),
    ],
)
def test_impossible_arguments_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_task(**arguments)


def test_lines_repeat_at_their_distances_in_squared_q() -> None:
    grid = Grid()
    # A primitive cubic cell of 4 Å: Q² in units of (2π/a)². 3 is hidden, and 4 too.
    q = 2 * np.pi / 4.0 * np.sqrt([1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14])
    places = 2 * np.degrees(np.arcsin(q * grid.wavelength / 4 / np.pi))
    two_theta = torch.from_numpy(grid.two_theta())
    lines = torch.exp(-0.5 * ((two_theta - torch.from_numpy(places)[:, None]) / 0.2) ** 2)
    pattern = lines.sum(dim=0, keepdim=True).float()
    hidden = (two_theta > places[2] - 2.0) & (two_theta < places[3] + 1.5)
    seen = ~hidden[None]
    found = Repetitions(grid)(pattern.masked_fill(~seen, torch.nan), seen)
    assert found.max() == 1.0
    for line in (2, 3):
        near = hidden & ((two_theta - places[line]).abs() < 1.5)
        at = two_theta[found[0].masked_fill(~near, -9.0).argmax()]
        assert abs(float(at) - places[line]) < 0.1
        assert found[0, near].max() > 3 * found[0, hidden].median()
    # Scale says nothing; where nothing is seen, nothing is said.
    torch.testing.assert_close(Repetitions(grid)(7 * pattern, seen), found, atol=1e-3, rtol=0)
    assert not Repetitions(grid)(pattern, torch.zeros_like(seen)).any()


def test_pictures_are_of_materials_from_all_over_the_first_batch() -> None:
    batch = make_batch(8)
    batch[keys.WEIGHT][7] = 0.0
    pictures = ReconstructionPictures(n_patterns=3)
    trainer: Any = SimpleNamespace(is_global_zero=True)
    task: Any = None
    pictures.on_validation_batch_end(trainer, task, None, batch, 0)
    pictures.on_validation_batch_end(trainer, task, None, make_batch(8, seed=1), 1)
    assert pictures._batch is not None
    assert pictures._batch[keys.INDEX].tolist() == [0, 3, 6]
    assert torch.equal(pictures._batch[keys.XRD], batch[keys.XRD][[0, 3, 6]])
