"""How checkpoints are written: whole or not at all, into the folder where they stay."""

import os
from pathlib import Path
from typing import Any

from lightning.fabric.plugins import TorchCheckpointIO

from lightning_modules import checkpoints

#: The checkpoint from which a run goes on, and what the name of the one before it ends with.
LAST, PREVIOUS = "last.ckpt", ".previous"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the destination and renames.

    Lightning's own (2.6) writes to the system's temporary folder and moves the file. If that folder
    lies on another file system, as on most clusters, the move is a copy: a kill in the middle
    leaves half a checkpoint in place of the previous one.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint; the previous one of this name stays until the new one is whole."""
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.name == LAST and path.is_file():
            _keep(path)
        checkpoints.write(path, checkpoint)


def _keep(path: Path) -> None:
    """Keep a checkpoint under another name; it keeps its own until another takes its place."""
    kept, link = path.with_name(path.name + PREVIOUS), path.with_name(f".{path.name}.link.tmp")
    link.unlink(missing_ok=True)
    try:
        os.link(path, link)
        link.replace(kept)
    except OSError:
        # A file system without links: for a moment there is only the previous one.
        path.replace(kept)
