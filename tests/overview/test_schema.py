"""Schemas for editors: what the parsers take they take, and a misspelt key they refuse."""

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_modules.__main__ import main
from lightning_modules.overview.keys import keys
from lightning_modules.overview.schema import RECIPE
from tests.commands import RECIPES, ROOT

jsonschema = pytest.importorskip("jsonschema", reason="pip install -e '.[dev]' brings it")

FILES = sorted((ROOT / "configs").rglob("*.yaml"))
#: Groups in which keys are names that the file gives.
NAMING = ("recipes", "after", "modalities", "starts", "repeat", "learning_rates_of")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Validators by what `xxact schema` writes for them."""
    folder = tmp_path_factory.mktemp("schemas")
    assert main(["schema", "--output", str(folder)]) == 0
    made = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
    for schema in made.values():
        jsonschema.Draft202012Validator.check_schema(schema)
    return {name: jsonschema.Draft202012Validator(schema) for name, schema in made.items()}


def schema_line(path: Path) -> str:
    line = path.read_text(encoding="utf-8").partition("\n")[0]
    found = re.fullmatch(r"# yaml-language-server: \$schema=(\S+)", line)
    assert found, f"{path}: its first line names no schema"
    return found[1]


def complaints(validator: Any, content: Any) -> list[str]:
    return [f"{error.json_path}: {error.message}"[:300] for error in validator.iter_errors(content)]


def misspelt(node: Any, top: Any, inside: str = "") -> Iterator[tuple[str, Any]]:
    """Copies of the content, each with one key misspelt."""
    if isinstance(node, dict):
        for key in list(node):
            if inside not in NAMING:
                value = node.pop(key)
                node[f"{key}x"] = value
                yield key, copy.deepcopy(top)
                del node[f"{key}x"]
                node[key] = value
            yield from misspelt(node[key], top, key)
    elif isinstance(node, list):
        for part in node:
            yield from misspelt(part, top)


@pytest.mark.parametrize("path", FILES, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_every_file_fits_the_schema_that_it_names(path: Path, made: dict[str, Any]) -> None:
    place = (path.parent / schema_line(path)).resolve()
    assert place.parent == ROOT / "configs" / "schemas"
    validator = made[place.stem]
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert complaints(validator, content) == []
    accepted = [key for key, wrong in misspelt(content, content) if validator.is_valid(wrong)]
    assert accepted == []


@pytest.mark.parametrize(
    "text",
    [
        "trainer: {max_steps: many}",
        "model: {init_args: {optimizer: {schedule: linear}}}",
        "model: {class_path: lightning_modules.MaskedXRDD}",
        "model: {class_path: lightning_modules.Regression, init_args: {mask_ratio: 0.3}}",
        "trainer: {callbacks+: [{class_path: lightning_modules.EMAWeights, init_args: {deca: 1}}]}",
        "data: {stores: data/prototypes}",
    ],
)
def test_a_wrong_value_is_refused(text: str, made: dict[str, Any]) -> None:
    assert complaints(made[RECIPE], yaml.safe_load(text))


@pytest.mark.parametrize(
    "text",
    [
        "model: {class_path: mylab.HardnessTask, init_args: {anything: 1}}",
        "model: {init_args: {decoder_width: '${.backbone.width}'}}",
        "trainer: {val_check_interval: null, callbacks+: [{class_path: mylab.Plot}]}",
        "data: {stores+: [data/more]}",
    ],
)
def test_what_the_parser_takes_beyond_its_own_schema_is_accepted(
    text: str, made: dict[str, Any]
) -> None:
    assert complaints(made[RECIPE], yaml.safe_load(text)) == []


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda p: p.stem)
def test_what_print_config_says_is_a_recipe(
    recipe: Path, made: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["fit", f"--config={recipe}", "--print_config"])
    assert complaints(made[RECIPE], yaml.safe_load(capsys.readouterr().out)) == []


def test_keys_are_those_of_flags(made: dict[str, Any]) -> None:
    named = keys(made[RECIPE].schema)
    for key in ("model.optimizer.learning_rate", "model.mask_ratio", "data.views.strain", "run"):
        assert key in named
    assert not [key for key in named if "init_args" in key or "$" in key]
