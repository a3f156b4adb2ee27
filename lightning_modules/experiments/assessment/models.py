"""Regressions to judge beside each other, by name, and where a report may be written."""

from collections.abc import Sequence
from pathlib import Path

from datamodules.rendering.peaks import PeakShape
from datamodules.store.collection import Collection
from datamodules.store.splits import SplitConfig
from lightning_modules import checkpoints
from lightning_modules.regression import Regression


def named_checkpoints(given: Sequence[str]) -> dict[str, str]:
    """Checkpoints by name, of words `[NAME=]CHECKPOINT`; by default the name of the run's folder.

    Raises:
        ValueError: if two have one name.
    """
    models: dict[str, str] = {}
    for word in given:
        name, separator, path = word.partition("=")
        if not separator:
            name, path = Path(word).parent.parent.name or word, word
        if name in models:
            raise ValueError(f"--checkpoint: two are called {name}; say NAME=CHECKPOINT")
        models[name] = path
    return models


def common_split(paths: Sequence[str]) -> SplitConfig:
    """How all these models' runs split their materials.

    Raises:
        ValueError: if they did it differently.
    """
    splits = {path: checkpoints.split_of(path) for path in paths}
    if len(set(splits.values())) > 1:
        raise ValueError(
            f"{', '.join(splits)}: were trained with different data.split; "
            "compare models of one split"
        )
    return next(iter(splits.values()))


def load_regression(path: str, allow_tasks: Sequence[str] = ()) -> tuple[Regression, PeakShape]:
    """A regression, and the shape of the peaks that it was trained with.

    Args:
        path: Its checkpoint.
        allow_tasks: As of `checkpoints.load_task`.

    Raises:
        ValueError: if the checkpoint is another task's.
    """
    task = checkpoints.load_task(path, allow_tasks)
    if not isinstance(task, Regression):
        raise ValueError(f"{path}: was made by {type(task).__name__}; give a regression's")
    return task, checkpoints.peaks_of(path)


def check_units(path: str, task: Regression, collection: Collection) -> None:
    """Refuse labels in another unit than the model's.

    Raises:
        ValueError: naming the target and both units.
    """
    for name, unit in zip(task.targets.names, task.targets.units, strict=True):
        there = collection.units.get(name, unit)
        if unit and there != unit:
            folders = ", ".join(str(store.folder) for store in collection.stores)
            raise ValueError(
                f"{path}: predicts {name} in {unit}, {folders} gives it in {there}; prepare the "
                "store with the model's unit"
            )


def check_output(folder: Path) -> None:
    """Refuse a folder that has something in it.

    Raises:
        ValueError: if it has.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ValueError(f"{folder}: exists already; choose another folder with --output")
