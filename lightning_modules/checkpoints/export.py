"""`xxact export`: the backbone alone, as safetensors with all that is needed to use it."""

import json
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import save

from datamodules.io.arguments import ArgumentParser
from datamodules.io.files import replace_file
from lightning_modules import checkpoints
from lightning_modules.backbone import Backbone
from lightning_modules.checkpoints.exported import PREPROCESSING, SUFFIX, checksum


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
