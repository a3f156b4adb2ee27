"""Power laws and gains, on errors that follow known ones."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from lightning_modules.experiments.report.scaling import report
from lightning_modules.experiments.study.main import definition_path, load_study
from lightning_modules.experiments.study.run import RESULT, write_json
from lightning_modules.experiments.study.scaling import Scaling, Size

SIZES = {0.03: 300, 0.1: 1000, 0.3: 3000, 1.0: 10000}
STUDY: dict[str, Any] = {
    "folder": "runs/study",
    "pretraining": {"recipes": {"mxm": {"config": ["mxm.yaml"]}}},
    "regression": {"config": ["regression.yaml"]},
    "target": "gap",
    "modalities": {"composition": {"config": ["c.yaml"]}, "both": {}},
    "starts": {"scratch": {"learning_rate": 0.1}, "mxm": {"learning_rate": 0.2}},
    "sizes": [{"fraction": f, "max_steps": 100} for f in SIZES],
    "seeds": [0, 1],
}
EXPONENTS = {"composition": 0.3, "both": 0.5, "xrd": 0.2}
N_TEST = 200


def written(folder: Path, **changes: Any) -> Path:
    """A finished study whose errors follow power laws, material by material."""
    definition_path(folder, "scaling").write_text(yaml.safe_dump(STUDY | changes))
    made: Scaling = load_study(folder, "scaling")
    difficulty = np.random.default_rng(0).exponential(size=N_TEST)
    for run in made.plan({}, set()):
        if run.name.startswith("pretraining"):
            continue
        given, fraction = run.factors["modality"], run.factors["fraction"]
        scale = SIZES[fraction] ** -EXPONENTS[given] * (1 + 0.02 * run.factors["seed"])
        if run.factors["start"] == "mxm":
            scale *= 0.5
        # A label is missing.
        errors = [None, *(difficulty[1:] * scale).tolist()]
        content = {
            "name": run.name,
            "factors": run.factors,
            "n_train": SIZES[fraction],
            "errors": {
                "formula": [f"F{i // 2}" for i in range(N_TEST)],
                f"{given}/gap": errors,
                "new_system": [i % 4 == 0 for i in range(N_TEST)],
            },
            "test": {f"test/{given}/gap/within/pairs": 0.5 + 0.1 * run.factors["seed"]},
        }
        write_json(folder / run.name / RESULT, content)
    return folder


def test_a_start_may_bring_overlays_along(tmp_path: Path) -> None:
    starts = STUDY["starts"] | {
        "mxm": {"learning_rate": 0.2, "recipe": {"config": ["frozen.yaml"], "set": {"a.b": 1}}}
    }
    made: Scaling = load_study(written(tmp_path, starts=starts), "scaling")
    scratch, pretrained = (
        made.run("composition", start, made.sizes[0], 0).recipe.arguments()
        for start in ("scratch", "mxm")
    )
    added = ["--config=frozen.yaml", "--a.b=1", "--model.optimizer.learning_rate=0.2"]
    assert [x for x in pretrained if x not in scratch] == added


def test_runs_have_their_overlay_their_size_and_their_rate(tmp_path: Path) -> None:
    made: Scaling = load_study(written(tmp_path), "scaling")
    runs = made.plan({}, set())
    assert runs[0].name == "pretraining/mxm/seed=0"
    assert len(runs) == 1 + 2 * 2 * 4 * 2
    run = next(r for r in runs if r.name == "scaling/composition/mxm/fraction=0.03/seed=1")
    assert run.needs == ("pretraining/mxm/seed=0",)
    arguments = run.recipe.arguments()  # type: ignore[attr-defined]
    assert arguments[:2] == ["--config=regression.yaml", "--config=c.yaml"]
    for value in (
        "--data.fraction=0.03",
        "--trainer.max_steps=100",
        "--data.seed=1",
        "--trainer.val_check_interval=10",
        "--model.optimizer.learning_rate=0.2",
    ):
        assert value in arguments
    # Whole seeds first: a study that is stopped compares something.
    assert [r.factors["seed"] for r in runs[1:]] == [0] * 16 + [1] * 16


def test_exponents_gains_and_the_claim_are_found(tmp_path: Path) -> None:
    made = report(written(tmp_path))
    laws = made.numbers["power_laws"]
    for given, exponent in (("composition", 0.3), ("both", 0.5)):
        for start in ("scratch", "mxm"):
            assert laws[f"{given}/{start}"]["exponent"] == pytest.approx(exponent, abs=1e-6)
            assert laws[f"{given}/{start}"]["deviation"] < 1e-6
    gains = {g["start"]: g for g in made.numbers["gains"]}
    assert gains["scratch"]["difference"]["value"] == pytest.approx(0.2, abs=1e-6)
    assert 0.18 < gains["scratch"]["difference"]["low"] < 0.2
    assert gains["mxm"]["gains"][10000]["value"] == pytest.approx(10000**0.2, rel=1e-6)
    made.write(tmp_path / "out")
    text = (tmp_path / "out/report.md").read_text()
    assert "| yes |" in text
    assert "| composition | mxm | 2 [" in text
    assert (tmp_path / "out/scaling.png").stat().st_size > 10_000


def test_errors_of_known_and_new_chemical_systems_and_within_formulas_stand_side_by_side(
    tmp_path: Path,
) -> None:
    folder = written(tmp_path)
    report(folder).write(tmp_path / "out")
    with (tmp_path / "out/errors.csv").open(newline="") as file:
        row = next(csv.DictReader(file))
    known, new = float(row["system in training"]), float(row["new system"])
    path = folder / f"scaling/{row['given']}/{row['start']}/fraction=0.03/seed=0" / RESULT
    errors = json.loads(path.read_text())["errors"][f"{row['given']}/gap"]
    # Over the seeds: the second's errors are 2 % larger.
    assert new == pytest.approx(1.01 * np.mean([errors[i] for i in range(4, N_TEST, 4)]))
    others = [errors[i] for i in range(1, N_TEST) if i % 4]
    assert known == pytest.approx(1.01 * np.mean(others))
    assert float(row["pairs ranked rightly"]) == pytest.approx(0.55)


def test_half_a_study_keeps_its_columns_apart(tmp_path: Path) -> None:
    # `xrd` has come as far as its second size.
    folder = written(tmp_path, modalities=STUDY["modalities"] | {"xrd": {}})
    for path in (folder / "scaling/xrd").glob("*/fraction=*/seed=*/" + RESULT):
        if "fraction=0.3" in str(path) or "fraction=1" in str(path):
            path.unlink()
    report(folder).write(tmp_path / "out")
    with (tmp_path / "out/gains.csv").open(newline="") as file:
        rows = {row["both against"]: row for row in csv.DictReader(file)}
    assert rows["composition"]["gain at 10000"]
    assert rows["xrd"]["gain at 1000"]
    assert rows["xrd"]["gain at 10000"] == rows["xrd"]["difference of exponents"] == ""
    lines = (tmp_path / "out/report.md").read_text().splitlines()
    row = next(line for line in lines if line.startswith("| scratch | xrd"))
    assert row.endswith("| – | – | – | – |")


def test_equal_exponents_show_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXPONENTS, "both", 0.3)
    made = report(written(tmp_path))
    difference = made.numbers["gains"][0]["difference"]
    assert difference["low"] < 0 < difference["high"] or difference["value"] == pytest.approx(0)
    made.write(tmp_path / "out")
    assert "not shown" in (tmp_path / "out/report.md").read_text()


def test_seeds_widen_the_intervals(tmp_path: Path) -> None:
    def width(seeds: list[int]) -> float:
        law = report(written(tmp_path, seeds=seeds)).numbers["power_laws"]["both/scratch"]
        return float(law["high"] - law["low"])

    # With one seed the materials' difficulty cancels between sizes: nothing is left to vary.
    assert width([0]) < 1e-9
    assert width([0, 1]) > 1e-3


def test_runs_that_were_tested_on_other_materials_are_refused(tmp_path: Path) -> None:
    folder = written(tmp_path)
    path = folder / "scaling/both/mxm/fraction=1/seed=1" / RESULT
    text = path.read_text().replace('"F3"', '"G3"')
    path.write_text(text)
    with pytest.raises(ValueError, match="not tested on both/gap with the same materials"):
        report(folder)


def test_a_study_without_results_or_with_two_sizes(tmp_path: Path) -> None:
    definition_path(tmp_path, "scaling").write_text(yaml.safe_dump(STUDY))
    with pytest.raises(ValueError, match="no run of the scaling study has finished"):
        report(tmp_path)
    made = report(written(tmp_path, sizes=STUDY["sizes"][:2]))
    assert made.numbers["power_laws"] == {}
    assert "difference" not in made.numbers["gains"][0]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"modalities": {"neutrons": {}}}, "no 'neutrons'"),
        ({"sizes": [{"fraction": 0.1, "max_steps": 9, "validations": 3}]}, "at least two"),
        ({"starts": {"mae": {"learning_rate": 0.1}}}, "start 'mae'"),
        ({"starts": {}}, "starts and modalities"),
        ({"modalities": {}}, "starts and modalities"),
    ],
)
def test_studies_that_show_nothing_are_refused(
    changes: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    definition_path(tmp_path, "scaling").write_text(yaml.safe_dump(STUDY | changes))
    with pytest.raises(ValueError, match=expected):
        load_study(tmp_path, "scaling")


@pytest.mark.parametrize(("fraction", "steps", "looks"), [(0.0, 9, 3), (1.1, 9, 3), (0.5, 2, 3)])
def test_impossible_sizes_are_refused(fraction: float, steps: int, looks: int) -> None:
    with pytest.raises(ValueError, match="sizes: "):
        Size(fraction, steps, looks)
