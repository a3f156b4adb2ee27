"""How checkpoints are written: whole or not at all, into the folder where they stay."""

from pathlib import Path
from typing import Any

from lightning.fabric.plugins import TorchCheckpointIO

from lightning_modules import checkpoints


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
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        checkpoints.write(path, checkpoint)
