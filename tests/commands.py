"""Commands as a user gives them, small enough for a test, and the one line that they fail with."""

from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "configs").glob("*.yaml"))

#: Small and coarse, so that a step takes milliseconds.
SMALL = [
    "--data.grid.step=0.1",
    "--data.peaks.fwhm=0.3",
    "--data.global_batch_size=8",
    "--model.backbone.width=16",
    "--model.backbone.heads=2",
    "--trainer.accelerator=cpu",
    "--trainer.devices=1",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
]
STEPS = ("--trainer.max_steps=4", "--trainer.val_check_interval=2", "--checkpoint.every_n_steps=1")


def error_of(capsys: pytest.CaptureFixture[str], run: Callable[[], int]) -> str:
    """The one line that a command fails with, whichever way it exits."""
    capsys.readouterr()
    try:
        status = run()
    except SystemExit as exit_:
        status = exit_.code  # type: ignore[assignment]
    lines = capsys.readouterr().err.strip().splitlines()
    errors = [line for line in lines if line.startswith("xxact: error: ")]
    assert status == 2, lines
    assert len(errors) == 1, lines
    return errors[0]
