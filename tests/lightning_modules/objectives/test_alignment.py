import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from datamodules import batch as keys
from datamodules.batch import Batch
from datamodules.stream.batches import material_of, number_copies
from lightning_modules.backbone import BackboneConfig
from lightning_modules.base import Task
from lightning_modules.contrastive import Contrastive
from lightning_modules.masked_contrastive import MaskedContrastive
from lightning_modules.metrics.retrieval import (
    Retrieval,
    effective_rank,
    ranks_of_matches,
    uniformity,
)
from lightning_modules.objectives.alignment import Alignment, BoundedTemperature, ViewContrast
from lightning_modules.objectives.losses import masked_info_nce
from lightning_modules.objectives.structure_classes import StructureClasses
from tests.lightning_modules.batches import GRID, identified, make_batch, with_view

BACKBONE = BackboneConfig(
    width=32, heads=4, composition_layers=1, xrd_layers=1, fusion_layers=1, patch_points=10
)


def unit_vectors(n: int, width: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(n, width, generator=generator), dim=1)


def test_info_nce_equals_a_plain_loop() -> None:
    similarity = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)) * 5
    excluded = torch.rand(4, 6, generator=torch.Generator().manual_seed(1)) < 0.4
    positive = torch.tensor([2, 0, 5, 3])
    found = masked_info_nce(similarity, excluded, positive)
    for row in range(4):
        others = [
            math.exp(similarity[row, c])
            for c in range(6)
            if c == positive[row] or not excluded[row, c]
        ]
        expected = -math.log(math.exp(similarity[row, positive[row]]) / sum(others))
        assert float(found[row]) == pytest.approx(expected, rel=1e-5)


def test_pairs_of_one_formula_are_no_negatives_in_either_direction() -> None:
    alignment = Alignment(8, 8)
    composition, xrd = unit_vectors(5, 8, 0), unit_vectors(5, 8, 1)
    apart = alignment.loss(composition, xrd, torch.arange(5))
    formula = torch.tensor([0, 1, 2, 1, 4])
    composition.requires_grad_()
    xrd.requires_grad_()
    together = alignment.loss(composition, xrd, formula)
    assert together < apart, "fewer negatives, smaller loss"
    # Only what materials 1 and 3 have in common is left out: without material 3 as a candidate
    # the rows of 1 have the loss of a batch of four, in both directions.
    similarity = (composition @ xrd.T / alignment.temperature()).detach()
    rows = []
    for table in (similarity, similarity.T):
        for i in range(5):
            kept = [j for j in range(5) if j == i or formula[j] != formula[i]]
            rows.append(F.cross_entropy(table[i, kept], torch.tensor(kept.index(i))))
    torch.testing.assert_close(together.detach(), torch.stack(rows).mean())


def test_rows_without_a_modality_are_neither_rows_nor_columns() -> None:
    alignment = Alignment(8, 8)
    composition, xrd = unit_vectors(6, 8, 0), unit_vectors(6, 8, 1)
    present = torch.tensor([True, True, False, True, False, True])
    found = alignment.loss(composition, xrd, torch.arange(6), present)
    expected = alignment.loss(composition[present], xrd[present], torch.arange(4))
    torch.testing.assert_close(found, expected)
    nobody = alignment.loss(composition, xrd, torch.arange(6), torch.zeros(6, dtype=torch.bool))
    assert nobody == 0


def test_two_patterns_of_a_material_are_compared_with_those_of_its_polymorphs() -> None:
    torch.manual_seed(0)
    contrast = ViewContrast(8, 8)
    first, second = unit_vectors(5, 8, 0), unit_vectors(5, 8, 1)
    a, b = contrast(first), contrast(second)
    found = contrast.loss(a, b, torch.arange(5))
    torch.testing.assert_close(a.norm(dim=1), torch.ones(5))
    table = a @ b.T / contrast.temperature()
    rows = torch.arange(5)
    expected = 0.5 * (F.cross_entropy(table, rows) + F.cross_entropy(table.T, rows))
    torch.testing.assert_close(found, expected)
    # Copies of one material are no negatives of each other.
    copies = contrast.loss(a, b, torch.tensor([0, 1, 2, 1, 4]))
    assert copies < found


