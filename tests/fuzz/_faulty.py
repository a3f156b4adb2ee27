"""A kind whose reader fails in every way that the runner is there to notice."""

import os
import time
from collections.abc import Iterator
from pathlib import Path


def mutants(seed: int, n: int) -> Iterator[tuple[str, bytes]]:
    for number, name in enumerate(("fine", "raises", "hangs", "dies", "swells", "fine2")[:n]):
        yield name, bytes([number])


def check(path: Path) -> str:
    if path.name == "raises":
        raise KeyError(path.name)
    if path.name == "hangs":
        time.sleep(60)
    if path.name == "dies":
        os.abort()
    if path.name == "swells":
        return str(len(bytearray(os.urandom(1)) * 300_000_000))[:0] + "read"
    return "read"
