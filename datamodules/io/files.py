"""Files that are written whole or not at all, and what to say where a disk refuses them."""

from __future__ import annotations

import csv
import errno
import glob
import io
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.figure import Figure


class _Writer(io.RawIOBase):
    """Passes on what is written, and remembers the first refusal.

    Libraries that write through a callback, torch's among them, report a full disk as an error of
    their own that does not say so.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.refusal: OSError | None = None

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        try:
            return self._stream.write(data)
        except OSError as error:
            self.refusal = self.refusal or error
            raise

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._stream.seek(offset, whence)

    @property
    def name(self) -> str:
        return self._stream.name

    def flush(self) -> None:
        if not self._stream.closed:
            self._stream.flush()


@contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """A file to write to, which takes the place of `path` when the block has ended without error.

    It lies beside `path` until then, and is on the disk before it is renamed: a kill, a full disk
    or a loss of power leaves what was there before.

    Args:
        path: The file to write or to replace; its folder must exist.

    Raises:
        OSError: if it cannot be written; `filename` is `path`, and nothing is left beside it.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    writer: _Writer | None = None
    try:
        with open(temporary, "wb") as stream:
            writer = _Writer(stream)
            yield writer  # type: ignore[misc]
            stream.flush()
            # A rename may reach the disk before the content does.
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        # A disk that cannot be written refuses this, too, even where there is nothing to remove.
        with suppress(OSError):
            temporary.unlink()
        refusal = error if isinstance(error, OSError) else writer and writer.refusal
        if not isinstance(refusal, OSError):
            raise
        # The user knows the file by its own name.
        raise type(refusal)(refusal.errno, os.strerror(refusal.errno or 0), str(path)) from error
    _flush(path.parent)


def replace_file(path: str | Path, data: bytes | str | pa.Buffer) -> None:
    """Writes a file whole or not at all; text as UTF-8. See `replacing`."""
    with replacing(path) as stream:
        stream.write(data.encode() if isinstance(data, str) else data)


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """A folder to fill, which gets its name when the block has ended without error.

    It lies beside `path` until then. What a kill has left of another attempt is removed first.

    Args:
        path: The folder to make, which must not exist; the folder around it must.

    Raises:
        OSError: if it cannot be written, or exists by then; `filename` is as under `path`, and
            nothing is left beside it.
    """
    path = Path(path)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        if left.is_dir() and not _runs(left.name.split(".")[-2]):
            shutil.rmtree(left, ignore_errors=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir()
        yield temporary
        os.rename(temporary, path)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if not isinstance(error, OSError):
            raise
        # The user knows the folder by its own name.
        name = os.fsdecode(error.filename or temporary).replace(str(temporary), str(path))
        raise type(error)(error.errno, os.strerror(error.errno or 0), name) from error
    _flush(path.parent)


def _runs(process: str) -> bool:
    """Whether a process of this number runs."""
    try:
        os.kill(int(process), 0)
    except (ValueError, OverflowError, ProcessLookupError):
        return False
    except PermissionError:
        pass
    return True


def _flush(folder: Path) -> None:
    """Brings a folder's names onto the disk."""
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def replace_table(path: str | Path, rows: Sequence[dict[str, Any]]) -> None:
    """Writes a CSV table whole or not at all; the first row names the columns."""
    text = io.StringIO(newline="")
    if rows:
        writer = csv.DictWriter(text, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    replace_file(path, text.getvalue())


def replace_picture(path: str | Path, figure: Figure, dpi: int) -> None:
    """Writes a figure whole or not at all, in the format of the suffix (PNG without one)."""
    path = Path(path)
    with replacing(path) as stream:
        figure.savefig(stream, dpi=dpi, format=path.suffix[1:].lower() or "png")


def remove_leftovers(folder: Path) -> None:
    """Removes what a kill in the middle of `replacing` has left; nobody else may be writing."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def explain(error: OSError) -> str:
    """A refusal of the system in one line: the file, the reason, the mend where there is one."""
    mends = {
        errno.ENOSPC: "free some space; what was there before is unharmed",
        errno.EDQUOT: "free some space; what was there before is unharmed",
        errno.EFBIG: "raise the limit (ulimit -f); what was there before is unharmed",
        errno.EROFS: "choose a place that can be written",
        errno.EACCES: "choose another place, or ask for the permission",
        errno.EPERM: "choose another place, or ask for the permission",
        errno.EMFILE: "raise the limit of open files (ulimit -n)",
    }
    reason = error.strerror or str(error) or type(error).__name__
    mend = mends.get(error.errno or 0)
    where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
    return f"{where}{reason}{f'; {mend}' if mend else ''}"
