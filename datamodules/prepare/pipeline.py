"""From a source to a store: what is to do, who does it, and what is there already.

While it is made, a store's folder holds `.prepare/`: the plan (what the store is made with), and a
folder a part with its finished slices. The same command continues where an interrupted one ended.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from datamodules.io.files import replace_file
from datamodules.prepare.executors import Workers, run_all
from datamodules.prepare.finish import PartSlices, finish, physics
from datamodules.prepare.slices import (
    SLICE,
    Job,
    SliceInfo,
    Stopped,
    read_slice,
    run_job,
    slice_paths,
)
from datamodules.prepare.sources.source import Part, Source, SourceError
from datamodules.store.store import FORMAT_VERSION, MANIFEST, Manifest

PREPARATION = 2
"""Version of the preparation: raised when the same input would give another store."""

WORK = ".prepare"
ATTEMPTS = 3
"""How often the workers may break without having finished anything in between."""


@dataclass
class Result:
    """A finished store and how long it took (None if it was finished before)."""

    manifest: Manifest
    seconds: float | None
    prepared: int


def prepare(
    source: Source,
    output: Path,
    workers: Workers,
    *,
    limit: int | None = None,
    quiet: bool = False,
    slice_size: int = SLICE,
) -> Result:
    """Makes a store, or continues to make it.

    Args:
        source: Where the entries come from.
        output: The store's folder.
        workers: Where the work is done.
        limit: Entries that are read of each part at most.
        quiet: Whether to leave out the progress bar.
        slice_size: Entries that are finished or lost at once; the store does not depend on it.

    Raises:
        SourceError: if the input cannot be used, or `output` holds something else.
    """
    started = time.monotonic()
    parts = source.parts()
    options = {
        "source": source.name,
        **source.options(),
        "limit": limit,
        "preparation": PREPARATION,
    }
    with _locked(output):
        if (output / MANIFEST).exists():
            manifest = _same(output, options, parts)
            shutil.rmtree(output / WORK, ignore_errors=True)
            return Result(manifest, None, 0)
        folders = {part.name: _folder(output, i, part) for i, part in enumerate(parts)}
        _plan(output, options, slice_size, source.growing, folders.values())
        begun = output / WORK / f"begun-{_digest(parts)}"
        _remove_others(output, {begun, *folders.values()})
        begun.mkdir(exist_ok=True)
        source = source.begin(begun, partial(_shared, workers, quiet))
        found = {part.name: _finished(folders[part.name]) for part in parts}
        before = sum(info.read for infos in found.values() for info in infos.values())
        unfinished = [part for part in parts if not _complete(found[part.name])]
        if unfinished:
            share = max(1, -(-workers.count // len(unfinished)))
            jobs = [
                Job(source, part, folders[part.name], first, share, limit, slice_size)
                for part in unfinished
                for first in range(share)
            ]
            with _bar(parts, limit, quiet) as bar:
                _run(jobs, workers, _Watcher(bar, parts, folders, found, limit))
        slices = []
        for part in parts:
            infos = _finished(folders[part.name])
            if not _complete(infos):
                raise SourceError(
                    f"{part.name}: the workers wrote slices that are not in {folders[part.name]}; "
                    "all machines must see the same files"
                )
            slices.append(PartSlices(part, folders[part.name], [infos[i] for i in sorted(infos)]))
        manifest = finish(output, source, slices, options)
        shutil.rmtree(output / WORK)
    return Result(manifest, time.monotonic() - started, manifest.counts["read"] - before)


@contextmanager
def _locked(output: Path) -> Iterator[None]:
    """Makes the folder, and keeps a second command out of it."""
    if output.exists() and not output.is_dir():
        raise SourceError(f"{output}: is a file; choose another --output")
    work = output / WORK
    ours = work.exists() or (output / MANIFEST).exists()
    if output.exists() and not ours and any(output.iterdir()):
        raise SourceError(f"{output}: not empty and not a store; choose another --output")
    try:
        work.mkdir(parents=True, exist_ok=True)
        (work / "lock").touch()
    except OSError as error:
        raise SourceError(f"{output}: cannot be written ({error.strerror})") from None
    with open(work / "lock") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SourceError(
                f"{output}: another `xxact prepare` is writing it; wait for its end"
            ) from None
        yield


def _shared(
    workers: Workers,
    quiet: bool,
    what: str,
    function: Callable[..., None],
    arguments: Sequence[tuple[Any, ...]],
) -> None:
    run_all(workers, what, function, arguments, quiet)


def _digest(parts: list[Part]) -> str:
    """Names what the parts are, all together."""
    text = json.dumps([[part.name, part.checksum] for part in parts])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _differences(made_with: dict[str, Any], asked: dict[str, Any]) -> str:
    keys = [k for k in {**made_with, **asked} if made_with.get(k) != asked.get(k)]
    return "; ".join(
        f"{key} is {json.dumps(made_with.get(key), ensure_ascii=False)}, "
        f"asked for {json.dumps(asked.get(key), ensure_ascii=False)}"
        for key in keys
    )


def _same(output: Path, options: dict[str, Any], parts: list[Part]) -> Manifest:
    """The manifest of a finished store, if it was made of the same input in the same way."""
    manifest = Manifest.load(output)
    if manifest.format_version != FORMAT_VERSION:
        raise SourceError(
            f"{output}: is a finished store of format {manifest.format_version}, this program "
            f"writes {FORMAT_VERSION}; choose another --output, or delete the folder"
        )
    asked = {**options, "files": {part.name: part.checksum for part in parts}}
    files = {file["name"]: file["checksum"] for file in manifest.source["files"]}
    if different := _differences({**manifest.options, "files": files}, asked):
        raise SourceError(
            f"{output}: is a finished store made with other options ({different}); "
            "choose another --output, or delete the folder"
        )
    return manifest


def _plan(
    output: Path,
    options: dict[str, Any],
    slice_size: int,
    growing: Sequence[str],
    folders: Iterable[Path],
) -> None:
    """Writes the plan, or refuses a folder that was begun with another one.

    Of a `growing` option it takes a larger number, too, and writes it into the plan.
    """
    plan = {**options, "format_version": FORMAT_VERSION, "slice": slice_size, "physics": physics()}
    path = output / WORK / "plan.json"
    try:
        begun = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        replace_file(path, json.dumps(plan, ensure_ascii=False, indent=1).encode())
        return
    grown = {key: plan[key] for key in growing if plan[key] > begun.get(key, plan[key])}
    if different := _differences({**begun, **grown}, plan):
        raise SourceError(
            f"{output}: was begun with other options ({different}); "
            "give the same ones, choose another --output, or delete the folder"
        )
    if grown:
        # In this order: a kill in between leaves a smaller preparation without its last slices.
        for folder in folders:
            for info in _finished(folder).values():
                if info.last:
                    slice_paths(folder, info.slice)[1].unlink()
        replace_file(path, json.dumps(plan, ensure_ascii=False, indent=1).encode())


def _folder(output: Path, number: int, part: Part) -> Path:
    """A part's folder; a changed file gets another one and is prepared again."""
    digest = part.checksum.rsplit(":", 1)[-1][:16].replace(" ", "-")
    return output / WORK / f"{number:05d}-{digest}"


