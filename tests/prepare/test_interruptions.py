"""Killed, interrupted or short of disk: nothing is lost or written twice."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from datamodules.prepare import slices
from datamodules.prepare.executors import LocalProcesses
from datamodules.prepare.pipeline import WORK
from datamodules.prepare.sources.csv_cif import CsvSource
from datamodules.prepare.sources.source import SourceError
from tests.prepare.pipelines import GAP, SIZE, Deadly, contents, make


class Interrupted(Exception):
    """Stands for whatever ends the process."""


@pytest.mark.parametrize("after", range(1, 16))
def test_interrupted_at_any_write_the_same_command_continues(
    after: int,
    source: CsvSource,
    expected: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Fails at the n-th file written, in turn for every file of the preparation."""
    output = tmp_path / "store"
    real = slices.replace_file
    written = 0

    def failing(path: Path, data: Any) -> None:
        nonlocal written
        written += 1
        if written == after:
            path.with_name(f".{path.name}.1.tmp").write_bytes(bytes(data)[:7])
            raise Interrupted
        real(path, data)

    with monkeypatch.context() as patch:
        for module in (
            "datamodules.prepare.slices", "datamodules.prepare.finish",
            "datamodules.prepare.pipeline", "datamodules.store.store", "datamodules.store.manifest",
        ):  # fmt: skip
            patch.setattr(f"{module}.replace_file", failing)
        with pytest.raises(Interrupted):
            make(source, output)
    assert not (output / "manifest.json").exists()
    make(source, output)
    assert contents(output) == expected


def test_full_disk_is_told_and_survived(
    source: CsvSource,
    expected: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from datamodules.prepare.command_line import main

    command = ["csv", *map(str, source.files), "--output", str(tmp_path / "store"), "--quiet"]
    command += ["--targets", "band_gap", "--workers", "1"]
    with monkeypatch.context() as patch:

        def full(path: Path, *_: Any) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

        patch.setattr(slices, "write_shard", full)
        assert main(command) == 2
    said = capsys.readouterr().err
    assert "No space left on device" in said
    assert said.count("\n") == 1
    assert main(command) == 0
    assert contents(tmp_path / "store") == expected


def test_a_worker_that_dies_is_replaced(
    source: CsvSource, expected: dict[str, bytes], tmp_path: Path
) -> None:
    deadly = Deadly(source.files, labels=source.labels, flags=tmp_path)
    make(deadly, tmp_path / "store", LocalProcesses(1))
    assert (tmp_path / "death0").exists()
    assert contents(tmp_path / "store") == expected


def test_an_entry_that_always_kills_its_worker_is_an_error(
    source: CsvSource, expected: dict[str, bytes], tmp_path: Path
) -> None:
    deadly = Deadly(source.files, labels=source.labels, flags=tmp_path, deaths=100)
    with pytest.raises(SourceError, match=r"workers died 3 times while preparing b\.csv"):
        make(deadly, tmp_path / "store", LocalProcesses(1))
    make(source, tmp_path / "store")
    assert contents(tmp_path / "store") == expected


def start(source: CsvSource, output: Path) -> subprocess.Popen[bytes]:
    """The command with two workers and slow entries, in a session of its own."""
    program = (
        "import sys, time\n"
        "from tests.prepare.test_interruptions import Slow, main_of\n"
        "main_of(sys.argv[1:])\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", program, str(output), *map(str, source.files)],
        stderr=subprocess.PIPE,
        start_new_session=True,
        cwd=Path(__file__).parents[2],
    )


@dataclass(frozen=True)
class Slow(CsvSource):
    """Takes its time for each row."""

    def entry(self, record: Any, position: int) -> Any:
        """Parses a row, slowly."""
        time.sleep(0.1)
        return super().entry(record, position)


def main_of(argv: list[str]) -> None:
    """What `start` runs: the command on a slow source."""
    from datamodules.prepare import command_line as cli

    slow = Slow(tuple(map(Path, argv[1:])), labels=(GAP,))
    cli._csv = lambda arguments: slow  # type: ignore[assignment]
    real = cli.prepare
    cli.prepare = lambda *a, **k: real(*a, **k, slice_size=SIZE)  # type: ignore[assignment]
    sys.exit(cli.main(["csv", *argv[1:], "--output", argv[0], "--workers", "2", "--quiet"]))


def wait_for_a_slice(output: Path) -> None:
    end = time.monotonic() + 60
    while not list((output / WORK).glob("*/*.json")):
        assert time.monotonic() < end
        time.sleep(0.02)


def processes_of(session: int) -> list[int]:
    """Processes of a session that are still running."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(int(entry.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_killed_or_interrupted_no_worker_is_left_and_the_same_command_continues(
    how: signal.Signals, source: CsvSource, expected: dict[str, bytes], tmp_path: Path
) -> None:
    output = tmp_path / "store"
    process = start(source, output)
    wait_for_a_slice(output)
    if how == signal.SIGINT:  # as Ctrl-C does: to the whole group
        os.killpg(process.pid, how)
    else:
        process.kill()
    _, said = process.communicate(timeout=30)
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert said.decode().count("\n") == 1
        assert "run the same command again" in said.decode()
    end = time.monotonic() + 10
    while processes_of(process.pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert processes_of(process.pid) == []
    done = set((output / WORK).glob("*/*.json"))
    assert done
    assert not (output / "manifest.json").exists()
    times = {path: path.stat().st_mtime_ns for path in done}
    make(source, tmp_path / "copy_before", limit=None)  # an unrelated store is not disturbed
    assert {path: path.stat().st_mtime_ns for path in done} == times
    make(source, output)
    assert contents(output) == expected


def test_finished_slices_are_not_prepared_again(
    source: CsvSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = slices._write_slice
    limit = 5
    seen: list[tuple[str, int]] = []

    def counting(job: Any, number: int, *rest: Any) -> None:
        if len(seen) == limit:
            raise Interrupted
        seen.append((job.part.name, number))
        real(job, number, *rest)

    monkeypatch.setattr(slices, "_write_slice", counting)
    with pytest.raises(Interrupted):
        make(source, tmp_path / "store")
    first = list(seen)
    limit = 100
    make(source, tmp_path / "store")
    assert seen[:5] == first
    assert len(set(seen)) == len(seen) == 3 + 3 + 2
