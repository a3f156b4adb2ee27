"""Files are written whole or not at all, whatever the disk does."""

import errno
import io
import os
from pathlib import Path

import pytest
import torch

from datamodules.io.files import (
    explain,
    new_folder,
    remove_leftovers,
    replace_file,
    replace_table,
    replacing,
)


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes 10 kB of a file, then refuses."""

    class Full(io.FileIO):
        def write(self, data: object) -> int:
            if self.tell() + memoryview(data).nbytes > 10_000:  # type: ignore[arg-type]
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data)  # type: ignore[arg-type]

    monkeypatch.setattr("builtins.open", lambda path, mode: Full(path, mode))


def test_it_replaces_what_was_there_and_leaves_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    replace_file(path, "first")
    replace_file(path, b"second")
    replace_table(tmp_path / "t.csv", [{"a": 1, "b": "é,"}])
    assert path.read_bytes() == b"second"
    assert (tmp_path / "t.csv").read_bytes().decode() == 'a,b\r\n1,"é,"\r\n'
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.txt", "t.csv"]


@pytest.mark.parametrize("through_torch", [False, True])
def test_a_full_disk_is_told_with_the_files_name_and_leaves_the_old_content(
    tmp_path: Path, full_disk: None, through_torch: bool
) -> None:
    path = tmp_path / "last.ckpt"
    path.write_bytes(b"old")

    def write() -> None:
        with replacing(path) as file:
            if through_torch:
                # torch tells of "unexpected pos", not of the disk.
                torch.save({"weights": torch.zeros(20_000)}, file)
            else:
                file.write(bytes(20_000))

    with pytest.raises(OSError, match="No space left on device") as raised:
        write()
    assert explain(raised.value).startswith(f"{path}: No space left on device; free some space")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


def test_an_error_of_the_writer_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def write() -> None:
        with replacing(path) as file:
            file.write(b"new")
            raise KeyError

    with pytest.raises(KeyError):
        write()
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert path.read_bytes() == b"old"


def test_leftovers_of_a_kill_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".last.ckpt.123.tmp").write_bytes(b"half")
    (tmp_path / "last.ckpt").write_bytes(b"whole")
    remove_leftovers(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_folder_appears_when_it_is_whole_and_what_kills_left_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "mine"
    # No process has such a number; that of this one still runs.
    for left in (".mine.99999999.tmp", ".mine.x.tmp", f".mine.{os.getppid()}.tmp"):
        (tmp_path / left).mkdir()
        (tmp_path / left / "a").write_bytes(b"half")
    (tmp_path / ".mine.again.99999999.tmp").write_bytes(b"a file of somebody's")
    with new_folder(path) as folder:
        replace_file(folder / "a", "whole")
        assert not path.exists()
    assert (path / "a").read_bytes() == b"whole"
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        f".mine.{os.getppid()}.tmp",
        ".mine.again.99999999.tmp",
        "mine",
    ]
    with pytest.raises(OSError, match="not empty") as raised, new_folder(path) as folder:
        replace_file(folder / "a", "other")
    assert raised.value.filename == str(path)
    assert (path / "a").read_bytes() == b"whole"


def test_a_folder_that_cannot_be_filled_leaves_nothing(tmp_path: Path, full_disk: None) -> None:
    with pytest.raises(OSError, match="No space") as raised, new_folder(tmp_path / "m") as folder:
        replace_file(folder / "a", bytes(20_000))
    assert raised.value.filename == str(tmp_path / "m" / "a")
    assert not list(tmp_path.iterdir())