@pytest.mark.parametrize("task_type", [Contrastive, MaskedContrastive])
def test_views_separate_polymorphs(
    task_type: type[Contrastive] | type[MaskedContrastive], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    task, batch = task_type(BACKBONE, GRID, view_weight=1.0), with_view(make_batch(8))
    # One formula: the alignment has nothing to say, the contrast of views all.
    batch[keys.FORMULA_KEY] = torch.zeros(8, dtype=torch.long)
    logged: dict[str, list[float]] = {}
    monkeypatch.setattr(
        task,
        "log",
        lambda name, value, **_: logged.setdefault(name, []).append(float(value.detach())),
    )
    overfit(task, batch, 100)
    assert max(logged["train/alignment"]) == 0.0
    assert logged["train/views"][0] > 1.5
    assert logged["train/views"][-1] < 0.2
    others = logged.get("train/reconstruction", [0.0] * 100)
    assert logged["train/loss"][3] == pytest.approx(logged["train/views"][3] + others[3])


def test_copies_of_a_material_are_known_by_their_numbers() -> None:
    numbers = torch.from_numpy(number_copies(np.array([3, 3, 3, 5])))
    assert numbers.unique().numel() == 4
    assert material_of(numbers).tolist() == [3, 3, 3, 5]


@pytest.mark.parametrize("task_type", [Contrastive, MaskedContrastive])
def test_views_that_the_data_do_not_give_are_asked_for_in_one_line(
    task_type: type[Contrastive] | type[MaskedContrastive],
) -> None:
    task = task_type(BACKBONE, GRID, view_weight=1.0)
    with pytest.raises(ValueError, match=r"model.view_weight .* name what to change in data.views"):
        task.training_step(make_batch(), 0)
    with pytest.raises(ValueError, match="view_weight is -1"):
        task_type(BACKBONE, GRID, view_weight=-1)


def test_temperature_starts_where_told_and_stays_in_its_bounds() -> None:
    temperature = BoundedTemperature(0.07, (0.01, 0.5))
    assert temperature().item() == pytest.approx(0.07)
    for pull in (1.0, -1.0):
        optimizer = torch.optim.SGD(temperature.parameters(), lr=100.0)
        for _ in range(20):
            optimizer.zero_grad()
            (pull * temperature()).backward()
            optimizer.step()
        assert 0.01 <= temperature().item() <= 0.5
        temperature().backward()
        assert temperature.logit.grad is not None
    with pytest.raises(ValueError, match=r"temperature is 0.6, temperature_bounds are 0.01 and"):
        BoundedTemperature(0.6, (0.01, 0.5))


def overfit(task: Task, batch: Batch, steps: int) -> None:
    optimizer = torch.optim.AdamW(task.parameters(), lr=1e-3)
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 0.05, total_iters=20)
    for _ in range(steps):
        optimizer.zero_grad()
        task.training_step(batch, 0).backward()
        optimizer.step()
        warmup.step()


def test_a_batch_can_be_aligned_until_everything_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    task, batch = Contrastive(BACKBONE, GRID), make_batch(8)
    batch[keys.FORMULA_KEY] = torch.arange(8)
    monkeypatch.setattr(task, "log", lambda *_, **__: None)
    overfit(task, batch, 150)
    with torch.no_grad():
        task.validation_step(batch, 0)
    values = task.retrieval.compute(task.alignment.temperature())
    assert values["random/composition_to_xrd/recall_at_1"] > 0.9
    assert values["random/xrd_to_composition/recall_at_1"] > 0.9


