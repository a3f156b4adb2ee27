"""Nothing is lost or written twice, whatever happens on the way."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules.prepare import finish, slices
from datamodules.prepare.alexandria import AlexandriaSource
from datamodules.prepare.csv_cif import CsvSource
from datamodules.prepare.executors import LocalProcesses, ThisProcess, Workers
from datamodules.prepare.pipeline import WORK, prepare
from datamodules.prepare.sources import Part, Progress, Source, SourceError, Target
from datamodules.store import REJECTED, Store
from tests.prepare.crystals import (
    alexandria_entry,
    cif_text,
    csv_rows,
    random_structure,
    write_alexandria,
    write_csv,
)

GAP = Target("band_gap", "band_gap", "eV")
SIZE = 4
"""Entries of a slice: small, so that there are many."""


def contents(store: Path) -> dict[str, bytes]:
    """Every file of a finished store."""
    assert not (store / WORK).exists()
    return {path.name: path.read_bytes() for path in store.iterdir()}


def make(source: Source, output: Path, workers: Workers | None = None, **options: Any) -> Store:
    prepare(source, output, workers or ThisProcess(), quiet=True, slice_size=SIZE, **options)
    return Store(output)


@pytest.fixture
def source(tmp_path: Path) -> CsvSource:
    """Three files of 11, 8 and 6 rows with bad ones and duplicates in and across files."""
    first, second, third = csv_rows(11), csv_rows(8, seed=100), csv_rows(6, seed=200)
    first[2][2] = "broken"
    first[9][0] = first[1][0]
    second[3][0] = first[1][0]
    second[5][0] = first[2][0]  # the first with this id was rejected: no duplicate
    third[0][0] = second[7][0]
    third[5][2] = ""
    paths = [
        write_csv(tmp_path / name, rows)
        for name, rows in (("a.csv", first), ("b.csv", second), ("c.csv", third))
    ]
    return CsvSource(tuple(paths), labels=(GAP,))


@pytest.fixture
def expected(source: CsvSource, tmp_path: Path) -> dict[str, bytes]:
    """The store of an uninterrupted run in one process."""
    make(source, tmp_path / "expected")
    return contents(tmp_path / "expected")


def test_counts_add_up_and_the_first_duplicate_wins(source: CsvSource, tmp_path: Path) -> None:
    store = make(source, tmp_path / "store")
    assert store.manifest.counts == {"read": 25, "written": 20, "rejected": 2, "duplicates": 3}
    ids = list(store.column("id"))
    assert len(ids) == len(set(ids)) == 20
    lines = [json.loads(line) for line in (tmp_path / "store" / REJECTED).read_text().splitlines()]
    assert [(x["file"], x["entry"], x["id"], x["reason"], x["detail"][:18]) for x in lines] == [
        ("a.csv", 2, "m-0-2", "unreadable CIF", lines[0]["detail"][:18]),
        ("a.csv", 9, "m-0-1", "duplicate id", "first in a.csv ent"),
        ("b.csv", 3, "m-0-1", "duplicate id", "first in a.csv ent"),
        ("c.csv", 0, "m-100-7", "duplicate id", "first in b.csv ent"),
        ("c.csv", 5, "m-200-5", "no structure", "empty CIF column"),
    ]
    assert lines[1]["detail"] == "first in a.csv entry 1"
    assert lines[3]["detail"] == "first in b.csv entry 7"
    row = ids.index("m-0-1")
    structure = random_structure(1, 3)
    assert store.material(row).formula == structure.composition.reduced_formula
    (target,) = store.manifest.targets
    labels = store.column("band_gap")
    assert target.count == np.isfinite(labels).sum() < 20
    assert target.mean == pytest.approx(np.nanmean(labels), rel=1e-6)
    store.verify()


def test_workers_do_not_change_a_byte(
    source: CsvSource, expected: dict[str, bytes], tmp_path: Path
) -> None:
    make(source, tmp_path / "two", LocalProcesses(2))
    assert contents(tmp_path / "two") == expected


def test_slices_do_not_change_a_byte(
    source: CsvSource, expected: dict[str, bytes], tmp_path: Path
) -> None:
    for size in (1, 11, 1000):
        output = tmp_path / f"size{size}"
        prepare(source, output, ThisProcess(), quiet=True, slice_size=size)
        assert contents(output) == expected


def test_rows_are_packed_into_full_shards(
    source: CsvSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finish, "MAX_SHARD_ROWS", 6)
    store = make(source, tmp_path / "store")
    assert [shard.rows for shard in store.manifest.shards] == [6, 6, 6, 2]
    whole = make(source, tmp_path / "other")
    assert list(store.column("id")) == list(whole.column("id"))
    labels = store.column("band_gap")
    np.testing.assert_array_equal(labels, whole.column("band_gap"))
    raw = np.concatenate(
        [
            np.frombuffer(store.shard(i).column("band_gap").buffers()[1], np.float32)
            for i in range(4)
        ]
    )
    assert np.isnan(raw).sum() == np.isnan(labels).sum() > 0  # NaN lies under nulls


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
            "datamodules.prepare.pipeline", "datamodules.store", "datamodules.manifest",
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
    from datamodules.prepare.cli import main

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


@dataclass(frozen=True)
class Deadly(CsvSource):
    """Kills the process that reads a certain row, the first `deaths` times."""

    flags: Path = Path()
    deaths: int = 1

    def entry(self, record: Any, position: int) -> Any:
        """Parses a row, or dies."""
        if record[0] == "m-100-6":
            for death in range(self.deaths):
                flag = self.flags / f"death{death}"
                if not flag.exists():
                    flag.touch()
                    os.kill(os.getpid(), signal.SIGKILL)
        return super().entry(record, position)


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
        "from tests.prepare.test_pipeline import Slow, main_of\n"
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
    from datamodules.prepare import cli

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


def test_other_options_are_refused(source: CsvSource, tmp_path: Path) -> None:
    make(source, tmp_path / "store")
    before = contents(tmp_path / "store")
    with pytest.raises(SourceError, match="finished store made with other options"):
        make(CsvSource(source.files), tmp_path / "store")
    with pytest.raises(SourceError, match="limit is null, asked for 3"):
        make(source, tmp_path / "store", limit=3)
    with pytest.raises(SourceError, match="space_groups"):
        make(source, tmp_path / "store", space_groups=True)
    with pytest.raises(SourceError, match="files"):
        make(CsvSource(source.files[:2], labels=(GAP,)), tmp_path / "store")
    make(source, tmp_path / "store")
    assert (tmp_path / "store" / WORK).exists() is False
    assert contents(tmp_path / "store") == before


def test_other_options_are_refused_for_an_unfinished_store(
    source: CsvSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("datamodules.prepare.pipeline.finish", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            make(source, tmp_path / "store")
    with pytest.raises(SourceError, match="was begun with other options"):
        make(CsvSource(source.files), tmp_path / "store")
    with pytest.raises(SourceError, match="slice is 4, asked for 5"):
        prepare(source, tmp_path / "store", ThisProcess(), quiet=True, slice_size=5)


def test_a_file_that_changed_is_prepared_again_and_the_others_are_kept(
    source: CsvSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = source.files[1].read_bytes()
    source.files[1].write_bytes(good[:-40])
    with pytest.raises(SourceError, match=r"b\.csv: line"):
        make(source, tmp_path / "store")
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "store" / WORK).glob("0000[02]*/*.json")}
    assert len(kept) == 3 + 2  # the files after the broken one were finished all the same
    source.files[1].write_bytes(good)
    make(source, tmp_path / "store")
    make(source, tmp_path / "fresh")
    assert contents(tmp_path / "store") == contents(tmp_path / "fresh")


@dataclass(frozen=True)
class Vanishing(CsvSource):
    """A file is gone when it is to be read."""

    def records(self, part: Part, progress: Progress) -> Iterator[Any]:
        """Yields rows; of the second file there are none left."""
        if part.name == "b.csv":
            self.files[1].unlink(missing_ok=True)
        return super().records(part, progress)


def test_a_file_that_disappears_is_told(
    source: CsvSource, expected: dict[str, bytes], tmp_path: Path
) -> None:
    shutil.copy(source.files[1], tmp_path / "kept")
    with pytest.raises(SourceError, match=r"b\.csv: the file has disappeared; put it back"):
        make(Vanishing(source.files, labels=source.labels), tmp_path / "store")
    shutil.copy(tmp_path / "kept", source.files[1])
    make(source, tmp_path / "store")
    assert contents(tmp_path / "store") == expected


def test_two_commands_cannot_write_one_store(source: CsvSource, tmp_path: Path) -> None:
    from datamodules.prepare.pipeline import _locked

    with (
        _locked(tmp_path / "store"),
        pytest.raises(SourceError, match="another `xxact prepare` is writing"),
    ):
        make(source, tmp_path / "store")


def test_an_empty_file_and_one_of_exactly_a_slice_are_finished(tmp_path: Path) -> None:
    entries = [alexandria_entry(f"agm{i}", random_structure(i, 2)) for i in range(SIZE)]
    paths = (
        write_alexandria(tmp_path / "none.json", []),
        write_alexandria(tmp_path / "four.json", entries),
        write_alexandria(tmp_path / "one.json", [alexandria_entry("x", random_structure(9, 2))]),
    )
    store = make(AlexandriaSource(paths), tmp_path / "store", LocalProcesses(2))
    assert list(store.column("id")) == ["agm0", "agm1", "agm2", "agm3", "x"]


def test_limit_reads_the_first_entries_of_each_file(source: CsvSource, tmp_path: Path) -> None:
    store = make(source, tmp_path / "store", limit=2)
    assert list(store.column("id")) == [
        "m-0-0", "m-0-1", "m-100-0", "m-100-1", "m-100-7", "m-200-1",
    ]  # fmt: skip


def test_the_same_name_in_two_folders_is_told_apart(tmp_path: Path) -> None:
    paths = []
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        row = [name, 1.0, cif_text(random_structure(3))]
        paths.append(write_csv(tmp_path / name / "a.csv", [row]))
    store = make(CsvSource(tuple(paths), labels=(GAP,)), tmp_path / "store")
    assert list(store.column("id")) == ["x", "y"]
    assert len({file["name"] for file in store.manifest.source["files"]}) == 2
