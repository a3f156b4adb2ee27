"""Kills of real trainings; `make test-ddp` runs these."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_modules.experiments.study.run import RESULT, read_json
from tests.factories import make_store
from tests.study.fakes import eventually, exists

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.ddp, pytest.mark.xdist_group("kills")]


def recipe(store: Path, **values: Any) -> dict[str, Any]:
    return {
        "config": [str(ROOT / "configs/pretrain_mxm.yaml")],
        "set": {
            "data.stores": [str(store)],
            "data.grid.step": 0.1,
            "data.peaks.fwhm": 0.3,
            "data.global_batch_size": 8,
            "model.backbone.width": 16,
            "model.backbone.heads": 2,
            "trainer.accelerator": "cpu",
            "trainer.max_steps": 60,
            "trainer.val_check_interval": 5,
            "checkpoint.every_n_steps": 5,
            **values,
        },
    }


def start(folder: Path, *arguments: str) -> "subprocess.Popen[bytes]":
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "lightning_modules", *arguments],
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )


def trainings(run: Path) -> list[int]:
    """Ids of all processes that train in a folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().decode().split("\0")
        except OSError:
            continue
        if f"--run={run}" in words and "lightning_modules.experiments.processes" not in words:
            found.append(int(entry.parent.name))
    return found


def steps(run: Path) -> list[int]:
    return [line["step"] for line in map(yaml.safe_load, (run / "metrics.jsonl").open())]


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs /proc")
def test_a_killed_sweep_ends_both_ranks_of_its_trial_and_continues_it(tmp_path: Path) -> None:
    make_store(tmp_path / "store", 96)
    definition = tmp_path / "sweep.yaml"
    values = {
        "folder": str(tmp_path / "out"),
        "recipe": recipe(tmp_path / "store", **{"trainer.devices": 2, "trainer.strategy": "ddp"}),
        "space": {"model.optimizer.learning_rate": {"choices": [1e-3]}},
        "metric": "val/loss",
        "sampler": "grid",
        "heartbeat": 1,
    }
    definition.write_text(yaml.safe_dump(values))
    run = tmp_path / "out/trial_0000"
    sweep = start(tmp_path, "sweep", f"--config={definition}")
    # It is written after the first validation, so there are metrics too.
    assert eventually(lambda: (run / "checkpoints/last.ckpt").is_file(), 120), (
        tmp_path / "log"
    ).read_text()
    ranks = trainings(run)
    assert len(ranks) == 2
    sweep.kill()
    sweep.wait()
    assert eventually(lambda: not any(exists(pid) for pid in ranks))
    assert max(steps(run)) < 60, "it had ended before it was killed"
    assert start(tmp_path, "sweep", f"--config={definition}").wait(180) == 0
    assert steps(run) == list(range(5, 65, 5))
    assert (run / "config.2.yaml").is_file()
    assert (tmp_path / "out/best.yaml").is_file()


def test_a_killed_study_continues_its_training(tmp_path: Path) -> None:
    make_store(tmp_path / "store", 96)
    definition = tmp_path / "study.yaml"
    values = {
        "folder": str(tmp_path / "out"),
        "pretraining": {"recipes": {"mxm": recipe(tmp_path / "store")}},
        "stores": [str(tmp_path / "store")],
        "targets": ["formation_energy"],
        "starts": ["mxm"],
    }
    definition.write_text(yaml.safe_dump(values))
    arguments = ("study", "representation", f"--config={definition}", "--only=pretraining/*")
    run = tmp_path / "out/pretraining/mxm/seed=0"
    study = start(tmp_path, *arguments)
    assert eventually(lambda: (run / "checkpoints/last.ckpt").is_file(), 120)
    study.kill()
    study.wait()
    assert start(tmp_path, *arguments).wait(180) == 0
    assert (run / "config.2.yaml").is_file()
    result = read_json(run / RESULT)
    assert [line["step"] for line in result["curve"]] == list(range(5, 65, 5))
    assert result["final"]["samples_seen"] == 480
