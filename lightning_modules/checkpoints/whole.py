"""Whole models as `xxact export --whole` writes them: a task's weights, and a JSON file beside.

Nothing in them is pickled. `model.safetensors` holds the tensors, `model.json` what the task is
built from, how its data were split and drawn, plain values among the weights, checksums of the
weights and of itself, and for an aligned model the scale on which agreement is measured.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from datamodules.io.arguments import printable
from datamodules.io.files import replace_file
from lightning_modules.checkpoints.exported import PREPROCESSING, checksum
from lightning_modules.checkpoints.places import DESCRIPTION, WEIGHTS
from lightning_modules.checkpoints.reading import KEY, check_plain, check_weights

#: Kinds of numbers that the network's weights may be kept as; they are used as float32.
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
#: Beside a checkpoint, the scale of agreement that was measured for it.
EVIDENCE = ".evidence.json"
#: Where a description keeps the checksum of all else in it; the first exports had none.
OWN_CHECKSUM = "description_checksum"
#: No description is longer (bytes); the longest part is the scale of an aligned model.
_LONGEST = 8 * 2**20
#: What must stay as it is: scales and intervals of the targets, not weights of the network.
_EXACT = ("targets.",)


def write_model(folder: Path, described: dict[str, Any], weights: dict[str, Any],
                precision: str) -> None:  # fmt: skip
    """Write a model's two files.

    Args:
        folder: Where; must exist.
        described: What a checkpoint says of its task, split and peaks, and anything plain beside.
        weights: A task's state: tensors, and plain values.
        precision: One of `PRECISIONS`.
    """
    tensors = {
        name: _rounded(name, value, PRECISIONS[precision]).contiguous()
        for name, value in weights.items()
        if isinstance(value, Tensor)
    }
    others = {name: value for name, value in weights.items() if not isinstance(value, Tensor)}
    written = {
        "preprocessing": PREPROCESSING,
        "values": others,
        "checksum": checksum(tensors),
    }
    # In the same order where a model is written again.
    kept = {name: x for name, x in described.items() if name not in {*written, OWN_CHECKSUM}}
    content = kept | written
    replace_file(folder / WEIGHTS, save(tensors, {"format": "pt"}))
    write_description(folder / WEIGHTS, content)


def _rounded(name: str, value: Tensor, kind: torch.dtype) -> Tensor:
    exact = name.startswith(_EXACT) or not value.is_floating_point()
    return value if exact else value.to(kind)


def read_model(path: Path) -> dict[str, Any]:
    """Read a model as a checkpoint is read: its description under `KEY`, and `state_dict`.

    Args:
        path: The file of weights.

    Raises:
        ValueError: if a file is missing, damaged, or they do not belong together.
    """
    beside = path.with_name(DESCRIPTION)
    described = read_checked(beside)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        reason = printable(str(error).split("\n")[0], 200)
        raise ValueError(
            f"{path}: not readable weights ({reason}); export or download it again"
        ) from error
    if described.get("preprocessing") != PREPROCESSING:
        raise ValueError(f"{beside}: its patterns are prepared otherwise here; export it again")
    if described.get("checksum") != checksum(tensors):
        raise ValueError(
            f"{path}: its weights are not those of {DESCRIPTION} beside it (changed, damaged, or "
            "of another model); export or download both again"
        )
    values = described.pop("values", {})
    if not isinstance(values, dict) or values.keys() & tensors.keys():
        raise ValueError(f"{beside}: its plain values are damaged; export it again")
    check_weights(path, tensors)
    weights = {
        name: value.float() if value.dtype in PRECISIONS.values() else value
        for name, value in tensors.items()
    }
    return {KEY: described, "state_dict": {**weights, **values}}


def read_description(path: Path) -> dict[str, Any]:
    """What lies beside a model's weights.

    Args:
        path: The file of weights.

    Raises:
        ValueError: if it cannot be read.
    """
    return read_checked(path.with_name(DESCRIPTION))


def write_description(path: Path, content: dict[str, Any]) -> None:
    """Write what lies beside a model's weights, with a checksum of it.

    Args:
        path: The file of weights.
        content: What to write; a checksum in it is replaced.
    """
    write_checked(path.with_name(DESCRIPTION), content)


def write_checked(path: Path, content: dict[str, Any]) -> None:
    """Write plain values as a JSON file that holds a checksum of itself.

    Args:
        path: The file.
        content: What to write; a checksum in it is replaced.
    """
    content = content | {OWN_CHECKSUM: _own_checksum(content)}
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    replace_file(path, (text + "\n").encode())


def _own_checksum(content: dict[str, Any]) -> str:
    """BLAKE2b of all values but the checksum, however the file is laid out; 32 digits."""
    others = {name: value for name, value in content.items() if name != OWN_CHECKSUM}
    text = json.dumps(others, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def read_checked(path: Path, mend: str = "export or download it again") -> dict[str, Any]:
    """The plain values of a JSON file; its checksum must fit where there is one.

    Args:
        path: The file.
        mend: What to do where it is refused, for the message.

    Raises:
        ValueError: if it cannot be read, holds anything else, or was changed.
    """
    try:
        if path.stat().st_size > _LONGEST:
            raise ValueError(f"longer than {_LONGEST} bytes")
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        reason = printable(str(error).split("\n")[0], 200)
        raise ValueError(
            f"{path}: not a readable description of a model ({reason}); {mend}"
        ) from error
    if not isinstance(found, dict):
        raise ValueError(f"{path}: not a description of a model")
    check_plain(path, found)
    if OWN_CHECKSUM in found and found[OWN_CHECKSUM] != _own_checksum(found):
        raise ValueError(
            f"{path}: was changed or damaged after it was written (its {OWN_CHECKSUM} does not "
            f"fit); {mend}"
        )
    return found


def digest(path: Path) -> str:
    """BLAKE2b of a file, 32 hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def evidence_beside(checkpoint: Path) -> dict[str, Any] | None:
    """The scale of agreement that lies beside a checkpoint, without the places of its stores.

    Raises:
        ValueError: if it cannot be read, or is another checkpoint's.
    """
    path = checkpoint.with_name(checkpoint.name + EVIDENCE)
    if not path.is_file():
        return None
    found = read_checked(path)
    if found.get("checkpoint") != digest(checkpoint):
        raise ValueError(
            f"{path}: was made for another checkpoint; run `xxact report evidence` again, or "
            "delete it"
        )
    settings = dict(found.get("settings", {}))
    settings["stores"] = [Path(str(store)).name for store in settings.get("stores", [])]
    return found | {"settings": settings}
