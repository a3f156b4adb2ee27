"""Files are written whole or not at all, whatever the disk does."""

import errno
import io
from pathlib import Path

import pytest
import torch

from datamodules.io.files import explain, remove_leftovers, replace_file, replace_table, replacing


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
