"""What every command of `xxact` says: mistakes in one line, and strangers' texts made harmless."""

import argparse
import re
import sys
from collections.abc import Callable, Collection, Sequence
from importlib.util import find_spec
from typing import Any, NoReturn


def respell(words: Sequence[str], known: Collection[str]) -> list[str]:
    """Flags as they are called, where hyphens and underscores were taken for each other.

    Args:
        words: A command line.
        known: The flags that there are.

    Returns:
        The words; what is no flag in either spelling stays.
    """
    spelled = {flag.replace("_", "-"): flag for flag in known}
    respelled = []
    for word in words:
        flag, equals, value = word.partition("=")
        if flag.startswith("--") and flag not in known:
            flag = spelled.get(flag.replace("_", "-"), flag)
        respelled.append(flag + equals + value)
    return respelled


def exit_with_error(message: str, leave_out: Sequence[str] = ()) -> NoReturn:
    """Tell a user's mistake in one line and exit with 2.

    Args:
        message: What a parser says, in one or several lines.
        leave_out: Beginnings of lines that tell a user nothing.
    """
    parts = (part.strip(" -") for part in message.splitlines())
    line = "; ".join(part for part in parts if part and not part.startswith(tuple(leave_out)))
    print(f"xxact: error: {printable(line.replace(':;', ':'), 2000)}", file=sys.stderr)
    raise SystemExit(2)


#: A command line of this word alone asks for the parser in place of its work; see `Asked`.
DESCRIBE = "--@parser"


class Asked(ValueError):
    """Hands over a command's parser, for editors and shells that are to know what it takes.

    Attributes:
        parser: What would have read the command line.
    """

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        super().__init__(f"{DESCRIBE}: is of no use by hand; see `{parser.prog} --help`")
        self.parser = parser


def parser_of(command: Callable[[Sequence[str]], object], *words: str) -> argparse.ArgumentParser:
    """The parser of a command.

    Args:
        command: Its program, which reads a command line with one of our parsers.
        words: What comes before its flags, such as the kind of a study.
    """
    try:
        command([*words, DESCRIBE])
    except Asked as asked:
        return asked.parser
    raise AssertionError(f"{' '.join(words)}: read no command line")


def require(package: str, extra: str, what: str) -> None:
    """Refuse what needs a package that only some commands need.

    Args:
        package: Its name, as it is imported.
        extra: The extra in pyproject.toml that brings it.
        what: What needs it.

    Raises:
        ValueError: if it is not installed, with how to install it.
    """
    if find_spec(package) is None:
        raise ValueError(
            f"{what}: needs {package}, which is not installed; pip install -e '.[{extra}]'"
        )


class ArgumentParser(argparse.ArgumentParser):
    """argparse's parser; a mistake is told in one line, without the usage; see `respell`."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As of argparse; a flag's words may be joined by hyphens or underscores."""
        if args and DESCRIBE in args:
            raise Asked(self)
        words = respell(sys.argv[1:] if args is None else args, self._option_string_actions)
        return super().parse_known_args(words, namespace)

    def add_allow_task(self) -> None:
        """Add `--allow-task`, as commands have that build the task which a checkpoint names."""
        self.add_argument(
            "--allow-task",
            action="append",
            default=[],
            metavar="PACKAGE.TASK",
            help="a task of your own that a checkpoint may name; importing it runs its code; "
            "repeatable (docs/trust.md)",
        )

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and exit with 2."""
        exit_with_error(f"{message}; see `{self.prog} --help`")


_PASSWORD = re.compile(r"(?<=://)[^\s/?#'\"]*@")
_SECRET = re.compile(
    r"([?&;][\w-]*(?:pass|passwd|password|pwd|token|secret|key|sig|signature)=)[^&;\s'\"]+", re.I
)


def masked(text: str) -> str:
    """A text in which addresses have lost their users, passwords and keys.

    Args:
        text: Such as "tcp://user:password@host:8786" or a message that quotes it.

    Returns:
        "tcp://***@host:8786".
    """
    return _SECRET.sub(r"\1***", _PASSWORD.sub("***@", text))


def printable(text: str, most: int = 500) -> str:
    r"""A text of a stranger that can be printed: no control character, one line, no password.

    Terminals obey escape sequences, and names of files may hold bytes that are no UTF-8.

    Args:
        text: Anything: an identifier, a file's name, a message of another program.
        most: Characters that are left of it.

    Returns:
        The text; what does not print is escaped as in Python (\x1b, \n, \udcff), the middle of a
        longer one is left out, and so are passwords in addresses (`masked`).
    """
    text = masked(text)
    if len(text) > most:
        text = f"{text[: most // 2]} … {text[-(most // 2) :]}"
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


def printable_lines(text: str) -> str:
    """The same for a text of several lines."""
    return "\n".join(printable(line, 10_000) for line in text.split("\n"))
