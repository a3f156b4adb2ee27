"""Preparing a store: time a stage, entries a second on one core, peak memory, extrapolation.

    python benchmarks/prepare.py --csv FILE.csv[.gz] --alexandria FILE.json.bz2 [--grow 10]

One run measures the whole path with one worker against pymatgen's simulation alone (no reading, no
writing) of a sample of the same structures, the stages in themselves, and the peak memory of the
command when its input is `--grow` times as large (the given file's entries with new identifiers).
CPU time, so that a busy machine does not matter. The last line is JSON.
"""

from __future__ import annotations

import argparse
import bz2
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"  # a claim about one core

import numpy as np
from pymatgen.analysis.diffraction.xrd import XRDCalculator
from pymatgen.core import Structure

from datamodules.prepare.crystals.composition import reduced_formula
from datamodules.prepare.crystals.diffraction import diffraction_lines
from datamodules.prepare.crystals.symmetry import symmetry
from datamodules.prepare.executors import ThisProcess
from datamodules.prepare.pipeline import prepare
from datamodules.prepare.slices import material
from datamodules.prepare.sources.alexandria import AlexandriaSource
from datamodules.prepare.sources.csv_cif import CsvSource
from datamodules.prepare.sources.reading.json_entries import iterate_entries
from datamodules.prepare.sources.source import Progress, Source
from datamodules.store.store import Store, write_shard

ALEXANDRIA_ENTRIES = 5_777_914
ALEXANDRIA_BYTES = 3.4e9
"""Compressed, 2025.07.02."""


def timed(action: Callable[[], Any]) -> tuple[Any, float]:
    """What an action gives, and its CPU seconds."""
    start = time.process_time()
    result = action()
    return result, time.process_time() - start


def stages(source: Source, folder: Path) -> dict[str, float]:
    """CPU microseconds an entry of each stage by itself, on the first 4 000 entries."""
    part = source.parts()[0]
    _, all_read = timed(lambda: sum(1 for _ in source.records(part, Progress())))
    n_all = sum(1 for _ in source.records(part, Progress()))
    records = list(islice(source.records(part, Progress()), 4000))
    material(source.entry(records[0], 0))  # compiles, or loads what was compiled
    entries, parse = timed(lambda: [source.entry(record, 0) for record in records])
    _, lines = timed(lambda: [diffraction_lines(entry.crystal) for entry in entries])
    _, symmetries = timed(lambda: [symmetry(entry.crystal) for entry in entries])
    reduced_formula.__globals__["_formula"].cache_clear()
    materials, simulate = timed(lambda: [material(entry) for entry in entries])
    names = [target.name for target in source.targets]
    _, write = timed(lambda: write_shard(folder / "x.arrow", materials, names, "peaks"))
    n = len(records)
    return {
        "read": 1e6 * all_read / n_all,
        "parse": 1e6 * parse / n,
        "simulate": 1e6 * lines / n,
        "symmetry": 1e6 * symmetries / n,
        "formula and columns": 1e6 * (simulate - lines - symmetries) / n,
        "write": 1e6 * write / n,
    }


def end_to_end(source: Source, output: Path) -> tuple[float, Store]:
    """CPU seconds an entry of the whole path, warmed up, and the store."""
    result, seconds = timed(lambda: prepare(source, output, ThisProcess(), quiet=True))
    return seconds / result.manifest.counts["read"], Store(output)


def pymatgen_alone(texts: list[str], sample: int) -> float:
    """CPU seconds a structure of pymatgen's simulation, nothing else."""
    calculator = XRDCalculator()
    chosen = np.random.default_rng(0).permutation(len(texts))[:sample]
    structures = [Structure.from_str(texts[i], fmt="cif") for i in chosen]
    _, seconds = timed(
        lambda: [calculator.get_pattern(s, two_theta_range=(4, 95)) for s in structures]
    )
    return seconds / len(structures)


def grown(file: Path, times: int, path: Path) -> None:
    """Writes a file's entries several times, with new identifiers."""
    compressor = bz2.BZ2Compressor()

    def chunks() -> Iterator[bytes]:
        yield b'{"entries": ['
        first = True
        for copy in range(times):
            with bz2.open(file) as stream:
                for entry in iterate_entries(stream):
                    text = entry.replace(b'"mat_id": "', b'"mat_id": "%d-' % copy, 1)
                    yield text if first else b"," + text
                    first = False
        yield b"]}"

    with open(path, "wb") as out:
        for chunk in chunks():
            out.write(compressor.compress(chunk))
        out.write(compressor.flush())


