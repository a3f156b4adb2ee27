"""The networks of the peers' benchmark: ours is what users train, and every one of them learns."""

import pytest
import torch
from peer_networks import GRID, NETWORKS, Inputs, Ours

from datamodules import batch as keys


@pytest.fixture
def inputs() -> Inputs:
    """Three materials; the second has one element less."""
    torch.manual_seed(0)
    elements = torch.tensor([[8, 26, 3], [8, 26, 0], [14, 6, 1]])
    fractions = torch.tensor([[0.5, 0.3, 0.2], [0.6, 0.4, 0.0], [0.2, 0.4, 0.4]])
    return Inputs(elements, fractions, torch.rand(3, GRID.n_points))


def test_ours_is_trained_by_the_tasks_own_loss(inputs: Inputs) -> None:
    """The answer from the composition alone is part of it, as in configs/regression.yaml."""
    labels = torch.tensor([-1.0, 0.5, 2.0])
    network = Ours()
    batch = network.batch_of(inputs, step=4) | {keys.TARGETS: labels[:, None]}
    assert torch.equal(network.loss(inputs, labels, 4), network.task.training_step(batch, 4))
    assert list(network.task.modes) == ["both", "composition", "xrd"]
    assert list(Ours(alone=False).task.modes) == ["both"]
    assert torch.equal(network(inputs), network.task.predict(network.batch_of(inputs)).value[:, 0])


@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_changes_the_loss_and_reaches_every_weight(name: str, inputs: Inputs) -> None:
    """An unused weight would be counted as a parameter, and a detached one would not learn."""
    torch.manual_seed(0)
    network = NETWORKS[name][0]()
    labels = torch.tensor([-1.0, 0.5, 2.0])
    assert network(inputs).shape == (3,)
    network.loss(inputs, labels, 0).backward()
    lacking = [n for n, weight in network.named_parameters() if weight.grad is None]
    assert not lacking
