"""What a checkpoint holds beside Lightning's own state, and how a task comes back from it.

A task writes one plain dictionary, so everything loads with `weights_only=True`, no class is
pickled, and a checkpoint can be read without the recipe that made it.
"""

import dataclasses
import importlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, get_type_hints

import torch
from torch import nn

from datamodules.files import replacing
from datamodules.store.splits import SplitConfig

if TYPE_CHECKING:
    from lightning_modules.base import Task

#: Raised when a checkpoint of an older version can no longer be read as it is.
FORMAT_VERSION = 1
#: Where the dictionary lies in Lightning's checkpoint.
KEY = "xxact"
_BACKBONE = "backbone."
#: The first checkpoints recorded the file of a task, which may move, not its public name.
_PRIVATE_NAMES = {
    "lightning_modules.masked_xrd.MaskedXRD": "lightning_modules.MaskedXRD",
    "lightning_modules.contrastive.Contrastive": "lightning_modules.Contrastive",
    "lightning_modules.masked_contrastive.MaskedContrastive": "lightning_modules.MaskedContrastive",
    "lightning_modules.regression.Regression": "lightning_modules.Regression",
}
#: A continued or fine-tuned model may change these: they hold no weights and shape none.
_FREE = ("backbone.dropout",)


def plain(value: Any) -> Any:
    """Turn dataclasses and tuples into dictionaries and lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value


def public_name(kind: type) -> str:
    """The name under which a task is imported: ours by the package's, whatever file it lies in."""
    import lightning_modules

    name = kind.__name__
    if name in lightning_modules.TASKS and getattr(lightning_modules, name) is kind:
        return f"{lightning_modules.__name__}.{name}"
    return f"{kind.__module__}.{kind.__qualname__}"


def describe(task: "Task") -> dict[str, Any]:
    """Write down what is needed to build the task again."""
    return {
        "format_version": FORMAT_VERSION,
        "task": public_name(type(task)),
        "arguments": plain(task.constructed_with),
    }


def split_of(path: str | Path) -> SplitConfig:
    """How the run that wrote a checkpoint split its materials.

    Raises:
        ValueError: as of `read`.
    """
    return SplitConfig(**read(path)[KEY].get("split", {}))


def read(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of ours onto the CPU, without unpickling objects.

    Raises:
        ValueError: if it is missing, damaged, of another program or of another format version.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such checkpoint")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, UnpicklingError, ValueError) as error:
        raise ValueError(
            f"{path}: not a readable checkpoint (cut short, damaged, or another kind of file); "
            "give a .ckpt file of a run"
        ) from error
    if not isinstance(checkpoint, dict) or KEY not in checkpoint:
        raise ValueError(f"{path}: not a checkpoint of xxact (it has no '{KEY}' entry)")
    version = checkpoint[KEY]["format_version"]
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{path}: checkpoint format {version}, this version reads {FORMAT_VERSION}; see "
            "CHANGELOG.md for how to convert it"
        )
    return checkpoint


def write(path: str | Path, checkpoint: dict[str, Any]) -> None:
    """Write a checkpoint whole or not at all.

    Args:
        path: Its file; replaced if it exists.
        checkpoint: What `read` returned.
    """
    with replacing(path) as file:
        torch.save(checkpoint, file)


def load_task(path: str | Path) -> "Task":
    """Rebuild a task with its weights from a checkpoint alone.

    Args:
        path: A checkpoint of a run.

    Returns:
        The task, on the CPU, in evaluation mode.

    Raises:
        ValueError: if the checkpoint cannot be read or its task does not exist any more.
    """
    from lightning_modules.base import Task

    checkpoint = read(path)
    name = checkpoint[KEY]["task"]
    module_name, _, class_name = _PRIVATE_NAMES.get(name, name).rpartition(".")
    try:
        kind = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"{path}: its task {checkpoint[KEY]['task']} cannot be imported ({error})"
        ) from error
    if not (inspect.isclass(kind) and issubclass(kind, Task)):
        raise ValueError(f"{path}: {checkpoint[KEY]['task']} is not a task")
    task = kind(**_typed(kind, checkpoint[KEY]["arguments"]))
    task.load_state_dict(checkpoint["state_dict"], strict=True)
    return task.eval()


