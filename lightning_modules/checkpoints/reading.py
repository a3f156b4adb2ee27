"""How a file of weights is read that may be damaged, or a stranger's: checked before it is used.

Nothing in a file is run, and nothing takes more memory than the file is large.
"""

import hashlib
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from datamodules.io.arguments import printable
from datamodules.io.files import replacing

Module = TypeVar("Module", bound=nn.Module)
#: Raised when a checkpoint of an older version can no longer be read as it is.
FORMAT_VERSION = 1
#: Where the dictionary lies in Lightning's checkpoint.
KEY = "xxact"
#: More names of weights than this are not listed in a message.
_LISTED = 3
#: Of the number that says how long an archive's comment is.
_LENGTH_BYTES = 2
#: No argument of a task is nested as deeply.
_DEEPEST = 20


def read_archive(path: Path) -> dict[Any, Any]:
    """Read what `torch.save` wrote, onto the CPU, without unpickling objects.

    It has a checksum (of each part, where torch alone wrote it), so that a single bit that is not
    as it was written is noticed. Tensors are views of the file until they are copied.

    Args:
        path: The file.

    Raises:
        ValueError: if it is missing, cut short, damaged or something else.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such checkpoint")
    try:
        reason = _damage(path)
        # Mapped, a tensor cannot grow beyond what the file holds.
        content = None if reason else torch.load(path, "cpu", weights_only=True, mmap=True)
    except Exception as error:
        # Unpickling the files of strangers raises whatever they make it raise.
        reason = printable(str(error).split("\n")[0] or type(error).__name__, 200)
    if reason:
        raise ValueError(
            f"{path}: not a readable checkpoint (cut short, damaged, or another kind of file: "
            f"{reason}); give a .ckpt file of a run"
        )
    if not isinstance(content, dict):
        raise ValueError(f"{path}: not a checkpoint of xxact (it holds no dictionary)")
    return content


def _damage(path: Path) -> str:
    """What is wrong with an archive; empty if nothing is."""
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        parts = archive.infolist()
        if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
            return "it is compressed, which no checkpoint is"
        if sum(part.file_size for part in parts) > size:
            return "its parts are larger than the file"
        if archive.comment:
            return "" if digest(path) == archive.comment else "its checksum is wrong"
        # Written by torch alone, as by the first versions of xxact.
        broken = archive.testzip()
    return f"the checksum of {printable(broken)} is wrong" if broken else ""


def write_archive(path: Path, content: dict[str, Any]) -> None:
    """Write what `read_archive` reads, whole or not at all, with a checksum of every byte.

    Args:
        path: Its file; replaced if it exists.
        content: Tensors and plain values.
    """
    with replacing(path) as file:
        torch.save(content, file)
        file.flush()
        found = digest(Path(file.name))
        # The archive's comment, before which stands its length.
        file.seek(-_LENGTH_BYTES, os.SEEK_END)
        file.write(len(found).to_bytes(_LENGTH_BYTES, "little") + found)


def digest(path: Path) -> bytes:
    """BLAKE2b of an archive as it was before it had a comment: 32 hexadecimal digits.

    Empty if the comment's length is not what it says.
    """
    found = hashlib.blake2b(digest_size=16)
    left = path.stat().st_size
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        left -= len(archive.comment) + _LENGTH_BYTES
        file.seek(0)
        while left and (part := file.read(min(left, 2**20))):
            found.update(part)
            left -= len(part)
        if int.from_bytes(file.read(_LENGTH_BYTES), "little") != len(archive.comment):
            return b""
    found.update(bytes(_LENGTH_BYTES))
    return found.hexdigest().encode()


def check_plain(path: Path, value: Any, depth: int = 0) -> None:
    """Refuse anything but plain values in what a file says of itself.

    Raises:
        ValueError: naming the kind of value.
    """
    if depth > _DEEPEST:
        raise ValueError(f"{path}: what it says of itself is nested without end")
    if isinstance(value, dict):
        for key, item in value.items():
            check_plain(path, key, depth + 1)
            check_plain(path, item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            check_plain(path, item, depth + 1)
    elif not isinstance(value, bool | int | float | str | None):
        raise ValueError(f"{path}: what it says of itself holds a {type(value).__name__}")


def check_weights(path: Path, weights: Any) -> dict[str, Any]:
    """Refuse weights that are none, or that claim more numbers than the file holds.

    Args:
        path: The file they come from, for the message.
        weights: A dictionary of tensors, and of plain values (extra state).

    Raises:
        ValueError: naming the tensor.
    """
    if not isinstance(weights, dict) or not all(isinstance(name, str) for name in weights):
        raise ValueError(f"{path}: its weights are no dictionary of names and tensors")
    total = 0
    for name, value in weights.items():
        if isinstance(value, Tensor):
            if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized:
                raise ValueError(
                    f"{path}: weights {printable(name)} are of a kind that no task has"
                )
            total += value.numel() * value.element_size()
    # Tied weights are counted twice.
    if total > 2 * path.stat().st_size:
        raise ValueError(f"{path}: its weights claim {total} bytes, more than the file holds")
    return weights


def build(path: Path, make: Callable[[], Module], weights: Mapping[str, Any]) -> Module:
    """Build a module with the weights of a file; shapes are compared before memory is taken.

    Args:
        path: The file, for the message.
        make: Builds the module from what the file says.
        weights: What `check_weights` returned.

    Returns:
        The module in evaluation mode, on the CPU.

    Raises:
        ValueError: if it cannot be built, or the weights do not fit.
    """
    try:
        with torch.device("meta"):
            shell = make()
        ours: dict[str, Tensor] = dict(shell.named_parameters(remove_duplicate=False))
        # Not the whole `state_dict`: extra state is read from numbers, of which a shell has none.
        ours |= {name: x for name, x in shell.named_buffers() if name in weights}
        compare_shapes(path, ours, {name: x for name, x in weights.items() if name in ours})
        module = make()
        compare_shapes(path, module.state_dict(), weights)
        module.load_state_dict(dict(weights), strict=True)
    except Exception as error:
        # The constructor and torch meet values that only a damaged or a stranger's file has.
        message = printable(str(error).split("\n")[0], 300)
        if isinstance(error, ValueError):
            raise ValueError(message if str(path) in message else f"{path}: {message}") from error
        raise ValueError(
            f"{path}: no model can be built from it ({type(error).__name__}: {message}); it is "
            "damaged, or of another version"
        ) from error
    return module.eval()


def compare_shapes(path: Path, ours: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """Refuse weights of other names or shapes.

    Raises:
        ValueError: naming some of them.
    """
    missing, surplus = sorted(ours.keys() - saved.keys()), sorted(saved.keys() - ours.keys())
    if missing or surplus:
        raise ValueError(
            f"{path}: its weights do not fit: missing {_list(missing)}, unexpected {_list(surplus)}"
        )
    for name, value in ours.items():
        other = saved[name]
        if isinstance(value, Tensor) != isinstance(other, Tensor):
            raise ValueError(f"{path}: weights {name} are of another kind than here")
        if isinstance(value, Tensor) and value.shape != other.shape:
            raise ValueError(
                f"{path}: weights {name} have shape {tuple(other.shape)}, here {tuple(value.shape)}"
            )


def _list(names: list[str]) -> str:
    shown = ", ".join(printable(name, 80) for name in names[:_LISTED])
    return f"{shown or 'none'}{' …' if len(names) > _LISTED else ''}"
