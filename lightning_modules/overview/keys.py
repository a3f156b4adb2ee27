"""The keys of recipes as flags and sweeps name them: `model.optimizer.learning_rate`."""

from typing import Any

Schema = dict[str, Any]


def keys(schema: Schema, task: str | None = None) -> dict[str, Schema]:
    """The keys of a recipe as flags and sweeps name them.

    Args:
        schema: Of a recipe, as `xxact schema` writes it.
        task: The class of the task whose keys are wanted; by default those of all together.

    Returns:
        The schema of each value by key, such as `model.optimizer.learning_rate`.
    """
    found: dict[str, Schema] = {}

    def add(key: str, node: Schema) -> None:
        known = found.get(key)
        if known is None:
            found[key] = node
        elif node != known and node not in known.get("anyOf", []):
            found[key] = {"anyOf": [known, node]}

    def walk(node: Schema, name: str) -> None:
        for key, value in node.get("properties", {}).items():
            if key in ("$schema", "class_path", "dict_kwargs") or key.endswith("+"):
                continue
            if key == "init_args":
                walk(value, name)
                continue
            full = f"{name}.{key}" if name else key
            inner = _alternatives(value, schema["$defs"])
            if any("properties" in part for part in inner):
                if any("class_path" in part.get("properties", {}) for part in inner):
                    add(full, value)
                    inner = [part for part in inner if full == "model" and _is(part, task)]
                for part in inner:
                    walk(part, full)
            else:
                add(full, value)

    walk(schema, "")
    return found


def _alternatives(node: Schema, definitions: dict[str, Schema]) -> list[Schema]:
    """All that a value may be, references to definitions followed."""
    if "$ref" in node:
        return _alternatives(definitions[node["$ref"].rpartition("/")[2]], definitions)
    if "anyOf" in node:
        return [part for each in node["anyOf"] for part in _alternatives(each, definitions)]
    return [node]


def _is(part: Schema, task: str | None) -> bool:
    return task is None or part.get("properties", {}).get("class_path", {}).get("const") == task


def flat(node: Any, name: str = "") -> dict[str, Any]:
    """The values of a recipe by key, as flags name them.

    Args:
        node: What a recipe's file says.
        name: The key of it all, for recursion.
    """
    if not isinstance(node, dict) or (name and not node) or ("class_path" in node and "." in name):
        return {name: node}
    found: dict[str, Any] = {}
    for key, value in node.items():
        full = name if key == "init_args" else f"{name}.{key}" if name else str(key)
        found |= flat(value, full)
    return found
