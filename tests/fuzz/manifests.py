"""Manifests of stores: damaged text, and sound JSON that says what no writer says."""

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datamodules.store.store import MANIFEST
from tests.fuzz._stores import check_with, store
from tests.fuzz.mutation import NUMBERS, WORDS, damage

_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2**31, 10**30, 1e308, float("nan"), float("inf"), "", [], {}, [[]],
    {"a": 1}, "/etc/passwd", "../x", "a/b", "peaks", "profile", *WORDS, *NUMBERS,
)  # fmt: skip


def _places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from _places(value, (*path, key))


def mutants(seed: int, n: int) -> Iterator[tuple[str, bytes]]:
    """A third damaged bytes, the others values, keys that are gone, entries that are doubled."""
    random_ = random.Random(f"manifests {seed}")
    text = (store() / MANIFEST).read_bytes()
    manifest = json.loads(text)
    places = list(_places(manifest))
    for number in range(n):
        if random_.random() < 1 / 3:
            deep = random_.random() < 0.1
            content = b"[" * 50_000 if deep else damage(text, random_)
        else:
            changed = copy.deepcopy(manifest)
            *path, key = random_.choice(places)
            node = changed
            for step in path:
                node = node[step]
            how = random_.random()
            if how < 0.15:
                del node[key]
            elif how < 0.25 and isinstance(node, list):
                node.append(node[key])
            else:
                node[key] = random_.choice(_VALUES)
            content = json.dumps(changed).encode("utf-8", "surrogatepass")
        yield f"{seed}-{number}.json", content


def check(path: Path) -> str:
    """Read the store under this manifest."""
    return check_with(MANIFEST, path.read_bytes())
