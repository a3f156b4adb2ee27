"""What is a user's mistake, what the system refuses, and what is a bug of ours.

The command line and the page tell the first two in one line; a bug gets its traceback.
"""

import errno

from datamodules.io.arguments import printable
from datamodules.io.files import explain

#: Refusals of a disk, which may come without a file's name.
_DISKS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO)
_OURS = ("datamodules", "lightning_modules")
_LONGEST = 2000


def told(error: BaseException) -> str | None:
    """An error as one line for its user; None for a bug of ours.

    Args:
        error: As it was caught.
    """
    if (mistake := users_mistake(error)) is not None:
        return printable(str(mistake), _LONGEST)
    if (refused := _refusal(error)) is not None:
        return printable(explain(refused), _LONGEST)
    return None


def users_mistake(error: BaseException) -> BaseException | None:
    """The user's mistake behind an error: one that our own checks raised, or Lightning's.

    A library's ValueError is our bug, unless it only passes on one of ours (jsonargparse does).

    Args:
        error: As it was caught.
    """
    cause: BaseException | None = error
    while cause is not None:
        if type(cause).__name__ == "MisconfigurationException":
            return cause
        frame = cause.__traceback__
        while frame is not None and frame.tb_next is not None:
            frame = frame.tb_next
        module = frame.tb_frame.f_globals.get("__name__", "") if frame is not None else ""
        if isinstance(cause, ValueError) and module.split(".")[0] in _OURS:
            return cause
        cause = cause.__cause__
    return None


def _refusal(error: BaseException) -> OSError | None:
    """What the system refuses, behind an error: a full or read-only disk, a missing permission.

    Libraries pass it on as an error of their own; the file is then in the system's message, or in
    none, as of TensorBoard, whose thread writes.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and (cause.filename is not None or cause.errno in _DISKS):
            return cause
        cause = cause.__cause__ or cause.__context__
    return None
