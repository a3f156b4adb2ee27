"""Commands on a GPU: fit with calibration, predict, export; data-parallel training over NCCL."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from lightning_modules import checkpoints
from lightning_modules.__main__ import main
from lightning_modules.checkpoints.export import export, load_exported
from lightning_modules.inference.evidence import AlignedModel
from lightning_modules.inference.neighbours import Library
from lightning_modules.inference.prediction import Predictor
from lightning_modules.objectives.distributed import gather_rows
from lightning_modules.regression import Regression
from lightning_modules.retrieval import Retriever
from tests.commands import ROOT, SMALL
from tests.ddp.launch import finish, start
from tests.factories import make_material, make_store
from tests.lightning_modules.retrieval import scans

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    make_store(folder, 400)
    return folder


def words(device: torch.device, store: Path, run: Path, recipe: str, *more: str) -> list[str]:
    return [
        "fit",
        f"--config={ROOT / 'configs' / recipe}.yaml",
        f"--data.stores=[{store}]",
        f"--run={run}",
        *SMALL,
        f"--trainer.accelerator={'gpu' if device.type == 'cuda' else 'cpu'}",
        "--trainer.max_steps=6",
        "--trainer.val_check_interval=3",
        "--checkpoint.every_n_steps=3",
        "--trainer.log_every_n_steps=1",
        *more,
    ]


@pytest.fixture(scope="module")
def run(device: torch.device, store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "regression"
    targets = "--data.targets=[formation_energy,density]"
    assert main(words(device, store, folder, "regression", targets)) == 0
    return folder


def test_checkpoints_of_a_run_on_the_device_are_calibrated(device: torch.device, run: Path) -> None:
    paths = list((run / "checkpoints").glob("*.ckpt"))
    assert paths
    for path in paths:
        task = checkpoints.load_task(path)
        assert isinstance(task, Regression)
        assert (task.targets.conformal > 0).all()


def test_predictions_on_the_device_are_the_cpus(
    device: torch.device, run: Path, store: Path
) -> None:
    materials = [make_material(number) for number in range(40)]
    rows = [{"formula": m.formula, "id": m.id} for m in materials[:20]]
    rows += [{"formula": m.formula} for m in materials[20:]]
    answers = [
        list(Predictor(run / "checkpoints/last.ckpt", [store], device=name, batch_size=16)(rows))
        for name in (str(device), "cpu")
    ]
    for got, expected in zip(*answers, strict=True):
        assert got["error"] == expected["error"] == ""
        for column in ("density_predicted", "density_low", "density_high"):
            assert float(got[column]) == pytest.approx(float(expected[column]), rel=1e-3, abs=1e-3)


def test_test_and_predict_run_on_the_device(
    device: torch.device, run: Path, store: Path, tmp_path: Path
) -> None:
    table = tmp_path / "in.csv"
    table.write_text("formula\n" + "\n".join(make_material(n).formula for n in range(5)) + "\n")
    given = ["predict", f"--checkpoint={run / 'checkpoints/last.ckpt'}", f"--input={table}"]
    assert main([*given, f"--output={tmp_path / 'out.csv'}", f"--device={device}"]) == 0
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 6
    tested = ["test", f"--config={run / 'config.yaml'}"]
    tested += [f"--checkpoint={run / 'checkpoints/last.ckpt'}"]
    assert main(tested) == 0


def test_a_backbone_trained_on_the_device_is_exported(
    device: torch.device, run: Path, tmp_path: Path
) -> None:
    export(run / "checkpoints/last.ckpt", tmp_path / "backbone.safetensors")
    exported = load_exported(tmp_path / "backbone.safetensors")
    trained = checkpoints.load_task(run / "checkpoints/last.ckpt").backbone
    for name, value in trained.state_dict().items():
        assert torch.equal(exported.state_dict()[name], value), name


def test_retrieval_on_the_device_is_the_cpus(
    device: torch.device, store: Path, tmp_path: Path
) -> None:
    assert main(words(device, store, tmp_path / "aligned", "pretrain_contrastive")) == 0
    checkpoint = tmp_path / "aligned/checkpoints/last.ckpt"
    scan = scans.scan((7, 1.0), strain=0.006, shift=-0.06)
    answers = []
    for name in (device, torch.device("cpu")):
        model = AlignedModel(checkpoint, name)
        library = Library(store, model, index=tmp_path / f"{name.type}.index")
        by_lines, by_vectors = (
            Retriever(library, everything=rows, candidates=50, device=name) for rows in (10**6, 1)
        )
        answers.append(by_lines(scan, top=3))
        by_vectors(scan, top=3)
    got, expected = answers
    assert got.matches[0].known.id == expected.matches[0].known.id == make_material(7).id
    for one, other in zip(got.matches, expected.matches, strict=True):
        assert one.score == pytest.approx(other.score, abs=2e-3)


def _losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["val/loss"] for line in lines]


@pytest.mark.parametrize("recipe", ["pretrain_mxm", "pretrain_masked_contrastive"])
def test_data_parallel_training_on_all_gpus_is_that_of_one(
    device: torch.device, recipe: str, store: Path, tmp_path: Path
) -> None:
    n = torch.cuda.device_count() if device.type == "cuda" else 1
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    # With a card each, also where the machine hides none.
    cards = ",".join(str(card) for card in range(n)) if visible is None else visible
    changes = ["--data.global_batch_size=8", "--trainer.precision=32-true"]
    overlay = f"--config={ROOT / 'configs/trainer/ddp.yaml'}"

    def fit(folder: str, *more: str) -> list[float]:
        given = words(device, store, tmp_path / folder, recipe, *changes, *more)
        command = [sys.executable, "-m", "lightning_modules", *given]
        result = finish(start(command, CUDA_VISIBLE_DEVICES=cards), 300)
        assert result.status == 0, result.output
        return _losses(tmp_path / folder)

    alone = fit("alone")
    together = fit("together", overlay, f"--trainer.devices={n if 8 % n == 0 else 1}")
    assert alone == pytest.approx(together, rel=1e-3, abs=1e-5)


def test_collectives_work_on_the_device(device: torch.device, tmp_path: Path) -> None:
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(
        backend, init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1
    )
    try:
        rows = torch.rand(4, 3, device=device, requires_grad=True)
        gather_rows(rows).square().sum().backward()
        assert rows.grad is not None
        torch.testing.assert_close(rows.grad, 2 * rows.detach())
        gathered = rows.new_empty(4, 3)
        dist.all_gather_into_tensor(gathered, rows.detach())
        assert torch.equal(gathered, rows.detach())
    finally:
        dist.destroy_process_group()
