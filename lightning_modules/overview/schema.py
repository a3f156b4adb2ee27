"""`xxact schema`: JSON schemas of recipes, sweeps and studies, for editors that complete and check.

The parsers that read the files write them (jsonargparse); `widened` adds what files may hold beyond
it. They are of the installed versions and of the tasks of this clone, and so no part of it:
`make install` and `make schema` write them.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jsonargparse.typing import register_type

import lightning_modules
from datamodules.io.arguments import ArgumentParser, parser_of
from datamodules.io.files import replace_file
from lightning_modules.experiments.study.main import KINDS
from lightning_modules.experiments.study.main import main as study
from lightning_modules.experiments.sweep.main import main as sweep
from lightning_modules.overview.keys import Schema, keys
from lightning_modules.training.command_line import main as train

FOLDER = Path("configs/schemas")
RECIPE = "recipe"

#: `${.backbone.width}` in place of a value.
_REFERENCE: Schema = {"type": "string", "pattern": r"\$\{"}
#: Name of the definition of a class that no other definition knows.
_OTHER = "another"
#: Keys that another key sets.
_LINKED = ("grid", "targets")


def schemas() -> dict[str, Schema]:
    """The schema of each kind of file: recipe (and overlay), sweep, each study, its pretraining."""
    recipe = recipe_schema()
    found = {RECIPE: recipe, "sweep": _of_many(parser_of(sweep), recipe)}
    for kind in KINDS:
        found[kind] = _of_many(parser_of(study, kind), recipe)
    whole = found["convergence"]
    own = next(s for s in whole["properties"]["pretraining"]["anyOf"] if "properties" in s)
    own["properties"]["$schema"] = whole["properties"]["$schema"]
    found["pretraining"] = {"$schema": whole["$schema"], **own, "$defs": whole["$defs"]}
    return found


def recipe_schema() -> Schema:
    """What a recipe or an overlay may hold: the keys of `xxact fit`, none of them required."""
    for name in lightning_modules.__all__:
        getattr(lightning_modules, name)  # a class that is not imported is not known
    # Lightning has callbacks that take modules. All classes of torch, with all their arguments,
    # are no help, and jsonargparse 4.53 stumbles over one of them.
    register_type(torch.nn.Module)
    parser = parser_of(train, "fit")
    fit = parser._subcommands_action.choices["fit"]  # type: ignore[attr-defined]
    return widened(json.loads(fit.get_completion_script("jsonschema")))


def _of_many(parser: Any, recipe: Schema) -> Schema:
    """The schema of a sweep or study, whose values (`set`, `space`) are those of a recipe."""
    schema = widened(json.loads(parser.get_completion_script("jsonschema")))
    for flag in ("set", "set+"):
        schema["properties"].pop(flag, None)
    # A study has a `Size` of its own: the recipe's definitions stay apart.
    apart = {"$defs": recipe["$defs"], "named": keys(recipe)}
    apart = json.loads(json.dumps(apart).replace('"#/$defs/', '"#/$defs/recipe/$defs/'))
    named = apart.pop("named")
    own = schema.setdefault("$defs", {})
    if "space" in schema["properties"]:
        schema["properties"]["space"]["propertyNames"] = {"enum": ["config", *named]}

    def fill(node: Any) -> None:
        if isinstance(node, dict):
            properties = node.get("properties", {})
            if {"config", "set"} <= properties.keys():
                properties["set"] = {"$ref": "#/$defs/values"}
            for value in node.values():
                fill(value)
        elif isinstance(node, list):
            for value in node:
                fill(value)

    fill(schema)
    own["recipe"] = apart
    own["values"] = {"type": "object", "properties": named, "additionalProperties": False}
    for name, group in schema["properties"].items():
        if group.get("type") == "object" and "properties" in group:
            # Such as `pretraining: pretraining.yaml`.
            schema["properties"][name] = {"anyOf": [group, {"type": "string"}]}
    return schema


def widened(schema: Schema) -> Schema:
    """A parser's schema, and what a file may hold beyond it.

    Nothing is required, since an overlay gives a part; `key+` appends to a list; a reference
    (`${…}`) may stand for any value; a class path may be of a package that is not known here.

    Args:
        schema: As jsonargparse makes it.

    Returns:
        A new schema.
    """
    known = sorted(_class_paths(schema))
    whole: Schema = _widened(schema)
    whole["properties"] = {"$schema": {"type": "string"}, **whole["properties"]}
    whole.setdefault("$defs", {})[_OTHER] = _other_class(known)
    return whole


def _class_paths(node: Any) -> set[str]:
    """All classes that a schema knows."""
    if isinstance(node, list):
        return {path for part in node for path in _class_paths(part)}
    if not isinstance(node, dict):
        return set()
    own = node.get("properties", {}).get("class_path", {}).get("const")
    return {path for part in node.values() for path in _class_paths(part)} | ({own} - {None})


def _widened(node: Any) -> Any:
    if isinstance(node, list):
        return [_widened(part) for part in node]
    if not isinstance(node, dict):
        return node
    node = {key: value for key, value in node.items() if key != "required"}
    if "properties" in node:
        own = {k: _widened(v) for k, v in node["properties"].items() if k != "$schema"}
        if "backbone" in own:
            own = {key: value for key, value in own.items() if key not in _LINKED}
        lists = {f"{key}+": value for key, value in own.items() if _takes_list(value)}
        node["properties"] = own | lists
    for key in ("$defs", "anyOf", "items", "prefixItems", "additionalProperties"):
        if isinstance(node.get(key), dict) and key == "$defs":
            node[key] = {name: _widened(part) for name, part in node[key].items()}
        elif isinstance(node.get(key), dict | list):
            node[key] = _widened(node[key])
    if any("class_path" in part.get("properties", {}) for part in node.get("anyOf", [])):
        node["anyOf"].append({"$ref": f"#/$defs/{_OTHER}"})
    return _or_reference(node)


def _other_class(known: list[str]) -> Schema:
    """A class that is none of those: nothing is known of its arguments, but it is not ours."""
    return {
        "type": "object",
        "description": "A class of another package",
        "properties": {
            "class_path": {
                "type": "string",
                "pattern": r"^(?!lightning_modules\.)",
                "not": {"enum": known},
            },
            "init_args": {"type": "object"},
            "dict_kwargs": {"type": "object"},
        },
        "additionalProperties": False,
        "required": ["class_path"],
    }


def _takes_list(node: Schema) -> bool:
    return node.get("type") == "array" or any(map(_takes_list, node.get("anyOf", [])))


def _or_reference(node: Schema) -> Schema:
    """A value, or a reference to one; groups of keys and texts stay as they are."""
    told = {k: v for k, v in node.items() if k in ("description", "default")}
    bare = {k: v for k, v in node.items() if k not in told}
    if "anyOf" in bare:
        return {**node, "anyOf": [*node["anyOf"], _REFERENCE]} if _lacks_text(node) else node
    kinds = bare.get("type", [])
    kinds = {kinds} if isinstance(kinds, str) else set(kinds)
    if "string" in kinds or not (kinds - {"object", "null"} or "enum" in bare):
        return node
    return {**told, "anyOf": [bare, _REFERENCE]}


def _lacks_text(node: Schema) -> bool:
    """Whether no alternative takes a text or a reference already."""
    return not any(
        part == _REFERENCE or part.get("type") == "string" or "string" in part.get("type", [])
        for part in node["anyOf"]
    )


def main(args: Sequence[str]) -> int:
    """Run `xxact schema`."""
    parser = ArgumentParser(prog="xxact schema", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--output", type=Path, default=FOLDER, help=f"folder to write (default: {FOLDER})"
    )
    output: Path = parser.parse_args(args).output
    if output == FOLDER and not FOLDER.parent.is_dir():
        raise ValueError(f"{FOLDER.parent}: no recipes here; run it where they are, or --output")
    output.mkdir(parents=True, exist_ok=True)
    for name, schema in schemas().items():
        replace_file(output / f"{name}.json", json.dumps(schema) + "\n")
        print(output / f"{name}.json")
    return 0
