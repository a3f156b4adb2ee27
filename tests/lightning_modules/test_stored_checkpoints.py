"""Checkpoints of earlier versions, kept as files: no change of the code may break a user's."""

from pathlib import Path

import pytest
import torch

import lightning_modules
from lightning_modules import checkpoints

STORED = sorted((Path(__file__).parents[1] / "checkpoints").glob("*/*.ckpt"))


def test_every_task_has_one() -> None:
    assert {path.stem for path in STORED} == set(lightning_modules.TASKS)


@pytest.mark.parametrize("path", STORED, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_it_loads_as_its_task_with_its_weights(path: Path) -> None:
    task = checkpoints.load_task(path)
    assert type(task) is getattr(lightning_modules, path.stem)
    saved = torch.load(path, weights_only=True)["state_dict"]
    for name, value in task.state_dict().items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(value, saved[name], rtol=0, atol=0, equal_nan=True)
        else:
            assert value == saved[name], name


@pytest.mark.parametrize("path", STORED, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_a_run_that_wrote_it_can_be_resumed(path: Path) -> None:
    task = checkpoints.load_task(path)
    checkpoints.check_same_task(path, checkpoints.read(path), task)
    # What a new checkpoint records is where users import the task from, not the file it lies in.
    assert checkpoints.describe(task)["task"] == f"lightning_modules.{path.stem}"
