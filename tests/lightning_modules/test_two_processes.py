"""Two ranks against one process: losses, gradients, metrics."""

import pytest
import torch
import torch.distributed as dist

from datamodules import batch as keys
from datamodules.batch import Batch
from lightning_modules.backbone import BackboneConfig
from lightning_modules.base import Task
from lightning_modules.contrastive import Contrastive
from lightning_modules.masked_contrastive import MaskedContrastive
from lightning_modules.metrics.evaluation import report
from lightning_modules.metrics.predictions import COLUMNS, Predictions
from lightning_modules.metrics.retrieval import Retrieval
from lightning_modules.objectives.distributed import gather_rows
from lightning_modules.regression import Regression
from tests.lightning_modules.batches import GRID, identified, make_batch, with_view
from tests.lightning_modules.processes import Processes

pytestmark = pytest.mark.xdist_group("processes")
N = 12
BACKBONE = BackboneConfig(
    width=16, heads=2, composition_layers=1, xrd_layers=1, fusion_layers=1, patch_points=10
)


def make_task(kind: str) -> Task:
    torch.manual_seed(0)
    task: Task
    if kind == "contrastive":
        task = Contrastive(BACKBONE, GRID, embedding_width=8)
    elif kind == "contrastive with views":
        task = Contrastive(BACKBONE, GRID, embedding_width=8, view_weight=0.7)
    elif kind == "both with views":
        task = MaskedContrastive(
            BACKBONE, GRID, loss="cross_entropy", decoder_width=16, view_weight=0.7
        )
    elif kind == "both":
        task = MaskedContrastive(BACKBONE, GRID, decoder_width=16, alignment_weight=1.0)
    else:
        task = Regression(["a", "b"], BACKBONE, GRID, spread_beta=0.5)
    task.log = lambda *_, **__: None  # type: ignore[method-assign,assignment]
    return task


def whole_batch() -> Batch:
    batch = with_view(make_batch(N))
    # Three share a formula across the ranks; most labels are on the first rank.
    batch[keys.FORMULA_KEY][[1, 5, 9]] = 77
    targets = torch.randn(N, 2, generator=torch.Generator().manual_seed(1))
    targets[7:, 0] = torch.nan
    targets[3, 1] = torch.nan
    return batch | {keys.TARGETS: targets}


def part(batch: Batch, rank: int, world_size: int) -> Batch:
    rows = slice(rank * N // world_size, (rank + 1) * N // world_size)
    return {k: v[rows] if v.ndim else v for k, v in batch.items()}


def loss_and_gradients(kind: str) -> tuple[float, dict[str, torch.Tensor]]:
    """As DDP has them: averaged over the ranks."""
    task, batch = make_task(kind), whole_batch()
    several = dist.is_initialized()
    if several:
        batch = part(batch, dist.get_rank(), dist.get_world_size())
    loss = task.training_step(batch, 0)
    loss.backward()
    value = loss.detach().clone()
    gradients = {}
    for name, parameter in task.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f"{name} has no gradient: DDP would abort"
            gradients[name] = parameter.grad
    if several:
        for tensor in (value, *gradients.values()):
            dist.all_reduce(tensor)
            tensor /= dist.get_world_size()
    return float(value), gradients


KINDS = ["contrastive", "contrastive with views", "both", "both with views", "regression"]


@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradients_equal_one_process(kind: str, processes: Processes) -> None:
    expected, gradients = loss_and_gradients(kind)
    for value, found in processes.run(loss_and_gradients, kind):
        assert value == pytest.approx(expected, rel=1e-5)
        assert found.keys() == gradients.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-6, msg=name)
    assert max(g.abs().max() for g in gradients.values()) > 1e-2


def gather_and_sum() -> tuple[torch.Tensor, torch.Tensor]:
    rank = dist.get_rank()
    rows = torch.full((2, 3), float(rank + 1), requires_grad=True)
    gathered = gather_rows(rows)
    (gathered * (rank + 1)).sum().backward()
    assert rows.grad is not None
    return gathered.detach(), rows.grad


def test_gathered_rows_come_in_rank_order_and_gradients_from_all_ranks(
    processes: Processes,
) -> None:
    for gathered, gradient in processes.run(gather_and_sum):
        assert gathered[:, 0].tolist() == [1.0, 1.0, 2.0, 2.0]
        assert torch.equal(gradient, torch.full((2, 3), 3.0))


def retrieval_of_a_part() -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    composition, xrd = (
        torch.nn.functional.normalize(torch.randn(9, 4, generator=generator), dim=1)
        for _ in range(2)
    )
    index, formula, system = torch.arange(9) * 7, torch.arange(9) // 2, torch.arange(9) // 4
    several = dist.is_initialized()
    # Nine rows: five and four, and a padding row that must not count.
    rows = torch.tensor([[0, 1, 2, 3, 4], [5, 6, 7, 8, 8]]) if several else torch.arange(9)
    counts = torch.ones(rows.shape, dtype=torch.bool)
    if several:
        counts[1, 4] = False
        rows, counts = rows[dist.get_rank()], counts[dist.get_rank()]
    metric = Retrieval(pool_size=4)
    part = identified(index[rows], formula[rows], system[rows], counts)
    metric.update(composition[rows], xrd[rows], part)
    return metric.compute(0.1), metric.embeddings()[2]


def test_retrieval_equals_one_process(processes: Processes) -> None:
    expected, index = retrieval_of_a_part()
    for values, found in processes.run(retrieval_of_a_part):
        assert values.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(values[name], value, msg=name)
        assert torch.equal(found, index)


def table_of_a_part() -> list[torch.Tensor]:
    batch = whole_batch()
    if dist.is_initialized():
        batch = part(batch, dist.get_rank(), dist.get_world_size())
    task = make_task("regression").eval()
    assert isinstance(task, Regression)
    predictions = Predictions()
    with torch.no_grad():
        task.collect(batch, predictions)
    table = predictions.table()
    return [getattr(table, name) for name in COLUMNS]


def test_the_table_of_predictions_equals_one_process(processes: Processes) -> None:
    expected = table_of_a_part()
    for found in processes.run(table_of_a_part):
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, equal_nan=True)


def figures_of_a_part() -> dict[str, float]:
    batch = whole_batch()
    if dist.is_initialized():
        batch = part(batch, dist.get_rank(), dist.get_world_size())
    task = make_task("regression").eval()
    assert isinstance(task, Regression)
    predictions = Predictions()
    with torch.no_grad():
        task.collect(batch, predictions)
    return report(predictions.table(), list(task.modes), task.targets, draws=50)


def test_figures_within_formulas_equal_one_process(processes: Processes) -> None:
    expected = figures_of_a_part()
    assert "both/a/within/pairs_low" in expected
    for found in processes.run(figures_of_a_part):
        assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.ddp
def test_figures_within_formulas_of_three_processes_equal_one() -> None:
    expected, three = figures_of_a_part(), Processes(3)
    for found in three.run(figures_of_a_part):
        assert found == pytest.approx(expected, rel=1e-4)
    three.close()
