"""All three studies and their reports on a small store, with real training."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lightning_modules import checkpoints
from lightning_modules.__main__ import main
from lightning_modules.experiments.arguments import parse
from lightning_modules.experiments.probing.probe import main as probe
from lightning_modules.experiments.study.main import _repeatable
from lightning_modules.experiments.study.representation import Representation
from lightning_modules.experiments.study.run import RESULT
from tests.factories import cubic, make_material, make_store

ROOT = Path(__file__).parents[2]
STUDIES = sorted(p for p in (ROOT / "configs/study").glob("*.yaml"))
KINDS = ("convergence", "representation", "scaling")

#: The studies are made once: all that look at them run in one process.
pytestmark = pytest.mark.xdist_group("studies")


class InProcess:
    """A job that is done at once, in this process: importing torch anew takes seconds."""

    def __init__(
        self, command: list[str], log: Path, environment: Mapping[str, str], lock: object
    ) -> None:
        name, arguments = command[2], command[3:]
        self.status = {
            "lightning_modules": main,
            "lightning_modules.experiments.probing.probe": probe,
        }[name](arguments)

    def poll(self) -> int:
        return self.status

    def kill(self) -> None:
        pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store and the definitions of three small studies in one folder."""
    folder = tmp_path_factory.mktemp("studies")
    materials = [
        replace(make_material(i), symmetry=cubic(4.0, 1 + 37 * (i % 6))) for i in range(200)
    ]
    make_store(folder / "store", materials=materials)
    small: dict[str, Any] = {
        "data.stores": [str(folder / "store")],
        "data.grid.step": 0.1,
        "data.peaks.fwhm": 0.3,
        "data.global_batch_size": 8,
        "model.backbone.width": 16,
        "model.backbone.heads": 2,
        "trainer.accelerator": "cpu",
        "trainer.max_steps": 4,
        "trainer.val_check_interval": 2,
    }

    def recipe(name: str, *overlays: str, **values: Any) -> dict[str, Any]:
        files = [str(ROOT / "configs" / file) for file in (name, *overlays)]
        return {"config": files, "set": small | values}

    pretraining = {
        "recipes": {
            name: recipe(f"pretrain_{name}.yaml") for name in ("mxm", "masked_contrastive")
        },
    }
    target = {"data.targets": ["formation_energy"]}
    common = {"folder": str(folder / "study"), "pretraining": pretraining}
    studies: dict[str, dict[str, Any]] = {
        "convergence": {
            "regression": recipe("regression.yaml", "study/constant_rate.yaml", **target),
            "metric": "val/both/formation_energy/mae",
            "starts": ["scratch", "mxm"],
            "learning_rates": [1e-3],
            "seeds": [0],
        },
        "scaling": {
            "regression": recipe("regression.yaml", **target),
            "target": "formation_energy",
            "modalities": {
                "composition": {"config": [str(ROOT / "configs/modality/composition.yaml")]},
                "both": {},
            },
            "starts": {"scratch": {"learning_rate": 1e-3}},
            "sizes": [
                {"fraction": 0.3, "max_steps": 2, "validations": 2},
                {"fraction": 1.0, "max_steps": 2, "validations": 2},
            ],
        },
        "representation": {
            "stores": [str(folder / "store")],
            "targets": ["formation_energy", "band_gap"],
            "starts": ["mxm", "masked_contrastive"],
            "map_materials": 12,
        },
    }
    for kind, values in studies.items():
        (folder / f"{kind}.yaml").write_text(yaml.safe_dump(common | values))
    return folder


