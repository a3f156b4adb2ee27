"""The command line as a user meets it; in-process, on a small synthetic store."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from datamodules.store.splits import SplitConfig
from lightning_modules import checkpoints
from lightning_modules.__main__ import main
from lightning_modules.masked_xrd import MaskedXRD
from tests.commands import RECIPES, ROOT, SMALL, STEPS, error_of
from tests.factories import make_store


def overlays(*kinds: str) -> list[Path]:
    return sorted(p for kind in kinds for p in (ROOT / "configs" / kind).glob("*.yaml"))


#: Recipes and overlays that go together.
PAIRS = [
    *((r, o) for r in RECIPES for o in overlays("augmentation", "data", "model", "trainer")),
    *((ROOT / "configs/pretrain_mxm.yaml", o) for o in overlays("logger")),
    *((ROOT / "configs/regression.yaml", o) for o in overlays("modality", "targets", "finetuning")),
    (ROOT / "configs/pretrain_contrastive.yaml", ROOT / "configs/models/aligned.yaml"),
    (ROOT / "configs/pretrain_contrastive.yaml", ROOT / "configs/models/all_crystals.yaml"),
    (ROOT / "configs/pretrain_contrastive.yaml", ROOT / "configs/models/pretrained.yaml"),
    (ROOT / "configs/regression.yaml", ROOT / "configs/models/properties.yaml"),
]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("store")
    make_store(folder, 96)
    return str(folder)


@pytest.fixture
def fit(store: str, tmp_path: Path) -> Callable[..., int]:
    def run(*more: str, recipe: str = "pretrain_mxm.yaml", command: str = "fit") -> int:
        return main(
            [command, f"--config={ROOT / 'configs' / recipe}", f"--data.stores=[{store}]",
             f"--run={tmp_path / 'run'}", *SMALL, *more]
        )  # fmt: skip

    return run


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda p: p.stem)
def test_every_recipe_runs(recipe: Path, fit: Callable[..., int], tmp_path: Path) -> None:
    assert fit("--trainer.fast_dev_run=2", recipe=recipe.name) == 0
    assert not (tmp_path / "run").exists(), "a fast_dev_run writes nothing"


@pytest.mark.parametrize(
    ("recipe", "overlay"), PAIRS, ids=[f"{r.stem}-{o.parent.name}-{o.stem}" for r, o in PAIRS]
)
def test_every_overlay_parses_on_every_recipe(
    recipe: Path, overlay: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["fit", f"--config={recipe}", f"--config={overlay}", "--print_config"])
    output = capsys.readouterr()
    assert exit_.value.code == 0, output.err
    # What the overlay says has arrived.
    got, wanted = yaml.safe_load(output.out), yaml.safe_load(overlay.read_text())

    def arrived(wanted: object, got: object, where: str) -> None:
        if isinstance(wanted, dict):
            assert isinstance(got, dict), where
            for key, value in wanted.items():
                if not key.endswith("+"):
                    arrived(value, got[key], f"{where}.{key}")
        elif isinstance(wanted, list):
            assert isinstance(got, list), where
            assert len(got) == len(wanted), where
            for i, value in enumerate(wanted):
                arrived(value, got[i], f"{where}[{i}]")
        elif not (isinstance(wanted, str) and "${" in wanted):
            assert got == wanted, where

    arrived(wanted, got, overlay.stem)


def test_a_reader_that_goes_away_gets_no_traceback(store: str) -> None:
    command = f"{sys.executable} -m lightning_modules inspect {store} | true"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.stderr == ""


def test_interpolation_follows_overlays_and_the_command_line_wins(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def parsed(*more: str) -> dict:
        recipe, small = ROOT / "configs/pretrain_mxm.yaml", ROOT / "configs/model/small.yaml"
        with pytest.raises(SystemExit):
            main(["fit", f"--config={recipe}", f"--config={small}", *more, "--print_config"])
        return yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]

    width = yaml.safe_load((ROOT / "configs/model/small.yaml").read_text())["model"]["init_args"][
        "backbone"
    ]["width"]

    def resolved(arguments: dict) -> tuple[int, int]:
        decoder = arguments["decoder_width"]
        own = arguments["backbone"]["width"]
        return own, own if isinstance(decoder, str) and "backbone.width" in decoder else decoder

    assert resolved(parsed()) == (width, width)
    assert resolved(parsed("--model.backbone.width=64")) == (64, 64)
    assert resolved(parsed("--model.decoder_width=32")) == (width, 32)


def test_a_run_leaves_checkpoints_metrics_pictures_and_its_configuration(
    fit: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(*STEPS) == 0
    run = tmp_path / "run"
    assert f"{run}/checkpoints/last.ckpt" in capsys.readouterr().out
    assert (run / "checkpoints/last.ckpt").is_file()
    assert len(list((run / "checkpoints").glob("best-step=*.ckpt"))) == 1
    assert (run / "pictures/step_0000004.png").stat().st_size > 10_000
    assert list(run.glob("events.out.tfevents*"))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4]
    assert [line["samples_seen"] for line in lines] == [16, 32]
    assert all(line["val/loss"] > 0 for line in lines)
    assert all(0 <= line["val/masked/line_placed"] <= 1 for line in lines)
    final = json.loads((run / "metrics.json").read_text())
    assert final["step"] == 4
    assert final["val/masked/mse"] == lines[-1]["val/masked/mse"]
    # The saved configuration is a recipe: what it says is what ran.
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["model"]["init_args"]["backbone"]["width"] == 16
    assert config["data"]["grid"]["step"] == 0.1
    assert "resume" not in config
    told = json.loads((run / "start.json").read_text())
    assert told["monitor"] == "val/loss"
    assert Path(told["recipes"][0]).name == "pretrain_mxm.yaml"


def test_a_checkpoint_rebuilds_its_task_without_pickles(
    fit: Callable[..., int], tmp_path: Path
) -> None:
    assert fit(*STEPS, "--data.split.by=system", "--data.split.seed=3") == 0
    path = tmp_path / "run/checkpoints/last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint["global_step"] == 4
    assert checkpoints.split_of(path) == SplitConfig(by="system", seed=3)
    assert "hyper_parameters" not in checkpoint
    task = checkpoints.load_task(path)
    assert not task.training
    assert task.backbone.config.width == 16
    assert task.grid.step == 0.1
    for name, value in task.state_dict().items():
        assert torch.equal(value, checkpoint["state_dict"][name]), name


def test_a_used_folder_is_refused_and_nothing_is_written_over(
    fit: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(*STEPS) == 0
    files = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")}
    message = error_of(capsys, lambda: fit(*STEPS))
    assert "the run's folder is not empty (--resume continues it)" in message
    assert files == {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")}


def test_resume_continues_and_keeps_the_first_configuration(
    fit: Callable[..., int], tmp_path: Path
) -> None:
    assert fit(*STEPS) == 0
    run = tmp_path / "run"
    first = (run / "config.yaml").read_text()
    # A line that a killed run wrote after its last checkpoint.
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 99, "epoch": 0}\n{"ste')
    assert fit(*STEPS, "--trainer.max_steps=8", "--resume") == 0
    assert (run / "config.yaml").read_text() == first
    assert yaml.safe_load((run / "config.2.yaml").read_text())["trainer"]["max_steps"] == 8
    assert (run / "start.2.json").read_text() == (run / "start.json").read_text()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6, 8]
    assert [line["samples_seen"] for line in lines] == [16, 32, 48, 64]
    for clock in ("wall_time", "cpu_time"):
        times = [line[clock] for line in lines]
        assert times == sorted(times)
        assert times[0] > 0


def test_a_run_that_died_in_a_validation_makes_up_for_it(
    fit: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = MaskedXRD.validation_step

    def dies(task: MaskedXRD, *arguments: Any) -> None:
        assert task.global_step < 4, "killed"
        step(task, *arguments)

    monkeypatch.setattr(MaskedXRD, "validation_step", dies)
    assert fit(*STEPS) != 0
    monkeypatch.undo()
    assert fit(*STEPS, "--resume") == 0
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 4]


def test_validations_may_come_by_the_clock(fit: Callable[..., int], tmp_path: Path) -> None:
    assert fit(*STEPS, "--trainer.val_check_interval=00:01:00:00") == 0
    assert (tmp_path / "run/checkpoints/last.ckpt").is_file()


def test_resume_needs_a_checkpoint_and_auto_does_not(
    fit: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = error_of(capsys, lambda: fit(*STEPS, "--resume"))
    assert "--resume finds no checkpoint" in message
    assert not (tmp_path / "run").exists()
    assert fit(*STEPS, "--resume", "auto") == 0
    assert fit(*STEPS, "--resume=auto", "--trainer.max_steps=6") == 0
    assert torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["global_step"] == 6


def test_the_newest_checkpoint_may_be_slurms(fit: Callable[..., int], tmp_path: Path) -> None:
    assert fit(*STEPS) == 0
    run = tmp_path / "run"
    (run / "checkpoints/last.ckpt").rename(run / "hpc_ckpt_1.ckpt")
    assert fit(*STEPS, "--trainer.max_steps=6", "--resume") == 0
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6]


def test_a_changed_model_value_cannot_be_resumed(
    fit: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(*STEPS) == 0
    for change, named in (
        ("--model.backbone.xrd_layers=1", "backbone.xrd_layers is 3 in the checkpoint, 1 here"),
        ("--model.optimizer.learning_rate=0.5", "optimizer.learning_rate is 0.001"),
        ("--model.mask_ratio=0.5", "mask_ratio is 0.3 in the checkpoint, 0.5 here"),
    ):
        assert named in error_of(capsys, lambda c=change: fit(*STEPS, "--resume", c))
    assert not (tmp_path / "run/config.2.yaml").exists()


def test_validate_repeats_the_runs_own_metrics(fit: Callable[..., int], tmp_path: Path) -> None:
    assert fit(*STEPS) == 0
    run = tmp_path / "run"
    last = f"--checkpoint={run / 'checkpoints/last.ckpt'}"
    assert main(["validate", f"--config={run / 'config.yaml'}", last]) == 0
    written = json.loads((run / "metrics.validate.json").read_text())
    final = json.loads((run / "metrics.json").read_text())
    for name in ("val/masked/mse", "val/far/mse", "val/without_composition/mse"):
        assert written[name] == pytest.approx(final[name], rel=1e-5)
    # Lightning's name for it works as well, in one word or two.
    old = ["--ckpt_path", str(run / "checkpoints/last.ckpt")]
    assert main(["test", f"--config={run / 'config.yaml'}", *old]) == 0
    assert json.loads((run / "metrics.test.json").read_text())["test/masked/mse"] > 0


def test_init_from_starts_from_a_runs_backbone(
    fit: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(*STEPS) == 0
    first = tmp_path / "run/checkpoints/last.ckpt"
    again = (f"--run={tmp_path / 'second'}", f"--model.init_from={first}")
    # One step with no learning rate to speak of: the weights are the first run's.
    assert (
        fit(*STEPS, *again, "--trainer.max_steps=2", "--model.optimizer.learning_rate=1e-12") == 0
    )
    old, new = (
        torch.load(p, weights_only=True)["state_dict"]
        for p in (first, tmp_path / "second/checkpoints/last.ckpt")
    )
    assert all(torch.allclose(old[k], new[k], atol=1e-7) for k in old if k.startswith("backbone."))
    assert not all(
        torch.allclose(old[k], new[k], atol=1e-7) for k in old if k.startswith("decoder")
    )
    wider = (
        f"--run={tmp_path / 'third'}",
        f"--model.init_from={first}",
        "--model.backbone.width=32",
    )
    assert "backbone.width is 16 in the checkpoint, 32 here" in error_of(
        capsys, lambda: fit(*STEPS, *wider)
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--data.stores=[nowhere]"], "nowhere"),
        (["--data.targets=[hardness]"], "hardness"),
        (["--data.global_batch_size=1000"], "1000"),
        (["--model.mask_ratio=1.5"], "mask_ratio is 1.5: must hide"),
        (["--model.mask_rato=0.5"], "'mask_rato' is not accepted"),
        (["--model.backbone.patch_points=7"], "patch_points is 7: must divide the grid's 850"),
        (["--trainer.max_stps=3"], "--trainer.max_stps"),
        (["--config=configs/model/huge.yaml"], "configs/model/huge.yaml"),
        (["--trainer.max_steps=-1"], "trainer.max_steps is not set"),
        (["--model.init_from=nothing.ckpt"], "nothing.ckpt: no such checkpoint"),
        (["--checkpoint.every_n_steps=0"], "every_n_steps is 0"),
        (["--trainer.precision=bf16-true"], "trainer.precision is bf16-true: must be one of"),
        (["--data.augmentation.strain=0.2"], "an edge of the window empty"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_mistake_is_told_in_one_line_and_writes_nothing(
    arguments: list[str],
    expected: str,
    fit: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert expected in error_of(capsys, lambda: fit(*STEPS, *arguments))
    assert not (tmp_path / "run").exists()


def test_checkpoints_that_cannot_be_used_are_refused(
    fit: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no checkpoint; give one with --checkpoint" in error_of(
        capsys, lambda: fit(command="validate")
    )
    broken, foreign, old = (tmp_path / n for n in ("broken.ckpt", "foreign.ckpt", "old.ckpt"))
    assert fit(*STEPS) == 0
    last = tmp_path / "run/checkpoints/last.ckpt"
    broken.write_bytes(last.read_bytes()[:5000])
    torch.save({"state_dict": {}}, foreign)
    content = torch.load(last, weights_only=True)
    content["xxact"]["format_version"] = 0
    torch.save(content, old)
    for path, expected in (
        (broken, "not a readable checkpoint"),
        (foreign, "not a checkpoint of xxact"),
        (old, "checkpoint format 0, this version reads 1"),
        (tmp_path / "missing.ckpt", "no such checkpoint"),
    ):
        message = error_of(capsys, lambda p=path: fit(f"--ckpt_path={p}", command="validate"))
        assert expected in message
    message = error_of(
        capsys,
        lambda: fit(f"--ckpt_path={last}", "--data.grid.wavelength=1.5", command="test"),
    )
    assert "grid.wavelength is 1.54184 in the checkpoint, 1.5 here" in message


def test_help_lists_the_commands_and_an_unknown_one_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([]) == 0
    printed = capsys.readouterr().out
    assert all(command in printed for command in ("prepare", "inspect", "fit", "validate", "test"))
    assert "no command 'fti'" in error_of(capsys, lambda: main(["fti"]))


@pytest.mark.parametrize("command", [[], ["runs"], ["fit", "--config=x.yaml"], ["predict"]])
def test_windows_is_told_what_to_use(command: list[str]) -> None:
    code = (
        "import sys; sys.platform = 'win32'; sys.modules['fcntl'] = None; "
        f"from lightning_modules.__main__ import main; sys.exit(main({command}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "xxact: error: runs on Linux, macOS and WSL; use WSL on Windows\n"


def test_an_error_of_ours_is_not_passed_off_as_the_users(
    fit: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def bug(*_: object) -> None:
        int("not a number")

    monkeypatch.setattr("lightning_modules.masked_xrd.MaskedXRD.training_step", bug)
    assert fit(*STEPS) == 1
    assert "Traceback" in capsys.readouterr().err


def test_bfloat16_clips_gradients_with_the_fused_optimizer(
    fit: Callable[..., int], tmp_path: Path
) -> None:
    # With a limit of almost nothing, AdamW's moments stay almost nothing.
    assert fit(*STEPS, "--trainer.precision=bf16-mixed", "--trainer.gradient_clip_val=1e-6") == 0
    path = tmp_path / "run/checkpoints/last.ckpt"
    optimizer = torch.load(path, weights_only=True)["optimizer_states"][0]
    norms = [state["exp_avg"].norm() for state in optimizer["state"].values()]
    assert 0 < max(norms) <= 1e-6