def _remove_others(output: Path, folders: set[Path]) -> None:
    for path in (output / WORK).iterdir():
        if path.is_dir() and path not in folders:
            shutil.rmtree(path)


def _finished(folder: Path, known: dict[int, SliceInfo] | None = None) -> dict[int, SliceInfo]:
    """Descriptions of a part's finished slices by number; `known` ones are not read again."""
    infos = dict(known or {})
    if folder.is_dir():
        for path in folder.iterdir():
            if path.suffix == ".json" and path.stem.isdigit() and int(path.stem) not in infos:
                info = read_slice(folder, int(path.stem))
                if info is not None:
                    infos[info.slice] = info
    return infos


def _complete(infos: dict[int, SliceInfo]) -> bool:
    last = [i for i, info in infos.items() if info.last]
    return bool(last) and all(i in infos for i in range(last[0]))


class _Watcher:
    """Follows the finished slices on the disk: the same for threads, processes and a cluster."""

    def __init__(
        self,
        bar: tqdm,
        parts: list[Part],
        folders: dict[str, Path],
        found: dict[str, dict[int, SliceInfo]],
        limit: int | None,
    ) -> None:
        self.bar, self.parts, self.folders, self.found = bar, parts, folders, found
        self.limit = limit
        self.read = 0
        self.next_drawing = 0.0
        bar.initial = bar.n = self._total("read")
        self.look()

    def _total(self, what: str) -> int:
        infos = [info for part in self.found.values() for info in part.values()]
        if what == "rejected":
            return sum(len(info.rejected) for info in infos)
        return sum(info.read for info in infos)

    def look(self, last: bool = False) -> None:
        """Updates the bar: entries, rejected ones, and the estimated number of entries."""
        for part in self.parts:
            if not _complete(self.found[part.name]):
                self.found[part.name] = _finished(self.folders[part.name], self.found[part.name])
        self.read = self._total("read")
        now = time.monotonic()
        if not self.bar.disable and (last or now >= self.next_drawing):
            # A log file gets a line now and then instead of a moving bar.
            self.next_drawing = now + (0.5 if sys.stderr.isatty() else 30)
            self.bar.total = max(self._expected() or 0, self.read) or None
            self.bar.n = self.read
            self.bar.set_postfix(rejected=self._total("rejected"), refresh=False)
            self.bar.refresh()

    def _expected(self) -> int | None:
        """Estimates the number of entries from the bytes that the finished ones took."""
        rate: list[float] = []
        for part in self.parts:
            for info in self.found[part.name].values():
                if info.consumed:
                    rate.append((info.start + info.read) / info.consumed)
        total = 0.0
        for part in self.parts:
            infos = self.found[part.name]
            if _complete(infos):
                total += sum(info.read for info in infos.values())
                continue
            if part.entries is not None:
                expected = float(part.entries)
            elif part.bytes and rate:
                expected = part.bytes * sum(rate) / len(rate)
            else:
                return None
            total += min(expected, self.limit) if self.limit is not None else expected
        return int(total)


