"""What a checkpoint holds beside Lightning's own state, and how a task comes back from it.

A task writes one plain dictionary, so everything loads with `weights_only=True`, no class is
pickled, and a checkpoint can be read without the recipe that made it.
"""

import dataclasses
import importlib
import inspect
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_type_hints

import torch
from torch import nn

from datamodules.grid import Grid
from datamodules.io.arguments import printable
from datamodules.rendering.peaks import PeakShape
from datamodules.store.splits import SplitConfig
from lightning_modules.backbone import Backbone, BackboneConfig
from lightning_modules.checkpoints.exported import SUFFIX, read_exported
from lightning_modules.checkpoints.places import find, is_model
from lightning_modules.checkpoints.reading import (
    FORMAT_VERSION,
    KEY,
    build,
    check_plain,
    check_weights,
    compare_shapes,
    read_archive,
    write_archive,
)
from lightning_modules.checkpoints.whole import read_model

if TYPE_CHECKING:
    from lightning_modules.base import Task

Recorded = TypeVar("Recorded", SplitConfig, PeakShape)

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
        ValueError: as of `read`, or if what it says is no split.
    """
    return _recorded(path, "split", SplitConfig)


def peaks_of(path: str | Path) -> PeakShape:
    """How the run that wrote a checkpoint drew peaks in validation.

    Raises:
        ValueError: as of `read`, or if what it says is no shape of peaks.
    """
    return _recorded(path, "peaks", PeakShape)


def _recorded(path: str | Path, name: str, kind: type[Recorded]) -> Recorded:
    try:
        return kind(**read(path)[KEY].get(name, {}))
    except TypeError as error:
        raise ValueError(f"{path}: its '{name}' is damaged ({error})") from error


def read(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of ours, or a model, onto the CPU, without unpickling objects.

    Args:
        path: A checkpoint, or a model's folder, file or name; see `places.find`.

    Returns:
        What Lightning wrote; of a model only what it is and its `state_dict`.

    Raises:
        ValueError: if it is missing, damaged, of another program or of another format version.
    """
    path = find(path)
    checkpoint = read_model(path) if is_model(path) else read_archive(path)
    described = checkpoint.get(KEY)
    if not isinstance(described, dict):
        raise ValueError(f"{path}: not a checkpoint of xxact (it has no '{KEY}' entry)")
    check_plain(path, described)
    version = described.get("format_version")
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{path}: checkpoint format {printable(str(version))}, this version reads "
            f"{FORMAT_VERSION}; see CHANGELOG.md for how to convert it"
        )
    if not isinstance(described.get("task"), str) or not isinstance(
        described.get("arguments"), dict
    ):
        raise ValueError(f"{path}: does not say which task made it, and from which arguments")
    check_weights(path, checkpoint.get("state_dict"))
    return checkpoint


def write(path: str | Path, checkpoint: dict[str, Any]) -> None:
    """Write a checkpoint whole or not at all.

    Args:
        path: Its file; replaced if it exists.
        checkpoint: What `read` returned.
    """
    write_archive(Path(path), checkpoint)


def load_task(path: str | Path, allow_tasks: Collection[str] = ()) -> "Task":
    """Rebuild a task with its weights from a checkpoint alone.

    A checkpoint names the class that made it. Importing a module runs its code, so that only the
    tasks of this package are imported, and those that the caller names.

    Args:
        path: A checkpoint of a run, or a model.
        allow_tasks: Other tasks that may be imported, such as `my_package.MyTask`.

    Returns:
        The task, on the CPU, in evaluation mode.

    Raises:
        ValueError: if the checkpoint cannot be read, or its task is none of these.
    """
    path = find(path)
    checkpoint = read(path)
    arguments, weights = checkpoint[KEY]["arguments"], checkpoint["state_dict"]
    kind = _task_class(path, checkpoint[KEY]["task"], allow_tasks)
    _refuse_endless(path, arguments, len(weights))
    return build(path, lambda: kind(**_typed(kind, arguments)), weights)


def _task_class(path: Path, name: str, allow_tasks: Collection[str]) -> "type[Task]":
    import lightning_modules

    name = _PRIVATE_NAMES.get(name, name)
    ours = [f"{lightning_modules.__name__}.{task}" for task in lightning_modules.TASKS]
    if name not in (*ours, *allow_tasks):
        name = printable(name)
        raise ValueError(
            f"{path}: was made by {name}, which is none of our tasks; if you trust that code, "
            f"--allow-task {name} imports it"
        )
    module, _, class_name = name.rpartition(".")
    try:
        kind = getattr(importlib.import_module(module), class_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{path}: its task {name} cannot be imported ({error})") from error
    # Every task says which of its arguments shape weights.
    if not (inspect.isclass(kind) and issubclass(kind, nn.Module) and hasattr(kind, "shaping")):
        raise ValueError(f"{path}: {name} is not a task")
    return cast("type[Task]", kind)


def _refuse_endless(path: Path, arguments: Mapping[str, Any], n_weights: int) -> None:
    """Refuse more layers than there are weights: they would be built one by one, without end."""
    for name, value in _flat(arguments).items():
        if name.endswith("layers") and isinstance(value, int) and value > n_weights:
            raise ValueError(f"{path}: {name} is {value}, but there are {n_weights} weights")


def load_backbone(path: str | Path, backbone: nn.Module, arguments: dict[str, Any]) -> None:
    """Load only the backbone's weights, for `init_from`.

    Args:
        path: A checkpoint of any task, a model, or a backbone written by `xxact export`.
        backbone: The backbone to fill.
        arguments: The arguments of the task that owns it, for comparison.

    Raises:
        ValueError: if grid or backbone differ (naming what), or its weights do.
    """
    saved, weights = read_backbone(path)
    ours = {name: plain(arguments[name]) for name in ("backbone", "grid")}
    _refuse_differences(path, {name: saved[name] for name in ours}, ours)
    compare_shapes(Path(path), backbone.state_dict(), weights)
    backbone.load_state_dict(weights)


def build_backbone(path: str | Path) -> Backbone:
    """Build the backbone of a checkpoint, or one that `xxact export` wrote.

    Returns:
        The backbone, on the CPU, in evaluation mode.

    Raises:
        ValueError: if the file cannot be read or does not fit this version.
    """
    saved, weights = read_backbone(path)
    _refuse_endless(Path(path), saved["backbone"], len(weights))
    return build(
        Path(path),
        lambda: Backbone(BackboneConfig(**saved["backbone"]), Grid(**saved["grid"])),
        weights,
    )


def read_backbone(path: str | Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Read the backbone of a checkpoint or a model, or one that `xxact export` wrote.

    Returns:
        A dictionary with `backbone` and `grid`, and the weights.

    Raises:
        ValueError: if the file cannot be read.
    """
    path = find(path)
    if path.suffix == SUFFIX and not is_model(path):
        return read_exported(path)
    checkpoint = read(path)
    for name in ("backbone", "grid"):
        if not isinstance(checkpoint[KEY]["arguments"].get(name), dict):
            raise ValueError(f"{path}: does not say which {name} it has")
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
    try:
        given = plain(type(task).arguments(**_typed(type(task), saved["arguments"])))
    except TypeError as error:
        raise ValueError(f"{path}: its arguments are none of {made_by}'s ({error})") from error
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
