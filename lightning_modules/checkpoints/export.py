"""`xxact export`: the backbone alone, as safetensors with all that is needed to use it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from datamodules.arguments import ArgumentParser
from datamodules.files import replace_file
from datamodules.grid import Grid
from lightning_modules import checkpoints
from lightning_modules.backbone import Backbone, BackboneConfig

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
    except SafetensorError as error:
        raise ValueError(f"{path}: not a readable backbone ({error}); export it again") from error
    if checkpoints.KEY not in metadata:
        raise ValueError(f"{path}: not a backbone of xxact (no '{checkpoints.KEY}' in its header)")
    described = json.loads(metadata[checkpoints.KEY])
    for name, ours in (
        ("format_version", checkpoints.FORMAT_VERSION),
        ("preprocessing", PREPROCESSING),
    ):
        if described[name] != ours:
            raise ValueError(
                f"{path}: {name} is {described[name]}, this version has {ours}; export it again"
            )
    return described, weights


def load_exported(path: str | Path) -> Backbone:
    """Build an exported backbone, on the CPU, in evaluation mode.

    Args:
        path: A file of `xxact export`, or a checkpoint.

    Raises:
        ValueError: if it cannot be read or does not fit this version.
    """
    saved, weights = checkpoints.read_backbone(path)
    backbone = Backbone(BackboneConfig(**saved["backbone"]), Grid(**saved["grid"]))
    missing, unexpected = backbone.load_state_dict(weights, strict=False)
    if missing or unexpected:
        raise ValueError(
            f"{path}: missing {list(missing)[:3]}, unexpected {list(unexpected)[:3]}; made by "
            "another version of xxact"
        )
    return backbone.eval()


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
