"""A parser of command lines whose errors are one line, as everywhere in `xxact`."""

import argparse
import sys
from typing import NoReturn


class ArgumentParser(argparse.ArgumentParser):
    """argparse's parser; a mistake is told in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and exit with 2."""
        print(f"xxact: error: {message}; see `{self.prog} --help`", file=sys.stderr)
        raise SystemExit(2)
