"""`xxact completion bash | zsh | fish`: a script with which TAB completes what `xxact` takes.

The commands' own parsers say what that is, once; the script asks nobody (torch is not imported at a
TAB). `make install` writes all three into `.venv/completions`.
"""

import argparse
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from datamodules.io.arguments import ArgumentParser, parser_of, require
from datamodules.io.files import replace_file
from lightning_modules.experiments.report.main import OTHERS, STUDIES
from lightning_modules.experiments.study.main import KINDS
from lightning_modules.overview.keys import Schema, keys
from lightning_modules.overview.schema import recipe_schema

#: Names under which shells look for the scripts.
SCRIPTS = {"bash": "xxact.bash", "zsh": "_xxact", "fish": "xxact.fish"}
#: Words after which a command has flags of its own.
_KINDS = {"study": tuple(KINDS), "report": (*STUDIES, *OTHERS)}
#: Commands that take the keys of a recipe.
_KEYED = ("fit", "validate", "test")
#: Flags and arguments that name files, whatever their type says.
_FILES = ("checkpoint", "ckpt_path", "init_from", "run", "storage", "folder", "study", "store")


def _yaml(folder: str) -> dict[str, Any]:
    """Completes YAML files: those of a folder first, after the first letter any."""
    name = f"_xxact_glob_{folder.replace('/', '_')}"
    return {
        "bash": name,
        "zsh": name,
        "fish": f"({name})",
        "preamble": {
            "bash": f"""
{name}() {{
  if [ -z "$1" ]; then compgen -G '{folder}/*.yaml'; return; fi
  compgen -f -X '!*.y*ml' -- "$1"
  compgen -d -- "$1"
}}""",
            "zsh": f"""
{name}() {{
  local found=({folder}/*.yaml(N))
  if [[ -z $PREFIX && -n $found ]]; then compadd -f -a found; else _files -g '*.y(a|)ml'; fi
}}""",
            "fish": f"""
function {name}
    set -l word (commandline -ct)
    if test -z "$word"
        printf '%s\\n' {folder}/*.yaml
    else
        __fish_complete_path "$word" | string match -r '.*(?:\\.ya?ml|/)(?:\\t.*)?$'
    end
end""",
        },
    }


#: Where the files lie that commands take with `--config`.
_CONFIGS = {"study": "configs/study", "sweep": "configs/sweep"}


class _Plain(argparse.ArgumentParser):
    """A parser that is read and never used: its texts have no formats in them."""

    def take(self, action: argparse.Action, configs: str) -> None:
        """Take over an argument or a flag of a command, which finds its files in `configs`."""
        if isinstance(action, argparse._HelpAction) or action.help == argparse.SUPPRESS:
            return
        settings: dict[str, Any] = {"help": _line(action.help or "")}
        flagless = action.option_strings or [action.dest]
        if action.nargs == 0:
            settings["action"] = "store_true"
        elif action.choices:
            settings["choices"] = [str(choice) for choice in action.choices]
        if not action.option_strings and action.nargs is not None:
            settings["nargs"] = action.nargs
        taken = self.add_argument(*flagless, **settings)
        if action.dest == "config":
            taken.complete = _yaml(configs)  # type: ignore[attr-defined]
        elif action.nargs != 0 and not action.choices and _names_file(action):
            taken.complete = "file"  # type: ignore[attr-defined]


def _names_file(action: argparse.Action) -> bool:
    return action.type is Path or action.dest in _FILES or not action.option_strings


def _line(text: str) -> str:
    """The first sentence, without what a formatter would take for a format."""
    return " ".join(text.split()).partition(". ")[0].replace("%", "%%")


def _choices(schema: Schema) -> list[str]:
    """The values that a key takes, where they can be listed."""
    found = [str(value) for value in schema.get("enum", []) if value is not None]
    kinds = schema.get("type", [])
    if kinds == "boolean" or (isinstance(kinds, list) and "boolean" in kinds):
        found += ["true", "false"]
    return found + [value for part in schema.get("anyOf", []) for value in _choices(part)]


