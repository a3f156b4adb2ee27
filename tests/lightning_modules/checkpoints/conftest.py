"""A run's checkpoint, and the model that is exported from it."""

from pathlib import Path

import pytest

from lightning_modules.__main__ import main
from tests.measured import models


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    return models.regression(folder / "checkpoints" / "last.ckpt", "formation_energy", "band_gap")


@pytest.fixture(scope="module")
def model(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "mine"
    assert main(["export", f"--checkpoint={checkpoint}", f"--output={folder}"]) == 0
    return folder