@contextmanager
def _bar(parts: list[Part], limit: int | None, quiet: bool) -> Iterator[tqdm]:
    with tqdm(unit=" entries", disable=quiet, file=sys.stderr) as bar:
        yield bar


def _run(jobs: list[Job], workers: Workers, watcher: _Watcher) -> None:
    """Runs jobs until all their slices are there; lost workers are replaced."""
    attempts = 0
    waiting = list(jobs)
    errors: list[BaseException] = []
    try:
        while waiting:
            before = watcher.read
            waiting = _attempt(waiting, workers.start(), watcher, errors)
            attempts = 1 if watcher.read > before else attempts + 1
            if waiting and attempts >= ATTEMPTS:
                names = sorted({job.part.name for job in waiting})
                raise SourceError(
                    f"workers died {ATTEMPTS} times while preparing {', '.join(names)} (out of "
                    "memory?); finished entries are kept: run the same command again, with fewer "
                    "--workers"
                )
    except BaseException:
        workers.stop()
        raise
    workers.stop()
    watcher.look(last=True)
    for error in errors:
        raise error


def _attempt(
    jobs: list[Job], executor: Executor, watcher: _Watcher, errors: list[BaseException]
) -> list[Job]:
    """Runs jobs in one executor; returns those that were lost with a worker.

    A broken file does not keep the others from being finished; its error is raised in the end.
    """
    lost: list[Job] = []
    try:
        running: dict[Future[int], Job] = {}
        for job in jobs:
            running[executor.submit(run_job, job)] = job
        while running:
            done, _ = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
            for future in done:
                job = running.pop(future)
                try:
                    future.result()
                except (BrokenExecutor, Stopped):
                    lost.append(job)
                except SourceError as error:
                    errors.append(error)
                except Exception as error:
                    if type(error).__name__ != "KilledWorker":  # Dask's, which is optional
                        raise
                    lost.append(job)
            watcher.look()
    except BrokenExecutor:  # by submitting to a pool that has just broken
        return jobs
    except BaseException:
        executor.shutdown(wait=False, cancel_futures=True)
        raise
    executor.shutdown(wait=True)
    return lost
