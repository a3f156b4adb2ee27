"""`xxact recipes` names every file with what it is for."""

import subprocess
import sys
from pathlib import Path

import pytest

from lightning_modules.__main__ import main
from lightning_modules.overview.recipes import first_comment
from tests.commands import ROOT, error_of


def test_every_file_is_listed_with_what_it_says_of_itself(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert main(["recipes"]) == 0
    lines = dict(
        line.split(maxsplit=1)
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("  configs/")
    )
    assert lines.keys() == {str(p.relative_to(ROOT)) for p in (ROOT / "configs").rglob("*.yaml")}
    assert lines["configs/model/tiny.yaml"] == (
        "About one million parameters: for laptops, tests, and to try recipes."
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# yaml-language-server: $schema=x.json\n# What it is for.\nrun: x\n", "What it is for."),
        ("\n# One sentence\n# on two lines. And another.\n", "One sentence on two lines."),
        ("# For `regression.yaml` alone. Not for others.\n", "For `regression.yaml` alone."),
        ("# With a command:\n#   xxact fit\n", "With a command"),
        ("run: x\n# Too late.\n", ""),
        ("# \x1b[31mred\x1b[0m\n", r"\x1b[31mred\x1b[0m"),
    ],
)
def test_the_first_sentence_of_the_first_comment(text: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    assert first_comment(path) == expected


def test_a_folder_without_recipes_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no recipes (*.yaml)" in error_of(capsys, lambda: main(["recipes", str(tmp_path)]))


def test_torch_is_not_imported() -> None:
    code = (
        "import sys; from lightning_modules.__main__ import main; main(['recipes']); "
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
