from typing import Any

import pytest
import torch

from datamodules import batch as keys
from datamodules.batch import Batch
from lightning_modules.backbone import BackboneConfig
from lightning_modules.objectives.losses import laplace_loss
from lightning_modules.objectives.parameter_groups import depth, parameter_groups
from lightning_modules.regression import Regression
from tests.lightning_modules.batches import GRID, make_batch

BACKBONE = BackboneConfig(
    width=32, heads=4, composition_layers=2, xrd_layers=2, fusion_layers=1, patch_points=10
)


def make_task(targets: tuple[str, ...] = ("a", "b"), **arguments: Any) -> Regression:
    torch.manual_seed(0)
    task = Regression(targets, BACKBONE, GRID, **arguments)
    task.log = lambda *_, **__: None  # type: ignore[method-assign,assignment]
    return task


def labelled(n: int = 8, **arguments: Any) -> Batch:
    batch = make_batch(n, **arguments)
    targets = torch.randn(n, 2, generator=torch.Generator().manual_seed(5))
    targets[::3, 1] = torch.nan
    return batch | {keys.TARGETS: targets}


def test_laplace_loss_equals_a_plain_loop() -> None:
    prediction = torch.tensor([[1.0, 2.0], [0.0, 3.0]])
    log_spread = torch.tensor([[0.5, -1.0], [0.0, 0.2]])
    target = torch.tensor([[1.5, torch.nan], [-2.0, 3.0]])
    for beta in (0.0, 0.5, 1.0):
        found = laplace_loss(prediction, log_spread, target, beta)
        for i in range(2):
            for j in range(2):
                b = float(log_spread[i, j].exp())
                residual = abs(float(prediction[i, j] - target[i, j]))
                expected = (
                    0.0 if (i, j) == (0, 1) else residual / b + torch.log(torch.tensor(2 * b))
                )
                assert float(found[i, j]) == pytest.approx(float(expected) * b**beta, rel=1e-5)


def test_beta_one_gives_the_prediction_the_gradient_of_the_absolute_error() -> None:
    target = torch.tensor([[2.0, -1.0, torch.nan]])
    gradients = []
    for spread in (-1.0, 2.0):
        prediction = torch.zeros(1, 3, requires_grad=True)
        log_spread = torch.full((1, 3), spread, requires_grad=True)
        laplace_loss(prediction, log_spread, target, beta=1.0).sum().backward()
        assert prediction.grad is not None
        assert log_spread.grad is not None
        assert log_spread.grad[0, 2] == 0
        gradients.append(prediction.grad)
    torch.testing.assert_close(gradients[0], torch.tensor([[-1.0, 1.0, 0.0]]))
    torch.testing.assert_close(gradients[0], gradients[1])


