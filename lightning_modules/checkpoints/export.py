"""`xxact export`: a whole model, or its backbone alone, as safetensors with all that is needed."""

import json
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from datamodules.io.arguments import ArgumentParser, printable
from datamodules.io.files import new_folder, replace_file
from lightning_modules import checkpoints
from lightning_modules.backbone import Backbone
from lightning_modules.checkpoints.cards.card import card, record
from lightning_modules.checkpoints.cards.told import check_told
from lightning_modules.checkpoints.exported import PREPROCESSING, SUFFIX, checksum
from lightning_modules.checkpoints.places import CARD, WEIGHTS, find, is_model
from lightning_modules.checkpoints.whole import (
    PRECISIONS,
    digest,
    evidence_beside,
    read_description,
    write_description,
    write_model,
)


def export(checkpoint: str | Path, output: Path) -> None:
    """Write the backbone of a checkpoint or a model.

    Args:
        checkpoint: Of any task.
        output: The file to write; must not exist.

    Raises:
        ValueError: if the checkpoint cannot be read, or the output exists or has another suffix.
    """
    if output.suffix != SUFFIX:
        raise ValueError(f"{output}: must end in {SUFFIX}")
    _refuse_existing(output)
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


def export_model(
    checkpoint: str | Path, output: Path, precision: str | None = None, notes: str | None = None
) -> None:
    """Write a whole model: weights, description, card.

    Intervals are part of the weights; the scale on which an aligned model measures agreement, if it
    lies beside the checkpoint, goes into the description, as does what the run recorded of its data
    and errors. The folder appears when it is whole. A model that is exported again is the same.

    Args:
        checkpoint: Of any task, or a model.
        output: The folder to write; must not exist. Its name is the model's.
        precision: What the network's weights are kept as: `float32` or `bfloat16`; a model's own,
            or `float32`, unless given.
        notes: Markdown for the end of the card; a model's own, or none, unless given.

    Raises:
        ValueError: if the checkpoint cannot be read, the output exists, or the precision is none.
        OSError: if the folder cannot be written.
    """
    _refuse_existing(output)
    place = find(checkpoint)
    read = checkpoints.read(place)
    described, weights = dict(read[checkpoints.KEY]), read["state_dict"]
    # Where it started from is a path of the machine that trained it, and is not needed again.
    described["arguments"] = described["arguments"] | {"init_from": None}
    precision = precision or str(described.get("precision", "float32"))
    if precision not in PRECISIONS:
        raise ValueError(
            f"precision {printable(precision)}: must be one of {', '.join(PRECISIONS)}"
        )
    described["precision"] = precision
    if notes is not None:
        described["notes"] = notes
    if not is_model(place):
        described["recorded"] = record(place.parent.parent)
    if "global_step" in read:
        # The recipe's may have been another, where a run was continued.
        described["steps"] = read["global_step"]
    if evidence := evidence_beside(place):
        described["evidence"] = evidence
    numbers = sum(value.numel() for value in weights.values() if isinstance(value, Tensor))
    values = {name: x for name, x in weights.items() if not isinstance(x, Tensor)}
    try:
        check_told(described | {"values": values})
        json.dumps([described, values], ensure_ascii=False, allow_nan=False).encode()
    except ValueError as error:
        raise ValueError(
            f"{place}: what is recorded of its data and errors cannot be told "
            f"({printable(str(error), 200)}); export or download it again"
        ) from None
    output.parent.mkdir(parents=True, exist_ok=True)
    with new_folder(output) as folder:
        write_model(folder, described, weights, precision)
        if "evidence" in described:
            write_evidence(folder / WEIGHTS, described["evidence"])
        text = card(output.name, read_description(folder / WEIGHTS), numbers)
        replace_file(folder / CARD, text)


def write_evidence(weights: Path, evidence: dict[str, object]) -> None:
    """Put a scale of agreement into a model's description, as that of this very model.

    Args:
        weights: The model's file of weights.
        evidence: The fields of `inference.evidence.Calibration`.
    """
    described = read_description(weights)
    write_description(weights, described | {"evidence": evidence | {"checkpoint": digest(weights)}})


def load_exported(path: str | Path) -> Backbone:
    """Build an exported backbone, on the CPU, in evaluation mode.

    Args:
        path: A file of `xxact export`, a model, or a checkpoint.

    Raises:
        ValueError: if it cannot be read or does not fit this version.
    """
    return checkpoints.build_backbone(path)


def _refuse_existing(output: Path) -> None:
    if output.exists():
        raise ValueError(f"{output}: exists already; delete it or choose another name")


def main(args: Sequence[str]) -> int:
    """Run `xxact export`."""
    parser = ArgumentParser(prog="xxact export", description=__doc__)
    parser.add_argument("--checkpoint", required=True, help="checkpoint of any task, or a model")
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        help=f"folder to write the whole model to, or a file *{SUFFIX} for its backbone alone",
    )
    parser.add_argument(
        "--precision",
        choices=list(PRECISIONS),
        help="how a whole model's weights are kept; bfloat16 is half as large (float32; a model's "
        "own)",
    )
    parser.add_argument("--notes", type=Path, help="Markdown for the end of the model's card")
    given = parser.parse_args(args)
    if given.output.suffix == SUFFIX:
        export(given.checkpoint, given.output)
        size = given.output.stat().st_size / 2**20
        print(f"{given.output}: {size:.1f} MiB; start from it with --model.init_from")
        return 0
    notes = None
    if given.notes is not None:
        try:
            notes = given.notes.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{given.notes}: cannot be read ({error}); give a text file") from None
    export_model(given.checkpoint, given.output, given.precision, notes)
    size = sum(path.stat().st_size for path in given.output.iterdir()) / 2**20
    print(
        f"{given.output}: {size:.1f} MiB; use it as --checkpoint or --model.init_from; "
        f"{given.output / CARD} is its card"
    )
    return 0
