"""From a fitted run to test, predict and export, through the command line and from Python."""

import csv
import json
from pathlib import Path

import pytest
import torch

from datamodules import batch as keys
from datamodules.grid import Grid
from lightning_modules import checkpoints
from lightning_modules.__main__ import main
from lightning_modules.checkpoints.export import load_exported
from lightning_modules.inference.prediction import Predictor
from lightning_modules.regression import Regression
from tests.commands import ROOT, error_of
from tests.commands import SMALL as COARSE
from tests.factories import make_material, make_store

SMALL = [*COARSE, "--data.global_batch_size=16", "--trainer.logger=false"]
SHORT = [
    "--trainer.max_steps=6",
    "--trainer.val_check_interval=3",
    "--checkpoint.every_n_steps=3",
    "--data.targets=[formation_energy,band_gap]",
]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    make_store(folder, 400)
    return folder


def fit(store: Path, run: Path, *more: str, recipe: str = "regression") -> int:
    config = f"--config={ROOT / 'configs' / recipe}.yaml"
    return main(["fit", config, f"--data.stores=[{store}]", f"--run={run}", *SMALL, *more])


@pytest.fixture(scope="module")
def run(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "regression"
    assert fit(store, folder, *SHORT) == 0
    return folder


def last(run: Path) -> Path:
    return run / "checkpoints/last.ckpt"


def test_every_checkpoint_of_a_run_is_calibrated_with_its_own_weights(run: Path) -> None:
    paths = list((run / "checkpoints").glob("*.ckpt"))
    assert len(paths) == 2
    for path in paths:
        task = checkpoints.load_task(path)
        assert isinstance(task, Regression)
        assert task.targets.conformal.shape == (3, 2)
        assert (task.targets.conformal > 0).all()
        assert task.targets.units == ["eV/atom", "eV"]
        assert (task.targets.std != 1).all()
    assert not list((run / "checkpoints").glob("*.tmp"))


def test_test_reports_physical_units_coverage_and_tables(run: Path) -> None:
    assert main(["test", f"--config={run / 'config.yaml'}", f"--ckpt_path={last(run)}"]) == 0
    metrics = json.loads((run / "metrics.test.json").read_text())
    with (run / "predictions.test.csv").open() as file:
        rows = list(csv.DictReader(file))
    for mode in ("both", "composition", "xrd"):
        for target in ("formation_energy", "band_gap"):
            labelled = [r for r in rows if r[target] != "nan"]
            errors = [abs(float(r[target]) - float(r[f"{target}_{mode}"])) for r in labelled]
            inside = [
                float(r[f"{target}_{mode}_low"])
                <= float(r[target])
                <= float(r[f"{target}_{mode}_high"])
                for r in labelled
            ]
            name = f"test/{mode}/{target}"
            assert metrics[f"{name}/n"] == len(labelled)
            assert metrics[f"{name}/mae"] == pytest.approx(sum(errors) / len(errors), rel=1e-4)
            assert metrics[f"{name}/coverage_rows"] == pytest.approx(sum(inside) / len(inside))
            assert metrics[f"{name}/coverage_low"] < metrics[f"{name}/coverage"]
            by_formula: dict[str, list[bool]] = {}
            for row, value in zip(labelled, inside, strict=True):
                by_formula.setdefault(row["formula"], []).append(value)
            shares = [sum(values) / len(values) for values in by_formula.values()]
            assert metrics[f"{name}/coverage"] == pytest.approx(sum(shares) / len(shares))
            several = sum(len(values) > 1 for values in by_formula.values())
            assert metrics[f"{name}/within/formulas"] == several > 1
            assert metrics[f"{name}/within/mae_low"] <= metrics[f"{name}/within/mae"]
    assert len({r["id"] for r in rows}) == len(rows) > 15
    with (run / "errors.test.csv").open() as file:
        groups = list(csv.DictReader(file))
    counted = sum(
        float(g["n"])
        for g in groups
        if (g["target"], g["given"], g["by"]) == ("band_gap", "both", "family")
    )
    assert counted == metrics["test/both/band_gap/n"]
    everything = {(g["target"], g["given"]): g for g in groups if g["by"] == "all"}
    for mode in ("both", "composition", "xrd"):
        row = everything["formation_energy", mode]
        name = f"test/{mode}/formation_energy/within"
        assert float(row["within_mae"]) == pytest.approx(metrics[f"{name}/mae"], rel=1e-4)
        assert float(row["within_pairs"]) == pytest.approx(metrics[f"{name}/pairs"])
        assert metrics[f"{name}/shuffled_mae"] > 0
    assert float(everything["formation_energy", "composition"]["within_pairs"]) == 0.5
    assert {g["group"] for g in groups if g["by"] == "system"} <= {"in training", "new"}
    lines = (run / "metrics.jsonl").read_text().splitlines()
    validated = json.loads(lines[-1])
    assert validated["val/composition/formation_energy/within/pairs"] == 0.5
    assert (run / "pictures/parity_test.png").stat().st_size > 10_000


def test_predictions_keep_order_and_flag_failed_rows(
    run: Path, store: Path, tmp_path: Path
) -> None:
    known, other = make_material(10), make_material(31)
    table = tmp_path / "table.csv"
    table.write_text(
        "label,formula,id\n"
        "first,NaCl,\n"
        "second,Xy2,\n"
        f'"both, with a comma",{known.formula},{known.id}\n'
        f"pattern,,{other.id}\n"
        f"mixed up,NaCl,{known.id}\n"
        "unknown,NaCl,mp-0\n"
        "empty,,\n"
        "too,many,fields,here\n",
        encoding="utf-8",
    )
    output = tmp_path / "out.csv"
    command = ["predict", f"--checkpoint={last(run)}", f"--input={table}", f"--output={output}"]
    assert main([*command, f"--store={store}"]) == 0
    with output.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [r["label"] for r in rows] == [
        "first", "second", "both, with a comma", "pattern", "mixed up", "unknown", "empty", "too",
    ]  # fmt: skip
    assert [r["formation_energy_from"] for r in rows] == [
        "composition", "", "composition+xrd", "xrd", "", "", "", "",
    ]  # fmt: skip
    reasons = [r["error"] for r in rows]
    assert [bool(r) for r in reasons] == [False, True, False, False, True, True, True, True]
    assert "unknown element 'Xy'" in reasons[1]
    assert "another composition" in reasons[4]
    assert "no such material" in reasons[5]
    assert "neither a formula nor an id" in reasons[6]
    assert "more fields" in reasons[7]
    assert rows[0]["formation_energy_unit"] == "eV/atom"
    assert (
        rows[0]["formation_energy_predicted"] == rows[0]["formation_energy_composition_predicted"]
    )
    assert rows[0]["formation_energy_xrd_predicted"] == ""
    low, high = (float(rows[2][f"formation_energy_{end}"]) for end in ("low", "high"))
    assert low < float(rows[2]["formation_energy_predicted"]) < high
    assert float(rows[2]["band_gap_low"]) >= 0
    # Written over nothing.
    assert main([*command, f"--store={store}"]) == 2


def test_a_prediction_is_what_the_test_of_the_run_said(run: Path, store: Path) -> None:
    assert main(["test", f"--config={run / 'config.yaml'}", f"--ckpt_path={last(run)}"]) == 0
    with (run / "predictions.test.csv").open() as file:
        expected = list(csv.DictReader(file))[:5]
    predictor = Predictor(last(run), [store], batch_size=2)
    rows = predictor([{"formula": r["formula"], "id": r["id"]} for r in expected])
    for row, wanted in zip(rows, expected, strict=True):
        assert row["error"] == ""
        for ours, theirs in (
            ("formation_energy_predicted", "formation_energy_both"),
            ("formation_energy_low", "formation_energy_both_low"),
            ("formation_energy_xrd_high", "formation_energy_xrd_high"),
            ("band_gap_composition_predicted", "band_gap_composition"),
        ):
            assert row[ours] == pytest.approx(float(wanted[theirs]), rel=1e-3, abs=1e-4)


def test_python_predicts_in_three_lines(run: Path) -> None:
    predictor = Predictor(last(run))
    rows = predictor(["NaCl", "ClNa", "Fe2O3"])
    assert rows[0]["formation_energy_predicted"] == rows[1]["formation_energy_predicted"]
    assert rows[0]["formation_energy_predicted"] != rows[2]["formation_energy_predicted"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "no such file"),
        ("name,amount\nNaCl,2\n", "has columns name, amount; needs `formula`"),
        ("formula,band_gap_low\nNaCl,2\n", "column band_gap_low has the name of a result"),
        ("formula,formula\nNaCl,2\n", "a column is named twice"),
        ("formula\n", "has no rows"),
        (b"\xff\xfe\x00", "not a CSV table in UTF-8"),
    ],
)
def test_a_table_that_cannot_be_read_is_told_in_one_line(
    content: str | bytes | None,
    expected: str,
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    table = tmp_path / "table.csv"
    if content is not None:
        table.write_bytes(content if isinstance(content, bytes) else content.encode())
    command = ["predict", f"--checkpoint={last(run)}", f"--input={table}"]
    assert expected in error_of(capsys, lambda: main(command))
    assert not list(tmp_path.glob("*predictions*"))


def test_an_exported_backbone_starts_a_run_and_refuses_another_shape(
    run: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exported = tmp_path / "backbone.safetensors"
    assert main(["export", f"--checkpoint={last(run)}", f"--output={exported}"]) == 0
    weights = torch.load(last(run), weights_only=True)["state_dict"]
    backbone = load_exported(exported)
    assert backbone.grid == Grid(step=0.1)
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, weights[f"backbone.{name}"]), name
    start = f"--model.init_from={exported}"
    still = (*SHORT, "--trainer.max_steps=1", "--model.optimizer.learning_rate=1e-12", start)
    assert fit(store, tmp_path / "second", *still) == 0
    second = torch.load(last(tmp_path / "second"), weights_only=True)["state_dict"]
    for name, value in backbone.state_dict().items():
        torch.testing.assert_close(second[f"backbone.{name}"], value, msg=name)
    message = error_of(
        capsys, lambda: fit(store, tmp_path / "third", *SHORT, start, "--model.backbone.width=32")
    )
    assert "backbone.width is 16 in the checkpoint, 32 here" in message
    assert "exists already" in error_of(
        capsys, lambda: main(["export", f"--checkpoint={last(run)}", f"--output={exported}"])
    )
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(exported.read_bytes()[:-100])
    for path, reason in ((cut, "not a readable backbone"), (tmp_path / "a.safetensors", "no such")):
        message = error_of(
            capsys,
            lambda p=path: fit(store, tmp_path / "x", *SHORT, f"--model.init_from={p}"),  # type: ignore[misc]
        )
        assert reason in message


def test_a_model_is_tested_as_its_checkpoint(
    run: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = tmp_path / "whole"
    assert main(["export", f"--checkpoint={last(run)}", f"--output={whole}"]) == 0
    recipe = ["test", f"--config={run / 'config.yaml'}"]
    assert main([*recipe, f"--checkpoint={last(run)}"]) == 0
    assert main([*recipe, f"--checkpoint={whole}", f"--run={tmp_path / 'judged'}"]) == 0
    one, two = (
        json.loads((folder / "metrics.test.json").read_text())
        for folder in (run, tmp_path / "judged")
    )
    assert two.pop("checkpoint") == str(whole / "model.safetensors")
    assert two == {name: value for name, value in one.items() if name != "checkpoint"}
    assert (tmp_path / "judged/errors.test.csv").is_file()
    # Nothing is written beside a model that others share.
    assert len(list(whole.iterdir())) == 3
    message = error_of(
        capsys,
        lambda: main([*recipe, f"--checkpoint={whole}", "--data.targets=[formation_energy]"]),
    )
    assert "does not fit the recipe" in message


def test_pretraining_of_either_kind_starts_a_regression(store: Path, tmp_path: Path) -> None:
    for recipe in ("pretrain_contrastive", "pretrain_masked_contrastive"):
        first = tmp_path / recipe
        steps = ("--trainer.max_steps=2", "--trainer.val_check_interval=2")
        assert fit(store, first, *steps, recipe=recipe) == 0
        second = tmp_path / f"{recipe}_regression"
        start = (f"--model.init_from={last(first)}", "--model.optimizer.learning_rate=1e-12")
        assert fit(store, second, *SHORT, "--trainer.max_steps=1", *start) == 0
        old, new = (
            torch.load(last(folder), weights_only=True)["state_dict"] for folder in (first, second)
        )
        names = [name for name in old if name.startswith("backbone.")]
        assert len(names) > 50
        for name in names:
            torch.testing.assert_close(new[name], old[name], msg=name)


def test_exponential_averages_are_what_a_checkpoint_holds(store: Path, tmp_path: Path) -> None:
    averaged = tmp_path / "averaged.yaml"
    averaged.write_text(
        "trainer:\n  callbacks+:\n"
        "    - class_path: lightning.pytorch.callbacks.EMAWeightAveraging\n"
        "      init_args:\n        decay: 0.9\n"
    )
    assert fit(store, tmp_path / "run", *SHORT, f"--config={averaged}") == 0
    content = torch.load(last(tmp_path / "run"), weights_only=True)
    name = "head.0.weight"
    assert not torch.equal(content["state_dict"][name], content["current_model_state"][name])
    task = checkpoints.load_task(last(tmp_path / "run"))
    assert torch.equal(task.state_dict()[name], content["state_dict"][name])
    assert isinstance(task, Regression)
    assert task.targets.conformal.isfinite().all()
    more = ("--trainer.max_steps=9", "--resume", f"--config={averaged}")
    assert fit(store, tmp_path / "run", *SHORT, *more) == 0


def test_a_checkpoint_of_another_task_or_unit_is_refused(
    run: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = ("--trainer.max_steps=2", "--trainer.val_check_interval=2")
    assert fit(store, tmp_path / "first", *steps, recipe="pretrain_contrastive") == 0
    table = tmp_path / "t.csv"
    table.write_text("formula\nNaCl\n")
    message = error_of(
        capsys,
        lambda: main(["predict", f"--checkpoint={last(tmp_path / 'first')}", f"--input={table}"]),
    )
    assert "made by task Contrastive, which predicts no property" in message
    milli = tmp_path / "milli"
    make_store(milli, 400, seed=1, units={"formation_energy": "meV/atom", "band_gap": "eV"})
    message = error_of(
        capsys,
        lambda: main(
            ["test", f"--config={run / 'config.yaml'}", f"--ckpt_path={last(run)}",
             f"--data.stores=[{milli}]"]
        ),
    )  # fmt: skip
    assert "target formation_energy: the checkpoint predicts it in eV/atom" in message


def test_a_target_without_a_label_in_training_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_store(tmp_path / "store", 200, missing=1.0)
    message = error_of(capsys, lambda: fit(tmp_path / "store", tmp_path / "run", *SHORT))
    assert "target band_gap: no material of the training split has a label" in message
    assert not (tmp_path / "run/checkpoints").exists()


def test_regression_takes_its_batch_keys_from_the_stream(store: Path) -> None:
    from datamodules.store.store import Store
    from datamodules.xrd_datamodule import XRDDataModule

    data = XRDDataModule([str(store)], ["band_gap"], 8)
    batch = next(iter(data.stream("validation")))
    opened = Store(store)
    for name, key in (("formula_key", keys.FORMULA_KEY), ("system_key", keys.SYSTEM_KEY)):
        expected = opened.column(name)[batch[keys.INDEX].numpy()].view("int64")
        assert batch[key].tolist() == expected.tolist()
