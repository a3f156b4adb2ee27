"""Runs a command as a user does, in this process, and judges what it says."""

import contextlib
import io
from collections.abc import Callable, Sequence
from typing import Any

from datamodules.io.mistakes import users_mistake
from lightning_modules.__main__ import main


class TracebackError(AssertionError):
    """The command showed a traceback, or ended without saying why."""


def outcome_of(arguments: Sequence[str]) -> str:
    """`accepted` or `refused` (in one line).

    Raises:
        TracebackError: with what the command printed.
    """
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        try:
            status = main(arguments)
        except SystemExit as exit_:
            status = exit_.code if isinstance(exit_.code, int) else 1
    text = errors.getvalue()
    lines = [line for line in text.splitlines() if line.startswith("xxact: error: ")]
    if status == 0:
        return "accepted"
    if "Traceback (most recent call last)" in text or len(lines) != 1:
        raise TracebackError(f"status {status}: {text.strip()[-3000:]}")
    return "refused"


def judged(read: Callable[[], Any]) -> str:
    """`read`, or `refused` where it raises what the program tells in one line.

    Raises:
        Exception: whatever else it raises.
    """
    try:
        read()
    except Exception as error:
        mistake = users_mistake(error)
        if mistake is None or "\n" in str(mistake):
            raise
        return "refused"
    return "read"
