"""Small untrained models as checkpoints: what they say is arbitrary, but definite."""

from pathlib import Path

import torch

from datamodules.grid import Grid
from datamodules.rendering.peaks import PeakShape
from datamodules.store.splits import SplitConfig
from datamodules.store.store import STRUCTURE_TARGETS
from lightning_modules import checkpoints
from lightning_modules.backbone import BackboneConfig
from lightning_modules.base import Task
from lightning_modules.contrastive import Contrastive
from lightning_modules.regression import Regression
from tests.factories import UNITS

GRID = Grid(step=0.1)
SMALL = BackboneConfig(width=16, heads=2, composition_layers=1, xrd_layers=1)
PEAKS = PeakShape(fwhm=0.4)
SPLIT = SplitConfig()


def save(task: Task, path: Path, split: SplitConfig) -> Path:
    described = checkpoints.describe(task) | {
        "peaks": checkpoints.plain(PEAKS),
        "split": checkpoints.plain(split),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoints.write(path, {checkpoints.KEY: described, "state_dict": task.state_dict()})
    return path


def regression(
    path: Path, *targets: str, calibrated: bool = True, split: SplitConfig = SPLIT
) -> Path:
    torch.manual_seed(0)
    task = Regression(targets or ("formation_energy",), SMALL, GRID)
    units = UNITS | STRUCTURE_TARGETS
    task.targets.units = [units.get(name, "eV/atom") for name in task.targets.names]
    if calibrated:
        task.targets.conformal.fill_(2.0)
    return save(task, path, split)


def aligned(path: Path) -> Path:
    torch.manual_seed(0)
    return save(Contrastive(SMALL, GRID, embedding_width=8), path, SPLIT)
