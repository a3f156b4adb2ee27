"""Each task, small enough for a test, and batches that it can train on."""

import torch

from datamodules import batch as keys
from datamodules.batch import Batch
from lightning_modules import Contrastive, MaskedContrastive, MaskedXRD, Regression
from lightning_modules.backbone import BackboneConfig
from lightning_modules.base import Task
from tests.lightning_modules.batches import GRID, make_batch, with_view

CONFIG = BackboneConfig(
    width=16, heads=2, composition_layers=1, xrd_layers=1, fusion_layers=1, patch_points=10
)
#: A pretraining with all that is off by default.
EVERY_OPTION = "EveryOption"
TASKS = ("MaskedXRD", "Contrastive", "MaskedContrastive", "Regression")


def make_task(name: str, config: BackboneConfig = CONFIG) -> Task:
    """A task that logs nowhere; the same weights each time."""
    torch.manual_seed(0)
    task: Task
    if name == "Regression":
        task = Regression(targets=("density",), backbone=config, grid=GRID)
        task.targets.units = ["g/cm³"]
        task.targets.fit({"density": {"mean": 3.0, "std": 2.0, "count": 100, "min": 0.5}})
    elif name == EVERY_OPTION:
        task = MaskedContrastive(
            backbone=config,
            grid=GRID,
            loss="cross_entropy",
            repetitions=0.5,
            decoder_self_attention=True,
            view_weight=1.0,
        )
    else:
        kinds = {k.__name__: k for k in (MaskedXRD, Contrastive, MaskedContrastive)}
        task = kinds[name](backbone=config, grid=GRID)
    task.log = lambda *_, **__: None  # type: ignore[method-assign]
    return task


def task_batch(seed: int = 0, unmeasured_after: float = 180.0, n: int = 8) -> Batch:
    """A batch with one target, missing in one row."""
    batch = make_batch(n, seed, unmeasured_after=unmeasured_after)
    targets = (batch[keys.ELEMENTS] * batch[keys.FRACTIONS]).sum(dim=1, keepdim=True) / 10
    targets[1] = torch.nan
    return with_view(batch) | {keys.TARGETS: targets}
