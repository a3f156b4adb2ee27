"""The peers' benchmark: ours is what users train, every network learns, results are kept."""

import argparse
from pathlib import Path
from typing import Any

import peers
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
    learned = [(n, w) for n, w in network.named_parameters() if w.requires_grad]
    lacking = [name for name, weight in learned if weight.grad is None]
    assert not lacking


def result(model: str = "ours", seed: int = 0, mae: float = 0.1) -> dict[str, Any]:
    """A line of the file of results."""
    key = {"store": "nrel", "target": "formation_energy", "split": "test", "seconds": 60.0}
    found = {"mae": mae, "within_mae": 0.2, "pairs": 0.5, "cpu_seconds": 60.0}
    return key | found | {"model": model, "seed": seed, "sees": "both", "parameters": 9, "steps": 7}


def test_a_cut_line_of_results_is_made_again(tmp_path: Path) -> None:
    """A kill in the middle of a line costs that line and harms no other."""
    path = tmp_path / "peers.jsonl"
    peers.append(path, result(seed=0))
    with path.open("a") as file:
        file.write('{"store": "nr')
    assert peers.results_in(path) == [result(seed=0)]
    peers.append(path, result(seed=1))
    assert peers.results_in(path) == [result(seed=0), result(seed=1)]


def test_what_is_there_is_not_trained_again(tmp_path: Path) -> None:
    """Else a second command would pay for everything anew: here the store does not even exist."""
    path = tmp_path / "peers.jsonl"
    peers.append(path, result())
    given = argparse.Namespace(
        results=path, store=["nrel=nowhere"], target="formation_energy", seconds=60.0,
        split="test", seeds=[0], models=["ours"],
    )  # fmt: skip
    peers.run(given)
    assert peers.results_in(path) == [result()]
    given.seeds = [1]
    with pytest.raises(Exception, match="nowhere"):
        peers.run(given)


def test_the_report_gives_means_and_ranges_over_seeds() -> None:
    """Rows stand in the order of what models see, whatever the order of the file."""
    results = [result(mae=0.3), result("set"), result(seed=1, mae=0.1)]
    lines = list(peers.tables_of(results))
    assert lines[0].startswith("nrel, formation_energy, test split, 60 CPU seconds")
    assert [line.split(" | ")[1] for line in lines[4:6]] == ["set", "ours"]
    assert "| ours | 2 | 0.2000 (0.1000 to 0.3000) |" in lines[5]


def test_a_frozen_encoder_and_fewer_patches_make_a_step_cheaper() -> None:
    """What a step costs is what a step does: else the table would tell of something else."""
    whole, frozen = NETWORKS["ours"][0](), NETWORKS["ours_frozen"][0]()
    weights = [sum(p.numel() for p in n.parameters() if p.requires_grad) for n in (whole, frozen)]
    assert weights[1] < weights[0]
    assert not any(p.requires_grad for p in frozen.task.backbone.xrd.parameters())
    assert set(peers.costs(["set", "ours_coarse"], rounds=1)) == {"set", "ours_coarse"}
