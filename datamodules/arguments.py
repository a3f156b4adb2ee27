"""What every command of `xxact` says: mistakes in one line, and strangers' texts made harmless."""

import argparse
import sys
from typing import NoReturn


class ArgumentParser(argparse.ArgumentParser):
    """argparse's parser; a mistake is told in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and exit with 2."""
        print(f"xxact: error: {printable(message)}; see `{self.prog} --help`", file=sys.stderr)
        raise SystemExit(2)


def printable(text: str, most: int = 500) -> str:
    r"""A text of a stranger that can be printed: no control character, one line, not too long.

    Terminals obey escape sequences, and names of files may hold bytes that are no UTF-8.

    Args:
        text: Anything: an identifier, a file's name, a message of another program.
        most: Characters that are left of it.

    Returns:
        The text; what does not print is escaped as in Python (\x1b, \n, \udcff), and the
        middle of a longer one is left out.
    """
    if len(text) > most:
        text = f"{text[: most // 2]} … {text[-(most // 2) :]}"
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )
