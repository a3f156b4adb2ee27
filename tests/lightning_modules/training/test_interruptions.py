"""Runs that are ended, damaged or started twice: told, and nothing is lost."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lightning_modules.__main__ import main
from lightning_modules.masked_xrd import MaskedXRD
from lightning_modules.training.resumption import newest_checkpoint, open_run
from lightning_modules.training.run_lock import TRAINING, Lock
from tests.commands import ROOT, SMALL, STEPS, error_of
from tests.factories import make_store


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    make_store(tmp_path / "store", 96)
    return [
        "fit",
        f"--config={ROOT / 'configs/pretrain_mxm.yaml'}",
        f"--data.stores=[{tmp_path / 'store'}]",
        f"--run={tmp_path / 'run'}",
        "--trainer.logger=false",
        *SMALL,
        *STEPS,
    ]


def interrupting(number: int, at_step: int) -> Callable[..., object]:
    step = MaskedXRD.training_step

    def training_step(task: MaskedXRD, *arguments: object) -> object:
        if task.global_step == at_step:
            os.kill(os.getpid(), number)
        return step(task, *arguments)  # type: ignore[arg-type]

    return training_step


def steps(run: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("number", "status", "saved", "what"),
    [(signal.SIGTERM, 143, 3, "ended by SIGTERM"), (signal.SIGINT, 130, 2, "interrupted")],
)
def test_an_ended_run_says_what_is_saved_and_exits_so(
    number: int,
    status: int,
    saved: int,
    what: str,
    command: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    handler = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(MaskedXRD, "training_step", interrupting(number, 2))
    with pytest.raises(SystemExit) as exit_:
        main([*command, "--checkpoint.every_n_steps=100", "--trainer.max_steps=6"])
    signal.signal(signal.SIGINT, handler)
    assert exit_.value.code == status
    run = tmp_path / "run"
    assert f"{what} at step" in (said := capsys.readouterr().err)
    assert f"{run}/checkpoints/last.ckpt holds step {saved}: the same command with --resume" in said
    assert not (run / "metrics.json").exists()
    monkeypatch.undo()
    assert main([*command, "--trainer.max_steps=6", "--resume"]) == 0
    assert steps(run) == [2, 4, 6]


def test_a_second_start_says_who_holds_the_folder(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = Lock.take(tmp_path / "run", TRAINING)
    assert lock is not None
    for more in ([], ["--resume=auto"]):
        message = error_of(capsys, lambda more=more: main([*command, *more]))
        assert f"process {os.getpid()} on " in message
        assert "trains here" in message
    lock.release()
    assert main(command) == 0


def test_a_folder_is_claimed_while_it_is_trained_in(command: list[str], tmp_path: Path) -> None:
    endless = [*command, "--trainer.max_steps=100000"]
    first = subprocess.Popen(
        [sys.executable, "-m", "lightning_modules", *endless],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "run/checkpoints/last.ckpt").exists():
            assert first.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        with pytest.raises(ValueError, match=f"process {first.pid} on .* trains here"):
            open_run(tmp_path / "run", "auto")
    finally:
        first.send_signal(signal.SIGTERM)
        _, said = first.communicate(timeout=60)
    assert first.returncode == 143, said
    assert "with --resume goes on from there" in said


@pytest.mark.parametrize("damage", ["cut", "bit"])
def test_a_damaged_checkpoint_is_told_and_the_one_before_it_is_used(
    damage: str, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command) == 0
    last = tmp_path / "run/checkpoints/last.ckpt"
    data = bytearray(last.read_bytes())
    if damage == "bit":
        data[len(data) // 2] ^= 4
    last.write_bytes(data[: len(data) // 2] if damage == "cut" else data)
    capsys.readouterr()
    assert main([*command, "--trainer.max_steps=6", "--resume=auto"]) == 0
    said = capsys.readouterr().err
    assert f"xxact: warning: {last}: not a readable checkpoint" in said
    assert f"continues from {last}.previous" in said
    assert steps(tmp_path / "run") == [2, 4, 6]
    assert torch.load(last, weights_only=True)["global_step"] == 6


def test_without_a_sound_checkpoint_auto_starts_afresh_and_resume_refuses(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command) == 0
    run = tmp_path / "run"
    (run / "checkpoints/last.ckpt").rename(run / "hpc_ckpt_1.ckpt")
    for path in (run / "hpc_ckpt_1.ckpt", run / "checkpoints/last.ckpt.previous"):
        path.write_bytes(path.read_bytes()[:5000])
    message = error_of(capsys, lambda: main([*command, "--resume"]))
    assert "--resume finds no sound checkpoint" in message
    assert main([*command, "--resume=auto"]) == 0
    assert "starts afresh" in capsys.readouterr().err
    assert steps(run) == [2, 4]


def test_the_newest_checkpoint_is_that_of_the_latest_step(
    command: list[str], tmp_path: Path
) -> None:
    assert main(command) == 0
    last = tmp_path / "run/checkpoints/last.ckpt"
    previous = last.with_name("last.ckpt.previous")
    # Copied later.
    os.utime(previous, (time.time() + 100, time.time() + 100))
    assert newest_checkpoint(tmp_path / "run") == (last, [])


def test_the_lines_of_a_resumed_run_have_the_same_keys(command: list[str], tmp_path: Path) -> None:
    logged = [*command, "--trainer.log_every_n_steps=1", "--trainer.val_check_interval=3"]
    assert main([*logged, "--trainer.max_steps=6"]) == 0
    assert main([*logged, "--trainer.max_steps=9", "--resume"]) == 0
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    first, second, third = (set(json.loads(line)) for line in lines)
    assert first == second == third
