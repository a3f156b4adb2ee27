"""Every command of the pages is one that our own parsers take; cheap ones run."""

from __future__ import annotations

import argparse
import ast
import gzip
import importlib
import os
import re
import shlex
import subprocess
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import jsonargparse
import pytest
import yaml

from lightning_modules.__main__ import COMMANDS, main
from tests.documentation.pages import NEEDS, ROOT, Block, blocks, inline_commands
from tests.prepare.examples import ROCK_SALT, csv_rows, random_structure, write_csv

BLOCKS = blocks()
SHELL = [block for block in BLOCKS if block.commands]
TRAINING = ("fit", "validate", "test")
TAKEN: set[tuple[bool | str, ...]] = set()
"""Commands that were taken; several pages have the same."""
LACKING: list[bool] = []
"""Not empty while what a command must have may be missing."""


class Parsed(BaseException):
    """A parser has taken a command line."""


def relax(parser: Any) -> None:
    """Makes nothing required of a parser and those of its subcommands."""
    for part in (*parser._actions, *parser._mutually_exclusive_groups):
        part.required = False
        if isinstance(part, argparse._SubParsersAction):
            for inner in part.choices.values():
                relax(inner)


@pytest.fixture(autouse=True)
def _parse_only(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Commands end when their parser has taken their words, and paths are those of the clone."""
    if "runs" in request.keywords:
        return
    inside = 0

    def patched(parse: Any) -> Any:
        def parse_only(self: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal inside
            if LACKING:
                relax(self)
            inside += 1
            try:
                result = parse(self, *args, **kwargs)
            finally:
                inside -= 1
            if inside:  # jsonargparse's parsers call each other's
                return result
            raise Parsed

        return parse_only

    for parser in (argparse.ArgumentParser, jsonargparse.ArgumentParser):
        monkeypatch.setattr(parser, "parse_args", patched(parser.parse_args))
    monkeypatch.chdir(ROOT)


def refusal(words: list[str]) -> str | None:
    """Why `xxact WORDS` is no command, or None."""
    if not words or words[0] not in COMMANDS:
        return None if words[:1] in ([], ["--help"]) else f"no command {words[0]!r}"
    words = [word.replace("KIND", "convergence") for word in words]
    if words[0] in TRAINING:  # the recipe of a run that has been made
        words = [re.sub(r"^runs/.*\.yaml$", "configs/regression.yaml", w) for w in words]
    files = [word for word in words if word.startswith("configs/")]
    if missing := [word for word in files if not (ROOT / word).exists()]:
        return f"no {missing[0]}"
    if words[0] in TRAINING and "--config" in words[:-1] and "…" not in words:
        words = [*words, "--print_config"]
    elif words[0] in TRAINING:
        return None if len(words) == 1 or "-" in words[1][:1] else f"what is {words[1]!r}?"
    if words[0] in ("schema", "completion", "recipes", "runs") and "--help" not in words:
        words = [*words, "--help"]  # they read no files, and begin before they parse
    try:
        status = main(words)
    except Parsed:
        return None
    except SystemExit as exit_:
        return None if not exit_.code else "refused"
    return f"began, and ended with {status}, before its words were read"


@cache
def makefile() -> str:
    return (ROOT / "Makefile").read_text()


@cache
def expanded(words: tuple[str, ...]) -> list[list[str]] | str:
    """The `xxact` commands that `make WORDS` would give, or why it gives none."""
    for word in words:
        name, equals, _ = word.partition("=")
        if equals and not re.search(rf"^{name} *\?=|\$\({name}\)", makefile(), re.MULTILINE):
            return f"make knows no variable {name}"
    # One target of several is enough to see what is printed; all must exist.
    done = subprocess.run(
        ["make", "-n", "--no-print-directory", *words], cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode:
        return done.stderr.strip()
    lines = done.stdout.replace("\\\n", " ").splitlines()
    found = [shlex.split(line) for line in lines if "bin/xxact " in line]
    ours = [words for words in found if words[0].endswith("bin/xxact")]
    return [
        words[1 : words.index(">/dev/null") if ">/dev/null" in words else None] for words in ours
    ]


def trouble(words: list[str], fragment: bool, capsys: pytest.CaptureFixture[str]) -> str | None:
    """Why words are no command of ours, or None; a program that is not ours is one.

    Args:
        words: The command.
        fragment: Whether it may lack what a complete command must have.
        capsys: Holds what the parsers say.
    """
    program, rest = words[0].removeprefix(".venv/bin/"), words[1:]
    if program == "make":
        made = expanded(tuple(rest))
        if isinstance(made, str):
            return made
        return next((t for one in made if (t := trouble(["xxact", *one], fragment, capsys))), None)
    if program == "python" and rest[0].startswith("benchmarks/"):
        if not (ROOT / rest[0]).is_file():
            return f"no {rest[0]}"
        source = (ROOT / rest[0]).read_text()
        flags = [word.partition("=")[0] for word in rest if word.startswith("--")]
        named = re.findall(r'"(?:--)?([\w-]+)"', source)
        # As of `f"--{side}_mode"`, for each of several sides.
        tails = tuple(re.findall(r'"--\{\w+\}([\w-]+)"', source)) or ("\n",)
        unknown = [f for f in flags if f[2:] not in named and not f.endswith(tails)]
        return f"{rest[0]} has no {unknown[0]}" if unknown else None
    if program == "python" and rest[:1] == ["-m"]:
        return None if (ROOT / f"{rest[1].replace('.', '/')}.py").is_file() else f"no {rest[1]}"
    if program == "pip" and rest[:2] == ["install", "-e"]:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        extras = re.findall(r"\w+", rest[2].partition("[")[2])
        return next(
            (f"no extra {e}" for e in extras if e not in project["optional-dependencies"]), None
        )
    if program != "xxact":
        return f"{program} is no program of ours"
    if (fragment, *rest) in TAKEN:
        return None
    capsys.readouterr()
    LACKING[:] = [True] * fragment
    if (reason := refusal(rest)) is None:
        TAKEN.add((fragment, *rest))
        return None
    said = capsys.readouterr().err.strip()
    if "…" in rest:  # stands for more of the same, or for nothing
        return trouble([words[0], *(word for word in rest if word != "…")], fragment, capsys)
    return f"{reason}: {said}"


@pytest.mark.parametrize("block", SHELL, ids=lambda block: block.place)
def test_commands_of_blocks_are_taken(block: Block, capsys: pytest.CaptureFixture[str]) -> None:
    assert block.needs <= NEEDS, f"{block.place}: say one of {', '.join(sorted(NEEDS))}"
    for words in block.commands:
        reason = trouble(words, False, capsys)
        foreign = reason is not None and reason.endswith("is no program of ours")
        assert reason is None or (foreign and block.needs), (
            f"{block.place}: `{' '.join(words)}`: {reason}; mend it, or, if it cannot run here, "
            "put <!-- needs: network --> (hours, hardware, cluster, docker) before the block"
        )


def test_commands_in_running_text_are_taken(capsys: pytest.CaptureFixture[str]) -> None:
    told = [
        f"{place}: `{' '.join(words)}`: {reason}"
        for place, words in inline_commands()
        if (reason := trouble(words, True, capsys)) is not None
    ]
    assert not told, "\n".join(told)


def test_what_is_no_command_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    for line, reason in (
        ("xxact predct --checkpoint a", "no command"),
        ("xxact predict --checkpoint a --formla NaCl", "--formla"),
        ("xxact fit --config configs/pretrain_mx.yaml", "no configs/pretrain_mx.yaml"),
        ("xxact fit --config configs/pretrain_mxm.yaml --model.mask_ration 1", "mask_ration"),
        ("make pretrian", "pretrian"),
        ("make pretrain MODLE=small", "MODLE"),
        ("make pretrain MODEL=smal", "no configs/model/smal.yaml"),
        ("python benchmarks/simulate.py --simple 3", "no --simple"),
        ("pip install -e '.[potentail]'", "potentail"),
        ("rm -rf /", "no program of ours"),
    ):
        for fragment in (False, True):
            assert reason in str(trouble(shlex.split(line), fragment, capsys)), line
    lacking = shlex.split("xxact prepare cif FOLDER")
    assert "required: --output" in str(trouble(lacking, False, capsys))
    assert trouble(lacking, True, capsys) is None


@pytest.mark.parametrize(
    "block", [b for b in BLOCKS if b.language == "python"], ids=lambda block: block.place
)
def test_python_blocks_import_what_there_is(block: Block) -> None:
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom) and node.module and not block.needs:
            module = importlib.import_module(node.module)
            for name in node.names:
                assert hasattr(module, name.name), f"{block.place}: {node.module}.{name.name}"


def test_examples_of_simulation_run() -> None:
    names: dict[str, Any] = {"structure": ROCK_SALT, "structures": [random_structure(1)] * 3}
    for block in BLOCKS:
        if block.page == "docs/simulate.md" and block.language == "python":
            exec(block.text.replace("workers=8", "workers=1"), names)  # what the page shows
    assert names["profiles"].shape == (3, 4250)
    assert len(names["y"]) == len(names["two_theta"])
    assert names["z"].max() == pytest.approx(100)


@pytest.mark.parametrize(
    "block", [b for b in BLOCKS if b.language == "yaml"], ids=lambda block: block.place
)
def test_yaml_blocks_are_recipes_sweeps_or_marked(
    block: Block, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = yaml.safe_load(block.text)
    if "space" in content:
        (tmp_path / "sweep.yaml").write_text(block.text)
        words = ["sweep", "--config", str(tmp_path / "sweep.yaml")]
        assert refusal(words) is None, capsys.readouterr().err
    elif set(content) & {"trainer", "model", "data"}:
        (tmp_path / "overlay.yaml").write_text(block.text)
        words = ["fit", "--config", "configs/regression.yaml", "--config"]
        assert refusal([*words, str(tmp_path / "overlay.yaml")]) is None, capsys.readouterr().err
    else:
        assert block.needs, f"{block.place}: what is it? Mark what it needs"


@pytest.mark.runs
def test_the_way_from_a_table_to_a_store_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """README's and docs/simulate.md's cheap commands, word for word."""
    [prepare] = [
        words
        for block in BLOCKS
        if block.page == "README.md"
        for words in block.commands
        if words[1:4] == ["prepare", "csv", "mp.csv.gz"]
    ]
    rows = [[i, 0.1 * n, 0.2 * n, 0.0, cif] for n, (i, _, cif) in enumerate(csv_rows(6))]
    columns = ["material_id", "formation_energy_per_atom", "band_gap", "e_above_hull", "cif"]
    monkeypatch.chdir(tmp_path)
    text = write_csv(tmp_path / "mp.csv", rows, columns).read_bytes()
    (tmp_path / "mp.csv.gz").write_bytes(gzip.compress(text))
    assert main([*prepare[1:], "--workers", "1"]) == 0
    capsys.readouterr()
    assert main(["inspect", "data/materials_project"]) == 0
    told = capsys.readouterr().out
    assert "formation_energy" in told
    assert "hull_distance" in told
    assert os.listdir("data") == ["materials_project"]
