"""Descriptions of whole models beside sound weights: damaged, or saying other things."""

import json
import random
import shutil
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from lightning_modules import checkpoints
from lightning_modules.checkpoints.export import export_model, write_evidence
from lightning_modules.checkpoints.places import find
from lightning_modules.checkpoints.whole import OWN_CHECKSUM
from lightning_modules.inference.evidence import Calibration
from tests.fuzz._command import judged
from tests.fuzz.mutation import NUMBERS, WORDS, damage

_STORED = sorted((Path(__file__).parents[1] / "checkpoints").glob("*/Regression.ckpt"))


@cache
def _model() -> Path:
    folder = Path(tempfile.mkdtemp()) / "model"
    export_model(_STORED[0], folder)
    # Only an alignment has one; whose it is does not matter to what reads it.
    scale = {
        "bank": ["NaCl", "Fe2O3"],
        "scores": [-3.0, -1.0, 0.5],
        "false_alarms": 0.05,
        "kinds": {"sound": {"flagged": 0.05, "n": 3}},
        "settings": {},
        "format_version": 1,
    }
    write_evidence(folder / "model.safetensors", scale)
    return folder


def _dictionaries(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for item in value.values():
            yield from _dictionaries(item)


def _saying(content: bytes, random_: random.Random) -> bytes:
    """Another value of one key, somewhere, or one key less."""
    described = json.loads(content)
    # Without its checksum, as of the first exports: with it, no other value comes far.
    del described[OWN_CHECKSUM]
    where = random_.choice([d for d in _dictionaries(described) if d])
    key = random_.choice(list(where))
    if random_.random() < 0.2:
        del where[key]
    else:
        values = (None, -1, 0, 1, 10**5, 10**30, 1e400, [], {}, "x", *NUMBERS, *WORDS)
        where[key] = random_.choice(values)
    if random_.random() < 0.05:
        return b"[" * 100_000
    return json.dumps(described).encode("utf-8", "surrogatepass")


def mutants(seed: int, n: int) -> Iterator[tuple[str, bytes]]:
    """Half damaged bytes, half other descriptions."""
    random_ = random.Random(f"models {seed}")
    content = (_model() / "model.json").read_bytes()
    for number in range(n):
        change = damage if random_.random() < 0.5 else _saying
        yield f"{seed}-{number}.json", change(content, random_)


def check(path: Path) -> str:
    """Build the task, its split and its peaks; read the scale of agreement."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(_model() / "model.safetensors", folder)
        shutil.copy(path, Path(folder) / "model.json")

        def read() -> None:
            checkpoints.load_task(folder)
            checkpoints.split_of(folder)
            checkpoints.peaks_of(folder)

        scale = judged(lambda: Calibration.load(find(folder)))
        return f"model {judged(read)}, scale {scale}"
