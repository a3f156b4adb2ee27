"""Recipes and overlays of `xxact fit`; nothing is trained, everything is built."""

import copy
import random
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

from tests.factories import make_store
from tests.fuzz._command import outcome_of
from tests.fuzz.mutation import NUMBERS, WORDS, damage

ROOT = Path(__file__).parents[2]
_BASE = ROOT / "configs/regression.yaml"
_VALUES: tuple[Any, ...] = (
    None, False, True, -1, 0, 10**12, 10**30, 0.5, float("nan"), float("inf"), "", "x", [], [1], {},
    {"a": 1}, [[]], "${.nope}", "${data}", "${", "${a.b.c}", "${oc.env:HOME}", "1e3", "null",
)  # fmt: skip
_TEXTS = (
    "# café\nrun: x\n".encode("latin-1"),
    b"",
    b"null\n",
    b"[1, 2]\n",
    b"x\n",
    b"\xff\xfe\0",
    b"a: &a [*a]\n",
    b"model: &m {init_args: *m}\n",
    b"a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n",
    b"run: x\nrun: y\n",
    b"? [1]: 2\n",
    b"1: 2\n",
    b"a: !!python/object:os.system {}\n",
    b"run: !!binary aaaa\n",
    b"run: 2020-13-41\n",
    b"\t- x\n",
    b"{" * 3000,
    b"[" * 3000,
    b"- " * 3000,
    b"run: '" + b"x" * 100_000 + b"'\n",
)


def _leaves(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from _leaves(value, (*path, key))


def _only(path: tuple[Any, ...], recipe: Any, value: Any) -> Any:
    """An overlay that sets one key; lists are given as a whole."""
    if not path:
        return value
    if isinstance(recipe, list):
        changed = copy.deepcopy(recipe)
        changed[path[0]] = _only(path[1:], recipe[path[0]], value)
        return changed
    return {path[0]: _only(path[1:], recipe[path[0]], value)}


def mutants(seed: int, n: int) -> Iterator[tuple[str, bytes]]:
    """Overlays with a wrong value at some key, references, and text that is no recipe."""
    random_ = random.Random(f"recipes {seed}")
    text = _BASE.read_bytes()
    recipe = yaml.safe_load(text)
    recipe["data"] |= {"seed": 0, "grid": {"step": 0.1}, "split": {"seed": 0, "test": 0.1}}
    keys = list(_leaves(recipe))
    for number in range(n):
        kind = random_.randrange(10)
        if kind == 0:
            content = random_.choice(_TEXTS)
        elif kind == 1:
            content = damage(text, random_)
        else:
            key = random_.choice(keys)
            value = random_.choice((*_VALUES, random_.choice(NUMBERS), random_.choice(WORDS)))
            if kind == 2:
                value = "${." + str(key[-1]) + "}"  # refers to itself
            dumped = yaml.safe_dump(_only(key, recipe, value), allow_unicode=True)
            content = dumped.encode("utf-8", "surrogatepass")
        yield f"{seed}-{number}.yaml", content


@cache
def _store() -> str:
    folder = tempfile.mkdtemp()
    make_store(Path(folder), 96)
    return folder


def check(path: Path) -> str:
    """Build what the recipe and this overlay name."""
    from lightning_modules.training.command_line import XxactCLI

    with mock.patch.object(XxactCLI, "fit"):
        return outcome_of(
            ["fit", f"--config={_BASE}", f"--data.stores=[{_store()}]", f"--config={path}",
             f"--run={path.parent / 'run'}", "--trainer.logger=false", "--trainer.accelerator=cpu"]
        )  # fmt: skip
