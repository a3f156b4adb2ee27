"""Where a model lies that was given as a file, a folder, a name in `models/` or on the hub.

A *model* is a folder with `model.safetensors` and `model.json`, as `xxact export` writes it.
"""

import re
from pathlib import Path

from datamodules.io.arguments import printable

WEIGHTS, DESCRIPTION, CARD = "model.safetensors", "model.json", "README.md"
#: Models that come with a clone of the project.
MODELS = Path(__file__).resolve().parents[2] / "models"
_HUB = re.compile(r"hf:/{1,2}([\w.-]+/[\w.-]+?)/?(?:@([\w./-]+))?")
_NAME = re.compile(r"(?:models/)?([\w-]+)/?")


def find(given: str | Path) -> Path:
    """The file of weights that is meant; whether it can be read is not looked at.

    Args:
        given: A checkpoint, an exported backbone, a model's folder, one of its two files, the
            name of a folder in `models/`, or `hf://OWNER/NAME` for a model of the Hugging Face
            hub (which is fetched, unless it lies in the hub's cache); `@REVISION` behind it names
            a certain one.

    Raises:
        ValueError: if it is a folder without a model, or the hub has none or cannot be asked.
    """
    text = str(given)
    if hub := _HUB.fullmatch(text):
        return _in_folder(_from_hub(hub.group(1), hub.group(2)))
    if text.startswith("hf:"):
        raise ValueError(f"{printable(text)}: give hf://OWNER/NAME or hf://OWNER/NAME@REVISION")
    path = Path(given)
    if path.is_dir():
        return _in_folder(path)
    if path.name == DESCRIPTION:
        return path.with_name(WEIGHTS)
    name = None if path.exists() else _NAME.fullmatch(text)
    if name and (MODELS / name.group(1)).is_dir():
        return _in_folder(MODELS / name.group(1))
    return path


def shipped(name: str) -> Path | None:
    """The folder of a model that came with the clone; None if it did not."""
    folder = MODELS / name
    return folder if (folder / WEIGHTS).is_file() and (folder / DESCRIPTION).is_file() else None


def is_model(path: Path) -> bool:
    """Whether a file of weights belongs to a model, and is no backbone alone."""
    return path.name == WEIGHTS and path.with_name(DESCRIPTION).is_file()


def _in_folder(folder: Path) -> Path:
    missing = [name for name in (WEIGHTS, DESCRIPTION) if not (folder / name).is_file()]
    if missing:
        raise ValueError(
            f"{folder}: is no model ({' and '.join(missing)} missing); give a folder that "
            "`xxact export --whole` wrote, or a run's checkpoint (checkpoints/last.ckpt in it)"
        )
    return folder / WEIGHTS


def _from_hub(name: str, revision: str | None) -> Path:
    """The folder of the hub's cache with a model, fetched if it is not there."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ValueError(
            f"hf://{name}: models of the hub need a package that is not installed; "
            "pip install 'xxact[hub]' (in a clone: pip install -e '.[hub]')"
        ) from error
    try:
        wanted = [WEIGHTS, DESCRIPTION, CARD]
        return Path(snapshot_download(name, revision=revision, allow_patterns=wanted))
    except Exception as error:
        # Also those of the libraries below it: of http, of the cache, of names.
        reason = printable(" ".join(str(error).split()), 200)
        raise ValueError(
            f"hf://{name}: cannot be fetched ({reason}); download its files into a folder and "
            "give that"
        ) from error