def test_the_spread_that_the_loss_asks_for_is_the_mean_absolute_error() -> None:
    target = torch.randn(2000, 1, generator=torch.Generator().manual_seed(0))
    log_spread = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.Adam([log_spread], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        laplace_loss(
            torch.zeros(2000, 1), log_spread.expand(2000, 1), target, 1.0
        ).mean().backward()
        optimizer.step()
    assert float(log_spread.detach().exp()) == pytest.approx(float(target.abs().mean()), rel=0.01)


@pytest.mark.parametrize("modalities", [["composition"], ["xrd"], ["composition", "xrd"]])
def test_overfits_a_batch_in_every_mode(modalities: list[str]) -> None:
    task, batch = make_task(modalities=modalities, modality_dropout=0.5), labelled(16)
    # Without these two, composition or pattern would not tell the materials apart.
    batch[keys.TARGETS][:, 0] = (batch[keys.ELEMENTS] * batch[keys.FRACTIONS]).sum(dim=1) % 7 - 3
    optimizer = torch.optim.AdamW(task.parameters(), lr=3e-3)
    for step in range(250):
        batch[keys.EPOCH] = torch.tensor(step)
        optimizer.zero_grad()
        task.training_step(batch, 0).backward()
        optimizer.step()
    task.eval()
    with torch.no_grad():
        for mode in task.modes:
            error = (task.predict(batch, mode).value - batch[keys.TARGETS])[:, 0].abs().mean()
            assert error < 0.35 * batch[keys.TARGETS][:, 0].std(), mode


@pytest.mark.parametrize(
    ("modalities", "ignored"), [(["composition"], keys.XRD), (["xrd"], keys.FRACTIONS)]
)
def test_what_is_not_given_is_not_read_not_trained_and_not_decayed(
    modalities: list[str], ignored: str
) -> None:
    task, batch = make_task(modalities=modalities), labelled()
    task.training_step(batch, 0).backward()
    without = {n for n, p in task.named_parameters() if p.grad is None}
    assert without == {n for n, p in task.named_parameters() if not p.requires_grad}
    other = "xrd" if modalities == ["composition"] else "composition"
    assert {n.split(".")[1] for n in without} == {other}
    grouped = {id(p) for group in _groups(task, 1.0) for p in group["params"]}
    assert not grouped & {id(p) for p in task.backbone.get_submodule(other).parameters()}
    task.eval()
    with torch.no_grad():
        before = task.predict(batch).value
        spoiled = batch | {ignored: batch[ignored].flip(0) + 0.3}
        assert torch.equal(task.predict(spoiled).value, before)
        read = keys.FRACTIONS if ignored == keys.XRD else keys.XRD
        spoiled = batch | {read: batch[read].flip(0) + 0.3}
        assert not torch.equal(task.predict(spoiled).value, before)


def test_all_parameters_get_gradients_when_both_are_given() -> None:
    task = make_task()
    task.training_step(labelled(), 0).backward()
    assert [n for n, p in task.named_parameters() if p.grad is None] == []


def test_modality_dropout_hides_as_many_compositions_as_told() -> None:
    task, batch = make_task(modality_dropout=0.4), make_batch(8)
    many = batch | {keys.INDEX: torch.arange(20000)}
    composition, xrd = task.given(many)
    assert xrd.all()
    assert float((~composition).float().mean()) == pytest.approx(0.4, abs=0.01)
    again = task.given(many | {keys.INDEX: torch.arange(100, 200)})
    assert torch.equal(again[0], composition[100:200]), "follows from the material, not the batch"
    later = task.given(many | {keys.EPOCH: torch.tensor(1)})
    assert not torch.equal(later[0], composition)
    never = make_task(modality_dropout=0.0)
    assert all(given.all() for given in never.given(many))


@pytest.mark.parametrize(
    ("dropout", "weight", "modes"),
    [
        (0.0, 0.0, ["both"]),
        (0.1, 0.0, ["both", "xrd"]),
        (0.0, 0.5, ["both", "composition"]),
        (0.1, 0.5, ["both", "composition", "xrd"]),
    ],
)
def test_answers_only_from_what_it_was_trained_with(
    dropout: float, weight: float, modes: list[str]
) -> None:
    task = make_task(modality_dropout=dropout, composition_weight=weight)
    assert list(task.modes) == modes


def _same_weights(source: Regression, other: Regression) -> None:
    other.backbone.load_state_dict(source.backbone.state_dict())
    other.head.load_state_dict(source.head.state_dict())


def test_the_composition_is_learned_in_every_step_beside_both() -> None:
    batch = labelled()
    both = make_task(modality_dropout=0.0, composition_weight=0.0)
    twice = make_task(modality_dropout=0.0, composition_weight=0.3)
    alone = make_task(modalities=["composition"])
    for other in (twice, alone):
        _same_weights(both, other)
    losses = [task.training_step(batch, 0).item() for task in (both, twice, alone)]
    assert losses[1] == pytest.approx(losses[0] + 0.3 * losses[2], rel=1e-5)
    assert losses[0] != pytest.approx(losses[2], rel=1e-3)


def test_the_composition_alone_is_the_same_question_in_either_model() -> None:
    batch = labelled()
    both, alone = make_task(), make_task(modalities=["composition"])
    _same_weights(both, alone)
    with torch.no_grad():
        answers = [task.eval().predict(batch, "composition").value for task in (both, alone)]
        spoiled = both.predict(batch | {keys.XRD: batch[keys.XRD] * torch.nan}, "composition").value
    assert torch.equal(answers[0], answers[1])
    assert torch.equal(answers[0], spoiled)


def test_missing_labels_change_nothing_for_the_others() -> None:
    task, batch = make_task(spread_beta=0.5), labelled()
    full = task.training_step(batch, 0)
    targets = batch[keys.TARGETS].clone()
    targets[:, 1] = torch.nan
    one = task.training_step(batch | {keys.TARGETS: targets}, 0)
    assert one.isfinite()
    assert one != full
    nothing = batch | {keys.TARGETS: torch.full_like(targets, torch.nan)}
    empty = task.training_step(nothing, 0)
    assert empty == 0
    empty.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in task.parameters())


