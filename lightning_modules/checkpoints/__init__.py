"""What is kept of a model: the format of checkpoints, reading, writing and export."""

from lightning_modules.checkpoints.format import (
    FORMAT_VERSION,
    KEY,
    check_same_task,
    describe,
    load_backbone,
    load_task,
    plain,
    public_name,
    read,
    read_backbone,
    split_of,
    write,
)

__all__ = [
    "FORMAT_VERSION",
    "KEY",
    "check_same_task",
    "describe",
    "load_backbone",
    "load_task",
    "plain",
    "public_name",
    "read",
    "read_backbone",
    "split_of",
    "write",
]
