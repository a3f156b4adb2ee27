"""The same tasks on a Dask cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from datamodules.prepare.command_line import main
from datamodules.prepare.executors import DaskCluster, ThisProcess
from datamodules.prepare.pipeline import prepare
from datamodules.prepare.sources.csv_cif import CsvSource
from datamodules.prepare.sources.source import SourceError
from tests.prepare.examples import csv_rows, write_csv
from tests.prepare.hypothetical.pairs import source_of, write_parents
from tests.prepare.pipelines import GAP, SIZE, Deadly, contents

distributed = pytest.importorskip("distributed")


def test_a_cluster_makes_the_same_store_also_if_a_worker_dies(tmp_path: Path) -> None:
    paths = (
        write_csv(tmp_path / "a.csv", csv_rows(9)),
        write_csv(tmp_path / "b.csv", csv_rows(8, 100)),
    )
    source = CsvSource(paths, labels=(GAP,))
    prepare(source, tmp_path / "here", ThisProcess(), quiet=True, slice_size=SIZE)
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50
    ) as cluster:
        deadly = Deadly(paths, labels=(GAP,), flags=tmp_path)
        parents = source_of(write_parents(tmp_path / "parents.csv"))
        prepare(parents, tmp_path / "hypothetical", ThisProcess(), quiet=True, slice_size=SIZE)
        where = DaskCluster(cluster.scheduler_address)
        prepare(parents, tmp_path / "hypothetical there", where, quiet=True, slice_size=SIZE)
        assert contents(tmp_path / "hypothetical there") == contents(tmp_path / "hypothetical")
        for name, made in (("there", source), ("dying", deadly)):
            where = DaskCluster(cluster.scheduler_address)
            assert where.count >= 1
            prepare(made, tmp_path / name, where, quiet=True, slice_size=SIZE)
            assert contents(tmp_path / name) == contents(tmp_path / "here")
    assert (tmp_path / "death0").exists()


def test_a_scheduler_that_does_not_answer_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("datamodules.prepare.executors.CONNECT_SECONDS", 1)
    path = write_csv(tmp_path / "a.csv", csv_rows(1))
    command = [
        "csv",
        str(path),
        "--output",
        str(tmp_path / "s"),
        "--scheduler",
        "tcp://127.0.0.1:9",
    ]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert "--scheduler tcp://127.0.0.1:9: no scheduler answers" in said
    with pytest.raises(SourceError, match="--scheduler"):
        DaskCluster("nonsense://x")