def test_both_losses_fall_together(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    task, batch = MaskedContrastive(BACKBONE, GRID, decoder_width=32), make_batch(8)
    logged: dict[str, list[float]] = {}
    monkeypatch.setattr(
        task,
        "log",
        lambda name, value, **_: logged.setdefault(name, []).append(float(value.detach())),
    )
    overfit(task, batch, 100)
    for name in ("train/reconstruction", "train/alignment"):
        assert logged[name][-1] < 0.5 * logged[name][0], name
    expected = logged["train/reconstruction"][3] + 0.01 * logged["train/alignment"][3]
    assert logged["train/loss"][3] == pytest.approx(expected, rel=1e-5)


def test_contrastive_freezes_what_it_never_runs() -> None:
    task = Contrastive(BACKBONE, GRID)
    batch = make_batch()
    task.alignment.loss(*task(batch), batch[keys.FORMULA_KEY]).backward()
    without = {n for n, p in task.named_parameters() if p.grad is None}
    assert without == {n for n, p in task.named_parameters() if not p.requires_grad}
    assert all(name.startswith("backbone.fusion.") for name in without)
    assert without


def test_rank_of_the_best_match_counts_the_better_and_the_equal() -> None:
    similarity = torch.tensor([[0.9, 0.5, 0.7, 0.5], [0.1, 0.2, 0.3, 0.4], [0.5, 0.5, 0.5, 0.5]])
    match = torch.tensor(
        [[False, True, False, False], [True, False, False, True], [False, False, False, True]]
    )
    # Collapsed embeddings must not count as found: ties are losses.
    assert ranks_of_matches(similarity, match).tolist() == [3, 0, 3]


def test_retrieval_by_hand() -> None:
    # Materials 0 and 1 are polymorphs; 0, 1, 2 one system; 3 alone.
    composition = torch.eye(4)
    composition[1] = composition[0]
    xrd = torch.eye(4)[[1, 0, 2, 3]]
    metric = Retrieval(pool_size=100)
    formula, system = torch.tensor([5, 5, 6, 7]), torch.tensor([1, 1, 1, 2])
    metric.update(composition, xrd, identified(torch.arange(4), formula, system))
    values = metric.compute(0.1)
    # By formula, pattern 1 is a hit for composition 0; pattern 0 has nothing in common with it.
    assert values["random/composition_to_xrd/recall_at_1"] == 1.0
    assert values["random/xrd_to_composition/recall_at_1"] == 0.75
    assert values["random/pool_size"] == 4
    assert values["hard/queries"] == 3
    assert values["hard/candidates"] == 3
    # Polymorphs find each other by chance in 2 of 3, the third in 1 of 3.
    assert values["hard/chance"] == pytest.approx(5 / 9)
    assert values["hard/composition_to_xrd/recall_at_1"] == 1.0
    assert values["distance"] == pytest.approx((2 + 0 + 0 + 0) / 4)


def test_recall_is_averaged_over_pools_of_the_stated_size() -> None:
    n = 40
    composition = unit_vectors(n, 3, 0)
    xrd = F.normalize(composition + 0.6 * unit_vectors(n, 3, 1), dim=1)
    whole, pools = Retrieval(pool_size=n), Retrieval(pool_size=8)
    for metric in (whole, pools):
        index = torch.arange(n)
        metric.update(composition, xrd, identified(index, index, index))
    easy, hard = pools.compute(), whole.compute()
    assert easy["random/pool_size"] == 8
    name = "random/composition_to_xrd/recall_at_1"
    assert easy[name] > hard[name]
    assert not any(key.startswith("hard/") for key in easy), "every system has one formula"


def test_collapse_is_seen() -> None:
    spread, collapsed = unit_vectors(200, 8, 0), unit_vectors(1, 8, 0).expand(200, -1)
    assert uniformity(spread) < -2.5
    assert uniformity(collapsed) == pytest.approx(0.0, abs=1e-5)
    assert effective_rank(spread) > 7.5
    line = torch.outer(torch.linspace(-1, 1, 200), unit_vectors(1, 8, 0)[0])
    assert effective_rank(line) == pytest.approx(1.0, abs=0.01)
    metric = Retrieval()
    index = torch.arange(200)
    metric.update(spread, collapsed, identified(index, index, index))
    values = metric.compute()
    assert values["composition/spread"] == pytest.approx(1.0, abs=0.05)
    assert values["xrd/spread"] == pytest.approx(0.0, abs=1e-5)
    assert values["random/composition_to_xrd/recall_at_10"] == 0


def test_classes_of_structures_equal_a_plain_loop_over_what_is_known() -> None:
    torch.manual_seed(0)
    classes = StructureClasses(["bravais_class", "n_sites"], 8)
    vectors = torch.randn(3, 8)
    labels = torch.tensor([[3.0, 500.0], [math.nan, 1.0], [14.0, math.nan]])
    hidden = classes.hidden(vectors)
    expected = [
        -head(hidden[row]).log_softmax(dim=0)[label]
        for head, row, label in (
            (classes.logits[0], 0, 3),
            (classes.logits[1], 0, 64),  # more sites than there are classes
            (classes.logits[1], 1, 1),
            (classes.logits[0], 2, 14),
        )
    ]
    torch.testing.assert_close(classes(vectors, labels), torch.stack(expected).mean())
    assert float(classes(vectors, torch.full((3, 2), math.nan))) == 0.0


def test_learning_classes_of_structures_reaches_the_patterns_encoder_alone() -> None:
    task = Contrastive(BACKBONE, GRID, structure_weight=1.0, targets=["space_group"])
    task.log = lambda *_, **__: None  # type: ignore[method-assign]
    batch = make_batch(4) | {keys.TARGETS: torch.tensor([[1.0], [225.0], [math.nan], [62.0]])}
    task.structure(task.vectors(batch)[1], batch[keys.TARGETS]).backward()
    assert all(p.grad is None for p in task.backbone.composition.parameters())
    assert all(p.grad is not None for p in task.structure.parameters())
    without = Contrastive(BACKBONE, GRID, targets=["space_group"])
    without.log = lambda *_, **__: None  # type: ignore[method-assign]
    without.load_state_dict(task.state_dict(), strict=False)
    assert task.training_step(batch, 0) > without.training_step(batch, 0) + 1.0


@pytest.mark.parametrize(
    ("targets", "message"), [((), "names no classes"), (("density",), "target density")]
)
def test_classes_that_no_structure_has_are_refused(targets: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Contrastive(BACKBONE, GRID, structure_weight=1.0, targets=targets)
