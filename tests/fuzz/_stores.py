"""A small store to damage, and everything that reads one."""

import json
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.store.gathering import Gatherer
from datamodules.store.store import MANIFEST, Store, checksum
from datamodules.xrd_datamodule import XRDDataModule
from tests.factories import make_store
from tests.fuzz._command import judged, outcome_of

SHARD = "shard-00000.arrow"


@cache
def store() -> Path:
    """A store of two shards."""
    folder = Path(tempfile.mkdtemp())
    make_store(folder, 48, rows_per_shard=24)
    return folder


def check_with(name: str, content: bytes) -> str:
    """Read the store with one file in place of its own, as a stranger would hand it over."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / "store"
        shutil.copytree(store(), folder)
        (folder / name).write_bytes(content)
        if name != MANIFEST:
            manifest = json.loads((folder / MANIFEST).read_text())
            shard = next(s for s in manifest["shards"] if s["file"] == name)
            shard |= {"bytes": len(content), "checksum": checksum(content)}
            (folder / MANIFEST).write_text(json.dumps(manifest))

        def read() -> None:
            opened = Store(folder)
            Gatherer([opened], opened.target_names, 8).gather(np.arange(len(opened)))
            for row in range(len(opened)):
                opened.material(row)
            data: Any = XRDDataModule([str(folder)], global_batch_size=4, num_workers=0)
            data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)

        told = [outcome_of(["inspect", str(folder), *how]) for how in ([], ["--verify"])]
        return " ".join([judged(read), *told])