def peak_memory(file: Path, output: Path) -> float:
    """Peak resident MB of the command with one worker."""
    program = (
        "import resource, sys\n"
        "from datamodules.prepare.command_line import main\n"
        "assert main(sys.argv[1:]) == 0\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    command = ["alexandria", str(file), "--output", str(output), "--workers", "1", "--quiet"]
    done = subprocess.run(
        [sys.executable, "-c", program, *command], check=True, capture_output=True, text=True
    )
    return int(done.stdout.split()[-1]) / 1024


def column_bytes(store: Store) -> dict[str, float]:
    """Bytes a material by column."""
    total: dict[str, int] = {}
    for number in range(len(store.manifest.shards)):
        batch = store.shard(number)
        for name in batch.schema.names:
            total[name] = total.get(name, 0) + batch.column(name).nbytes
    return {name: round(n / len(store), 1) for name, n in total.items()}


def extrapolate(result: dict[str, Any], file: Path) -> None:
    """To all of Alexandria; its files have more compressed bytes an entry, which cost reading."""
    measured = result["alexandria"]
    microseconds = measured["microseconds"]
    n = round(file.stat().st_size / measured["compressed_bytes_per_entry"])
    longer = ALEXANDRIA_BYTES / ALEXANDRIA_ENTRIES / (file.stat().st_size / n)
    per_entry = 1e6 / measured["entries_per_second_and_core"]
    per_entry += (longer - 1) * (microseconds["read"] + microseconds["parse"])
    hours = ALEXANDRIA_ENTRIES / 1e6 / 3600
    result["extrapolation"] = {
        "entries": ALEXANDRIA_ENTRIES,
        "core_hours": round(hours * per_entry, 2),
        "core_hours_of_diffraction": round(hours * microseconds["simulate"], 3),
        "gigabytes": round(ALEXANDRIA_ENTRIES * measured["bytes_per_material"] / 1e9, 1),
        "compressed_bytes_an_entry_there_and_here": round(longer, 2),
    }
    print(f"extrapolated to all of Alexandria: {result['extrapolation']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--csv", type=Path, required=True)
    parser.add_argument("--alexandria", type=Path, required=True)
    parser.add_argument("--sample", type=int, default=300, help="of pymatgen's simulation")
    parser.add_argument("--grow", type=int, default=10)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    result: dict[str, Any] = {"benchmark": "prepare"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sources: dict[str, Source] = {
            "csv": CsvSource((arguments.csv,)),
            "alexandria": AlexandriaSource((arguments.alexandria,)),
        }
        for kind, source in sources.items():
            by_stage = stages(source, folder)
            per_entry, store = end_to_end(source, folder / kind)
            size = sum(shard.bytes for shard in store.manifest.shards) / len(store)
            print(f"{kind}: {len(store)} materials, CPU µs an entry by stage:")
            for stage, microseconds in by_stage.items():
                print(f"  {stage:<22}{microseconds:>8.1f}")
            print(
                f"  {'end to end':<22}{1e6 * per_entry:>8.1f}"
                f" = {1 / per_entry:.0f} entries/s a core"
            )
            print(f"  bytes a material {size:.0f}: {column_bytes(store)}")
            result[kind] = {
                "microseconds": {k: round(v, 1) for k, v in by_stage.items()},
                "entries_per_second_and_core": round(1 / per_entry),
                "bytes_per_material": round(size),
                "compressed_bytes_per_entry": round(source.parts()[0].bytes / len(store), 1),
            }
        texts = [r[1] for r in sources["csv"].records(sources["csv"].parts()[0], Progress())]
        alone = pymatgen_alone(texts, arguments.sample)
        rate = result["csv"]["entries_per_second_and_core"]
        result["ratio"] = round(alone * rate, 1)
        print(f"pymatgen's simulation alone: {1e3 * alone:.2f} ms a structure of the CSV")
        print(f"end to end from CSV and CIF is {result['ratio']} times faster than that")
        grown(arguments.alexandria, 1, folder / "1.json.bz2")
        grown(arguments.alexandria, arguments.grow, folder / "10.json.bz2")
        memory = [peak_memory(folder / f"{n}.json.bz2", folder / f"m{n}") for n in (1, 10)]
        result["peak_memory_mb"] = [round(m) for m in memory]
        print(f"peak memory: {memory[0]:.0f} MB, input × {arguments.grow}: {memory[1]:.0f} MB")
        extrapolate(result, arguments.alexandria)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
