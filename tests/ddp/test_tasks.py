"""Alignment and regression in two processes through the command line: one process's results."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.ddp.launch import GLOBAL_BATCH, ROOT, SMALL, finish, start
from tests.factories import make_store

pytestmark = pytest.mark.ddp


def fit(recipe: str, store: Path, run: Path, processes: int, *more: str) -> None:
    words = [
        "fit",
        f"--config={ROOT / 'configs' / recipe}.yaml",
        f"--data.stores=[{store}]",
        f"--run={run}",
        *SMALL,
        f"--trainer.devices={processes}",
        "--trainer.max_steps=6",
        "--trainer.val_check_interval=3",
        "--checkpoint.every_n_steps=3",
        *(["--trainer.strategy=ddp"] if processes > 1 else []),
        *more,
    ]
    result = finish(start([sys.executable, "-m", "lightning_modules", *words]))
    assert result.status == 0, result.output


def last(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    return content["state_dict"]


@pytest.mark.parametrize(
    ("recipe", "more"),
    [
        ("pretrain_contrastive", []),
        (
            "pretrain_contrastive",
            [
                "--model.view_weight=1",
                "--data.views={strain: 0.02, impurity: 0.1, impurity_probability: 0.5, window: 10}",
            ],
        ),
        ("pretrain_masked_contrastive", []),
        ("regression", ["--data.targets=[formation_energy,band_gap]"]),
    ],
)
def test_two_processes_train_validate_and_calibrate_as_one(
    recipe: str, more: list[str], tmp_path: Path
) -> None:
    store = tmp_path / "store"
    make_store(store, 30 * GLOBAL_BATCH)
    runs = {n: tmp_path / f"run{n}" for n in (1, 2)}
    for processes, run in runs.items():
        fit(recipe, store, run, processes, *more)
    one, two = (last(run) for run in runs.values())
    assert one.keys() == two.keys()
    for name, value in one.items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(two[name], value, rtol=5e-3, atol=1e-4, msg=name)
    if recipe == "regression":
        assert one["targets.conformal"].isfinite().all()
    one, two = (json.loads((run / "metrics.json").read_text()) for run in runs.values())
    compared = [name for name in one if name.startswith("val/") and "recall" not in name]
    assert len(compared) > 5
    for name in compared:
        assert two[name] == pytest.approx(one[name], rel=2e-2, abs=1e-3), name
