"""`xxact export`: the backbone alone, as safetensors with all that is needed to use it."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from datamodules.arguments import ArgumentParser, printable
from datamodules.files import replace_file
from lightning_modules import checkpoints
from lightning_modules.backbone import Backbone

SUFFIX = ".safetensors"
#: What the encoders expect; `datamodules.rendering.renderer` and `datamodules.batch` do it.
PREPROCESSING = {
    "xrd": "square root of intensity with Lorentz-polarization, maximum 1 in the measured window",
    "unmeasured": "patches that are not wholly measured are left out",
    "elements": "atomic numbers, padded with 0",
    "fractions": "atomic fractions, sum 1",
}


def export(checkpoint: Path, output: Path) -> None:
    """Write a checkpoint's backbone.

    Args:
        checkpoint: Of any task.
        output: The file to write; must not exist.

    Raises:
        ValueError: if the checkpoint cannot be read, or the output exists or has another suffix.
    """
    if output.suffix != SUFFIX:
        raise ValueError(f"{output}: must end in {SUFFIX}")
    if output.exists():
        raise ValueError(f"{output}: exists already; delete it or choose another name")
    arguments, weights = checkpoints.read_backbone(checkpoint)
    described = {
        "format_version": checkpoints.FORMAT_VERSION,
        "backbone": arguments["backbone"],
        "grid": arguments["grid"],
        "preprocessing": PREPROCESSING,
        "checksum": checksum(weights),
    }
    content = save(
        {name: value.contiguous() for name, value in weights.items()},
        {checkpoints.KEY: json.dumps(described)},
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    replace_file(output, content)


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
        described = json.loads(metadata.get(checkpoints.KEY, "null"))
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        # RuntimeError: Python's JSON gives up so (RecursionError) on what is nested too deeply.
        reason = printable(str(error).split("\n")[0], 200)
        raise ValueError(f"{path}: not a readable backbone ({reason}); export it again") from error
    if not isinstance(described, dict):
        raise ValueError(f"{path}: not a backbone of xxact (no '{checkpoints.KEY}' in its header)")
    for name, ours in (
        ("format_version", checkpoints.FORMAT_VERSION),
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
    return described, checkpoints.check_weights(path, weights)


def checksum(weights: Mapping[str, Tensor]) -> str:
    """BLAKE2b of the weights, in the order of their names, 32 hexadecimal digits."""
    found = hashlib.blake2b(digest_size=16)
    for name in sorted(weights):
        value = weights[name].contiguous()
        found.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        found.update(value.flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def load_exported(path: str | Path) -> Backbone:
    """Build an exported backbone, on the CPU, in evaluation mode.

    Args:
        path: A file of `xxact export`, or a checkpoint.

    Raises:
        ValueError: if it cannot be read or does not fit this version.
    """
    return checkpoints.build_backbone(path)


def main(args: Sequence[str]) -> int:
    """Run `xxact export`."""
    parser = ArgumentParser(prog="xxact export", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="checkpoint of any task")
    parser.add_argument("--output", type=Path, required=True, help=f"file to write (*{SUFFIX})")
    given = parser.parse_args(args)
    export(given.checkpoint, given.output)
    size = given.output.stat().st_size / 2**20
    print(f"{given.output}: {size:.1f} MiB; start from it with --model.init_from")
    return 0
