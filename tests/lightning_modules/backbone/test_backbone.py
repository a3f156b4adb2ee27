from typing import Any

import pytest
import torch

from datamodules import batch as keys
from datamodules.batch import Batch
from lightning_modules.backbone import (
    Backbone,
    BackboneConfig,
    BackboneOutput,
    VisiblePatches,
    to_patches,
    wholly_measured,
)
from lightning_modules.backbone.transformer import fourier_features
from tests.lightning_modules.batches import GRID, make_batch

CONFIG = BackboneConfig(
    width=32, heads=4, composition_layers=1, xrd_layers=1, fusion_layers=1, patch_points=10
)


@pytest.fixture
def backbone() -> Backbone:
    torch.manual_seed(0)
    return Backbone(CONFIG, GRID).eval()


def run(backbone: Backbone, batch: Batch, **given: Any) -> BackboneOutput:
    with torch.no_grad():
        return backbone(
            batch[keys.ELEMENTS], batch[keys.FRACTIONS], batch[keys.XRD], batch[keys.MEASURED],
            **given,
        )  # fmt: skip


def test_order_of_elements_and_amount_of_padding_do_not_matter(backbone: Backbone) -> None:
    batch = make_batch()
    expected = run(backbone, batch)
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    shuffled = batch | {
        keys.ELEMENTS: batch[keys.ELEMENTS][:, order],
        keys.FRACTIONS: batch[keys.FRACTIONS][:, order],
    }
    padded = batch | {
        keys.ELEMENTS: torch.nn.functional.pad(batch[keys.ELEMENTS], (0, 5)),
        keys.FRACTIONS: torch.nn.functional.pad(batch[keys.FRACTIONS], (0, 5)),
    }
    for other in (run(backbone, shuffled), run(backbone, padded)):
        torch.testing.assert_close(other.composition_vector, expected.composition_vector)
        torch.testing.assert_close(other.fused, expected.fused)
        torch.testing.assert_close(other.xrd_tokens, expected.xrd_tokens)


def test_fractions_and_elements_do_matter(backbone: Backbone) -> None:
    batch = make_batch()
    expected = run(backbone, batch).composition_vector
    compound = (batch[keys.ELEMENTS] > 0).sum(dim=1) > 1
    assert compound.sum() >= 4
    squared = batch[keys.FRACTIONS] ** 2
    richer = batch | {keys.FRACTIONS: squared / squared.sum(dim=1, keepdim=True)}
    heavier = batch | {keys.ELEMENTS: batch[keys.ELEMENTS] + (batch[keys.ELEMENTS] > 0).long()}
    change = (run(backbone, richer).composition_vector - expected).abs().amax(dim=1)
    assert change[compound].min() > 1e-4
    change = (run(backbone, heavier).composition_vector - expected).abs().amax(dim=1)
    assert change.min() > 1e-4


def test_unmeasured_points_cannot_influence_the_output(backbone: Backbone) -> None:
    batch = make_batch(unmeasured_after=30.0)
    expected = run(backbone, batch)
    for junk in (7.0, float("nan")):
        spoiled = batch | {keys.XRD: batch[keys.XRD].masked_fill(~batch[keys.MEASURED], junk)}
        output = run(backbone, spoiled)
        assert torch.equal(output.fused, expected.fused)
        assert torch.equal(output.xrd_tokens, expected.xrd_tokens)
    # The end of the window is information, the same pattern in full is another input.
    whole = batch | {keys.MEASURED: torch.ones_like(batch[keys.MEASURED])}
    assert not torch.allclose(run(backbone, whole).fused[4:], expected.fused[4:])


def test_a_partly_measured_patch_is_not_read(backbone: Backbone) -> None:
    batch = make_batch()
    measured = batch[keys.MEASURED].clone()
    measured[:, 57] = False
    assert not wholly_measured(measured, 10)[:, 5].any()
    assert wholly_measured(measured, 10).sum() == 8 * 39
    expected = run(backbone, batch | {keys.MEASURED: measured}).fused
    changed = batch[keys.XRD].clone()
    changed[:, 50:60] += 1.0
    got = run(backbone, batch | {keys.MEASURED: measured, keys.XRD: changed}).fused
    assert torch.equal(got, expected)


