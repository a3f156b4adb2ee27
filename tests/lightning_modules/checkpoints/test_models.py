"""Whole models: exported, found by folder, name and hub, and refused where they are damaged."""

import json
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_modules import checkpoints
from lightning_modules.__main__ import main
from lightning_modules.checkpoints import export, places
from lightning_modules.checkpoints.export import export_model
from lightning_modules.checkpoints.places import find, shipped
from lightning_modules.checkpoints.whole import OWN_CHECKSUM, read_description, write_description
from lightning_modules.inference.evidence import Calibration, Evidence, digest
from lightning_modules.inference.prediction import Predictor
from lightning_modules.inference.table import read_table
from tests.measured import models
from tests.measured.patterns import angles, counts, write

ROWS = [{"formula": "NaCl"}, {"formula": "Fe2O3"}, {"pattern": "scan.xrdml"}]


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scans")
    two_theta = angles()
    write(folder, "xrdml", two_theta, counts(two_theta)).rename(folder / "scan.xrdml")
    return folder


def test_a_model_predicts_what_its_checkpoint_predicts_to_the_bit(
    checkpoint: Path, model: Path, scans: Path
) -> None:
    before = Predictor(checkpoint, folder=scans)(ROWS)
    assert before[0]["formation_energy_low"] < before[0]["formation_energy_high"]  # calibrated
    for given in (model, model / "model.safetensors", model / "model.json"):
        assert Predictor(given, folder=scans)(ROWS) == before
    assert checkpoints.split_of(model) == checkpoints.split_of(checkpoint)
    assert checkpoints.peaks_of(model) == checkpoints.peaks_of(checkpoint)
    assert {path.name for path in model.iterdir()} == {
        "model.safetensors",
        "model.json",
        "README.md",
    }


def test_a_task_starts_from_a_model(checkpoint: Path, model: Path) -> None:
    task = checkpoints.load_task(checkpoint)
    for value in task.backbone.parameters():
        torch.nn.init.zeros_(value)
    checkpoints.load_backbone(model, task.backbone, task.constructed_with)
    expected = checkpoints.build_backbone(checkpoint).state_dict()
    torch.testing.assert_close(task.backbone.state_dict(), expected, rtol=0, atol=0)


def test_bfloat16_halves_the_weights_and_keeps_intervals_and_scales(
    checkpoint: Path, tmp_path: Path
) -> None:
    export_model(checkpoint, tmp_path / "whole")
    export_model(checkpoint, tmp_path / "half", "bfloat16")
    sizes = [(tmp_path / n / "model.safetensors").stat().st_size for n in ("whole", "half")]
    assert sizes[1] < 0.7 * sizes[0]
    whole, half = (checkpoints.load_task(tmp_path / name) for name in ("whole", "half"))
    assert {value.dtype for value in half.parameters()} == {torch.float32}
    for name, value in half.state_dict().items():
        exact = whole.state_dict()[name]
        if name.startswith("targets."):
            assert (value == exact) if isinstance(value, dict) else torch.equal(value, exact)
        else:
            torch.testing.assert_close(value, exact, rtol=2**-8, atol=0)


