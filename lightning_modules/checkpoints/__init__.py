"""What is kept of a model: the format of checkpoints, reading, writing and export."""

from lightning_modules.checkpoints.format import (
    FORMAT_VERSION,
    KEY,
    build_backbone,
    check_same_task,
    describe,
    load_backbone,
    load_task,
    peaks_of,
    plain,
    public_name,
    read,
    read_backbone,
    split_of,
    write,
)
from lightning_modules.checkpoints.reading import check_weights

__all__ = [
    "FORMAT_VERSION",
    "KEY",
    "build_backbone",
    "check_same_task",
    "check_weights",
    "describe",
    "load_backbone",
    "load_task",
    "peaks_of",
    "plain",
    "public_name",
    "read",
    "read_backbone",
    "split_of",
    "write",
]
