"""What is wrong with a recipe, in one line that names the file and the key.

jsonargparse and OmegaConf parse recipes; what they let pass, or tell in a traceback, is told here.
"""

import dataclasses
import inspect
import re
import types
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from jsonargparse import Namespace
from omegaconf.errors import OmegaConfBaseException

from datamodules.io.arguments import require
from lightning_modules.training.recipe_files import read_yaml

_UNIONS = (Union, types.UnionType)
#: Largest seed that NumPy and torch both take.
MAX_SEED = 2**32 - 1


class RecipeError(ValueError):
    """A wrong value of a key.

    Attributes:
        key: The key, with dots.
    """

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


def recipes_of(args: Sequence[str]) -> list[tuple[Path, dict[str, Any]]]:
    """The files that a command line names with `--config`, in their order, and what they say.

    Raises:
        ValueError: if one is missing, no YAML in UTF-8, or gives a value in place of keys.
    """
    words = list(args)
    paths = [word.removeprefix("--config=") for word in words if word.startswith("--config=")]
    paths += [path for word, path in pairwise(words) if word == "--config"]
    found = []
    for path in paths:
        content = read_yaml(path)
        if content is None:
            content = {}
        if not isinstance(content, dict):
            raise ValueError(f"{path}: is no recipe: it gives {_short(content)} in place of keys")
        if wrong := [key for key in content if not isinstance(key, str)]:
            raise ValueError(f"{path}: key {_short(wrong[0])} is no text; name a key of the recipe")
        found.append((Path(path), content))
    _refuse_replaced_groups(found)
    return found


def _refuse_replaced_groups(recipes: Sequence[tuple[Path, dict[str, Any]]]) -> None:
    """Refuse a value in place of keys that an earlier file gives."""

    def walk(old: Any, new: Any, name: str, path: Path) -> None:
        if isinstance(old, dict) and isinstance(new, dict):
            for key in old.keys() & new.keys():
                walk(old[key], new[key], f"{name}.{key}" if name else key, path)
        elif isinstance(old, dict) and new is not None and "class_path" not in old:
            raise ValueError(
                f"{path}: {name} is {_short(new)}: needs keys, such as {name}.{next(iter(old), '')}"
            )

    for number, (path, content) in enumerate(recipes):
        for _, before in recipes[:number]:
            walk(before, content, "", path)


def file_of(key: str, recipes: Sequence[tuple[Path, dict[str, Any]]]) -> str:
    """The last file that gives a key (or one that ends so), as the beginning of a message."""

    def gives(node: Any, name: str) -> bool:
        if name == key or name.endswith(f".{key}"):
            return True
        return isinstance(node, dict) and any(gives(v, f"{name}.{k}") for k, v in node.items())

    found = [str(path) for path, content in recipes if gives(content, "")]
    return f"{found[-1]}: " if found else ""


def explain(message: str, recipes: Sequence[tuple[Path, dict[str, Any]]]) -> str:
    """What the parser says of a key, with the file that gives it."""
    named = re.findall(r"(?:key|[Oo]ption) ['\"]([\w.]+)['\"]", message)
    return (file_of(named[-1], recipes) if named else "") + message


def explain_reference(
    error: OmegaConfBaseException, recipes: Sequence[tuple[Path, dict[str, Any]]]
) -> str:
    """A reference (`${…}`) that leads nowhere, in one line.

    Args:
        error: What OmegaConf says.
        recipes: What `recipes_of` returned.
    """
    key = (error.full_key or "").split(".", 1)[-1]
    reason = str(error).splitlines()[0].split(" raised while resolving interpolation: ")[-1]
    if blocked := re.search(r"access ([\w.]+)\.\w+: node .* is not a container", reason):
        return (
            f"{file_of(blocked[1], recipes)}{blocked[1]}: needs keys, not a value; {key} refers to "
            "one of them"
        )
    # A reference that cannot even be parsed has no key yet.
    where = file_of(key, recipes) if key else f"{', '.join(str(path) for path, _ in recipes)}: "
    return (
        f"{where}{key or 'a reference'}: {reason.replace('fit.', '')}; refer to a key that exists, "
        "as in ${.backbone.width}"
    )


def check_types(kind: Any, given: Any, name: str) -> None:
    """Refuse a value in place of a group of keys, and nothing in place of a value.

    Args:
        kind: The class whose constructor the keys are for.
        given: Its keys, as parsed.
        name: The group's key, for the message.

    Raises:
        RecipeError: naming the key.
    """
    if not isinstance(given, Namespace):
        raise RecipeError(
            name, f"{name} is {_short(given)}: needs keys, such as {name}.{_first(kind)}"
        )
    hints = get_type_hints(kind.__init__)
    for key, value in vars(given).items():
        hint, full = hints.get(key), f"{name}.{key}"
        if dataclasses.is_dataclass(hint):
            check_types(hint, value, full)
        elif key == "seed":
            check_seed(value, full)
        elif value is None and hint is not None and not _takes_none(hint):
            raise RecipeError(
                full, f"{full} is null: needs a value; leave the key out for its default"
            )


def _takes_none(hint: Any) -> bool:
    if hint in (Any, None, type(None)):
        return True
    return get_origin(hint) in _UNIONS and any(_takes_none(part) for part in get_args(hint))


def _first(kind: Any) -> str:
    return next(name for name in inspect.signature(kind.__init__).parameters if name != "self")


def check_seed(seed: Any, key: str) -> None:
    """Refuse a seed that a generator of random numbers does not take.

    Raises:
        RecipeError: naming the key.
    """
    if isinstance(seed, int) and not isinstance(seed, bool) and not 0 <= seed <= MAX_SEED:
        raise RecipeError(key, f"{key} is {_short(seed)}: must lie between 0 and {MAX_SEED}")


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + "…"


def check_packages(given: Any, packages: Mapping[str, str]) -> None:
    """Refuse a logger whose package is not installed.

    Args:
        given: `trainer.logger`, as parsed.
        packages: Names of packages, which are the extras' too, by name of the logger's class.

    Raises:
        ValueError: naming the extra.
    """
    for logger in given if isinstance(given, list) else [given]:
        name = str(getattr(logger, "class_path", "")).rpartition(".")[2]
        package = packages.get(name)
        if package is not None:
            require(package, package, f"trainer.logger: {name}")