def test_a_name_is_found_from_any_folder_and_a_file_of_that_name_comes_first(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(model, tmp_path / "models" / "mine")
    monkeypatch.setattr(places, "MODELS", tmp_path / "models")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    for place in ("mine", Path("models/mine"), "models/mine/"):
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert find(place) == tmp_path / "models/mine/model.safetensors"
    monkeypatch.chdir(tmp_path)
    assert shipped("mine") == tmp_path / "models/mine"
    assert shipped("other") is None
    checkpoints.load_task("mine")
    (tmp_path / "mine").write_bytes(b"")
    assert find("mine") == Path("mine")


def test_a_model_of_the_hub_is_taken_from_its_cache(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("huggingface_hub")
    repository = tmp_path / "models--lab--oxides"
    shutil.copytree(model, repository / "snapshots" / ("a" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    download = __import__("huggingface_hub").snapshot_download
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download",
        lambda name, **rest: download(name, cache_dir=tmp_path, local_files_only=True, **rest),
    )
    expected = find(model).read_bytes()
    assert find("hf://lab/oxides").read_bytes() == expected
    # What a command line makes of it.
    assert find(Path("hf://lab/oxides")).read_bytes() == expected
    assert find(f"hf://lab/oxides@{'a' * 40}").read_bytes() == expected
    with pytest.raises(ValueError, match="cannot be fetched"):
        find("hf://lab/oxides@v2")
    for place in ("hf:", "hf://lab", "hf://a/b/c", "hf://a/b@"):
        with pytest.raises(ValueError, match="give hf://OWNER/NAME"):
            find(place)
    with pytest.raises(ValueError, match=r"hf://lab/nothing: cannot be fetched .* into a folder"):
        find("hf://lab/nothing")


def _edit(model: Path, name: str, value: object) -> None:
    """Another description, with a checksum that fits it."""
    weights = model / "model.safetensors"
    write_description(weights, read_description(weights) | {name: value})


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda m: (m / "model.json").unlink(), "is no model (model.json missing)"),
        (lambda m: (m / "model.safetensors").unlink(), "model.safetensors missing"),
        (lambda m: (m / "model.json").write_text("{"), "not a readable description"),
        (lambda m: (m / "model.json").write_text("[]"), "not a description of a model"),
        (lambda m: (m / "model.safetensors").write_bytes(b"x"), "not readable weights"),
        (lambda m: _edit(m, "checksum", "0"), "its weights are not those of model.json"),
        (lambda m: _edit(m, "preprocessing", {}), "prepared otherwise"),
        (lambda m: _edit(m, "format_version", 99), "checkpoint format 99"),
        (lambda m: _edit(m, "task", "os.system"), "none of our tasks"),
        (lambda m: _edit(m, "values", {"head.0.weight": 1}), "plain values are damaged"),
    ],
)
def test_what_is_damaged_or_incomplete_is_refused_in_one_line(
    damage: object, said: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(model, copy)
    damage(copy)  # type: ignore[operator]
    command = ["predict", f"--checkpoint={copy}", "--formula=NaCl", f"--output={tmp_path / 'o'}"]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def _leaves(value: Any) -> Iterator[tuple[dict[str, Any] | list[Any], Any]]:
    """Where each plain value of a description lies: its dictionary or list, and the key."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(item, dict | list):
            yield from _leaves(item)
        else:
            yield value, key


def test_a_description_with_any_value_changed_or_left_out_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = _aligned(tmp_path)
    text = (folder / "model.json").read_text()
    for number in range(len(list(_leaves(json.loads(text))))):
        for left_out in (False, True):
            described = json.loads(text)
            where, key = list(_leaves(described))[number]
            if key == OWN_CHECKSUM and left_out:
                continue
            if left_out:
                del where[key]
            elif isinstance(where[key], float):
                where[key] = math.nextafter(where[key], math.inf)
            else:
                where[key] = "x"
            (folder / "model.json").write_text(json.dumps(described))
            with pytest.raises(ValueError, match="was changed or damaged after"):
                checkpoints.load_task(folder)
            with pytest.raises(ValueError, match="was changed or damaged after"):
                Calibration.load(find(folder))
    assert main(["predict", f"--checkpoint={folder}", "--formula=NaCl"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_description_laid_out_otherwise_or_of_the_first_exports_is_read(tmp_path: Path) -> None:
    folder = _aligned(tmp_path)
    described = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(dict(reversed(described.items()))))
    Evidence(folder)
    del described[OWN_CHECKSUM]
    (folder / "model.json").write_text(json.dumps(described))
    Evidence(folder)


def test_an_existing_folder_is_not_written_over(
    checkpoint: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (model / "model.json").read_bytes()
    assert main(["export", f"--checkpoint={checkpoint}", f"--output={model}"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert (model / "model.json").read_bytes() == before


def _aligned(tmp_path: Path) -> Path:
    """An aligned model, exported with its scale of agreement."""
    checkpoint = models.aligned(tmp_path / "run/checkpoints/last.ckpt")
    kinds = {"sound": {"flagged": 0.05, "n": 99}}
    Calibration(digest(checkpoint), ["NaCl", "MgO"], [-1.0, 0.0], 0.05, kinds, {}).keep(checkpoint)
    export_model(checkpoint, tmp_path / "pairs")
    return tmp_path / "pairs"


def test_the_scale_of_agreement_goes_with_an_aligned_model(tmp_path: Path) -> None:
    checkpoint = models.aligned(tmp_path / "run/checkpoints/last.ckpt")
    kinds = {"sound": {"flagged": 0.05, "n": 99}, "formula": {"auc": 0.9, "detected": 0.5, "n": 9}}
    settings = {"stores": [str(tmp_path / "secret" / "mp")]}
    scale = Calibration(digest(checkpoint), ["NaCl", "MgO"], [-1.0, 0.0], 0.05, kinds, settings)
    scale.keep(checkpoint)
    export_model(checkpoint, tmp_path / "pairs")
    evidence = Evidence(tmp_path / "pairs")
    assert evidence.calibration.scores == [-1.0, 0.0]
    assert evidence.calibration.settings["stores"] == ["mp"]
    card = (tmp_path / "pairs" / "README.md").read_text()
    assert "| formula | 0.900 | 0.500 | 9 |" in card
    assert str(tmp_path) not in card + (tmp_path / "pairs" / "model.json").read_text()
    # Measured anew, it replaces that of the model.
    again = Calibration(digest(find(tmp_path / "pairs")), ["NaCl"], [2.0], 0.05, kinds, settings)
    again.keep(find(tmp_path / "pairs"))
    assert Evidence(tmp_path / "pairs").calibration.scores == [2.0]


def test_predict_takes_the_projects_own_model_and_says_so(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(places, "MODELS", tmp_path)
    assert main(["predict", "--formula=NaCl"]) == 2
    assert "has no models/properties" in capsys.readouterr().err
    shutil.copytree(model, tmp_path / "properties")
    assert main(["predict", "--formula=NaCl", f"--output={tmp_path / 'a.csv'}"]) == 0
    assert "with models/properties, which came with the project" in capsys.readouterr().out
    named = [f"--checkpoint={model}", f"--output={tmp_path / 'b.csv'}"]
    assert main(["predict", "--formula=NaCl", *named]) == 0
    assert read_table(tmp_path / "a.csv") == read_table(tmp_path / "b.csv")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"bank": []}, "no list of formulas"),
        ({"bank": ["NaCl", 3]}, "cannot be read"),
        ({"bank": ["\x1b[31m"]}, "cannot be read"),
        ({"scores": [1.0, 0.0]}, "no ascending numbers"),
        ({"scores": "high"}, "cannot be read"),
        ({"scores": [None]}, "no ascending numbers"),
        ({"false_alarms": 2.0}, "no share"),
        ({"power": "x"}, "no number from 0 to 2"),
        ({"misread": 1.5}, "no number from 0 to 1"),
        ({"kinds": []}, "no table"),
        ({"checkpoint": "another"}, "another checkpoint"),
    ],
)
def test_a_strange_scale_of_agreement_is_refused(
    change: dict[str, object], said: str, tmp_path: Path
) -> None:
    checkpoint = models.aligned(tmp_path / "run/checkpoints/last.ckpt")
    kinds = {"sound": {"flagged": 0.05, "n": 99}}
    scale = Calibration(digest(checkpoint), ["NaCl", "MgO"], [-1.0, 0.0], 0.05, kinds, {})
    beside = scale.keep(checkpoint)
    Evidence(checkpoint)
    content = json.loads(beside.read_text()) | change
    beside.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="was changed or damaged"):
        Evidence(checkpoint)
    # As the first ones, which had no checksum.
    del content[OWN_CHECKSUM]
    beside.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=said) as raised:
        Evidence(checkpoint)
    assert str(raised.value).isprintable()


def test_an_export_that_is_killed_leaves_no_model(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ended(*_: object) -> None:
        assert [path.name for path in tmp_path.iterdir()] == [f".mine.{os.getpid()}.tmp"]
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(export, "card", ended)
        with pytest.raises(KeyboardInterrupt):
            export_model(checkpoint, tmp_path / "mine")
    assert not list(tmp_path.iterdir())
    export_model(checkpoint, tmp_path / "mine")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
