"""Checkpoints of earlier versions, kept as files: no change of the code may break a user's."""

import copy
from pathlib import Path

import pytest
import torch

import lightning_modules
from datamodules.grid import Grid
from lightning_modules import checkpoints
from lightning_modules.backbone import BackboneConfig
from lightning_modules.base import OptimizerConfig, Task
from lightning_modules.masked_xrd import MaskedXRD
from tests.lightning_modules.batches import GRID
from tests.lightning_modules.tasks import CONFIG

STORED = sorted((Path(__file__).parents[2] / "checkpoints").glob("*/*.ckpt"))


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


class Longer(MaskedXRD):
    """A user's task: its constructor names an argument once, and nothing else does."""

    def __init__(
        self,
        backbone: BackboneConfig = BackboneConfig(),  # noqa: B008
        grid: Grid = Grid(),  # noqa: B008
        optimizer: OptimizerConfig = OptimizerConfig(),  # noqa: B008
        patience: float = 1.5,
        init_from: str | None = None,
    ) -> None:
        super().__init__(backbone, grid, optimizer, init_from=init_from)


def written(task: Task, path: Path) -> Path:
    checkpoints.write(
        path, {"state_dict": task.state_dict(), checkpoints.KEY: checkpoints.describe(task)}
    )
    return path


def test_an_argument_that_only_the_signature_names_is_in_the_checkpoint(tmp_path: Path) -> None:
    task = Longer(CONFIG, grid=GRID, patience=2.5, init_from="somewhere.ckpt")
    path = written(task, tmp_path / "longer.ckpt")
    # A stranger's checkpoint may name any module: what is not ours is imported when asked for.
    with pytest.raises(ValueError, match=f"none of our tasks.*--allow-task {__name__}.Longer"):
        checkpoints.load_task(path)
    again = checkpoints.load_task(path, allow_tasks=[f"{__name__}.Longer"])
    expected = {"backbone": CONFIG, "grid": GRID, "optimizer": OptimizerConfig(), "patience": 2.5}
    assert task.constructed_with == again.constructed_with == expected
    checkpoints.check_same_task(path, checkpoints.read(path), again)
    with pytest.raises(ValueError, match=r"patience is 2\.5 in the checkpoint, 3\.5 here"):
        checkpoints.check_same_task(
            path, checkpoints.read(path), Longer(CONFIG, GRID, patience=3.5)
        )
    assert copy.deepcopy(task).constructed_with == expected


def test_an_argument_of_a_later_version_has_its_default_in_an_older_checkpoint(
    tmp_path: Path,
) -> None:
    path = written(Longer(CONFIG, GRID), tmp_path / "older.ckpt")
    content = checkpoints.read(path)
    del content[checkpoints.KEY]["arguments"]["patience"]
    del content[checkpoints.KEY]["arguments"]["backbone"]["dropout"]
    checkpoints.check_same_task(path, content, Longer(CONFIG, GRID))
    with pytest.raises(ValueError, match=r"patience is 1\.5 in the checkpoint, 2\.0 here"):
        checkpoints.check_same_task(path, content, Longer(CONFIG, GRID, patience=2.0))
