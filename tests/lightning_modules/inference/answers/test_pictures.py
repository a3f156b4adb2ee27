"""One picture a row: the scan, what the model saw of it, and the answer."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_modules.__main__ import main
from lightning_modules.inference.answers import pictures
from lightning_modules.inference.prediction import Predictor
from tests.commands import error_of
from tests.factories import make_material, make_store
from tests.measured import models
from tests.measured.patterns import angles, counts, xy


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return models.regression(tmp_path / "regression.ckpt", "formation_energy")


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    folder = tmp_path / "scans"
    folder.mkdir()
    for name, (first, last) in {"whole.xy": (5, 90), "short $x.xy": (20.4, 80.0)}.items():
        x = angles(first, last)
        (folder / name).write_bytes(xy(x, counts(x)))
    return folder


def test_every_row_with_a_pattern_has_a_picture(
    checkpoint: Path, scans: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    make_store(store, 4)
    rows = [
        {"formula": "NaCl"},
        {"pattern": "short $x.xy", "wavelength": "CuKa"},
        {"id": make_material(2).id},
        {"pattern": "none.xy"},
    ]
    folder = tmp_path / "pictures"
    found = Predictor(checkpoint, [store], folder=scans, pictures=folder)(rows)
    named = [row["picture"] for row in found]
    assert named == [
        None,
        str(folder / "0002_short_x.xy.png"),
        str(folder / f"0003_{make_material(2).id}.png"),
        None,
    ]
    assert sorted(path.name for path in folder.iterdir()) == [
        Path(name).name for name in named if name
    ]
    assert min(path.stat().st_size for path in folder.iterdir()) > 10_000


def test_a_picture_shows_what_the_model_was_shown_and_what_it_answered(
    checkpoint: Path, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(
        pictures, "draw_seen", lambda axes, grid, root: drawn.append((axes, grid, root))
    )
    row = {"pattern": "short $x.xy", "wavelength": "CuKa"}
    predictor = Predictor(checkpoint, folder=scans, pictures=tmp_path / "pictures")
    (answer,) = predictor([row])
    ((axes, grid, root),) = drawn
    seen = grid.two_theta()[np.isfinite(root)]
    # Whole patches of the measured range, and no part of another.
    patch = predictor.task.backbone.config.patch_points * grid.step
    assert 20.4 <= seen[0] < 20.4 + patch + 0.1
    assert 80.0 - patch - 0.1 < seen[-1] <= 80.0
    assert np.nanmax(root) == pytest.approx(1.0, abs=1e-3)
    title = axes.figure.get_suptitle().splitlines()
    assert title[0] == r"short \$x.xy"
    assert title[1].startswith(f"formation energy {answer['formation_energy_predicted']:.2f}"[:20])


def test_the_command_draws_and_refuses_a_folder_that_is_full(
    checkpoint: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["predict", f"--checkpoint={checkpoint}", f"--input={scans}", "--wavelength=CuKa"]
    assert main([*command, f"--pictures={tmp_path / 'a/b'}"]) == 0
    assert len(list((tmp_path / "a/b").iterdir())) == 2
    message = error_of(capsys, lambda: main([*command, f"--pictures={tmp_path / 'a/b'}"]))
    assert "exists already; choose another folder for the pictures" in message