def _fill(
    target: _Plain,
    source: argparse.ArgumentParser,
    skip: Collection[str] = (),
    configs: str = "configs",
    apart: Mapping[str, argparse.ArgumentParser] | None = None,
) -> None:
    """Copy what a parser takes.

    Args:
        target: Takes it.
        source: Has it; its subcommands are copied too.
        skip: What to leave out.
        configs: Where the files lie that it takes with `--config`.
        apart: Subcommands that have a parser of their own.
    """
    for action in source._actions:
        if isinstance(action, argparse._SubParsersAction):
            inner = target.add_subparsers()
            helps = {choice.dest: choice.help for choice in action._choices_actions}
            for name, parser in {**action.choices, **(apart or {})}.items():
                _fill(inner.add_parser(name, help=_line(helps.get(name) or "")), parser)
        elif action.dest not in skip:
            target.take(action, configs)


def whole(programs: Mapping[str, Callable[[Sequence[str]], int]]) -> argparse.ArgumentParser:
    """One parser of everything that can be typed.

    Args:
        programs: What runs each command.
    """
    root = _Plain(prog="xxact")
    commands = root.add_subparsers()
    named = keys(recipe_schema())
    for name, run in programs.items():
        if name in _KINDS:
            kinds = commands.add_parser(name, help="").add_subparsers()
            for kind in _KINDS[name]:
                parser = parser_of(run, kind)
                command = kinds.add_parser(kind, help=_line(parser.description or ""))
                _fill(command, parser, ("kind",), _CONFIGS.get(name, "configs"))
            continue
        parser = parser_of(run)
        if name in _KEYED:
            parser = parser._subcommands_action.choices[name]  # type: ignore[attr-defined]
        command = commands.add_parser(name, help=_line(parser.description or ""))
        if name in _KEYED:
            _fill(
                command, parser, [action.dest for action in parser._actions if "." in action.dest]
            )
            for key, schema in named.items():
                if f"--{key}" not in command._option_string_actions:
                    flag = command.add_argument(
                        f"--{key}", help=_line(schema.get("description", ""))
                    )
                    flag.choices = _choices(schema) or None
        else:
            apart = {"patterns": parser_of(run, "patterns")} if name == "prepare" else None
            _fill(command, parser, configs=_CONFIGS.get(name, "configs"), apart=apart)
        if name == "inspect":
            # Of a pattern's file, which has flags of its own; any file asks for them.
            of_file = parser_of(run, __file__)
            known = {action.dest for action in parser._actions}
            known |= {action.dest for action in of_file._get_positional_actions()}
            _fill(command, of_file, known)
    return root


def scripts(programs: Mapping[str, Callable[[Sequence[str]], int]]) -> dict[str, str]:
    """The scripts by shell.

    Raises:
        ValueError: if the package that writes them is not installed.
    """
    require("shtab", "completion", "xxact completion")
    import shtab

    parser = whole(programs)
    return {shell: shtab.complete(parser, shell=shell) for shell in SCRIPTS}


def main(args: Sequence[str], programs: Mapping[str, Callable[[Sequence[str]], int]]) -> int:
    """Run `xxact completion`."""
    parser = ArgumentParser(prog="xxact completion", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("shell", choices=SCRIPTS, nargs="?", help="whose script to print")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="write all of them there")
    given = parser.parse_args(args)
    if bool(given.shell) == bool(given.output):
        raise ValueError(f"completion: name either a shell ({', '.join(SCRIPTS)}) or --output")
    made = scripts(programs)
    if given.shell:
        print(made[given.shell])
        return 0
    given.output.mkdir(parents=True, exist_ok=True)
    for shell, name in SCRIPTS.items():
        replace_file(given.output / name, made[shell] + "\n")
        print(given.output / name)
    return 0
