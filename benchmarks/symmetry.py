"""Space groups by moyo, as every row of a store has them, against spglib's.

    python benchmarks/symmetry.py prototypes mp.csv.gz alexandria_00000.json.bz2 … [--limit N]

Both get the same cells and tolerance in one run; times are CPU time of one core. The last column
has the commonest pairs (moyo's, spglib's) that differ.
"""

from __future__ import annotations

import argparse
import collections
import os
import time
import warnings
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import spglib

from datamodules.prepare.crystals.crystal import Crystal, EntryError
from datamodules.prepare.crystals.symmetry import SYMPREC, _sites, symmetry
from datamodules.prepare.sources.alexandria import AlexandriaSource
from datamodules.prepare.sources.csv_cif import CsvSource
from datamodules.prepare.sources.prototypes import PrototypeSource
from datamodules.prepare.sources.source import Progress, Source


def crystals(source: Source) -> Iterator[Crystal]:
    for part in source.parts():
        for position, record in enumerate(source.records(part, Progress())):
            try:
                yield source.entry(record, position).crystal
            except EntryError:
                continue


def source_of(name: str) -> Source:
    if name == "prototypes":
        return PrototypeSource()
    return CsvSource((Path(name),)) if ".csv" in name else AlexandriaSource((Path(name),), ())


def by_spglib(crystal: Crystal) -> int | None:
    positions, kinds = _sites(crystal)
    found = spglib.get_symmetry_dataset((crystal.lattice, positions, kinds), SYMPREC)
    return None if found is None else int(found.number)


def compare(name: str, limit: int | None) -> None:
    ours, theirs, seconds = [], [], [0.0, 0.0]
    for crystal in islice(crystals(source_of(name)), limit):
        start = time.process_time()
        found = symmetry(crystal)
        middle = time.process_time()
        theirs.append(by_spglib(crystal))
        seconds[0] += middle - start
        seconds[1] += time.process_time() - middle
        ours.append(None if found is None else found.space_group)
    n = len(ours)
    pairs = collections.Counter((a, b) for a, b in zip(ours, theirs, strict=True) if a != b)
    equal = n - sum(pairs.values())
    print(
        f"| {Path(name).name} | {n} | {equal / n:.4%} | {ours.count(None)} | {theirs.count(None)} "
        f"| {n / seconds[0]:.0f} | {n / seconds[1]:.0f} | {pairs.most_common(4)} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("inputs", nargs="+")
    parser.add_argument("--limit", type=int)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    print(f"tolerance {SYMPREC} Å; moyo, spglib {spglib.__version__}")
    print("| input | cells | equal | none by moyo | none by spglib | moyo/s | spglib/s | differ |")
    for name in arguments.inputs:
        compare(name, arguments.limit)


if __name__ == "__main__":
    main()