def load_backbone(path: str | Path, backbone: nn.Module, arguments: dict[str, Any]) -> None:
    """Load only the backbone's weights, for `init_from`.

    Args:
        path: A checkpoint of any task, or a backbone written by `xxact export`.
        backbone: The backbone to fill.
        arguments: The arguments of the task that owns it, for comparison.

    Raises:
        ValueError: if grid or backbone differ (naming what), or keys are missing or unexpected.
    """
    saved, weights = read_backbone(path)
    ours = {name: plain(arguments[name]) for name in ("backbone", "grid")}
    _refuse_differences(path, {name: saved[name] for name in ours}, ours)
    missing, unexpected = backbone.load_state_dict(weights, strict=False)
    if missing or unexpected:
        raise ValueError(
            f"{path}: its backbone does not fit: missing {list(missing)[:3]}, "
            f"unexpected {list(unexpected)[:3]}"
        )


def read_backbone(path: str | Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Read the backbone of a checkpoint, or one that `xxact export` wrote.

    Returns:
        A dictionary with `backbone` and `grid`, and the weights.

    Raises:
        ValueError: if the file cannot be read.
    """
    if Path(path).suffix == ".safetensors":
        from lightning_modules.checkpoints.export import read_exported

        return read_exported(Path(path))
    checkpoint = read(path)
    weights = {
        name.removeprefix(_BACKBONE): value
        for name, value in checkpoint["state_dict"].items()
        if name.startswith(_BACKBONE)
    }
    return checkpoint[KEY]["arguments"], weights


def check_same_task(
    path: str | Path, checkpoint: dict[str, Any], task: "Task", names: set[str] | None = None
) -> None:
    """Refuse to continue or evaluate a checkpoint with another task or model.

    Args:
        path: Where the checkpoint lies, for the message.
        checkpoint: What `read` returned.
        task: The task of the recipe.
        names: Arguments to compare; None compares all, as a resumed run must.

    Raises:
        ValueError: naming each argument that differs, with both values.
    """
    saved, ours = checkpoint[KEY], describe(task)
    made_by = _PRIVATE_NAMES.get(saved["task"], saved["task"])
    if made_by != ours["task"]:
        raise ValueError(f"{path}: was made by task {made_by}, the recipe has {ours['task']}")
    # What an older version did not know yet has the value that it has here by default.
    given = plain(type(task).arguments(**_typed(type(task), saved["arguments"])))
    _refuse_differences(
        path,
        {k: v for k, v in given.items() if names is None or k in names},
        {k: v for k, v in ours["arguments"].items() if names is None or k in names},
    )


def _refuse_differences(path: str | Path, saved: dict[str, Any], ours: dict[str, Any]) -> None:
    flat_saved, flat_ours = _flat(saved), _flat(ours)
    differences = [
        f"{name} is {flat_saved.get(name, 'absent')} in the checkpoint, "
        f"{flat_ours.get(name, 'absent')} here"
        for name in sorted(flat_saved.keys() | flat_ours.keys())
        if name not in _FREE and flat_saved.get(name) != flat_ours.get(name)
    ]
    if differences:
        raise ValueError(f"{path}: does not fit the recipe: " + "; ".join(differences))


def _flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, value in nested.items():
        if isinstance(value, Mapping):
            out |= _flat(value, f"{prefix}{name}.")
        else:
            out[prefix + name] = value
    return out


def _typed(kind: type, arguments: dict[str, Any]) -> dict[str, Any]:
    """Turn nested dictionaries back into the dataclasses that the constructor names."""
    hints = get_type_hints(kind.__init__)  # type: ignore[misc]
    out = {}
    for name, value in arguments.items():
        hint = hints.get(name)
        if dataclasses.is_dataclass(hint) and isinstance(hint, type) and isinstance(value, dict):
            value = hint(**_typed(hint, value))
        out[name] = tuple(value) if isinstance(value, list) else value
    return out
