"""How fast are batches of random materials gathered, and does it stay flat as the store grows?

    python -m venv .venv-bench
    .venv-bench/bin/pip install -e . datasets boto3 obstore
    .venv-bench/bin/pip install --no-deps litdata    # it would pull torchvision
    .venv-bench/bin/python benchmarks/stream.py --folder /tmp/bench [--like STORE]

The same synthetic materials (line counts as in the store `--like`, else log-normal with mean 175)
are written in every format; each format is read in a process of its own, in random order, batch
1 024, one process without workers, from the page cache. The last line is a JSON object with the
ratios; the lines before it are one measurement each.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.grid import Grid
from datamodules.store.collection import Collection
from datamodules.store.store import (
    MAX_SHARD_ROWS,
    Manifest,
    Material,
    ShardInfo,
    Store,
    summarise_targets,
    write_shard,
)
from datamodules.store.structure import Symmetry

BATCH = 1024
UNITS = {"formation_energy": "eV/atom", "band_gap": "eV"}
DISTINCT_SHARDS = 4


def line_counts(like: str | None, n: int, rng: np.random.Generator) -> np.ndarray:
    """Numbers of lines, as in a real store."""
    if like is None:
        return np.clip(rng.lognormal(np.log(140), 0.67, n), 5, 700).astype(int)
    store = Store(like)
    shards = range(len(store.manifest.shards))
    real = np.concatenate([np.diff(store.shard(i).column("q").offsets.to_numpy()) for i in shards])
    return rng.choice(real, n)


def make_materials(n: int, seed: int, like: str | None) -> Iterator[Material]:
    rng = np.random.default_rng(seed)
    for i, n_lines in enumerate(line_counts(like, n, rng)):
        elements = np.sort(rng.choice(np.arange(1, 95, dtype=np.uint8), 1 + i % 5, replace=False))
        shares = rng.integers(1, 6, len(elements))
        yield Material(
            id=f"bench-{seed}-{i:07d}",
            formula="".join(f"E{z}{k}" for z, k in zip(elements, shares, strict=True)),
            elements=elements,
            fractions=(shares / shares.sum()).astype(np.float32),
            q=np.sort(rng.uniform(0.3, 6.0, n_lines)).astype(np.float32),
            intensity=rng.exponential(size=n_lines).astype(np.float32),
            volume_per_atom=float(rng.uniform(8, 40)),
            density=float(rng.uniform(1, 12)),
            symmetry=Symmetry(
                int(rng.integers(1, 231)),
                int(rng.integers(1, 15)),
                int(rng.integers(1, 50)),
                tuple(rng.random(6).tolist()),
            ),
            targets={"formation_energy": float(rng.normal()), "band_gap": None},
        )


def make_store(folder: Path, rows: int, like: str | None) -> Store:
    """A store of `rows` rows: a few distinct shards, copied (not linked) under new names."""
    if (folder / "manifest.json").exists():
        return Store(folder)
    folder.mkdir(parents=True, exist_ok=True)
    distinct: list[ShardInfo] = []
    shards: list[ShardInfo] = []
    for number, first in enumerate(range(0, rows, MAX_SHARD_ROWS)):
        n = min(MAX_SHARD_ROWS, rows - first)
        name = f"shard-{number:05d}.arrow"
        whole = n == MAX_SHARD_ROWS
        if whole and len(distinct) == DISTINCT_SHARDS:
            base = distinct[number % DISTINCT_SHARDS]
            shutil.copyfile(folder / base.file, folder / name)
            shards.append(ShardInfo(name, n, base.bytes, base.checksum, base.max_elements))
            continue
        materials = list(make_materials(n, number, like))
        shards.append(write_shard(folder / name, materials, list(UNITS), "peaks"))
        if whole:
            distinct.append(shards[-1])
    Manifest(
        layout="peaks",
        source={"name": "benchmark", "licence": "MIT", "citation": "none", "files": []},
        options={"rows": rows},
        counts={"read": rows, "written": rows, "rejected": 0, "duplicates": 0},
        shards=shards,
        targets=summarise_targets(folder, shards[:1], UNITS),
        max_elements=max(s.max_elements for s in shards),
        physics={"q_range": [0.28, 6.1]},
    ).save(folder)
    return Store(folder)


def anonymous_mebibytes() -> float:
    """Memory of this process that is not a mapped file."""
    text = Path("/proc/self/status").read_text()
    return next(int(x.split()[1]) for x in text.splitlines() if x.startswith("RssAnon")) / 1024


def folder_bytes(path: Path) -> int:
    files = [path] if path.is_file() else path.rglob("*")
    return sum(p.stat().st_size for p in files if p.is_file())


def measure(
    name: str,
    batches: Iterator[Any],
    count: Callable[[Any], int],
    seconds: float,
    first_epoch: int = 0,
) -> Any:
    """Materials a second of wall time and of this process's CPU time, after a warm-up.

    Nothing here waits for a disk, so the two differ by what others take of the machine.

    Args:
        name: What is measured.
        batches: Without end.
        count: Materials of a batch.
        seconds: How long to measure, after a fifth of it to warm up.
        first_epoch: Batches to measure apart before: in the first epoch the kernel maps each page.
    """
    found: dict[str, Any] = {"reader": name}
    peak = 0.0

    def timed(stop: Callable[[int, float], bool]) -> dict[str, int]:
        nonlocal peak
        n, cpu, start = 0, time.process_time(), time.perf_counter()
        for i, batch in enumerate(batches, 1):
            n += count(batch)
            if i % 50 == 1:
                peak = max(peak, anonymous_mebibytes())
            if stop(i, time.perf_counter() - start):
                break
        return {
            "materials_per_second": round(n / (time.perf_counter() - start)),
            "materials_per_cpu_second": round(n / (time.process_time() - cpu)),
        }

    timed(lambda i, passed: i >= 3)
    if first_epoch:
        found["first_epoch"] = timed(lambda i, passed: i >= first_epoch)
    else:
        timed(lambda i, passed: passed > seconds / 5)
    found |= timed(lambda i, passed: passed > seconds)
    return {**found, "peak_anonymous_mib": round(peak)}


def forever(make: Callable[[], Iterator[Any]]) -> Iterator[Any]:
    while True:
        yield from make()


def touch(folder: Path) -> None:
    """Reads all files once, so that every reader finds them in the page cache."""
    for path in [folder] if folder.is_file() else folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as stream:
                while stream.read(1 << 24):
                    pass


def read_ours(folder: Path, seconds: float) -> Any:
    from datamodules.stream.batches import Batches
    from datamodules.stream.stream import Stream

    collection = Collection([folder])
    stream = Stream(
        Batches(collection, ["formation_energy", "band_gap"], 12, seed=0),
        np.arange(len(collection)),
        min(BATCH, len(collection)),
        train=True,
    )
    batches = forever(lambda: iter(stream))
    return measure("xxact", batches, lambda b: len(b["index"]), seconds, len(stream) - 3)


def read_numpy(folder: Path, seconds: float) -> Any:
    """A bare gather from an array in memory with the mean number of bytes: the speed limit."""
    store = Store(folder)
    lines = np.mean([len(store.shard(i).column("q").values) for i in range(2)]) / MAX_SHARD_ROWS
    data = np.ones((len(store), round(2 * lines)), np.float32)
    rng = np.random.default_rng(0)
    batches = forever(
        lambda: (data[p] for p in np.array_split(rng.permutation(len(data)), len(data) // BATCH))
    )
    return measure("bare NumPy gather", batches, len, seconds)


def read_memmap(folder: Path, seconds: float) -> Any:
    path = folder.parent / "dense.npy"
    data = np.load(path, mmap_mode="r")
    touch(path)
    rng = np.random.default_rng(0)
    batches = forever(
        lambda: (data[p] for p in np.array_split(rng.permutation(len(data)), len(data) // BATCH))
    )
    result = measure("dense float16 memory map", batches, len, seconds)
    return {**result, "bytes_per_material": data.dtype.itemsize * data.shape[1]}


def as_row(material: Material) -> dict[str, Any]:
    return {
        "id": material.id,
        "formula": material.formula,
        "elements": material.elements,
        "fractions": material.fractions,
        "q": material.q,
        "intensity": material.intensity,
        "formation_energy": np.float32(material.targets["formation_energy"] or 0.0),
        "density": np.float32(material.density or 0.0),
    }


def read_litdata(folder: Path, seconds: float) -> Any:
    import litdata

    path = folder.parent / "litdata"
    store = Store(folder)
    if not path.exists():
        from litdata.streaming.cache import Cache

        cache = Cache(str(path), chunk_bytes="64MB")
        for row in range(len(store)):
            cache[row] = as_row(store.material(row))
        cache.done()
        cache.merge()
    touch(path)
    dataset = litdata.StreamingDataset(str(path), shuffle=True, drop_last=True)
    loader = litdata.StreamingDataLoader(
        dataset, batch_size=BATCH, num_workers=0, collate_fn=lambda rows: rows
    )
    result = measure("litdata", forever(lambda: iter(loader)), len, seconds)
    return {**result, "bytes_per_material": round(folder_bytes(path) / len(store))}


def read_hf(folder: Path, seconds: float) -> Any:
    import datasets

    datasets.disable_progress_bars()
    path = folder.parent / "hf"
    store = Store(folder)
    if not path.exists():
        types = {
            "id": datasets.Value("string"),
            "formula": datasets.Value("string"),
            "elements": datasets.List(datasets.Value("uint8")),
            "fractions": datasets.List(datasets.Value("float32")),
            "q": datasets.List(datasets.Value("float32")),
            "intensity": datasets.List(datasets.Value("float32")),
            "formation_energy": datasets.Value("float32"),
            "density": datasets.Value("float32"),
        }
        made = datasets.Dataset.from_generator(
            lambda: (as_row(store.material(row)) for row in range(len(store))),
            features=datasets.Features(types),
            cache_dir=str(folder.parent / "hf_cache"),
        )
        made.save_to_disk(str(path))
        shutil.rmtree(folder.parent / "hf_cache", ignore_errors=True)
    touch(path)
    data = datasets.load_from_disk(str(path)).with_format("arrow")
    rng = np.random.default_rng(0)
    batches = forever(
        lambda: (data[p] for p in np.array_split(rng.permutation(len(data)), len(data) // BATCH))
    )
    result = measure("HF datasets (Arrow tables)", batches, len, seconds)
    return {**result, "bytes_per_material": round(folder_bytes(path) / len(store))}


READERS = {
    "numpy": read_numpy,
    "ours": read_ours,
    "memmap": read_memmap,
    "litdata": read_litdata,
    "hf": read_hf,
}


def make_dense(store: Store, path: Path) -> None:
    """Dense float16 profiles on the model's grid; their values do not matter to a reader."""
    if path.exists():
        return
    rng = np.random.default_rng(0)
    shape = (len(store), Grid().n_points)
    data = np.lib.format.open_memmap(path, "w+", np.float16, shape)
    for start in range(0, shape[0], 4096):
        data[start : start + 4096] = rng.random((len(data[start : start + 4096]), shape[1]))
    data.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="scratch; up to 10 GB")
    parser.add_argument("--like", help="a store whose numbers of lines to follow")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--scale", type=int, nargs="*", default=[10**4, 10**5, 10**6, 5 * 10**6])
    parser.add_argument("--against", nargs="*", default=["numpy", "memmap", "litdata", "hf"])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--keep", action="store_true", help="leave the scratch files")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--store", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        print(json.dumps(READERS[args.only](args.store, args.seconds)))
        return

    def run(reader: str, store: Store) -> dict[str, Any]:
        command = [sys.executable, __file__, "--folder", str(args.folder), "--only", reader]
        command += ["--store", str(store.folder), "--seconds", str(args.seconds)]
        result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found = json.loads(result.stdout.splitlines()[-1])
        if reader == "ours":
            found["bytes_per_material"] = round(folder_bytes(store.folder) / len(store))
        found = {"rows": len(store), **found}
        print(json.dumps(found), flush=True)
        return found

    ratios: dict[str, Any] = {}
    store = make_store(args.folder / "compare" / "store", args.rows, args.like)
    touch(store.folder)
    if "memmap" in args.against:
        make_dense(store, args.folder / "compare" / "dense.npy")
    ours = run("ours", store)
    for reader in args.against:
        found = run(reader, store)
        ratios[found["reader"]] = {
            clock: round(ours[clock] / found[clock], 2)
            for clock in ("materials_per_second", "materials_per_cpu_second")
        }
    if not args.keep:
        shutil.rmtree(args.folder / "compare")
    rates = []
    for rows in args.scale:
        store = make_store(args.folder / f"scale-{rows}", rows, args.like)
        touch(store.folder)
        rates.append(run("ours", store)["materials_per_cpu_second"])
        if not args.keep:
            shutil.rmtree(store.folder)
    summary: dict[str, Any] = {"claim": "xxact over others", **ratios}
    if rates:
        summary["slowest_over_fastest_size"] = round(min(rates) / max(rates), 2)
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
