"""One training as a process of its own: sweeps and studies start, watch and end them with this.

A job runs in a process group of its own, under a guard that holds one end of a pipe. When the job
is to end, or its starter dies in whatever way (also by kill -9), the pipe closes and the guard ends
the whole group: processes of DDP too, nothing is left behind on the GPU.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from lightning_modules.training.run_lock import Lock

#: Seconds that a group has for ending by itself before it is killed.
GRACE = 10.0


class Job:
    """A command in a process group of its own, with its output in a file.

    Args:
        command: Program and arguments.
        log: File to append the output to.
        environment: Variables to set besides this process's own.
        lock: A `Lock` to hold until the group is gone, also if this process dies before.
    """

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        environment: Mapping[str, str] | None = None,
        lock: Lock | None = None,
    ) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            self._guard = subprocess.Popen(
                [sys.executable, "-m", __name__, *command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
                pass_fds=() if lock is None else (lock.descriptor,),
            )
        self.log = log
        self.started = time.monotonic()

    @property
    def pid(self) -> int:
        """The guard's process id, which is also the group's."""
        return self._guard.pid

    def poll(self) -> int | None:
        """Exit status, negative for a signal's number; None while it runs."""
        status = self._guard.poll()
        if status is not None:
            self._sweep_up()
        return status

    def _sweep_up(self) -> None:
        """Kill what outlived the guard, having ignored its request."""
        if self._guard.stdin is not None:
            self._guard.stdin.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def kill(self) -> None:
        """End the whole group and wait for it."""
        if self._guard.stdin is not None:
            self._guard.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._guard.wait(2 * GRACE)
        self._sweep_up()
        self._guard.wait()


def xxact(*arguments: str) -> list[str]:
    """The command line of an `xxact` command, in this Python."""
    return module("lightning_modules", *arguments)


def module(name: str, *arguments: str) -> list[str]:
    """The command line of a module, in this Python."""
    return [sys.executable, "-m", name, *arguments]


def last_lines(log: Path, n: int = 20) -> list[str]:
    """The last lines of a log; of a line that was rewritten in place (a bar), its last state."""
    if not log.is_file():
        return []
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 400 * n))
        text = file.read().decode(errors="replace")
    lines = (line.rsplit("\r", 1)[-1].rstrip() for line in text.replace("\r\n", "\n").split("\n"))
    return [line for line in lines if line][-n:]


def _watch(pipe: int, closed: threading.Event) -> None:
    """Wait for the pipe's end; then end the group, first asked, then killed."""
    while os.read(pipe, 1):
        pass
    closed.set()
    os.killpg(0, signal.SIGTERM)
    time.sleep(GRACE)
    os.killpg(0, signal.SIGKILL)  # this process too


def guard(command: Sequence[str]) -> int:
    """Run a command; end its group when standard input closes.

    Returns:
        The command's exit status as a shell gives it: 128 + number for a signal.
    """
    # Not ignored: that would be inherited. SIGTERM to the group must spare the one who sends it.
    signal.signal(signal.SIGTERM, lambda *_: None)
    closed = threading.Event()
    process = subprocess.Popen(list(command), stdin=subprocess.DEVNULL)
    threading.Thread(target=_watch, args=(0, closed), daemon=True).start()
    status = process.wait()
    # What the command has left behind in its group, ranks of DDP for example, ends with it.
    os.killpg(0, signal.SIGTERM)
    if closed.is_set():
        time.sleep(1.0)
        os.killpg(0, signal.SIGKILL)
    return 128 - status if status < 0 else status


if __name__ == "__main__":
    sys.exit(guard(sys.argv[1:]))
