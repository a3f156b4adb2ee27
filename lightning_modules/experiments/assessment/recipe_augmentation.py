"""Parts of recipes that reports read without Lightning's command line."""

from dataclasses import fields
from pathlib import Path

import yaml

from datamodules.rendering.augmentation import Augmentation


def read_augmentation(path: Path) -> Augmentation:
    """The augmentation of an overlay or recipe (`data.augmentation`).

    Raises:
        ValueError: if the file cannot be read or has none.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        values = content["data"]["augmentation"]
        unknown = set(values) - {item.name for item in fields(Augmentation)}
    except (OSError, yaml.YAMLError, KeyError, TypeError, UnicodeDecodeError):
        raise ValueError(f"{path}: no YAML file with data.augmentation; give an overlay") from None
    if unknown:
        raise ValueError(f"{path}: data.augmentation has no {', '.join(sorted(unknown))}")
    try:
        return Augmentation(**values)
    except TypeError as error:
        raise ValueError(
            f"{path}: data.augmentation has a value of another kind ({error})"
        ) from error