def _groups(task: Regression, decay: float) -> list[dict[str, Any]]:
    return parameter_groups(task, task.backbone.config, 1.0, decay)


def test_lower_layers_learn_more_slowly() -> None:
    task = make_task()
    by_name = {id(p): n for n, p in task.named_parameters()}
    rates = {by_name[id(p)]: g["lr"] for g in _groups(task, 0.5) for p in g["params"]}
    assert rates.keys() == dict(task.named_parameters()).keys()
    assert rates["head.0.weight"] == 1.0
    assert rates["backbone.fusion.pool.queries"] == 0.5
    assert rates["backbone.fusion.blocks.0.xrd.attention.query.weight"] == 0.25
    last = rates["backbone.xrd.blocks.1.attention.query.weight"]
    assert last == rates["backbone.xrd.norm.weight"] == 0.5**3
    assert rates["backbone.xrd.blocks.0.attention.query.weight"] == 0.5**4
    assert rates["backbone.composition.element.weight"] == 0.5**5
    assert rates["backbone.xrd.summary"] == 0.5**5
    assert max(depth(name, BACKBONE) for name in rates) == 5


def test_only_matrices_decay() -> None:
    task = make_task()
    groups = _groups(task, 1.0)
    assert [g.get("weight_decay") for g in groups] == [None, 0.0]
    assert all(p.ndim >= 2 for p in groups[0]["params"])
    names = {id(p): name for name, p in task.named_parameters()}
    tables = {names[id(p)] for p in groups[1]["params"] if p.ndim >= 2}
    # Rows that are looked up, not multiplied by.
    assert tables == {"backbone.composition.element.weight", "backbone.fusion.pool.queries"}


def test_frozen_parts_are_not_trained() -> None:
    task = make_task(freeze=["backbone.composition", "backbone.xrd.blocks.0"])
    frozen = {n for n, p in task.named_parameters() if not p.requires_grad}
    assert "backbone.composition.summary" in frozen
    assert any(n.startswith("backbone.xrd.blocks.0.") for n in frozen)
    assert not any(n.startswith(("backbone.xrd.blocks.1.", "head.")) for n in frozen)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"targets": ()}, "no targets: name some of the store's in data.targets"),
        ({"modalities": ["structure"]}, r"modalities is \['structure'\]: must be"),
        ({"modalities": []}, r"modalities is \[\]"),
        ({"modality_dropout": 1.5}, "modality_dropout is 1.5"),
        ({"composition_weight": -1.0}, "composition_weight is -1.0"),
        ({"spread_beta": -1}, "spread_beta is -1"),
        ({"confidence": 1.0}, "confidence is 1.0"),
        ({"freeze": ["backbone.crystal"]}, "freeze: no part 'backbone.crystal'"),
    ],
)
def test_impossible_arguments_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_task(**arguments)
