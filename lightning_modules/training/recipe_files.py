"""YAML files of users: what is wrong with one is told in a line, whatever is in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

#: libyaml's parser, where PyYAML was built with it, is ten times as fast.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
#: No recipe is as long, or as deep.
_MAX_BYTES, _MAX_DEPTH = 1_000_000, 50

#: What files were called before.
_RENAMED = {
    "configs/pretrain_both.yaml": "configs/pretrain_masked_contrastive.yaml",
    "modality/both.yaml": "configs/modality/fused_only.yaml",
}


def read_yaml(path: str | Path) -> Any:
    """Read a YAML file.

    Args:
        path: The file, UTF-8.

    Raises:
        ValueError: if it is missing, too long, no text in UTF-8 or no YAML, or refers to itself.
    """
    try:
        size = Path(path).stat().st_size
        if size > _MAX_BYTES:
            raise ValueError(f"{path}: {size} bytes are no recipe (at most {_MAX_BYTES})")
        data = Path(path).read_bytes()
    except OSError as error:
        renamed = _RENAMED.get("/".join(Path(path).parts[-2:]))
        mend = f"; it is called {renamed} now" if renamed and not Path(path).exists() else ""
        raise ValueError(f"{path}: cannot be read ({error.strerror}){mend}") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}: line {line} is not text in UTF-8 (byte {data[error.start]:#x}); save it in "
            "UTF-8"
        ) from error
    try:
        _check_shape(text)
        return yaml.load(text, Loader=_LOADER)
    except (yaml.YAMLError, ValueError, TypeError, OverflowError) as error:
        # Dates that do not exist and the like are errors of Python's own.
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: not a readable YAML file ({reason})") from error


def _check_shape(text: str) -> None:
    """Refuse what a parser that calls itself would not survive.

    Raises:
        ValueError: if it is too deep, or an alias stands within something that has a name itself
            (which is how files refer to themselves, and how ten lines become gigabytes).
    """
    depth = 0
    named: list[bool] = []
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1 if event.start_mark else 0
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            named.append(event.anchor is not None)
            if depth > _MAX_DEPTH:
                raise ValueError(f"line {line}: more than {_MAX_DEPTH} levels deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
            named.pop()
        elif isinstance(event, yaml.AliasEvent) and any(named):
            raise ValueError(f"line {line}: *{event.anchor} within something that has a name too")
