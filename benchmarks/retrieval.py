"""Searching the vectors of large libraries: time and memory; a JSON line a size.

    python benchmarks/retrieval.py --rows 10000 100000 5800000 --folder /tmp

Vectors are random: an exact search takes the same time whatever they are. `build` writes the file,
`first` is the first search after its pages were dropped from memory where the system allows that,
`again` the next ones; `line_by_line` compares scans with rows of a store (--library).
"""

import argparse
import json
import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from datamodules.grid import Grid
from lightning_modules.inference.neighbours import Library
from lightning_modules.inference.neighbours.index import VectorIndex, build_index
from lightning_modules.retrieval.matching import Matcher, Profile

_PART = 65536


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--queries", type=int, default=16)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--library", type=Path, help="store for line-by-line comparison")
    given = parser.parse_args()
    for rows in given.rows:
        print(json.dumps(search(given.folder, rows, given.width, given.queries)), flush=True)
    if given.library:
        print(json.dumps(line_by_line(given.library)), flush=True)


def search(folder: Path, rows: int, width: int, queries: int) -> dict[str, object]:
    def parts(start: int) -> Iterator[np.ndarray]:
        random = np.random.default_rng(start)
        for first in range(start, rows, _PART):
            part = random.standard_normal((min(_PART, rows - first), width), np.float32)
            yield part / np.linalg.norm(part, axis=1, keepdims=True)

    path = folder / f"vectors-{rows}.safetensors"
    began = time.perf_counter()
    build_index(path, {"model": "none", "library": "none"}, rows, width, parts)
    told: dict[str, object] = {"rows": rows, "width": width, "bytes": path.stat().st_size}
    told["build_s"] = round(time.perf_counter() - began, 2)
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    index = VectorIndex(path, {"model": "none", "library": "none"}, rows, width)
    asked = torch.nn.functional.normalize(torch.randn(queries, width), dim=1)
    for name, query in (("first", asked[:1]), ("again", asked[:1]), (f"{queries}_queries", asked)):
        wall, used = time.perf_counter(), time.process_time()
        index.search(query, 1000)
        told[f"{name}_s"] = round(time.perf_counter() - wall, 3)
        told[f"{name}_cpu_s"] = round(time.process_time() - used, 3)
    # Mapped pages are the system's cache, which it takes back when it needs memory.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    told["own_memory_mb"] = int(status["RssAnon"].split()[0]) // 1024
    told["peak_with_cache_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    path.unlink()
    return told


def line_by_line(store: Path) -> dict[str, object]:
    library = Library(store)

    grid = Grid()
    matcher = Matcher(library)
    intensity = torch.rand(grid.n_points)
    profile = Profile(grid, intensity, torch.ones(grid.n_points, dtype=torch.bool), 0.2)
    everyone = np.arange(len(library))
    told: dict[str, object] = {"library": store.name, "rows": len(library)}
    for name in ("first", "again"):
        used = time.process_time()
        coarse = matcher.coarse(profile, everyone)
        told[f"coarse_{name}_cpu_s"] = round(time.process_time() - used, 2)
    used = time.process_time()
    matcher.fine(profile, coarse.best(100))
    told["fine_100_cpu_s"] = round(time.process_time() - used, 2)
    told["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return told


if __name__ == "__main__":
    main()
