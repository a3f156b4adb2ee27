"""Predictions from files of diffractometers, and the flag for contradictions."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.batch import Batch
from datamodules.measured import Options
from datamodules.measured.wavelength import parse_wavelength
from datamodules.rendering.augmentation import Perturbation
from datamodules.store.splits import SplitConfig
from lightning_modules.__main__ import main
from lightning_modules.checkpoints.whole import OWN_CHECKSUM
from lightning_modules.experiments.assessment.contradictions import KINDS
from lightning_modules.experiments.assessment.evidence import auc
from lightning_modules.experiments.assessment.robustness import DISTURBANCES
from lightning_modules.experiments.assessment.split_batches import SplitBatches
from lightning_modules.inference.evidence import (
    AlignedModel,
    Calibration,
    Evidence,
    calibration_path,
)
from lightning_modules.inference.prediction import Predictor
from tests.factories import make_material, make_store
from tests.measured import models
from tests.measured.patterns import angles, counts, write, xy

FORMULA = make_material(4).formula


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "scans"
    folder.mkdir()
    x = angles()
    write(folder, "xrdml", x, counts(x)).rename(folder / f"{FORMULA}_a.xrdml")
    (folder / f"{FORMULA}-b.xy").write_bytes(xy(x, counts(x)))
    (folder / "amorphous.ras").write_bytes(b"*RAS_INT_START\n")
    return folder


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return models.regression(tmp_path / "regression.ckpt", "formation_energy", "band_gap")


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_table_of_pattern_files_is_predicted_relative_to_the_table(
    folder: Path, checkpoint: Path
) -> None:
    table = folder / "table.csv"
    table.write_text(
        "formula,pattern,wavelength\n"
        f"{FORMULA},{FORMULA}_a.xrdml,from the file\n"
        f"{FORMULA},{FORMULA}-b.xy,CuKa\n"
        f",{FORMULA}_a.xrdml,\n"
        f"{FORMULA},{FORMULA}-b.xy,\n"
        f"{FORMULA},none.xy,CuKa\n"
        f"{FORMULA},amorphous.ras,\n"
        f"{FORMULA},,\n"
    )
    output = folder / "out.csv"
    command = ["predict", f"--checkpoint={checkpoint}", f"--input={table}", f"--output={output}"]
    assert main(command) == 0
    rows = read(output)
    assert [row["formation_energy_from"] for row in rows] == [
        "composition+xrd", "composition+xrd", "xrd", "", "", "", "composition",
    ]  # fmt: skip
    assert "wavelength is unknown" in rows[3]["error"]
    assert "no such file" in rows[4]["error"]
    assert "have no end" in rows[5]["error"]
    # One pattern, two formats: the doublet's mean is the same to 1e-5 Å.
    for name in ("formation_energy_predicted", "band_gap_xrd_low"):
        assert float(rows[0][name]) == pytest.approx(float(rows[1][name]), abs=2e-3)
    assert rows[2]["formation_energy_predicted"] == rows[0]["formation_energy_xrd_predicted"]
    assert (
        rows[0]["formation_energy_composition_predicted"] == rows[6]["formation_energy_predicted"]
    )
    assert rows[0]["formation_energy_predicted"] != rows[6]["formation_energy_predicted"]
    assert rows[0]["contradiction"] == ""


def test_a_folder_of_patterns_is_predicted_with_formulas_from_their_names(
    folder: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["predict", f"--checkpoint={checkpoint}", f"--input={folder}", "--wavelength=CuKa"]
    output = folder.with_suffix(".csv")
    assert main([*command, "--formula_from_name", f"--output={output}"]) == 0
    rows = {row["pattern"]: row for row in read(output)}
    assert set(rows) == {f"{FORMULA}_a.xrdml", f"{FORMULA}-b.xy", "amorphous.ras"}
    assert rows[f"{FORMULA}-b.xy"]["formation_energy_from"] == "composition+xrd"
    assert "unknown element" in rows["amorphous.ras"]["error"] or rows["amorphous.ras"]["error"]
    assert "no guarantee" in capsys.readouterr().out
    assert main([*command, f"--output={folder.parent / 'second.csv'}"]) == 0
    assert read(folder.parent / "second.csv")[1]["formation_energy_from"] == "xrd"


def test_intervals_are_not_spoken_of_where_nothing_was_predicted(
    folder: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scan = folder / f"{FORMULA}-b.xy"  # does not say its wavelength
    assert main(["predict", f"--checkpoint={checkpoint}", f"--input={scan}"]) == 1
    said = capsys.readouterr()
    assert "no row could be predicted" in said.err
    assert "no guarantee" not in said.out


def test_the_folder_one_is_in_is_predicted_and_left_out_tables_are_told(
    folder: Path,
    checkpoint: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (folder / "labels.csv").write_text("file,formula\n")
    (folder / "._hidden.xy").write_text("resource fork")
    monkeypatch.chdir(folder)
    assert main(["predict", f"--checkpoint={checkpoint}", "--input=.", "--wavelength=CuKa"]) == 0
    said = capsys.readouterr()
    assert "1 .csv left out" in said.err
    assert said.out.count("90 % interval") == 2
    assert "amorphous.ras\n  not predicted: " in said.out


def test_a_measured_pattern_is_predicted_like_its_simulation(
    folder: Path, checkpoint: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    make_store(store, 8)
    options = Options(background=False, wavelength=parse_wavelength("CuKa"))
    predictor = Predictor(checkpoint, [store], options=options, folder=folder)
    simulated, measured, other = predictor(
        [{"id": make_material(4).id}, {"pattern": f"{FORMULA}-b.xy"}, {"id": make_material(6).id}]
    )
    name = "formation_energy_predicted"
    assert abs(simulated[name] - measured[name]) < 0.4 * abs(simulated[name] - other[name])


def test_a_doubtful_pattern_is_predicted_with_its_warnings(
    tmp_path: Path, checkpoint: Path
) -> None:
    x = angles(10, 35)
    (tmp_path / "short.xy").write_bytes(xy(x, counts(x)))
    row = {"pattern": "short.xy", "wavelength": "CuKa"}
    (found,) = Predictor(checkpoint, folder=tmp_path)([row])
    assert "only 25.1°" in found["warnings"]
    assert found["error"] == ""
    assert found["formation_energy_low"] < found["formation_energy_high"]


@pytest.mark.parametrize("name", ["report.pdf", "scan.xy.bak", "scan"])
def test_a_file_of_no_known_kind_is_said_to_be_that(
    name: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, x = tmp_path / name, angles()
    path.write_bytes(xy(x, counts(x)) if "scan" in name else b"%PDF-1.4 a report")
    arguments = [f"--input={path}", "--wavelength=CuKa", f"--checkpoint={checkpoint}"]
    assert main(["predict", *arguments]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert f"no reader for {path.suffix or 'files without suffix'} (known: " in said
    # What reads as a table is one, whatever it is called.
    path.write_text("formula\nNaCl\n")
    assert main(["predict", *arguments[:1], *arguments[2:]]) == 0
    assert "from the composition alone" in capsys.readouterr().out


def test_scans_in_a_column_of_another_name_are_not_left_out_silently(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x = angles()
    (tmp_path / "a.xy").write_bytes(xy(x, counts(x)))
    table = tmp_path / "index.csv"
    command = ["predict", f"--input={table}", f"--checkpoint={checkpoint}"]
    table.write_text("file,formula,note\na.xy,NaCl,fine\n")
    assert main(command) == 0
    assert "scans of its column file are not read; call it `pattern`" in capsys.readouterr().err
    table.write_text("pattern,formula,file,wavelength\na.xy,NaCl,a.xy,CuKa\n")
    assert main(command) == 0
    assert "not read" not in capsys.readouterr().err


@pytest.fixture
def aligned(tmp_path: Path) -> tuple[Path, Path]:
    store = tmp_path / "evidence_store"
    make_store(store, 600)
    return models.aligned(tmp_path / "aligned.ckpt"), store


def calibrate(checkpoint: Path, store: Path, *more: str) -> int:
    return main(["report", "evidence", f"--checkpoint={checkpoint}", f"--store={store}", *more])


def test_the_evidence_is_calibrated_on_held_out_pairs_of_every_kind(
    aligned: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, store = aligned
    augmentation = Path(__file__).parents[2] / "configs/augmentation/measured.yaml"
    assert calibrate(checkpoint, store, f"--augmentation={augmentation}") == 0
    found = Calibration.load(checkpoint)
    assert set(found.kinds) == {"sound", "shuffled", *KINDS}
    assert found.scores == sorted(found.scores)
    for kind in KINDS:
        assert 0 <= found.kinds[kind]["auc"] <= 1
        assert found.kinds[kind]["n"] > 10
    assert "stoichiometry" in capsys.readouterr().out
    # A p-value: uniform on the pairs that it was made of.
    agreement = found.agreement(np.array(found.scores))
    assert np.mean(agreement <= 0.5) == pytest.approx(0.5, abs=0.1)
    assert found.agreement(np.array([-1e9]))[0] == 1 / (1 + len(found.scores))


def test_a_scale_of_too_few_pairs_and_impossible_devices_and_batches_are_refused(
    aligned: tuple[Path, Path],
    checkpoint: Path,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model, store = aligned
    # At 5 % the lowest of fewer than 19 sound pairs is not rare enough: no flag could be raised.
    assert calibrate(model, store, "--limit=18") == 2
    assert "fewer than 19" in capsys.readouterr().err
    assert not calibration_path(model).exists()
    for device in ("gpu!", "cuda:99"):
        assert calibrate(model, store, f"--device={device}") == 2
        assert "cannot be used here" in capsys.readouterr().err
    command = ["predict", f"--checkpoint={checkpoint}", f"--input={folder}"]
    for option, said in (("--device=gpu!", "cannot be used"), ("--batch_size=-1", "at least 1")):
        assert main([*command, option]) == 2
        assert said in capsys.readouterr().err


def test_a_pair_is_flagged_when_it_scores_below_the_sound_ones(
    aligned: tuple[Path, Path], folder: Path, checkpoint: Path
) -> None:
    model, store = aligned
    assert calibrate(model, store) == 0
    path = calibration_path(model)
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"scores": [-1e6] * 99}))
    with pytest.raises(ValueError, match=r"was changed or damaged .*; run `xxact report evidence"):
        Calibration.load(model)
    # The first calibrations had no checksum, and did not say how far to trust a likelihood.
    for name in (OWN_CHECKSUM, "power", "misread"):
        del content[name]
    rows = [{"formula": FORMULA, "pattern": f"{FORMULA}_a.xrdml"}, {"formula": "NaCl"}]
    for scores, expected in (([1e6] * 99, "yes"), ([-1e6] * 99, "no")):
        path.write_text(json.dumps(content | {"scores": scores}))
        pair, alone = Predictor(checkpoint, aligned=model, folder=folder)(rows)
        assert pair["contradiction"] == expected
        assert pair["agreement"] == (0.01 if expected == "yes" else 1.0)
        assert alone["contradiction"] is None


def test_evidence_without_or_with_a_foreign_calibration_is_refused(
    aligned: tuple[Path, Path], checkpoint: Path, tmp_path: Path
) -> None:
    model, store = aligned
    with pytest.raises(ValueError, match=r"not calibrated; run `xxact report evidence"):
        Evidence(model)
    with pytest.raises(ValueError, match="does not align"):
        AlignedModel(checkpoint)
    assert calibrate(model, store) == 0
    model.write_bytes(model.read_bytes() + b"\0")
    with pytest.raises(ValueError, match="another checkpoint"):
        Evidence(model)


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_compositions_differ_as_they_should(kind: str) -> None:
    random = np.random.default_rng(0)
    made = 0
    for number in range(60):
        material = make_material(number)
        right = material.elements, material.fractions
        wrong = KINDS[kind](right, random)
        if wrong is None:
            continue
        made += 1
        elements, fractions = wrong
        assert fractions.sum() == pytest.approx(1.0, abs=1e-5)
        assert (np.diff(elements.astype(int)) > 0).all()
        common = len(set(elements.tolist()) & set(right[0].tolist()))
        if kind == "stoichiometry":
            assert common == len(elements)
            assert np.abs(fractions - right[1]).max() > 1e-3
        else:
            assert common == len(elements) - 1
            assert sorted(fractions) == pytest.approx(sorted(right[1]))
    assert made > 20


def test_auc_counts_ties_half() -> None:
    assert auc(np.array([1.0, 2.0]), np.array([0.0, 1.0])) == pytest.approx(0.875)
    assert auc(np.array([0.0]), np.array([0.0])) == 0.5


def test_strained_crystals_are_judged_by_the_labels_that_they_have(tmp_path: Path) -> None:
    grid, split = models.GRID, SplitConfig(by="random", test=0.3)
    make_store(tmp_path / "lines", 100)
    make_store(tmp_path / "dense", 100, layout="profile", grid=grid)
    names = ["volume_per_atom", "formation_energy", "density"]
    stores = [tmp_path / "lines", tmp_path / "dense"]
    batches = SplitBatches(stores, grid, models.PEAKS, split, names)
    rows = batches.rows("test")

    def change(batch: Batch) -> Perturbation:
        return DISTURBANCES["strain"].change(batch, 0.02)

    (plain,), (strained,) = batches.batches(rows), batches.batches(rows, change)
    ratio = strained["targets"] / plain["targets"]
    dense = torch.from_numpy(rows >= 100)
    assert 10 < dense.sum() < len(rows) - 10
    # Lines move with the cell; a dense profile cannot, and its label stays.
    assert (ratio[dense] == 1.0).all()
    signs = {round(value, 4) for value in ratio[~dense, 0].tolist()}
    assert signs == {round(1.02**3, 4), round(0.98**3, 4)}
    assert (ratio[~dense, 1] == 1.0).all()
    assert ratio[:, 2] == pytest.approx(1.0 / ratio[:, 0], rel=1e-5)
    moved = (strained["xrd"] != plain["xrd"]).any(dim=1)
    assert (moved == ~dense).all()


def test_robustness_is_reported_for_several_models(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    make_store(store, 300)
    other = models.regression(tmp_path / "other.ckpt", "formation_energy", "volume_per_atom")
    output = tmp_path / "robustness"
    command = [
        "report", "robustness", f"--checkpoint=one={checkpoint}", f"--checkpoint=two={other}",
        f"--store={store}", "--limit=10", f"--output={output}",
    ]  # fmt: skip
    assert main(command) == 0
    assert "coverage" in capsys.readouterr().out
    rows = json.loads((output / "numbers.json").read_text())["rows"]
    changes = {row["change"] for row in rows}
    assert changes == {
        "none", "noise", "even_noise", "width", "zero_shift", "strain", "jitter", "impurity",
        "window", "background",
    }  # fmt: skip
    plain = {
        (row["model"], row["given"], row["target"]): row["mae"]
        for row in rows
        if row["change"] == "none"
    }
    # Every change reaches the model, and the composition alone is judged once.
    for change in changes - {"none"}:
        given = [r for r in rows if r["change"] == change]
        assert {row["given"] for row in given} == {"both", "xrd"}
        assert any(
            abs(row["mae"] - plain[row["model"], row["given"], row["target"]]) > 1e-7
            for row in given
        ), change
    assert (output / "mae_volume_per_atom.png").stat().st_size > 10_000
    assert main(command) == 2
    assert "exists already" in capsys.readouterr().err
    for only in ("rain", ""):
        assert main([*command[:-1], f"--output={tmp_path / 'x'}", f"--only={only}"]) == 2
        assert "there are noise,even_noise,width" in capsys.readouterr().err


def test_models_of_different_splits_are_not_compared(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    make_store(store, 60)
    other = models.regression(tmp_path / "other.ckpt", split=SplitConfig(seed=7))
    command = [
        "report", "robustness", f"--checkpoint=one={checkpoint}", f"--checkpoint=two={other}",
        f"--store={store}", f"--output={tmp_path / 'robustness'}",
    ]  # fmt: skip
    assert main(command) == 2
    assert "different data.split" in capsys.readouterr().err
