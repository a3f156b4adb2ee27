"""Starts `xxact` in processes of its own and reads what they wrote."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

GLOBAL_BATCH = 12

SMALL = [
    "--data.grid.step=0.1",
    "--data.peaks.fwhm=0.3",
    f"--data.global_batch_size={GLOBAL_BATCH}",
    "--model.backbone.width=16",
    "--model.backbone.heads=2",
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.log_every_n_steps=1",
]


@dataclass
class Result:
    """How a command ended, and what it said."""

    status: int
    output: str

    @property
    def error(self) -> str:
        """The one line of the error; the same from every rank that tells it."""
        lines = {x for x in self.output.splitlines() if x.startswith("xxact: error: ")}
        assert len(lines) == 1, self.output
        return lines.pop()


def environment(**more: str) -> dict[str, str]:
    """The tests' environment, without traces of a cluster."""
    names = ("SLURM_", "TORCHELASTIC", "LOCAL_RANK", "RANK", "WORLD_SIZE", "MASTER_", "GROUP_RANK")
    clean = {key: value for key, value in os.environ.items() if not key.startswith(names)}
    return {**clean, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **more}


def start(command: list[str], **more: str) -> subprocess.Popen[str]:
    """Starts a command in a session of its own, at the repository's root."""
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str], timeout: float = 400) -> Result:
    """Waits for a command; one that hangs fails the test and leaves nothing behind."""
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        raise AssertionError(f"hangs after {timeout} s:\n{output}") from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return Result(process.returncode, output)


def arguments(
    command: str,
    store: Path,
    run: Path,
    *more: str,
    processes: int = 1,
    record: Path | None = None,
    kill: tuple[int, int] | None = None,
) -> list[str]:
    """The words after `xxact`.

    Args:
        command: "fit", "validate" or "test".
        store: The store.
        run: The run's folder.
        more: Further words.
        processes: Ranks on this machine.
        record: Folder for the recorder's files.
        kill: Step and rank (-1: all) at which the recorder kills.
    """
    words = [
        command,
        f"--config={ROOT / 'configs' / 'pretrain_mxm.yaml'}",
        f"--data.stores=[{store}]",
        f"--run={run}",
        *SMALL,
        f"--trainer.devices={processes}",
    ]
    if processes > 1:
        words.append("--trainer.strategy=ddp")
    if record is not None:
        words += [
            "--trainer.callbacks=[]",
            "--trainer.callbacks+=tests.ddp.recorder.Recorder",
            f"--trainer.callbacks.folder={record}",
        ]
        if kill is not None:
            words += [
                f"--trainer.callbacks.kill_at={kill[0]}",
                f"--trainer.callbacks.kill_rank={kill[1]}",
            ]
    return [*words, *more]


def xxact(*args: Any, timeout: float = 400, **kwargs: Any) -> Result:
    """Runs `xxact` to its end; arguments as in `arguments`."""
    words = arguments(*args, **kwargs)
    return finish(start([sys.executable, "-m", "lightning_modules", *words]), timeout)


def read(folder: Path, name: str = "train") -> list[list[dict[str, Any]]]:
    """The recorded lines, by rank."""
    files = sorted(folder.glob(f"{name}.*.jsonl"), key=lambda p: int(p.suffixes[-2][1:]))
    return [[json.loads(line) for line in path.read_text().splitlines()] for path in files]


def global_batches(folder: Path) -> list[tuple[int, list[int]]]:
    """Epoch and rows of each global batch, the ranks' slices one after the other."""
    ranks = read(folder)
    return [
        (parts[0]["epoch"], [row for part in parts for row in part["index"]])
        for parts in zip(*ranks, strict=True)
    ]
