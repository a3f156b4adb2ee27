"""One function over many structures, in order, in this process or in several."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor
from itertools import islice
from typing import Any, TypeVar

from datamodules.prepare.crystals.crystal import Crystal, EntryError
from datamodules.prepare.crystals.structures import to_crystal
from datamodules.prepare.executors import LocalProcesses

T = TypeVar("T")

_CHUNK = 128
"""Structures a worker is given at once: some 10 ms of work."""
_AHEAD = 3
"""Chunks a worker that are read ahead."""


def in_order(
    function: Callable[[Crystal], T], structures: Iterable[Any], workers: int, skip_bad: bool
) -> Iterator[T | None]:
    """Applies a function to structures.

    Args:
        function: Of a crystal; with several workers it must be picklable.
        structures: As `to_crystal` takes them.
        workers: Processes; with one, everything happens here.
        skip_bad: Give None for a structure that is refused.

    Raises:
        ValueError: if `workers` is below 1.
        EntryError: of a structure that is refused, naming its place.
    """
    if workers < 1:
        raise ValueError(f"workers {workers}: must be at least 1")
    crystals = (_read(structure) for structure in structures)
    chunks = iter(lambda: list(islice(crystals, _CHUNK)), [])
    results = _here(function, chunks) if workers == 1 else _over(function, chunks, workers)
    return _told(results, skip_bad)


def _read(structure: Any) -> Crystal | EntryError:
    try:
        return to_crystal(structure)
    except EntryError as error:
        return error


def _applied(
    function: Callable[[Crystal], T], chunk: list[Crystal | EntryError]
) -> list[T | EntryError]:
    return [_one(function, crystal) for crystal in chunk]


def _one(function: Callable[[Crystal], T], crystal: Crystal | EntryError) -> T | EntryError:
    if isinstance(crystal, EntryError):
        return crystal
    try:
        return function(crystal)
    except EntryError as error:
        return error


def _here(
    function: Callable[[Crystal], T], chunks: Iterator[list[Crystal | EntryError]]
) -> Iterator[T | EntryError]:
    for chunk in chunks:
        for crystal in chunk:
            yield _one(function, crystal)


def _over(
    function: Callable[[Crystal], T], chunks: Iterator[list[Crystal | EntryError]], workers: int
) -> Iterator[T | EntryError]:
    pool = LocalProcesses(workers)
    executor = pool.start()
    try:
        waiting = deque(
            executor.submit(_applied, function, chunk) for chunk in islice(chunks, _AHEAD * workers)
        )
        while waiting:
            yield from waiting.popleft().result()
            waiting += (executor.submit(_applied, function, chunk) for chunk in islice(chunks, 1))
    except BrokenExecutor:
        raise ValueError(
            f"workers {workers}: one died: out of memory, or the script that was run does not have "
            'what it does under `if __name__ == "__main__":`'
        ) from None
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
        pool.stop()


def _told(results: Iterator[T | EntryError], skip_bad: bool) -> Iterator[T | None]:
    for place, result in enumerate(results):
        if not isinstance(result, EntryError):
            yield result
        elif skip_bad:
            yield None
        else:
            raise EntryError(result.reason, f"structure {place}: {result.detail}") from None
