"""A run's folder: what may be written where, and from which checkpoint a run is resumed."""

from pathlib import Path
from typing import Literal

CONFIG = "config.yaml"
CHECKPOINTS = "checkpoints"

#: `never`: the folder must be new. `newest`: continue from the newest checkpoint, which must
#: exist. `auto`: continue if there is one, else start afresh (for requeued jobs).
Resume = Literal["never", "newest", "auto"]


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest of a run's `last*.ckpt` and of those that Lightning writes when SLURM ends a job.

    Args:
        folder: The run's folder.
    """
    candidates = [
        *(folder / CHECKPOINTS).glob("last*.ckpt"),
        *folder.glob("hpc_ckpt_*.ckpt"),
    ]
    return max(candidates, key=lambda path: path.stat().st_mtime_ns, default=None)


def is_used(folder: Path) -> bool:
    """Whether a folder holds anything but what TensorBoard leaves of a start that never trained."""
    return folder.is_dir() and any(
        not (path.name == "hparams.yaml" or path.name.startswith("events.out.tfevents"))
        for path in folder.iterdir()
    )


def open_run(folder: Path, resume: Resume) -> Path | None:
    """Decide whether a run may start in a folder, without touching it.

    Args:
        folder: The run's folder.
        resume: How to treat what is there.

    Returns:
        The checkpoint to resume from, or None to start afresh.

    Raises:
        ValueError: if the folder is in use and `resume` is `never`, or there is nothing to
            resume from.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: the run's folder is a file; choose another with --run")
    checkpoint = newest_checkpoint(folder)
    if resume == "never" and is_used(folder):
        how = "--resume continues it" if checkpoint else "it holds no checkpoint to resume from"
        raise ValueError(
            f"{folder}: the run's folder is not empty ({how}); choose another with --run, or "
            "delete it"
        )
    if resume == "never":
        return None
    if resume == "newest" and checkpoint is None:
        raise ValueError(
            f"{folder}: --resume finds no checkpoint (neither {CHECKPOINTS}/last*.ckpt nor "
            "hpc_ckpt_*.ckpt); start the run without --resume"
        )
    return checkpoint


def forget_start(folder: Path) -> None:
    """Remove what TensorBoard wrote at a start that failed before it trained."""
    if folder.is_dir() and not is_used(folder):
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()


def next_config_path(folder: Path) -> Path:
    """Where this start's configuration goes: `config.yaml`, then `config.2.yaml` and so on."""
    path, n = folder / CONFIG, 1
    while path.exists():
        n += 1
        path = folder / f"config.{n}.yaml"
    return path


def folder_of(checkpoint: Path) -> Path:
    """The run's folder that a checkpoint belongs to."""
    folder = checkpoint.parent
    return folder.parent if folder.name == CHECKPOINTS else folder
