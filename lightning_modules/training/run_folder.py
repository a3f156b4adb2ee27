"""A run's folder: what lies where in it."""

import json
import shutil
from pathlib import Path

from lightning_modules.training.recipe_files import read_yaml
from lightning_modules.training.run_lock import TRAINING

CONFIG = "config.yaml"
CHECKPOINTS = "checkpoints"
METRICS_FINAL = "metrics.json"
#: Folders of loggers (configs/logger/), which are made before training begins.
_LOGS = ("csv", "wandb")


def is_used(folder: Path) -> bool:
    """Whether a folder holds anything but what a start leaves that never trained."""
    return folder.is_dir() and any(
        not (
            path.name in ("hparams.yaml", TRAINING, *_LOGS)
            or path.name.startswith("events.out.tfevents")
            or (path.name == CHECKPOINTS and not any(path.iterdir()))
        )
        for path in folder.iterdir()
    )


def forget_start(folder: Path) -> None:
    """Remove what loggers wrote at a start that failed before it trained."""
    if folder.is_dir() and not is_used(folder):
        for path in folder.iterdir():
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()
        folder.rmdir()


def next_config_path(folder: Path) -> Path:
    """Where this start's configuration goes: `config.yaml`, then `config.2.yaml` and so on."""
    path, n = folder / CONFIG, 1
    while path.exists():
        n += 1
        path = folder / f"config.{n}.yaml"
    return path


def start_path(config: Path) -> Path:
    """Where a start's recipe files and monitored metric are told, beside its configuration.

    Args:
        config: `config.yaml` or `config.N.yaml`.

    Returns:
        `start.json` or `start.N.json`.
    """
    return config.with_name(f"start{config.name.removeprefix('config')}").with_suffix(".json")


def unfinished(folder: Path) -> str:
    """Why a run has not come to its end, whatever its process said; empty if it has.

    A run that is ended from outside, or requeued, may end without an error.

    Args:
        folder: The run's folder.
    """
    path = folder / METRICS_FINAL
    try:
        step = json.loads(path.read_text(encoding="utf-8"))["step"]
    except (OSError, ValueError, KeyError, TypeError):
        return f"{path} is missing: the training was ended before its last step"
    configs = [p for p in folder.glob("config*.yaml") if p.name != CONFIG]
    newest = max(configs, key=lambda p: int(p.name.split(".")[1]), default=folder / CONFIG)
    trainer = (read_yaml(newest) or {}).get("trainer", {})
    callbacks = [str(entry.get("class_path")) for entry in trainer.get("callbacks") or []]
    if trainer.get("max_time") or any("EarlyStopping" in name for name in callbacks):
        return ""
    if trainer.get("max_epochs") not in (None, -1) or not step < trainer.get("max_steps", -1):
        return ""
    return f"{path} is of step {step} of {trainer['max_steps']}: the training was ended early"


def folder_of(checkpoint: Path) -> Path:
    """The run's folder that a run's checkpoint belongs to."""
    folder = checkpoint.parent
    return folder.parent if folder.name == CHECKPOINTS else folder
