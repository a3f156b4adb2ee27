"""The known materials that lie nearest, beside the answer."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from datamodules.elements import SYMBOLS
from lightning_modules.__main__ import main
from lightning_modules.inference.evidence import Calibration, digest
from lightning_modules.inference.prediction import Predictor
from tests.commands import error_of
from tests.factories import make_material, make_store
from tests.measured import models


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return models.regression(tmp_path / "regression.ckpt", "formation_energy", "band_gap")


@pytest.fixture
def aligned(tmp_path: Path) -> Path:
    path = models.aligned(tmp_path / "aligned.ckpt")
    bank = [make_material(2 * i).formula for i in range(20)]
    scale = np.linspace(-8, 0, 99).tolist()
    Calibration(digest(path), bank, scale, 0.05, {}, {}).keep(path)
    return path


@pytest.fixture
def store(tmp_path: Path) -> Path:
    make_store(tmp_path / "store", 40)
    return tmp_path / "store"


def test_a_known_material_is_its_own_nearest_with_its_labels(
    checkpoint: Path, aligned: Path, store: Path
) -> None:
    predictor = Predictor(checkpoint, [store], aligned=aligned, library=[store])
    material = make_material(7)
    both, pattern, composition, elements, wrong = predictor(
        [
            {"formula": material.formula, "id": material.id},
            {"id": material.id},
            material.formula,
            {"formula": ",".join(SYMBOLS[z] for z in material.elements), "id": material.id},
            "Xx",
        ]
    )
    first = both["neighbours"][0]
    assert (first["id"], first["formula"]) == (material.id, material.formula)
    assert first["similarity"] == pytest.approx(1, abs=1e-3)
    assert first["formation_energy"] == pytest.approx(material.targets["formation_energy"])
    assert set(first) == {"id", "formula", "similarity", "formation_energy", "band_gap"}
    for row in (both, pattern, composition, elements):
        similarity = [known["similarity"] for known in row["neighbours"]]
        assert len(similarity) == 3
        assert similarity == sorted(similarity, reverse=True)
        assert row["error"] == ""
    assert pattern["neighbours"] != composition["neighbours"]
    assert wrong["neighbours"] is None


@pytest.mark.parametrize("columns", [80, 160])
def test_the_command_prints_and_writes_them(
    checkpoint: Path,
    aligned: Path,
    store: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    columns: int,
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    material = make_material(7)
    table, output = tmp_path / "t.csv", tmp_path / "out.csv"
    table.write_text(f"formula,id\n{material.formula},{material.id}\n")
    command = ["predict", f"--checkpoint={checkpoint}", f"--input={table}", f"--library={store}"]
    more = [f"--store={store}", f"--aligned={aligned}", f"--output={output}"]
    assert "give one (--aligned)" in error_of(capsys, lambda: main(command))
    assert main([*command, *more]) == 0
    lines = capsys.readouterr().out.splitlines()
    (heading,) = (i for i, line in enumerate(lines) if line.startswith("  nearest known"))
    if columns == 80:  # too narrow for a table
        told = f"    {material.formula}  {material.id}: similarity 1.000, "
        assert lines[heading + 1].startswith(told)
    else:
        assert lines[heading + 1].split()[:3] == ["formula", "id", "similarity"]
        assert lines[heading + 2].split()[:3] == [material.formula, material.id, "1.000"]
    with output.open(encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert json.loads(row["neighbours"])[0]["id"] == material.id


def test_a_library_in_another_unit_is_refused(
    checkpoint: Path, aligned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_store(tmp_path / "milli", 8, units={"formation_energy": "meV/atom", "band_gap": "eV"})
    command = ["predict", f"--checkpoint={checkpoint}", "--formula=NaCl", f"--aligned={aligned}"]
    message = error_of(capsys, lambda: main([*command, f"--library={tmp_path / 'milli'}"]))
    assert "gives formation_energy in meV/atom" in message
