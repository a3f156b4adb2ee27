"""YAML files and flags to a dataclass: its fields are the keys."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import jsonargparse
import yaml

from datamodules.io.arguments import DESCRIBE, Asked, exit_with_error, respell
from lightning_modules.training.recipe_checks import recipes_of


class Parser(jsonargparse.ArgumentParser):
    """jsonargparse's parser, with errors of one line."""

    def parse_args(self, args: Any = None, *others: Any, **named: Any) -> Any:
        """As of jsonargparse; hands itself over when asked for."""
        if args and DESCRIBE in args:
            raise Asked(self)
        return super().parse_args(args, *others, **named)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what is wrong and exit with 2."""
        if not self.exit_on_error:
            super().error(message, ex)
        exit_with_error(message)


def parse(
    program: str,
    kind: type,
    args: Sequence[str],
    machine: type | None = None,
    recipe: str | None = None,
) -> tuple[Any, Any, dict[str, Any]]:
    """Build a dataclass from the command line.

    Args:
        program: Name of the command, for its help.
        kind: The dataclass; its fields are keys of `--config` files and flags, later ones win.
        args: The command line.
        machine: A second dataclass whose fields are flags, and no part of what is returned as text.
        recipe: The key of the `Recipe` in which `--set KEY=VALUE` sets values.

    Returns:
        The dataclass, the second one or None, and the first one's values as plain ones.
    """
    about = sys.modules[kind.__module__].__doc__
    parser = Parser(prog=program, description=about, allow_abbrev=False)
    parser.add_argument("--config", action="config", help="YAML with the keys below; repeatable.")
    own = parser.add_class_arguments(kind, None, fail_untyped=True)
    others = parser.add_class_arguments(machine, None) if machine is not None else []
    if recipe is not None:
        # Keys with dots in a dictionary: jsonargparse would nest them.
        parser.add_argument(
            "--set",
            action="append",
            default=[],
            type=str,
            metavar="KEY=VALUE",
            help=f"A value in {recipe}.set, as for `xxact fit`; repeatable.",
        )
    recipes_of(args)
    values = parser.parse_args(respell(args, parser._option_string_actions))
    for assignment in values.pop("set", None) or []:
        assert recipe is not None
        key, equals, text = assignment.partition("=")
        if not equals:
            raise ValueError(f"--set {assignment}: must be KEY=VALUE")
        try:
            values[recipe]["set"][key] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise ValueError(f"--set {assignment}: {text} is no YAML value; quote it") from None
    plain = yaml.safe_load(parser.dump(values, skip_unset=False))
    objects = parser.instantiate(values)
    first = kind(**{name: objects[name] for name in _top(own)})
    second = machine(**{name: objects[name] for name in _top(others)}) if machine else None
    return first, second, {name: plain[name] for name in _top(own)}


def _top(names: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(name.split(".")[0] for name in names))


def make_folder(folder: Path) -> None:
    """Make the folder of a study or a sweep.

    Raises:
        ValueError: if it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"{folder}: cannot be made a folder ({error.strerror}); choose another --folder"
        ) from error
