"""Under which names recipes, checkpoints and users import: the tasks, and parts of a run.

Where a class lies may change; its name here does not. Imported on first use: `xxact prepare` and
`xxact --help` must not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_modules.contrastive import Contrastive
    from lightning_modules.masked_contrastive import MaskedContrastive
    from lightning_modules.masked_xrd import MaskedXRD
    from lightning_modules.regression import Regression
    from lightning_modules.training.callbacks.averaging import EMAWeights
    from lightning_modules.training.callbacks.compilation import Compile
    from lightning_modules.training.callbacks.every_run import ReconstructionPictures
    from lightning_modules.training.callbacks.requeue import Requeue
    from lightning_modules.training.callbacks.task_reports import (
        EmbeddingProjector,
        RegressionReport,
    )
    from lightning_modules.training.ddp import StaticDDP

__all__ = [
    "TASKS",
    "Compile",
    "Contrastive",
    "EMAWeights",
    "EmbeddingProjector",
    "MaskedContrastive",
    "MaskedXRD",
    "ReconstructionPictures",
    "Regression",
    "RegressionReport",
    "Requeue",
    "StaticDDP",
]

#: The tasks that checkpoints name.
TASKS = ("MaskedXRD", "Contrastive", "MaskedContrastive", "Regression")

_MODULES = {
    "Compile": "training.callbacks.compilation",
    "Contrastive": "contrastive",
    "EMAWeights": "training.callbacks.averaging",
    "EmbeddingProjector": "training.callbacks.task_reports",
    "MaskedContrastive": "masked_contrastive",
    "MaskedXRD": "masked_xrd",
    "ReconstructionPictures": "training.callbacks.every_run",
    "Regression": "regression",
    "RegressionReport": "training.callbacks.task_reports",
    "Requeue": "training.callbacks.requeue",
    "StaticDDP": "training.ddp",
}


def __getattr__(name: str) -> Any:
    """Import the module of a name when it is first asked for."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
