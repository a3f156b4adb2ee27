"""Checkpoints: damaged ones, and well-formed ones that say what no run would."""

import copy
import io
import random
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from lightning_modules import checkpoints
from tests.fuzz._command import judged
from tests.fuzz.mutation import damage

_STORED = sorted((Path(__file__).parents[1] / "checkpoints").glob("*/*.ckpt"))
_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1, 7, 10**6, 10**9, 10**30, 0.5, float("nan"), float("inf"), "", "x" * 5000,
    "os.system", "\x1b[2J", [], {}, [[]], {"a": 1}, torch.zeros(3), torch.zeros(1).expand(10**9),
    torch.zeros(2, 2).to_sparse(), torch.zeros(3, dtype=torch.complex64),
)  # fmt: skip


def _places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from _places(value, (*path, key))


def _change(content: dict[str, Any], random_: random.Random) -> bytes:
    """Other values in a sound archive."""
    content = copy.deepcopy(content)
    described = list(_places(content[checkpoints.KEY], (checkpoints.KEY,)))
    places = described if random_.random() < 0.7 else list(_places(content))
    for _ in range(random_.randrange(1, 3)):
        *path, key = random_.choice(places)
        node: Any = content
        for step in path:
            node = node[step] if isinstance(node, dict | list) and step in _keys(node) else {}
        if isinstance(node, dict | list) and key in _keys(node):
            if random_.random() < 0.2:
                del node[key]
            else:
                node[key] = random_.choice(_VALUES)
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def _keys(node: Any) -> Any:
    return node.keys() if isinstance(node, dict) else range(len(node))


def _repack(content: bytes, random_: random.Random) -> bytes:
    """Another pickle, with the right checksum."""
    stream = io.BytesIO()
    compress = random_.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(stream, "w", compress) as new:
        for part in old.infolist():
            data = old.read(part)
            if part.filename.endswith("data.pkl"):
                data = damage(data, random_)
            new.writestr(part.filename, data)
    return stream.getvalue()


def mutants(seed: int, n: int) -> Iterator[tuple[str, bytes]]:
    """A third each: damaged bytes, other values, another pickle."""
    random_ = random.Random(f"checkpoints {seed}")
    for number in range(n):
        path = random_.choice(_STORED)
        how = random_.randrange(3)
        if how == 0:
            content = damage(path.read_bytes(), random_)
        elif how == 1:
            content = _change(torch.load(path, weights_only=True), random_)
        else:
            content = _repack(path.read_bytes(), random_)
        yield f"{path.stem}-{seed}-{number}.ckpt", content


def check(path: Path) -> str:
    """Read it in every way in which the program does."""

    def read() -> None:
        task = checkpoints.load_task(path)
        checkpoints.check_same_task(path, checkpoints.read(path), task)
        checkpoints.split_of(path)
        checkpoints.peaks_of(path)

    found = judged(read)
    judged(lambda: checkpoints.build_backbone(path))
    return found
