"""Feeds damaged files to what reads them: `make fuzz`, and a short seeded round in `make test`.

A kind of file is a module in this folder with two functions:

    mutants(seed: int, n: int) -> Iterator[tuple[str, bytes]]    names (with suffix) and contents
    check(path: Path) -> str    reads a file; the class of the outcome, such as `read` or `refused`

`check` catches only what the program tells a user in one line; any other exception is a traceback
that a user would see, and fails. So do a mutant that takes more than a minute, one that takes more
than 2 GB of memory, and one that ends the process.
"""

import argparse
import importlib
import logging
import multiprocessing
import os
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

#: Every module of this folder with the two functions above.
KINDS = sorted(
    path.stem
    for path in Path(__file__).parent.glob("*.py")
    if not path.stem.startswith("_") and "\ndef mutants(" in path.read_text(encoding="utf-8")
)
SECONDS = 60.0
MEGABYTES = 2048
#: Mutants from one seed; another batch has another.
BATCH = 50


@dataclass
class Outcome:
    """What came of the mutants of a kind.

    Attributes:
        classes: How many ended in each class.
        failures: Name of the mutant and what went wrong, each.
        slowest: Seconds of the slowest mutant, and its name.
        megabytes: Most memory that a batch's process held.
    """

    classes: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[str, str]] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "")
    megabytes: int = 0


def fuzz(kind: str, n: int, seed: int = 0, keep: Path | None = None) -> Outcome:
    """Try mutants of a kind, each batch in a process of its own.

    Args:
        kind: Name of the module.
        n: How many.
        seed: Of the first batch.
        keep: Where to keep mutants that failed.
    """
    outcome = Outcome()
    tried = 0
    while tried < n:
        count, skip = min(BATCH, n - tried), 0
        while skip < count:
            skip += _batch(kind, seed + tried, count, skip, outcome, keep)
        tried += count
    return outcome


def _batch(kind: str, seed: int, count: int, skip: int, outcome: Outcome, keep: Path | None) -> int:
    """Try the mutants of one seed from `skip` on; how many were, the failed one included."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    with tempfile.TemporaryDirectory() as folder:
        process = context.Process(target=_serve, args=(kind, seed, count, skip, folder, theirs))
        process.start()
        theirs.close()
        tried, name, began = 0, "(start)", time.monotonic()
        try:
            while True:
                # The first answer waits for imports too.
                limit = SECONDS if tried else 2 * SECONDS
                if not ours.poll(limit):
                    outcome.failures.append((name, f"hangs for {limit:.0f} s"))
                    break
                try:
                    what, text, megabytes = ours.recv()
                except EOFError:
                    process.join(10)
                    if process.exitcode:
                        outcome.failures.append((name, f"ends the process ({process.exitcode})"))
                    break
                outcome.megabytes = max(outcome.megabytes, megabytes)
                if what == "next":
                    tried, name, began = tried + 1, text, time.monotonic()
                    continue
                outcome.slowest = max(outcome.slowest, (time.monotonic() - began, name))
                outcome.classes[text.splitlines()[-1][:80] if what == "failed" else text] += 1
                if megabytes > MEGABYTES:
                    outcome.failures.append((name, f"takes {megabytes} MB"))
                    break
                if what == "failed":
                    outcome.failures.append((name, text))
                    _keep(Path(folder) / name, keep)
        finally:
            if process.is_alive():
                process.kill()
            process.join()
            if outcome.failures and outcome.failures[-1][0] == name:
                _keep(Path(folder) / name, keep)
    return max(tried, 1)


def _keep(path: Path, keep: Path | None) -> None:
    if keep is not None and path.is_file():
        keep.mkdir(parents=True, exist_ok=True)
        (keep / path.name).write_bytes(path.read_bytes())


def _serve(kind: str, seed: int, count: int, skip: int, folder: str, pipe: Connection) -> None:
    """A batch's process: tells each mutant's name before it is tried, and its class after."""
    os.environ.update(OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="")
    # What the program says of each is of no interest; faults of the interpreter are.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    module = importlib.import_module(f"tests.fuzz.{kind}")
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    for number, (name, content) in enumerate(module.mutants(seed, count)):
        if number < skip:
            continue
        path = Path(folder) / name
        path.write_bytes(content)
        pipe.send(("next", name, _megabytes()))
        try:
            found = ("done", str(module.check(path)))
        except MemoryError as error:
            found = ("failed", f"MemoryError: {error}")
        except (Exception, SystemExit):
            found = ("failed", traceback.format_exc().strip())
        pipe.send((*found, _megabytes()))
    pipe.close()


def _megabytes() -> int:
    """The most memory that this process has held; `ru_maxrss` would be its parent's at first."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) // 1024


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def main() -> int:
    """Run `make fuzz`; exit status 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"{', '.join(KINDS)} (all)")
    parser.add_argument("--n", type=int, default=300, help="mutants of each kind (300)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the mutants that failed")
    given = parser.parse_args()
    if unknown := set(given.kinds) - set(KINDS):
        parser.error(f"no kind {', '.join(sorted(unknown))}; there are {', '.join(KINDS)}")
    failed = False
    for kind in given.kinds or KINDS:
        began = time.monotonic()
        outcome = fuzz(kind, given.n, given.seed, given.keep)
        counts = ", ".join(f"{name} {count}" for name, count in outcome.classes.most_common())
        print(
            f"{kind:<14}{sum(outcome.classes.values()):>6} mutants, {len(outcome.failures)} failed;"
            f" {counts}; slowest {outcome.slowest[0]:.1f} s, most memory {outcome.megabytes} MB,"
            f" {time.monotonic() - began:.0f} s in all",
            flush=True,
        )
        for name, text in outcome.failures:
            failed = True
            print(f"  {name}: {text}\n", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
