"""A few gloo processes, started once a test session, that run functions on every rank."""

import multiprocessing
import os
import socket
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

_TIMEOUT = 120.0


def _serve(rank: int, world_size: int, port: int, pipe: Connection) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world_size
    )
    while (task := pipe.recv()) is not None:
        function, arguments = task
        try:
            pipe.send((True, function(*arguments)))
        except Exception as error:
            pipe.send((False, repr(error)))
    dist.destroy_process_group()


class Processes:
    """Spawned processes that form a group; `run` calls a function on each.

    Args:
        world_size: Number of processes.
    """

    def __init__(self, world_size: int = 2) -> None:
        context = multiprocessing.get_context("spawn")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.world_size = world_size
        self._pipes: list[Connection] = []
        self._processes = []
        for rank in range(world_size):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_serve, args=(rank, world_size, port, theirs), daemon=True
            )
            process.start()
            self._pipes.append(ours)
            self._processes.append(process)

    def run(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Results of a module-level function, rank 0's first.

        Args:
            function: Called on every rank at once, so that it may use collectives.
            arguments: The same on every rank; picklable.
        """
        for pipe in self._pipes:
            pipe.send((function, arguments))
        results = []
        for rank, pipe in enumerate(self._pipes):
            assert pipe.poll(_TIMEOUT), f"rank {rank} does not answer"
            results.append(pipe.recv())
        failures = [str(value) for good, value in results if not good]
        assert not failures, failures
        return [value for _, value in results]

    def close(self) -> None:
        """End the processes."""
        for pipe, process in zip(self._pipes, self._processes, strict=True):
            pipe.send(None)
            process.join(10)
            if process.is_alive():
                process.terminate()
