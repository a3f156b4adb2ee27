"""What a run changed against the recipe that it was made from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from lightning_modules.overview.keys import flat, keys
from lightning_modules.training.recipe_files import read_yaml

#: What belongs to one run, or to what it tells, and changes nothing of it.
_OF_THE_RUN = ("run", "trainer.logger", "trainer.default_root_dir", "trainer.enable_", "data.seed")


@cache
def defaults(schema: Path, task: str) -> dict[str, Any]:
    """The values of the keys that a recipe does not give; empty without a schema.

    Args:
        schema: Of recipes, as `xxact schema` writes it.
        task: The task's class.
    """
    try:
        known = keys(json.loads(schema.read_text(encoding="utf-8")), task)
    except (OSError, ValueError, KeyError):
        return {}
    return {key: value.get("default") for key, value in known.items()}


@cache
def recipes(folder: Path) -> dict[str, dict[str, Any]]:
    """What the recipes of a folder say, by file and key; those that cannot be read are left out."""
    found = {}
    for path in sorted(folder.glob("*.yaml")):
        try:
            found[path.name] = flat(read_yaml(path) or {})
        except ValueError:
            continue
    return found


def changed(config: dict[str, Any], configs: Path, made_from: Sequence[str]) -> dict[str, Any]:
    """The keys in which a run differs from its recipe; if that is unknown, from its task's nearest.

    Args:
        config: A run's `config.yaml`.
        configs: The folder of recipes, with `schemas/` in it, if there are any.
        made_from: The files that the run was made from, if they are known.

    Returns:
        The run's values by key. Of keys that no recipe gives only those with a known default.
    """
    values = flat(config)
    task = values.get("model.class_path")
    base = defaults(configs / "schemas/recipe.json", str(task))
    known = recipes(configs).items()
    of_task = {name: r for name, r in known if r.get("model.class_path") == task}
    own = [p.name for p in map(Path, made_from) if p.parent.name == configs.name]
    # Without any of its own, as a run of `--config runs/other/config.yaml`, all of them.
    nearest = [of_task[name] for name in own if name in of_task] or of_task.values()
    candidates = [_differences(values, base | recipe) for recipe in nearest]
    return min(candidates, key=len, default={})


def _differences(values: dict[str, Any], recipe: dict[str, Any]) -> dict[str, Any]:
    return {
        key: value
        for key, value in values.items()
        if key in recipe
        and not key.startswith(_OF_THE_RUN)
        and not _same(value, _resolved(recipe, key, values))
    }


def _resolved(recipe: dict[str, Any], key: str, values: dict[str, Any]) -> Any:
    """A recipe's value; of a reference to a neighbour (`${.backbone.width}`) the run's."""
    value = recipe[key]
    if isinstance(value, str) and value.startswith("${"):
        neighbour = f"{key.rpartition('.')[0]}.{value[2:-1].lstrip('.')}"
        return values.get(neighbour, values[key])
    return value


def _same(one: Any, other: Any) -> bool:
    """Whether two values are equal; a list of classes counts with what it says of each alone."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        # A saved configuration has the defaults of a callback's arguments, too.
        return all(_same(one.get(key), value) for key, value in other.items())
    return bool(one == other) or (isinstance(one, str) and one.startswith("${"))
