"""From which checkpoint a run goes on, and what is saved of one that was interrupted."""

import errno
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException

from datamodules.io.files import remove_leftovers
from lightning_modules import checkpoints
from lightning_modules.checkpoints.atomic_io import PREVIOUS
from lightning_modules.training.run_folder import CHECKPOINTS, forget_start, is_used
from lightning_modules.training.run_lock import TRAINING, Lock, holder

#: `never`: the folder must be new. `newest`: continue from the newest checkpoint, which must
#: exist. `auto`: continue if there is one, else start afresh (for requeued jobs).
Resume = Literal["never", "newest", "auto"]


def candidates(folder: Path) -> list[Path]:
    """A run's `last*.ckpt`, the one before, and those that Lightning writes when SLURM ends a job.

    Args:
        folder: The run's folder.
    """
    kept = folder / CHECKPOINTS
    return [*kept.glob("last*.ckpt"), *folder.glob("hpc_ckpt_*.ckpt"), *kept.glob(f"*{PREVIOUS}")]


def newest_checkpoint(folder: Path) -> tuple[Path | None, list[str]]:
    """The sound checkpoint of the latest step.

    By the step that it holds, not by the file's time, which copying changes.

    Args:
        folder: The run's folder.

    Returns:
        The checkpoint, or None; and what is wrong with others, a line each.
    """
    sound: list[tuple[int, Path]] = []
    damaged = []
    for path in candidates(folder):
        try:
            sound.append((saved_step(path), path))
        except ValueError as error:
            damaged.append(str(error))
    # Of the same step, the first of the list: `last.ckpt`.
    best = max(sound, key=lambda found: found[0], default=None)
    return best[1] if best else None, damaged


def saved_step(path: Path) -> int:
    """The step that a checkpoint holds.

    Raises:
        ValueError: if it is damaged, or holds none.
    """
    step = checkpoints.read(path).get("global_step")
    if not isinstance(step, int):
        raise ValueError(f"{path}: holds no step of a training")
    return step


def open_run(folder: Path, resume: Resume) -> Path | None:
    """Decide whether a run may start in a folder, without touching it.

    Args:
        folder: The run's folder.
        resume: How to treat what is there.

    Returns:
        The checkpoint to resume from, or None to start afresh. If the newest is damaged it is told,
        and the one before it is taken.

    Raises:
        ValueError: if another process trains there, if the folder is in use and `resume` is
            `never`, or if there is nothing to resume from.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: the run's folder is a file; choose another with --run")
    if rank_zero_only.rank == 0 and (owner := holder(folder, TRAINING)):  # type: ignore[attr-defined]
        raise ValueError(_in_use(folder, owner))
    if resume == "never":
        if is_used(folder):
            how = "--resume continues it"
            if not candidates(folder):
                how = "it holds no checkpoint to resume from"
            raise ValueError(
                f"{folder}: the run's folder is not empty ({how}); choose another with --run, or "
                "delete it"
            )
        return None
    checkpoint, damaged = newest_checkpoint(folder)
    if checkpoint is None and resume == "newest":
        if damaged:
            raise ValueError(
                f"{folder}: --resume finds no sound checkpoint ({'; '.join(damaged)}); start a new "
                "run, or --resume auto starts this one afresh"
            )
        raise ValueError(
            f"{folder}: --resume finds no checkpoint (neither {CHECKPOINTS}/last*.ckpt nor "
            "hpc_ckpt_*.ckpt); start the run without --resume"
        )
    for line in damaged:
        _warn(line)
    if damaged:
        _warn(f"continues from {checkpoint}" if checkpoint else f"{folder}: starts afresh")
    return checkpoint


@rank_zero_only
def _warn(line: str) -> None:
    print(f"xxact: warning: {line}", file=sys.stderr)


@contextmanager
def training_in(
    folder: Path, trainer: Trainer, checkpoint: Path | None, writes: bool
) -> Iterator[None]:
    """Train in a run's folder, alone.

    Args:
        folder: The run's folder.
        trainer: Of the run.
        checkpoint: Where it goes on from, if it does.
        writes: Whether this process writes there: rank 0.

    Raises:
        ValueError: if another process trains there.
        SystemExit: if the training was ended from outside, with 143 (SIGTERM) or 130 (Ctrl-C),
            after what is saved has been told. A start that fails before its first step leaves no
            folder behind.
    """
    lock = _claim(folder, checkpoint is None) if writes else None
    hook = threading.excepthook

    def told_later(thread: Any) -> None:
        # What the disk refuses to TensorBoard's thread ends the training, too.
        if not isinstance(thread.exc_value, OSError):
            hook(thread)

    threading.excepthook = told_later
    try:
        yield
    except BaseException as error:
        if isinstance(error, OSError) and error.errno and error.filename is None:
            error.filename = str(folder)
        if writes:
            forget_start(folder)
        status = _exit_status(error)
        if status is None:
            raise
        if writes:
            print(_how_to_go_on(folder, status, trainer.global_step), file=sys.stderr)
        raise SystemExit(status) from error
    finally:
        threading.excepthook = hook
        if lock is not None:
            lock.release()


def _claim(folder: Path, afresh: bool) -> Lock | None:
    """Keep others out of the run's folder, and clear what a kill has left in it."""
    try:
        lock = Lock.take(folder, TRAINING)
    except ValueError as error:
        if getattr(error.__cause__, "errno", 0) not in (errno.ENOLCK, errno.ENOSYS):
            raise
        _warn(f"{error}; nothing keeps a second process from training here")
        return None
    if lock is None:
        raise ValueError(_in_use(folder, holder(folder, TRAINING)))
    for place in (folder, folder / CHECKPOINTS):
        remove_leftovers(place)
    if afresh:
        # Damaged ones: Lightning would load SLURM's unasked, and fail at every requeue.
        for path in folder.glob("hpc_ckpt_*.ckpt"):
            path.rename(path.with_name(f"damaged-{path.name}"))
    return lock


def _in_use(folder: Path, owner: str) -> str:
    """The message for whoever comes second."""
    return f"{folder}: {owner or 'another process'} trains here; wait, or choose another --run"


def _exit_status(error: BaseException) -> int | None:
    """The exit status of a training that was ended from outside; None if it failed by itself."""
    if isinstance(error, SIGTERMException):
        return 143
    # Lightning makes a SystemExit of an interruption.
    return 130 if KeyboardInterrupt in (type(error), type(error.__context__)) else None


def _how_to_go_on(folder: Path, status: int, step: int) -> str:
    """What to tell whose training was ended: what is saved, and how to go on from there."""
    what = "ended by SIGTERM" if status == 143 else "interrupted"
    checkpoint, _ = newest_checkpoint(folder)
    if checkpoint is None:
        return f"xxact: {what} at step {step}; nothing was saved yet"
    return (
        f"xxact: {what} at step {step}; {checkpoint} holds step {saved_step(checkpoint)}: the same "
        "command with --resume goes on from there"
    )
