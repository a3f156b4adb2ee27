"""Where the jobs run: this process, a pool of processes, or a Dask cluster.

All are `concurrent.futures` executors. Jobs are idempotent (they skip slices that are there), so a
pool that lost a worker is simply replaced and asked again.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import (
    BrokenExecutor,
    Executor,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    as_completed,
)
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

from tqdm import tqdm

from datamodules.io.arguments import masked
from datamodules.prepare.slices import STOP
from datamodules.prepare.sources.source import SourceError

CONNECT_SECONDS = 20
"""To wait for a Dask scheduler."""


class Workers(Protocol):
    """A kind of place where jobs run."""

    count: int

    def start(self) -> Executor:
        """A fresh executor."""

    def stop(self) -> None:
        """Ends what is running, at once."""


class ThisProcess:
    """One job at a time, in a thread of this process."""

    count = 1

    def __init__(self) -> None:
        self._executor: ThreadPoolExecutor | None = None

    def start(self) -> Executor:
        """A fresh executor."""
        STOP.clear()
        self._executor = ThreadPoolExecutor(1)
        return self._executor

    def stop(self) -> None:
        """Ends the running job at its next entry, and waits for that."""
        STOP.set()
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)


class LocalProcesses:
    """A pool of processes of this machine.

    Args:
        count: Number of processes.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        # Spawned, not forked: the command runs threads (progress bar, Arrow).
        self._context = multiprocessing.get_context("spawn")
        self._leash: Connection | None = None

    def start(self) -> Executor:
        """A fresh executor."""
        self.stop()
        held_by_workers, self._leash = self._context.Pipe(duplex=False)
        return ProcessPoolExecutor(
            self.count, self._context, initializer=_watch, initargs=(held_by_workers,)
        )

    def stop(self) -> None:
        """Ends the processes."""
        if self._leash is not None:
            self._leash.close()
            self._leash = None


def _watch(leash: Connection) -> None:
    """Makes a worker end when the other end of the pipe is closed.

    That is when the command says so and also when it was killed: without this, the workers of a
    command that got `kill -9` would go on writing. (An `Event` would do for neither: a process that
    ends while it waits for one keeps its lock.)
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        wait([leash])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class DaskCluster:
    """The workers of a Dask cluster that see the same files.

    Args:
        address: Of the scheduler, such as tcp://host:8786.

    Raises:
        SourceError: if Dask is not installed, or the scheduler does not answer.
    """

    def __init__(self, address: str) -> None:
        try:
            from dask.distributed import Client
        except ImportError:
            raise SourceError(
                "--scheduler: Dask is not installed; install the extra: pip install -e '.[dask]'"
            ) from None
        try:
            self._client: Any = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError) as error:
            raise SourceError(
                f"--scheduler {masked(address)}: no scheduler answers ({masked(str(error))}); "
                "check the address"
            ) from None
        self._executor: Executor | None = None
        self.count = self._wait_for_workers()

    def _wait_for_workers(self, seconds: float = 60) -> int:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            threads = sum(self._client.nthreads().values())
            if threads:
                return int(threads)
            time.sleep(0.5)
        raise SourceError("--scheduler: the cluster has no workers; start some and try again")

    def start(self) -> Executor:
        """A fresh executor."""
        executor: Executor = self._client.get_executor(pure=False)
        self._executor = executor
        return executor

    def stop(self) -> None:
        """Cancels what waits, and leaves the cluster."""
        if self._executor is not None:
            self._executor.shutdown(wait=False)
        self._client.close()


def workers(count: int | None, scheduler: str | None) -> Workers:
    """Chooses where jobs run.

    Args:
        count: Processes; None means one a core that this process may use.
        scheduler: Address of a Dask scheduler, or None.

    Raises:
        SourceError: if the number makes no sense or the cluster does not answer.
    """
    if scheduler is not None:
        if count is not None:
            raise SourceError("--workers: has no effect with --scheduler; leave out one of them")
        return DaskCluster(scheduler)
    if count is None:
        count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
        count = count or os.cpu_count() or 1
    if count < 1:
        raise SourceError(f"--workers {count}: must be at least 1")
    return ThisProcess() if count == 1 else LocalProcesses(count)


def run_all(
    workers: Workers,
    what: str,
    function: Callable[..., None],
    arguments: Sequence[tuple[Any, ...]],
    quiet: bool,
) -> None:
    """Calls a function once for each of some tuples of arguments, on all workers.

    Args:
        workers: Where.
        what: Of what the calls are, for the progress bar.
        function: Writes its result into a file.
        arguments: Of the calls.
        quiet: Whether to leave out the progress bar.

    Raises:
        SourceError: if a worker died.
    """
    if not arguments:
        return
    executor = workers.start()
    try:
        futures = [executor.submit(function, *some) for some in arguments]
        for future in tqdm(as_completed(futures), what, len(futures), disable=quiet):
            future.result()
    except BaseException as error:
        executor.shutdown(wait=False, cancel_futures=True)
        workers.stop()
        if isinstance(error, BrokenExecutor) or type(error).__name__ == "KilledWorker":  # Dask's
            raise SourceError(
                f"a worker died while preparing {what} (out of memory?); what is finished is kept: "
                "run the same command again, with fewer --workers"
            ) from None
        raise
    executor.shutdown(wait=True)
