"""One process at a time in a folder: of a run that trains, or of one that a study or sweep makes.

Not the filelock package: a study's lock is inherited by the processes that it starts, so that it
holds until the last of them is gone, also when the study was killed; and it says who holds it.
"""

import fcntl
import os
import socket
import time
from pathlib import Path

#: What a `fit` holds while it trains; the study or sweep that started it holds another.
TRAINING = ".training.lock"


class Lock:
    """An exclusive claim on a folder; it ends with the last process that holds it."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    @classmethod
    def take(cls, folder: Path, name: str = ".lock") -> "Lock | None":
        """Claim a folder, which is made if need be; None if another process has it.

        Args:
            folder: The folder.
            name: Of the file in it that is locked; another name is another claim.

        Raises:
            ValueError: if it cannot be written, or its file system has no locks.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(folder / name, os.O_RDWR | os.O_CREAT)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(descriptor)
                if isinstance(error, BlockingIOError):
                    return None
                raise
        except OSError as error:
            raise ValueError(
                f"{folder}: cannot be locked ({error.strerror}); choose another folder"
            ) from error
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        owner = f"process {os.getpid()} on {socket.gethostname()} since {since}"
        try:
            os.ftruncate(descriptor, 0)
            os.write(descriptor, owner.encode())
        except OSError:
            pass  # a full disk: the claim holds without a name
        return cls(descriptor)

    def release(self) -> None:
        """Give the folder back."""
        os.close(self.descriptor)


def holder(folder: Path, name: str = ".lock") -> str:
    """Who has claimed a folder; empty if nobody has.

    Args:
        folder: The folder; it need not exist.
        name: As of `Lock.take`.
    """
    try:
        descriptor = os.open(folder / name, os.O_RDWR)
    except OSError:
        return ""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.read(descriptor, 200).decode(errors="replace") or "another process"
    except OSError:
        pass
    finally:
        os.close(descriptor)
    return ""
