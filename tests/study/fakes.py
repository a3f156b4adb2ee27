"""Runs that take milliseconds: commands of plain Python in place of training."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_modules.experiments.study.run import Run


@dataclass(frozen=True)
class FakeRun(Run):
    """Runs Python code, once for each name; `FOLDER` in it is the run's folder."""

    code: tuple[tuple[str, str], ...] = ()

    def identity(self) -> dict[str, Any]:
        return {"code": self.code}

    def commands(self, root: Path) -> Iterator[tuple[str, list[str]]]:
        for name, code in self.code:
            prefix = f"from pathlib import Path\nFOLDER = Path({str(root / self.name)!r})\n"
            yield name, [sys.executable, "-I", "-c", prefix + code]

    def collect(self, root: Path) -> dict[str, Any]:
        return {"text": (root / self.name / "out").read_text()}


def append(text: str) -> str:
    """Code that appends to the file from which the result is made."""
    return f"(FOLDER / 'out').open('a').write({text!r})"


def exists(pid: int) -> bool:
    """Whether a process is there, and no zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/status")
    return not status.exists() or "State:\tZ" not in status.read_text()


def eventually(condition: Callable[[], object], seconds: float = 20.0) -> bool:
    """Wait for something to happen."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True
