"""Exported backbones (safetensors): damaged ones, and sound ones with another header."""

import json
import random
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from lightning_modules import checkpoints
from lightning_modules.checkpoints.export import export
from tests.fuzz._command import judged
from tests.fuzz.mutation import NUMBERS, WORDS, damage

_STORED = sorted((Path(__file__).parents[1] / "checkpoints").glob("*/Regression.ckpt"))


@cache
def _exported() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "backbone.safetensors"
        export(_STORED[0], path)
        return path.read_bytes()


def _header(content: bytes, random_: random.Random) -> bytes:
    """The same numbers under another header of the right length."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    described = json.loads(header["__metadata__"][checkpoints.KEY])
    where = random_.choice((described, described["backbone"], described["grid"], header))
    key = random_.choice(list(where))
    values = (None, -1, 0, 1, 10**5, 10**30, 1e400, [], {}, "x", *NUMBERS, *WORDS)
    value = random_.choice(values)
    if random_.random() < 0.2:
        del where[key]
    elif isinstance(where[key], dict) and "shape" in where[key]:
        where[key]["shape"] = [10**9, 10**9] if random_.random() < 0.5 else value
    else:
        where[key] = value
    if "__metadata__" in header and isinstance(header["__metadata__"], dict):
        text = "[" * 100_000 if random_.random() < 0.05 else json.dumps(described)
        header["__metadata__"][checkpoints.KEY] = text
    data = json.dumps(header).encode("utf-8", "surrogatepass")
    return len(data).to_bytes(8, "little") + data + content[8 + size :]


def mutants(seed: int, n: int) -> Iterator[tuple[str, bytes]]:
    """Half damaged bytes, half other headers."""
    random_ = random.Random(f"exports {seed}")
    for number in range(n):
        change = damage if random_.random() < 0.5 else _header
        yield f"{seed}-{number}.safetensors", change(_exported(), random_)


def check(path: Path) -> str:
    """Build the backbone."""
    return judged(lambda: checkpoints.build_backbone(path))
