"""Keys and flags: one spelling, one seed; what a run says while it runs and at its end."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from datamodules.io.arguments import ArgumentParser
from lightning_modules.__main__ import main
from lightning_modules.training import command_line as training
from tests.commands import RECIPES, ROOT, SMALL, STEPS
from tests.factories import make_store


@pytest.fixture
def fit(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., int]:
    store = tmp_path_factory.mktemp("store")
    make_store(store, 96)

    def run(*more: str, recipe: str = "pretrain_mxm.yaml") -> int:
        return main(
            ["fit", f"--config={ROOT / 'configs' / recipe}", f"--data.stores=[{store}]",
             f"--run={tmp_path / 'run'}", *SMALL, *more]
        )  # fmt: skip

    return run


def test_what_all_runs_share_stands_in_no_recipe() -> None:
    for recipe in RECIPES:
        said = yaml.safe_load(recipe.read_text())
        assert not set(said["trainer"]) & set(training.INVARIANTS), recipe
        assert "augment" not in said["data"], recipe


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["test", "--checkpoint", "a-b.ckpt"], ["test", "--ckpt_path", "a-b.ckpt"]),
        (["validate", "--ckpt-path=a-b.ckpt"], ["validate", "--ckpt_path=a-b.ckpt"]),
        (["fit", "--checkpoint.keep-best=2"], ["fit", "--checkpoint.keep_best=2"]),
        (["fit", "--model.mask-ratio", "-1"], ["fit", "--model.mask_ratio", "-1"]),
        (["fit", "--data.repeat.data/my-lab=2"], ["fit", "--data.repeat.data/my-lab=2"]),
    ],
)
def test_hyphens_and_underscores_and_both_names_of_a_checkpoint(
    words: list[str], expected: list[str]
) -> None:
    assert training.spelled(words) == expected


def test_flags_of_commands_without_keys_in_either_spelling(tmp_path: Path) -> None:
    parser = ArgumentParser(prog="xxact")
    parser.add_argument("--formula-from-name", action="store_true")
    parser.add_argument("--batch_size", type=int)
    for words in (
        ["--formula_from_name", "--batch-size=3"],
        ["--formula-from-name", "--batch_size", "3"],
    ):
        given = parser.parse_args(words)
        assert (given.formula_from_name, given.batch_size) == (True, 3)
    with pytest.raises(SystemExit):
        parser.parse_args(["--formula_from_nam3"])


def test_one_seed_changes_everything_that_is_random(
    fit: Callable[..., int], tmp_path: Path
) -> None:
    def seeds(*more: str) -> tuple[int, int, float]:
        """Of weights and of data, and the sum of the weights."""
        folder = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        assert fit(*STEPS, "--trainer.max_steps=1", *more, f"--run={folder}") == 0
        last = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
        config = yaml.safe_load((folder / "config.yaml").read_text())
        position = last["loops"]["fit_loop"]["state_dict"]["combined_loader"][0]
        weight = float(last["state_dict"]["backbone.xrd.stem.0.weight"].sum())
        return config["seed_everything"], position["seed"], weight

    first, second = seeds(), seeds("--seed_everything=1")
    assert first[:2] == (0, 0)
    assert second[:2] == (1, 1), "order, masks and modality draws follow"
    assert first[2] != second[2]
    alone = seeds("--data.seed=1")
    assert alone[:2] == (0, 1)
    # A run's own file as a recipe: it does not pin the seed of the data.
    from_file = seeds(f"--config={tmp_path / 'run0/config.yaml'}", "--seed_everything=2")
    assert from_file[:2] == (2, 2)
    assert seeds("--seed_everything=false")[1] == 0


def test_a_run_tells_its_score_and_without_a_terminal_a_line_a_validation(
    fit: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    targets = ("--data.targets=[formation_energy,density]", "--trainer.enable_progress_bar=null")
    assert fit(*STEPS, *targets, recipe="regression.yaml") == 0
    output = capsys.readouterr()
    assert "\r" not in output.out + output.err
    lines = output.out.splitlines()
    told = [line for line in lines if re.match(r"\d\d:\d\d:\d\d step \d+ of 4: ", line)]
    assert [line.split()[2] for line in told] == ["2", "4"]
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    name = "val/both/density/mae"
    assert f"{name} {metrics[name]:.4g} g/cm³" in told[1]
    end = lines[lines.index("Done: 4 steps.") :]
    score = next(line for line in end if line.startswith("  score "))
    assert f"val/standardised_mae {metrics['val/standardised_mae']:.4g}; best" in score
    best = next((tmp_path / "run/checkpoints").glob("best-*.ckpt")).stem.split("=")[1]
    assert score.endswith(f"at step {best}")
    for mode, target, unit in (
        ("both", "density", "g/cm³"),
        ("xrd", "formation_energy", "eV/atom"),
    ):
        name = f"val/{mode}/{target}/mae"
        assert f"{name} {metrics[name]:.4g} {unit}" in "\n".join(end)
    for command, stage in (("validate", "val"), ("test", "test")):
        run = tmp_path / "run"
        words = [f"--config={run / 'config.yaml'}", f"--checkpoint={run / 'checkpoints/last.ckpt'}"]
        assert main([command, *words]) == 0
        output = capsys.readouterr()
        assert "\r" not in output.out
        metrics = json.loads((run / f"metrics.{command}.json").read_text())
        name = f"{stage}/both/density/mae"
        assert f"{name} {metrics[name]:.4g} g/cm³" in output.out.splitlines()
    # Who switches bars off hears nothing.
    quiet = (f"--run={tmp_path / 'quiet'}", "--trainer.enable_progress_bar=false")
    assert fit(*STEPS, *targets, *quiet, recipe="regression.yaml") == 0
    assert not re.search(r"step \d+ of 4", capsys.readouterr().out)