@pytest.fixture(scope="module")
def study(folder: Path) -> Path:
    """The folder of the finished studies."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lightning_modules.experiments.study.runner.Job", InProcess)
        for kind in KINDS:
            assert main(["study", kind, f"--config={folder / kind}.yaml"]) == 0
    return folder / "study"


def result(study: Path, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((study / name / RESULT).read_text())
    return content


def test_a_training_leaves_its_curve_its_errors_and_its_size(study: Path) -> None:
    found = result(study, "convergence/mxm/lr=0.001/seed=0")
    assert [line["step"] for line in found["curve"]] == [2, 4]
    assert found["final"]["samples_seen"] == 32
    assert found["test"]["test/both/formation_energy/mae"] > 0
    errors = [e for e in found["errors"]["both/formation_energy"] if e is not None]
    mean = found["test"]["test/both/formation_energy/mae"]
    assert sum(errors) / len(errors) == pytest.approx(mean, rel=1e-4)
    assert len(found["errors"]["formula"]) == len(found["errors"]["both/formation_energy"])
    # Next to nothing of the systems is known where there is little to train on.
    assert len(found["errors"]["new_system"]) == len(found["errors"]["formula"])
    small = result(study, "scaling/both/scratch/fraction=0.3/seed=0")
    assert sum(small["errors"]["new_system"]) >= sum(found["errors"]["new_system"]) > 0
    whole = result(study, "scaling/both/scratch/fraction=1/seed=0")
    assert found["n_train"] == whole["n_train"]
    assert 0.1 < small["n_train"] / whole["n_train"] < 0.5


def test_a_run_starts_from_the_shared_pretraining(study: Path) -> None:
    config = yaml.safe_load((study / "convergence/mxm/lr=0.001/seed=0/config.yaml").read_text())
    first = study / "pretraining/mxm/seed=0/checkpoints/last.ckpt"
    assert config["model"]["init_args"]["init_from"] == str(first)
    other = study / "convergence/scratch/lr=0.001/seed=0/config.yaml"
    assert yaml.safe_load(other.read_text())["model"]["init_args"]["init_from"] is None
    # One a recipe, although three studies need them.
    assert len(list(study.glob("pretraining/*/*"))) == 2


def test_training_sizes_are_the_data_modules_own(study: Path) -> None:
    from datamodules.store.splits import SplitConfig
    from datamodules.xrd_datamodule import XRDDataModule
    from lightning_modules.experiments.study.run import training_size

    store = str(study.parent / "store")
    for by, fraction, repeat in (
        ("formula", 0.4, None),
        ("system", 0.4, {store: 3}),
        ("random", 1.0, None),
    ):
        split = SplitConfig(by=by)  # type: ignore[arg-type]
        data = XRDDataModule([store], split=split, fraction=fraction, repeat=repeat)
        values = {
            "stores": [store], "split": split.to_dict(), "fraction": fraction, "repeat": repeat
        }  # fmt: skip
        assert training_size(values) == len(data.rows("train")) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_finished_study_is_not_made_again(
    kind: str, study: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    times = {p: p.stat().st_mtime_ns for p in study.rglob(RESULT)}
    assert main(["study", kind, f"--config={folder / kind}.yaml"]) == 0
    assert "starts" not in capsys.readouterr().out
    assert times == {p: p.stat().st_mtime_ns for p in study.rglob(RESULT)}
    assert main(["study", kind, f"--config={folder / kind}.yaml", "--dry_run=true"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines
    assert all(line.startswith("finished") for line in lines)


def test_other_values_are_refused(
    study: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = "--set=trainer.max_steps=6"
    assert main(["study", "convergence", f"--config={folder}/convergence.yaml", changed]) == 2
    assert "was made with other values" in capsys.readouterr().err
    listed = ["study", "convergence", f"--config={folder}/convergence.yaml", changed]
    assert main([*listed, "--dry_run=true"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines if "pretraining/" in line} == {"finished"}
    assert {line.split()[0] for line in lines if "convergence/" in line} == {"changed"}


FILES = {
    "convergence": {
        "speed.csv",
        "range.csv",
        "errors.csv",
        "tuning.csv",
        "curves.png",
        "ratio.png",
    },
    "scaling": {"errors.csv", "gains.csv", "scaling.png"},
    "representation": {
        *(f"probes_{t}.csv" for t in ("formation_energy", "band_gap", "crystal_system")),
        *(f"rank_{t}.csv" for t in ("formation_energy", "band_gap")),
        "pairs_formation_energy.csv",
        # Of so few materials no chemical system of the test is in training.
        *(f"new_system_{t}.csv" for t in ("formation_energy", "band_gap", "crystal_system")),
        "recall.csv",
        "probes.png",
        "maps.png",
    },
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_study_has_a_report(kind: str, study: Path, tmp_path: Path) -> None:
    output = tmp_path / "report"
    assert main(["report", kind, f"--study={study}", f"--output={output}"]) == 0
    assert {p.name for p in output.iterdir()} == FILES[kind] | {"report.md", "numbers.json"}
    for path in output.iterdir():
        assert path.stat().st_size > (10_000 if path.suffix == ".png" else 50), path.name
    text = (output / "report.md").read_text()
    for path in output.glob("*.png"):
        assert f"({path.name})" in text
    json.loads((output / "numbers.json").read_text())


def test_vectors_are_those_of_the_checkpoint(study: Path) -> None:
    from lightning_modules.experiments.probing.vectors import VECTORS, Encoder, encode

    checkpoint = study / "pretraining/masked_contrastive/seed=0/checkpoints/last.ckpt"
    store = [str(study.parent / "store")]
    trained = encode(Encoder(checkpoint, "checkpoint"), store, "test")
    untrained = encode(Encoder(checkpoint, "untrained", seed=1), store, "test")
    again = encode(Encoder(checkpoint, "untrained", seed=1), store, "test")
    inputs = encode(Encoder(checkpoint, "inputs"), store, "test")
    for name in VECTORS:
        assert trained.by_name[name].shape == untrained.by_name[name].shape
        assert abs(trained.by_name[name] - untrained.by_name[name]).max() > 1e-3, name
        assert (again.by_name[name] == untrained.by_name[name]).all(), name
    assert trained.projected is not None
    assert untrained.projected is None
    assert inputs.by_name["composition"].sum(axis=1) == pytest.approx(1.0, abs=1e-5)
    # The same as the task's own.
    task = checkpoints.load_task(checkpoint)
    first = torch.from_numpy(trained.by_name["composition"])
    second = torch.from_numpy(trained.by_name["xrd"])
    projected = task.alignment(first, second)  # type: ignore[operator]
    torch.testing.assert_close(projected[0], trained.projected[0])


@pytest.mark.parametrize("path", [p for p in STUDIES if p.stem.split("_")[0] in KINDS],
                         ids=lambda p: p.stem)  # fmt: skip
def test_every_study_in_configs_lists_runs_whose_recipes_exist(
    path: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    kind = path.stem.split("_")[0]
    arguments = ["study", kind, f"--config={path}", f"--folder={tmp_path}", "--dry_run=true"]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    pretrained = {x.split("/")[1] for x in lines if x.startswith("to do     pretraining/")}
    all_recipes = set(yaml.safe_load(pretraining_of(path).read_text())["recipes"])
    assert pretrained == {
        "scaling": {"masked_contrastive"},
        "scaling_mp": {"contrastive", "geometry"},
        "scaling_nrel": {"structure"},
        "scaling_hypothetical": {"structure"},
    }.get(path.stem, all_recipes)
    assert len(lines) >= 8
    assert list(tmp_path.iterdir()) == []


def test_probes_are_told_which_tasks_may_be_imported(folder: Path) -> None:
    given = ["--allow-task", "mine.One", "--allow-task=mine.Two"]
    words = _repeatable([f"--config={folder / 'representation.yaml'}", *given])
    study, _, text = parse("xxact study representation", Representation, words)
    assert text["allow_task"] == ["mine.One", "mine.Two"]
    ((_, command),) = study.probe("mxm", 0).commands(folder)
    assert {"--allow-task=mine.One", "--allow-task=mine.Two"} < set(command)
    assert main(["study", "representation", *words[:1], *given, "--dry_run=true"]) == 0


def pretraining_of(study: Path) -> Path:
    """The file with the pretraining that a study names."""
    named: str = yaml.safe_load(study.read_text())["pretraining"]
    return study.parent / named


@pytest.mark.parametrize("kind", ["convergence", "scaling"])
@pytest.mark.parametrize("which", ["", "_mp", "_nrel"])
def test_the_arguments_of_every_run_are_the_command_lines(
    kind: str, which: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lightning_modules.experiments.arguments import parse
    from lightning_modules.experiments.study.main import KINDS as CLASSES

    monkeypatch.chdir(ROOT)
    made = parse("", CLASSES[kind], [f"--config=configs/study/{kind}{which}.yaml"])[0]
    by_recipe = {tuple(r.recipe.config): r for r in made.plan({}, set())}
    assert by_recipe
    for run in by_recipe.values():
        with pytest.raises(SystemExit) as exit_:
            main(["fit", *run.recipe.arguments(), "--print_config"])
        output = capsys.readouterr()
        assert exit_.value.code == 0, output.err
        config = yaml.safe_load(output.out)
        for key, value in run.recipe.set.items():
            part = config
            names = key.replace("model.", "model.init_args.", 1) if "init_args" not in key else key
            for name in names.split("."):
                part = part[name]
            assert part == value, key


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["study", "cost"], "no study 'cost'; there are convergence"),
        (["study", "convergence", "--config=none.yaml"], "none.yaml"),
        (["study", "convergence", "--sedes=[1]"], "sedes"),
        (["report", "convergence", "--study=nowhere"], "nowhere: no convergence study here"),
        (["report", "cost", "--study=nowhere"], "invalid choice: 'cost'"),
    ],
)
def test_mistakes_are_told_in_one_line(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status: Any = main(arguments)
    except SystemExit as exit_:
        status = exit_.code
    errors = capsys.readouterr().err.strip().splitlines()
    assert status == 2
    assert len(errors) == 1
    assert errors[0].startswith("xxact: error: ")
    assert expected in errors[0]


def test_a_pretraining_that_may_have_seen_the_test_is_refused(tmp_path: Path) -> None:
    from datamodules.store.splits import SplitConfig
    from lightning_modules.experiments.study.run import check_split

    for name, seed in (("alike", 0), ("other", 1)):
        (tmp_path / name).mkdir()
        content = {"data": {"split": SplitConfig(seed=seed).to_dict()}}
        (tmp_path / name / "config.yaml").write_text(yaml.safe_dump(content))
    check_split(SplitConfig(), tmp_path, ["alike"])
    with pytest.raises(ValueError, match=r"other: its data\.split is .*may have seen"):
        check_split(SplitConfig(), tmp_path, ["alike", "other"])


def test_a_recipe_changes_what_a_run_is(tmp_path: Path) -> None:
    from lightning_modules.experiments.recipes import Recipe

    path = tmp_path / "recipe.yaml"
    identities = []
    texts: list[Callable[[], str]] = [lambda: "a: 1", lambda: "# only said\na: 1", lambda: "a: 2"]
    for text in texts:
        path.write_text(text())
        identities.append(Recipe([str(path)], {"b": [1, "x"]}).identity())
    assert identities[0] == identities[1] != identities[2]
    assert Recipe(set={"b": [1, "x"], "c": None, "d": True, "e": "text"}).arguments() == [
        '--b=[1, "x"]',
        "--c=null",
        "--d=true",
        "--e=text",
    ]
    with pytest.raises(ValueError, match=r"nothing\.yaml: cannot be read \(No such file"):
        Recipe(["nothing.yaml"]).identity()