def test_only_visible_patches_are_read(backbone: Backbone) -> None:
    batch = make_batch()
    indices = torch.arange(0, 40, 2).expand(8, -1)
    visible = VisiblePatches(indices, torch.ones_like(indices, dtype=torch.bool))
    expected = run(backbone, batch, visible=visible)
    patches = to_patches(batch[keys.XRD], 10).clone()
    patches[:, 1::2] = 9.0
    got = run(backbone, batch | {keys.XRD: patches.flatten(1)}, visible=visible)
    assert expected.xrd_tokens.shape == (8, 1 + 20, 32)
    assert torch.equal(got.fused, expected.fused)


def test_positions_are_read(backbone: Backbone) -> None:
    batch = make_batch()
    shifted = batch | {keys.XRD: batch[keys.XRD].roll(10, dims=1)}
    change = run(backbone, shifted).xrd_vector - run(backbone, batch).xrd_vector
    assert change.abs().amax(dim=1).min() > 1e-4


def test_an_absent_modality_is_not_read_and_its_neighbours_are(backbone: Backbone) -> None:
    batch = make_batch()
    nobody = torch.zeros(8, dtype=torch.bool)
    other = make_batch(seed=1)
    no_composition = run(backbone, batch, has_composition=nobody)
    swapped = batch | {k: other[k] for k in (keys.ELEMENTS, keys.FRACTIONS)}
    got = run(backbone, swapped, has_composition=nobody)
    torch.testing.assert_close(got.fused, no_composition.fused)
    no_xrd = run(backbone, batch, has_xrd=nobody)
    got = run(backbone, batch | {keys.XRD: other[keys.XRD]}, has_xrd=nobody)
    torch.testing.assert_close(got.fused, no_xrd.fused)

    # Material by material: those that have both are as if nobody lacked anything.
    mixed = torch.arange(8) % 2 == 0
    partly = run(backbone, batch, has_composition=mixed)
    whole = run(backbone, batch)
    torch.testing.assert_close(partly.fused[mixed], whole.fused[mixed])
    torch.testing.assert_close(partly.fused[~mixed], no_composition.fused[~mixed])


def test_every_parameter_gets_a_gradient_even_if_a_modality_is_absent(backbone: Backbone) -> None:
    batch = make_batch()
    for given in ({}, {"has_xrd": torch.zeros(8, dtype=torch.bool)}):
        backbone.zero_grad(set_to_none=True)
        output = backbone(
            batch[keys.ELEMENTS], batch[keys.FRACTIONS], batch[keys.XRD], batch[keys.MEASURED],
            **given,
        )  # fmt: skip
        output.fused.sum().backward()
        # DDP would abort at the first parameter that has none.
        missing = [name for name, p in backbone.named_parameters() if p.grad is None]
        assert missing == []


def test_inputs_are_not_changed(backbone: Backbone) -> None:
    batch = make_batch(unmeasured_after=30.0)
    before = {name: value.clone() for name, value in batch.items()}
    run(backbone, batch)
    assert all(torch.equal(before[name], value) for name, value in batch.items())


def test_backbone_compiles_without_graph_breaks(backbone: Backbone) -> None:
    batch = make_batch()
    inputs = [batch[k] for k in (keys.ELEMENTS, keys.FRACTIONS, keys.XRD, keys.MEASURED)]
    explanation = torch._dynamo.explain(backbone)(*inputs)
    assert explanation.graph_break_count == 0
    assert explanation.graph_count == 1


def test_impossible_sizes_are_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match=r"width is 30: must be a multiple of heads \(4\)"):
        BackboneConfig(width=30, heads=4)
    with pytest.raises(ValueError, match="xrd_layers is 0"):
        BackboneConfig(xrd_layers=0)
    with pytest.raises(ValueError, match="patch_points is 7: must divide the grid's 400 points"):
        Backbone(BackboneConfig(patch_points=7), GRID)


def test_fourier_features_have_the_stated_wavelengths() -> None:
    features = fourier_features(torch.tensor([0.0, 2.0, 10.0]), 4, longest=10.0, shortest=2.0)
    expected = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.9510565, 0.0, 0.3090170, 1.0]])
    torch.testing.assert_close(features[:2], expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(features[2], expected[0], atol=2e-6, rtol=0)
