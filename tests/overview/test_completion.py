"""TAB in a shell: commands, flags, keys, values, recipes; from a script that asks nobody."""

import os
import pty
import select
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from lightning_modules.__main__ import COMMANDS, HELP, main
from tests.commands import ROOT, error_of

pytest.importorskip("shtab", reason="pip install -e '.[dev]' brings it")

#: What is typed, and what must and must not be offered.
CASES = [
    ("xxact ", {*COMMANDS}, {"--config"}),
    ("xxact prepare ", {"csv", "prototypes", "patterns"}, {"fit"}),
    ("xxact prepare patterns --lab", {"--labels"}, set()),
    ("xxact study ", {"convergence", "scaling"}, {"polymorphs"}),
    ("xxact report poly", {"polymorphs"}, set()),
    ("xxact report polymorphs --tol", {"--tolerance"}, set()),
    ("xxact fit --model.mask_", {"--model.mask_ratio", "--model.mask_span"}, {"--trainer.devices"}),
    ("xxact fit --data.split.by ", {"formula", "system", "random"}, set()),
    ("xxact fit --model.optimizer.schedule co", {"cosine", "constant"}, set()),
    ("xxact fit --config ", {"configs/regression.yaml"}, {"configs/model/tiny.yaml", "README.md"}),
    ("xxact fit --config configs/model/t", {"configs/model/tiny.yaml"}, set()),
    ("xxact fit --config configs/regression.yaml --res", {"--resume"}, set()),
    ("xxact test --check", {"--checkpoint"}, set()),
    ("xxact study scaling --config ", {"configs/study/scaling.yaml"}, {"configs/regression.yaml"}),
    ("xxact sweep --config ", {"configs/sweep/lr.yaml"}, {"configs/regression.yaml"}),
    ("xxact inspect --", {"--json", "--wavelength"}, {"--checkpoint"}),
    ("xxact inspect READ", {"README.md"}, set()),
]


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("completions")
    assert main(["completion", "--output", str(folder)]) == 0
    return folder


def test_the_help_names_every_command() -> None:
    assert [name for name in COMMANDS if f"\n  {name} " not in HELP] == []


def offered_by_bash(scripts: Path, typed: str) -> set[str]:
    words = typed.split(" ")
    code = (
        f"source {scripts}/xxact.bash; COMP_WORDS=({' '.join(w or chr(39) * 2 for w in words)}); "
        f'COMP_CWORD={len(words) - 1}; _shtab_xxact 2>/dev/null; printf "%s\\n" "${{COMPREPLY[@]}}"'
    )
    # No program can be found: the script must do without.
    done = subprocess.run(
        [str(shutil.which("bash")), "-c", code], cwd=ROOT, env={"PATH": ""}, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    return set(done.stdout.split())


def offered_by_fish(scripts: Path, typed: str) -> set[str]:
    fish = shutil.which("fish")
    if fish is None:
        pytest.skip("no fish on this machine")
    code = f"source {scripts}/xxact.fish; complete -C '{typed}'"
    done = subprocess.run([fish, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return {line.split("\t")[0] for line in done.stdout.splitlines()}


@pytest.mark.parametrize("offered", [offered_by_bash, offered_by_fish])
@pytest.mark.parametrize(("typed", "wanted", "unwanted"), CASES, ids=[case[0] for case in CASES])
def test_what_tab_offers(
    offered: object, typed: str, wanted: set[str], unwanted: set[str], scripts: Path
) -> None:
    assert callable(offered)
    found = offered(scripts, typed)
    assert wanted <= found
    assert not unwanted & found


@pytest.mark.skipif(shutil.which("zsh") is None, reason="no zsh on this machine")
def test_zsh_completes_what_is_typed(scripts: Path) -> None:
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(ROOT)
        os.environ["TERM"] = "dumb"
        os.execvp("zsh", ["zsh", "-f", "-i"])

    def answer(typed: str, until: str) -> str:
        os.write(terminal, typed.encode())
        seen, end = "", time.monotonic() + 30
        while until not in seen and time.monotonic() < end:
            if select.select([terminal], [], [], 0.1)[0]:
                seen += os.read(terminal, 4096).decode(errors="replace")
        return seen

    try:
        answer(
            f"fpath=({scripts} $fpath); autoload -Uz compinit; compinit -u -D; "
            "unsetopt beep; echo rea''dy\n",
            until="ready\r",
        )
        for typed, completed in (
            ("xxact fit --model.mask_r", "xxact fit --model.mask_ratio "),
            (".venv/bin/xxact report poly", "xxact report polymorphs "),
            ("xxact fit --data.split.by fo", "--data.split.by formula "),
            ("xxact fit --config configs/model/t", "configs/model/tiny.yaml "),
        ):
            assert completed in answer(f"{typed}\t", until=completed)
            os.write(terminal, b"\x15")  # empties the line
    finally:
        os.kill(process, 9)
        os.waitpid(process, 0)
        os.close(terminal)


def test_a_shell_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert "name either a shell" in error_of(capsys, lambda: main(["completion"]))
    assert "invalid choice" in error_of(capsys, lambda: main(["completion", "tcsh"]))
