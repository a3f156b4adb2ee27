"""Several processes through the command line: the same batches and metrics, and never a hang."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import stat
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from datamodules.store.splits import SplitConfig, assign
from datamodules.store.store import Store
from tests.ddp.launch import arguments, finish, global_batches, read, start, xxact
from tests.factories import make_store

pytestmark = pytest.mark.ddp

STEPS = [
    "--trainer.max_steps=15",
    "--trainer.val_check_interval=5",
    "--checkpoint.every_n_steps=1",
]
#: 6 batches of 12 and a tail an epoch: step 8 lies in the second.
PER_EPOCH = 6
KILL_AT = 8


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = make_store(tmp_path_factory.mktemp("store"), 94, rows_per_shard=23)
    n_train = len(assign(store.column("formula_key"), SplitConfig())["train"])
    assert n_train // 12 == PER_EPOCH
    assert n_train % 12
    return store


def run_whole(store: Store, folder: Path, processes: int) -> Path:
    """An uninterrupted run; its run folder, with the recorder's files in `record`."""
    run = folder / f"whole{processes}"
    result = xxact("fit", store.folder, run, *STEPS, processes=processes, record=run / "record")
    assert result.status == 0, result.output
    return run


@pytest.fixture(scope="module")
def whole(store: Store, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    folder = tmp_path_factory.mktemp("whole")
    return {processes: run_whole(store, folder, processes) for processes in (1, 2, 3)}


@pytest.fixture(scope="module")
def killed(store: Store, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Runs of which every process was killed by SIGKILL before a step in mid-epoch."""
    folder = tmp_path_factory.mktemp("killed")
    runs = {}
    for processes in (1, 2):
        runs[processes] = run = folder / f"run{processes}"
        result = xxact(
            "fit",
            store.folder,
            run,
            *STEPS,
            processes=processes,
            record=run / "record",
            kill=(KILL_AT, -1),
        )
        assert result.status != 0
    return runs


def resumed(
    store: Store, killed: Path, folder: Path, processes: int, *more: str
) -> tuple[Path, list[tuple[int, list[int]]]]:
    """Continues a copy of a killed run; its folder and its global batches."""
    run = folder / "run"
    shutil.copytree(killed, run, ignore=shutil.ignore_patterns("record"))
    result = xxact(
        "fit",
        store.folder,
        run,
        *STEPS,
        "--resume",
        *more,
        processes=processes,
        record=run / "record",
    )
    assert result.status == 0, result.output
    return run, global_batches(run / "record")


def losses(run: Path) -> list[list[float]]:
    return [[line["loss"] for line in lines] for lines in read(run / "record")]


def final_metrics(run: Path) -> dict[str, Any]:
    return json.loads((run / "metrics.json").read_text())


def test_any_number_of_processes_sees_the_same_global_batches(whole: dict[int, Path]) -> None:
    alone = global_batches(whole[1] / "record")
    assert [epoch for epoch, _ in alone] == [0] * 6 + [1] * 6 + [2] * 3
    for epoch in (0, 1):
        seen = [row for e, rows in alone if e == epoch for row in rows]
        assert len(set(seen)) == len(seen) == 12 * PER_EPOCH
    for processes in (2, 3):
        assert len(read(whole[processes] / "record")) == processes
        assert global_batches(whole[processes] / "record") == alone


def test_any_number_of_processes_learns_the_same(whole: dict[int, Path]) -> None:
    expected = losses(whole[1])[0]
    for processes in (2, 3):
        ranks = losses(whole[processes])
        mean = [sum(values) / processes for values in zip(*ranks, strict=True)]
        assert mean == pytest.approx(expected, rel=2e-3)


def test_validation_sees_each_row_once_and_gives_the_same_metrics(
    store: Store, whole: dict[int, Path], tmp_path: Path
) -> None:
    expected = assign(store.column("formula_key"), SplitConfig())["validation"].tolist()
    found = {}
    checkpoint = whole[1] / "checkpoints" / "last.ckpt"
    for processes in (1, 2, 3):
        record = tmp_path / f"record{processes}"
        result = xxact(
            "validate",
            store.folder,
            tmp_path / "unused",
            f"--ckpt_path={checkpoint}",
            processes=processes,
            record=record,
        )
        assert result.status == 0, result.output
        lines = [line for lines in read(record, "validation") for line in lines]
        assert sorted(row for line in lines for row in line["index"]) == expected
        found[processes] = json.loads((whole[1] / "metrics.validate.json").read_text())
    for processes in (2, 3):
        assert found[processes].keys() == found[1].keys()
        for name, value in found[1].items():
            if isinstance(value, float):
                assert found[processes][name] == pytest.approx(value, rel=1e-5), name


@pytest.mark.parametrize("processes", [1, 2])
def test_killed_and_resumed_with_as_many_processes_is_the_same_to_the_bit(
    processes: int,
    store: Store,
    whole: dict[int, Path],
    killed: dict[int, Path],
    tmp_path: Path,
) -> None:
    run, batches = resumed(store, killed[processes], tmp_path, processes)
    assert batches == global_batches(whole[processes] / "record")[KILL_AT:]
    expected = [values[KILL_AT:] for values in losses(whole[processes])]
    assert losses(run) == expected
    before, after = final_metrics(whole[processes]), final_metrics(run)
    validated = {k: v for k, v in before.items() if k.startswith("val/")}
    assert validated
    assert validated == {k: after[k] for k in validated}


@pytest.mark.parametrize(("before", "after"), [(2, 3), (1, 2), (2, 1)])
def test_resuming_with_other_numbers_of_processes_yields_the_same_batches(
    before: int,
    after: int,
    store: Store,
    whole: dict[int, Path],
    killed: dict[int, Path],
    tmp_path: Path,
) -> None:
    run, batches = resumed(store, killed[before], tmp_path, after)
    assert len(read(run / "record")) == after
    assert batches == global_batches(whole[1] / "record")[KILL_AT:]
    mean = [sum(values) / after for values in zip(*losses(run), strict=True)]
    assert mean == pytest.approx(losses(whole[1])[0][KILL_AT:], rel=2e-3)


def test_resuming_with_workers_is_the_same_to_the_bit(
    store: Store, whole: dict[int, Path], killed: dict[int, Path], tmp_path: Path
) -> None:
    run, batches = resumed(store, killed[1], tmp_path, 1, "--data.num_workers=4")
    assert batches == global_batches(whole[1] / "record")[KILL_AT:]
    assert losses(run) == [losses(whole[1])[0][KILL_AT:]]


def test_a_store_that_changed_under_the_checkpoint_is_refused_by_all_ranks(
    store: Store, killed: dict[int, Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(killed[2], run)
    other = make_store(tmp_path / "other", 100, seed=1)
    result = xxact("fit", other.folder, run, *STEPS, "--resume", processes=2)
    assert result.status != 0
    assert "the stores changed under it" in result.error


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_dies_ends_the_run(rank: int, store: Store, tmp_path: Path) -> None:
    result = xxact(
        "fit",
        store.folder,
        tmp_path / "run",
        *STEPS,
        processes=2,
        record=tmp_path / "record",
        kill=(3, rank),
        timeout=300,
    )
    assert result.status != 0


@pytest.mark.parametrize(
    ("processes", "arguments", "message"),
    [
        (3, ["--data.global_batch_size=8"], "8 cannot be shared by 3 processes; .* is 9"),
        (2, ["--data.global_batch_size=96"], "fewer than data.global_batch_size 96"),
        (2, ["--data.split.validation=0"], "validation split is empty"),
    ],
)
def test_what_cannot_run_is_told_in_one_line_by_several_processes(
    processes: int, arguments: list[str], message: str, store: Store, tmp_path: Path
) -> None:
    result = xxact(
        "fit", store.folder, tmp_path / "run", *STEPS, *arguments, processes=processes, timeout=300
    )
    assert result.status == 2
    assert re.search(message, result.error)
    assert "Traceback" not in result.output


def test_torchrun_starts_the_same_run(store: Store, whole: dict[int, Path], tmp_path: Path) -> None:
    words = arguments(
        "fit", store.folder, tmp_path / "run", *STEPS, processes=2, record=tmp_path / "record"
    )
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    # Without `--`, torchrun takes our `--run` for an abbreviation of its `--run-path`.
    launcher += ["--nproc-per-node=2", "-m", "--", "lightning_modules"]
    result = finish(start([*launcher, *words]))
    assert result.status == 0, result.output
    assert global_batches(tmp_path / "record") == global_batches(whole[1] / "record")


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def test_a_slurm_job_saves_between_steps_requeues_itself_and_continues(
    store: Store, whole: dict[int, Path], tmp_path: Path
) -> None:
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/scontrol.log\n')
    scontrol.chmod(scontrol.stat().st_mode | stat.S_IEXEC)
    run, record = tmp_path / "run", tmp_path / "record"

    def job(*more: str) -> list[Any]:
        words = arguments("fit", store.folder, run, "--resume", "auto", processes=2)
        words += [
            "--config=configs/trainer/slurm.yaml",
            *("--trainer.accelerator=cpu", "--trainer.devices=2"),
            "--trainer.callbacks+=tests.ddp.recorder.Recorder",
            f"--trainer.callbacks.folder={record}",
            *more,
        ]
        port = str(free_port())
        return [
            start(
                [sys.executable, "-m", "lightning_modules", *words],
                PATH=f"{scontrol.parent}:{os.environ['PATH']}",
                MASTER_ADDR="127.0.0.1",
                MASTER_PORT=port,
                SLURM_JOB_ID="4711",
                SLURM_JOB_NAME="train",
                SLURM_NTASKS="2",
                SLURM_NTASKS_PER_NODE="2",
                SLURM_NODELIST="localhost",
                SLURM_PROCID=str(rank),
                SLURM_LOCALID=str(rank),
                SLURM_NODEID="0",
            )
            for rank in range(2)
        ]

    long = ["--trainer.max_steps=4000", "--trainer.limit_val_batches=0"]
    tasks = job(*long, "--checkpoint.every_n_steps=100000")
    deadline = time.monotonic() + 120
    while not (record / "train.1.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(1.0)
    for task in tasks:
        task.send_signal(signal.SIGUSR1)
    for task in tasks:
        result = finish(task)
        assert result.status == 0, result.output
    assert (tmp_path / "scontrol.log").read_text() == "requeue 4711\n"
    first = global_batches(record)
    stopped = len(first)
    assert 0 < stopped < 4000
    assert stopped % 10 == 0

    shutil.rmtree(record)
    end = f"--trainer.max_steps={stopped + 5}"
    for task in job(end, "--trainer.limit_val_batches=0"):
        result = finish(task)
        assert result.status == 0, result.output
    rest = global_batches(record)
    assert len(rest) == 5
    assert [epoch for epoch, _ in rest] == [(stopped + i) // PER_EPOCH for i in range(5)]
    begun = [row for epoch, rows in first if epoch == rest[0][0] for row in rows]
    continued = [row for epoch, rows in rest if epoch == rest[0][0] for row in rows]
    assert not set(begun) & set(continued)
    if stopped >= 15:
        assert first[:15] == global_batches(whole[1] / "record")
