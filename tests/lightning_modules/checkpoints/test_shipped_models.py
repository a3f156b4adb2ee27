"""The models that come with a clone: they answer, they say what they are, and they are small."""

import csv
import io
import json
from pathlib import Path

import pytest

from lightning_modules import checkpoints
from lightning_modules.__main__ import main
from lightning_modules.checkpoints.places import MODELS
from lightning_modules.inference.evidence import Evidence
from lightning_modules.inference.prediction import Predictor
from tests.measured.patterns import angles, counts, write

NAMES = ("properties", "aligned", "pretrained")
#: All of `models/`, bytes.
LARGEST = 12 * 2**20


def test_they_are_small_and_say_nothing_of_the_machine_that_made_them() -> None:
    files = [path for path in MODELS.rglob("*") if path.is_file()]
    assert {path.parent.name for path in files} == set(NAMES)
    assert sum(path.stat().st_size for path in files) < LARGEST
    for path in files:
        if path.suffix != ".safetensors":
            text = path.read_text(encoding="utf-8")
            assert str(Path.home()) not in text
            assert "/work/" not in text
            assert "/tmp/" not in text


def test_salt_has_a_low_energy_a_wide_gap_and_an_interval() -> None:
    predictor = Predictor("properties", aligned="aligned")
    salt, gold = predictor([{"formula": "NaCl"}, {"formula": "Au"}])
    assert -2.6 < salt["formation_energy_predicted"] < -1.4
    assert salt["band_gap_predicted"] > 3.0 > gold["band_gap_predicted"]
    for row in (salt, gold):
        for target in ("formation_energy", "band_gap", "hull_distance", "density"):
            # Equal where both are 0: a gap is not below that.
            assert row[f"{target}_low"] <= row[f"{target}_predicted"] < row[f"{target}_high"]


def test_a_scan_is_predicted_without_naming_a_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two_theta = angles()
    scan = write(tmp_path, "xrdml", two_theta, counts(two_theta))
    output = tmp_path / "answers.csv"
    command = ["predict", f"--input={scan}", "--formula=NaCl", f"--output={output}"]
    assert main(command) == 0
    assert "models/properties and models/aligned" in capsys.readouterr().out
    (row,) = csv.DictReader(io.StringIO(output.read_text()))
    assert row["formation_energy_from"] == "composition+xrd"
    assert 0.0 < float(row["agreement"]) <= 1.0
    assert not row["error"]


def test_the_aligned_model_is_calibrated_and_both_read_one_grid() -> None:
    evidence = Evidence("aligned")
    assert len(evidence.calibration.scores) > 500
    assert evidence.model.grid == checkpoints.load_task("properties").grid
    assert checkpoints.split_of("aligned") == checkpoints.split_of("properties")


@pytest.mark.parametrize("name", NAMES)
def test_cards_name_data_licences_and_errors(name: str) -> None:
    card = (MODELS / name / "README.md").read_text(encoding="utf-8")
    for said in ("CC-BY 4.0", "MIT", "## Training data", "held-out formulas", "what not"):
        assert said in card
    described = json.loads((MODELS / name / "model.json").read_bytes())
    assert described["task"].startswith("lightning_modules.")
