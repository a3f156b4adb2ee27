"""What only some commands need is an extra; the others do without, and these name it in a line."""

import subprocess
import sys
from pathlib import Path

import pytest

from lightning_modules.__main__ import main
from tests.commands import ROOT, error_of

EXTRAS = (
    "gradio",
    "optuna",
    "sklearn",
    "shtab",
    "wandb",
    "mlflow",
    "ase",
    "chgnet",
    "distributed",
    "dask",
)


def test_every_command_starts_without_extras() -> None:
    code = (
        "import sys\n"
        f"for package in {EXTRAS}: sys.modules[package] = None\n"
        "from lightning_modules.__main__ import COMMANDS, program\n"
        "for command in COMMANDS: program(command)\n"
        "from lightning_modules.experiments.report.main import OTHERS\n"
        "from importlib import import_module\n"
        "for report in OTHERS.values(): import_module(report)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("command", "package", "extra"),
    [
        (["sweep", "--config=configs/sweep/lr.yaml"], "optuna", "sweep"),
        (["study", "representation", "--config=configs/study/representation.yaml"], "sklearn",
         "probes"),
        (["report", "retrieval", "--library=data/none"], "sklearn", "probes"),
        (["serve"], "gradio", "serve"),
        (["completion", "bash"], "shtab", "completion"),
    ],
)  # fmt: skip
def test_a_command_names_the_extra_that_it_needs(
    command: list[str], package: str, extra: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("datamodules.io.arguments.find_spec", lambda name: None)
    message = error_of(capsys, lambda: main(command))
    assert f"needs {package}, which is not installed; pip install -e '.[{extra}]'" in message


def test_completion_knows_every_command_without_the_other_extras(tmp_path: Path) -> None:
    """`make install` writes completions, and installs no other extra."""
    code = (
        "import sys\n"
        f"for package in {set(EXTRAS) - {'shtab', 'distributed', 'dask'}}:\n"
        "    sys.modules[package] = None\n"
        "from lightning_modules.__main__ import main\n"
        f"sys.exit(main(['completion', '--output', {str(tmp_path)!r}]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "--mixtures" in (tmp_path / "xxact.bash").read_text()
