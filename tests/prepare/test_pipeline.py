"""Nothing is lost or written twice, whatever happens on the way."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules.prepare import finish
from datamodules.prepare.executors import LocalProcesses, ThisProcess
from datamodules.prepare.pipeline import WORK, prepare
from datamodules.prepare.sources.alexandria import AlexandriaSource
from datamodules.prepare.sources.csv_cif import CsvSource
from datamodules.prepare.sources.source import Part, Progress, SourceError
from datamodules.store.store import REJECTED
from tests.prepare.examples import (
    alexandria_entry,
    cif_text,
    random_structure,
    write_alexandria,
    write_csv,
)
from tests.prepare.pipelines import GAP, SIZE, contents, make


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


def test_other_options_are_refused(source: CsvSource, tmp_path: Path) -> None:
    make(source, tmp_path / "store")
    before = contents(tmp_path / "store")
    with pytest.raises(SourceError, match="finished store made with other options"):
        make(CsvSource(source.files), tmp_path / "store")
    with pytest.raises(SourceError, match="limit is null, asked for 3"):
        make(source, tmp_path / "store", limit=3)
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
