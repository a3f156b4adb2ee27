"""Backbones as `xxact export` writes them: what lies beside the weights, and reading."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from datamodules.io.arguments import printable
from lightning_modules.checkpoints.reading import FORMAT_VERSION, KEY, check_weights

SUFFIX = ".safetensors"
#: What the encoders expect; `datamodules.rendering.renderer` and `datamodules.batch` do it.
PREPROCESSING = {
    "xrd": "square root of intensity with Lorentz-polarization, maximum 1 in the measured window",
    "unmeasured": "patches that are not wholly measured are left out",
    "elements": "atomic numbers, padded with 0",
    "fractions": "atomic fractions, sum 1",
}


def read_exported(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read what `export` wrote.

    Returns:
        A dictionary with `backbone`, `grid` and `preprocessing`, and the weights.

    Raises:
        ValueError: if it is missing, damaged, of another program, format or preprocessing.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such backbone")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        described = json.loads(metadata.get(KEY, "null"))
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        # RuntimeError: Python's JSON gives up so (RecursionError) on what is nested too deeply.
        reason = printable(str(error).split("\n")[0], 200)
        raise ValueError(f"{path}: not a readable backbone ({reason}); export it again") from error
    if not isinstance(described, dict):
        raise ValueError(f"{path}: not a backbone of xxact (no '{KEY}' in its header)")
    for name, ours in (
        ("format_version", FORMAT_VERSION),
        ("preprocessing", PREPROCESSING),
    ):
        if described.get(name) != ours:
            raise ValueError(
                f"{path}: {name} is {printable(str(described.get(name)))}, this version has "
                f"{ours}; export it again"
            )
    for name in ("backbone", "grid"):
        if not isinstance(described.get(name), dict):
            raise ValueError(f"{path}: does not say which {name} it has; export it again")
    # The first exports had none.
    if described.get("checksum", "") not in ("", checksum(weights)):
        raise ValueError(f"{path}: its weights were changed or damaged; export it again")
    return described, check_weights(path, weights)


def checksum(weights: Mapping[str, Tensor]) -> str:
    """BLAKE2b of the weights, in the order of their names, 32 hexadecimal digits."""
    found = hashlib.blake2b(digest_size=16)
    for name in sorted(weights):
        value = weights[name].contiguous()
        found.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        found.update(value.flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
