"""Every logger gets the whole configuration, the final metrics and the pictures."""

import csv
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from lightning_modules.__main__ import main
from tests.commands import ROOT, SMALL, STEPS, error_of
from tests.factories import make_store

Fit = Callable[..., int]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    make_store(folder, 96)
    return folder


@pytest.fixture
def fit(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fit:
    monkeypatch.chdir(tmp_path)

    def run(logger: str, *more: str) -> int:
        return main(
            ["fit", f"--config={ROOT / 'configs/pretrain_mxm.yaml'}",
             f"--config={ROOT / 'configs/logger' / logger}.yaml", f"--data.stores=[{store}]",
             "--run=runs/one", *SMALL, *STEPS, *more]
        )  # fmt: skip

    return run


def final_loss(run: Path) -> float:
    return float(json.loads((run / "metrics.json").read_text())["val/loss"])


def test_tensorboard_and_csv(fit: Fit, tmp_path: Path) -> None:
    assert fit("csv") == 0
    run = tmp_path / "runs/one"
    config = yaml.safe_load((run / "config.yaml").read_text())
    for place in (run, run / "csv/version_0"):
        assert yaml.safe_load((place / "hparams.yaml").read_text()) == config
    with (run / "csv/version_0/metrics.csv").open() as file:
        losses = [row["val/loss"] for row in csv.DictReader(file) if row["val/loss"]]
    assert float(losses[-1]) == pytest.approx(final_loss(run))

    events = EventAccumulator(str(run))
    events.Reload()
    assert events.Tags()["images"] == ["reconstruction"]
    assert events.Scalars("val/loss")[-1].value == pytest.approx(final_loss(run))
    assert "hp_metric" not in events.Tags()["scalars"]
    kept = events.PluginTagToContent("hparams")
    begun = HParamsPluginData.FromString(kept["_hparams_/session_start_info"])
    values = begun.session_start_info.hparams
    assert values["model/init_args/backbone/width"].number_value == 16
    experiment = HParamsPluginData.FromString(kept["_hparams_/experiment"]).experiment
    assert "val/loss" in {info.name.tag for info in experiment.metric_infos}


def test_none_leaves_the_metrics_alone(
    fit: Fit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit("none") == 0
    run = tmp_path / "runs/one"
    assert final_loss(run) > 0
    assert not [*run.glob("events.*"), *run.glob("hparams.yaml")]
    assert "tensorboard" not in capsys.readouterr().out


def test_a_start_that_fails_leaves_no_folder(
    fit: Fit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "precision" in error_of(capsys, lambda: fit("csv", "--trainer.precision=bf16-true"))
    assert not (tmp_path / "runs/one").exists()


def _unframed(data: bytes) -> bytes:
    """What is in a log of LevelDB's kind: blocks of 32 kB, in them parts with heads of 7 bytes."""
    found, at = b"", 7
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        length = int.from_bytes(data[at + 4 : at + 6], "little")
        found += data[at + 7 : at + 7 + length] if left > 7 else b""
        at += 7 + length if left > 7 else left
    return found


def test_wandb_offline(fit: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb", reason="pip install -e '.[wandb]' brings it")
    monkeypatch.setenv("WANDB_MODE", "offline")
    try:
        assert fit("wandb") == 0
    finally:
        wandb.finish()
    (kept,) = (tmp_path / "runs/one/wandb").glob("offline-run-*")
    (pictures,) = (kept / "files/media/images").glob("reconstruction_*.png")
    assert pictures.stat().st_size > 10_000
    words = [b"mask_ratio", b"global_batch_size", b"val/masked/mse", b"reconstruction"]
    until = time.monotonic() + 30
    while time.monotonic() < until:  # another process of wandb's writes it
        written = _unframed(next(kept.glob("run-*.wandb")).read_bytes())
        if all(word in written for word in words):
            return
        time.sleep(0.1)
    pytest.fail(f"not all of {words} in {len(written)} bytes")


def test_mlflow_in_a_file(fit: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="pip install -e '.[mlflow]' brings it")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert fit("mlflow") == 0
    client = mlflow.MlflowClient("sqlite:///runs/mlflow.db")
    experiment = client.get_experiment_by_name("xxact")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "runs/one"
    assert run.info.status == "FINISHED"
    assert run.data.params["model/init_args/backbone/width"] == "16"
    assert run.data.metrics["val/loss"] == pytest.approx(final_loss(tmp_path / "runs/one"))
    (picture,) = client.list_artifacts(run.info.run_id, "reconstruction")
    assert picture.file_size > 10_000


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "nonsense://server"])
def test_a_server_that_is_away_is_told_in_one_line(
    address: str, fit: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    pytest.importorskip("mlflow", reason="pip install -e '.[mlflow]' brings it")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    message = error_of(capsys, lambda: fit("mlflow"))
    assert "trainer.logger: does not start" in message
    assert address in message
    assert not (tmp_path / "runs/one").exists()


@pytest.mark.parametrize("package", ["wandb", "mlflow"])
def test_a_package_that_is_not_installed_is_named(
    package: str, fit: Fit, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("datamodules.io.arguments.find_spec", lambda name: None)
    message = error_of(capsys, lambda: fit(package))
    assert f"needs {package}, which is not installed; pip install -e '.[{package}]'" in message
