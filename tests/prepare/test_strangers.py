"""Files of strangers: odd things in a folder, bombs, and what is printed of them."""

from __future__ import annotations

import bz2
import gzip
import json
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datamodules.io.arguments import masked, printable
from datamodules.prepare.command_line import main
from datamodules.prepare.crystals.cif import crystal_from_cif
from datamodules.prepare.crystals.crystal import EntryError
from datamodules.prepare.sources import csv_cif, source
from datamodules.store.store import REJECTED, Store
from tests.prepare.examples import (
    ROCK_SALT,
    alexandria_entry,
    cif_text,
    random_structure,
    write_alexandria,
    write_csv,
    written_cif,
)

Run = Callable[..., tuple[int, str]]
GOOD = cif_text(ROCK_SALT)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*argv: object) -> tuple[int, str]:
        status = main([*map(str, argv), "--workers", "1", "--quiet"])
        captured = capsys.readouterr()
        return status, captured.out + captured.err

    return call


def rejected(store: Path) -> list[tuple[Any, str]]:
    lines = map(json.loads, (store / REJECTED).read_text().splitlines())
    return [(line["id"], line["reason"]) for line in lines]


def test_only_files_are_read_from_a_folder(tmp_path: Path, run: Run) -> None:
    folder = tmp_path / "cifs"
    (folder / "folder.cif").mkdir(parents=True)
    (folder / "folder.cif" / "in.cif").write_text(GOOD)
    os.mkfifo(folder / "fifo.cif")
    (folder / "dangling.cif").symlink_to(folder / "nothing")
    (folder / "device.cif").symlink_to("/dev/zero")
    (folder / "link.cif").symlink_to(folder / "good.cif")
    (folder / "good.cif").write_text(GOOD)
    (folder / "control\x1b[2J.cif").write_text("?")
    (folder / "bad.cif.gz").write_bytes(gzip.compress(GOOD.encode())[:-9] + b"x" * 9)
    (folder / "angle.cif").write_text(GOOD.replace("90.0", "1e999"))
    with open(os.fsencode(folder) + b"/caf\xe9.cif", "w") as stream:
        stream.write(GOOD)
    store = tmp_path / "s"
    status, said = run("cif", folder, "--output", store)
    assert status == 0, said
    assert list(Store(store).column("id")) == ["folder.cif/in", "good", "link"]
    assert rejected(store) == [
        ("angle", "no cell"),
        ("bad", "unreadable file"),
        ("caf\\udce9", "file name is not UTF-8"),
        ("control\\x1b[2J", "unreadable CIF"),
        ("dangling", "a link to nothing"),
        ("device", "not a file"),
        ("fifo", "not a file"),
        ("folder", "not a file"),
    ]
    assert "\x1b" not in said


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gap,id\n1,a\n2\n", ["line 3", "1 fields", "the header has 2"]),
        ("id,gap\na,1,2\n", ["line 2", "3 fields"]),
        ("id,gap\na\n", ["line 2"]),
        ("id,gap\n\na,1\nb\n", ["line 4"]),
        ('id,gap\n"a,1\n', ["line 2", "unexpected end of data"]),
        ("id,gap\na,1\na,2\n", ["line 3", "has labels already"]),
    ],
)
def test_damaged_tables_of_labels_name_the_row(
    tmp_path: Path, run: Run, text: str, words: list[str]
) -> None:
    folder = tmp_path / "cifs"
    folder.mkdir()
    (folder / "a.cif").write_text(GOOD)
    labels = tmp_path / "labels.csv"
    labels.write_text(text)
    arguments = ["cif", folder, "--output", tmp_path / "s", "--labels", labels, "--targets", "gap"]
    status, said = run(*arguments)
    assert status == 2
    assert said.count("\n") == 1
    for word in [str(labels), *words]:
        assert word in said


def test_labels_may_have_large_fields_and_other_columns(tmp_path: Path, run: Run) -> None:
    folder = tmp_path / "cifs"
    folder.mkdir()
    (folder / "a.cif").write_text(GOOD)
    labels = tmp_path / "labels.csv"
    labels.write_text(f"id,note,gap\na,{'x' * 400_000},1.5\n")
    store = tmp_path / "s"
    arguments = ["cif", folder, "--output", store, "--labels", labels, "--targets", "gap"]
    assert run(*arguments)[0] == 0
    assert Store(store).column("gap").tolist() == [1.5]
    labels.write_bytes(b"id,gap\ncaf\xe9,1\n")
    status, said = run(*arguments[:3], tmp_path / "t", *arguments[4:])
    assert status == 2
    assert "not UTF-8" in said
    labels.unlink()
    os.mkfifo(labels)
    assert "pipe" in run(*arguments[:3], tmp_path / "t", *arguments[4:])[1]


BLANKS = b" " * (1 << 20)


@pytest.mark.parametrize(
    ("pieces", "words"),
    [
        ([BLANKS] * 40, "blanks"),
        ([b"[", BLANKS, BLANKS, b"]"], "what is between two entries is longer"),
        ([b"[", b"1," * (1 << 20), b"]"], "what is between two entries is longer"),
        ([b"[{}]", BLANKS, BLANKS], "ends with more than"),
        ([b"[" * (1 << 21)], "an entry is longer|ends within|between"),
        ([b'{"entries": ', BLANKS * 66, b"[{}]}"], "longer"),
    ],
)
def test_json_of_blanks_and_brackets_ends_soon(
    tmp_path: Path, run: Run, pieces: list[bytes], words: str
) -> None:
    path = tmp_path / "a.json.bz2"
    compressor = bz2.BZ2Compressor()
    path.write_bytes(b"".join([*map(compressor.compress, pieces), compressor.flush()]))
    tracemalloc.start()
    status, said = run("alexandria", path, "--output", tmp_path / "s")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert status == 2
    assert said.count("\n") == 1
    assert any(word in said for word in words.split("|")), said
    assert peak < 400e6


def test_entries_too_long_or_nested_too_deeply_are_rejected(tmp_path: Path, run: Run) -> None:
    structure = random_structure(1, 3)
    deep = alexandria_entry("deep", structure)
    text = json.dumps(deep).replace('"e_form": -0.5', f'"e_form": {"[" * 9000}{"]" * 9000}')
    long = json.dumps(alexandria_entry("long", structure, note="x" * (1 << 20)))
    good = json.dumps(alexandria_entry("good", structure))
    path = tmp_path / "a.json"
    path.write_text(f"[{text},{long},{good}]")
    store = tmp_path / "s"
    assert run("alexandria", path, "--output", store)[0] == 0
    assert [reason for _, reason in rejected(store)] == ["invalid JSON", "entry too long"]
    assert list(Store(store).column("id")) == ["good"]


def test_what_unpacks_to_absurdly_more_is_refused(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "MAX_UNPACKED", 1 << 16)
    monkeypatch.setattr(source, "MAX_RATIO", 20)
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b"id,cif\n" + b"a,b\n" * (1 << 16)))
    status, said = run("csv", path, "--output", tmp_path / "s")
    assert status == 2
    assert "unpacks to more than 20 times its size" in said


def test_endless_rows_lines_and_fields_of_a_table(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_cif, "MAX_ROW", 50_000)
    monkeypatch.setattr(csv_cif, "MAX_TEXT", 20_000)
    path = write_csv(tmp_path / "a.csv", [["a", "", GOOD], ["b", "", "x" * 30_000]])
    store = tmp_path / "s"
    assert run("csv", path, "--output", store)[0] == 0
    assert rejected(store) == [("b", "CIF too large")]
    for number, bad in enumerate(("x" * 100_000, '"' + "y\n" * 50_000 + '"', "\n" * 1_100_000)):
        path = tmp_path / f"bad{number}.csv"
        path.write_text(f"material_id,cif\na,{bad}")
        status, said = run("csv", path, "--output", tmp_path / f"s{number}")
        assert status == 2
        assert said.count("\n") == 1
        assert "line" in said


def test_a_cif_is_bounded_before_anything_grows_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    many = "\n".join(f"H{i} H 0.1 0.2 0.3" for i in range(6000))
    with pytest.raises(EntryError, match="too many atoms"):
        crystal_from_cif(written_cif([50.0], many, "P m -3 m"))
    many = "\n".join(f"H{i} H {i / 999:.4f} {i / 777:.4f} {i / 555:.4f}" for i in range(500))
    with pytest.raises(EntryError, match="too many atoms"):
        crystal_from_cif(written_cif([50.0], many, "F m -3 m"))
    with pytest.raises(EntryError, match="CIF too large"):
        crystal_from_cif("#" * (33 << 20))
    with pytest.raises(EntryError, match="unreadable CIF"):
        crystal_from_cif("data_a\n" + "loop_ " * 10_000)


def test_names_that_are_not_utf8_and_pipes_are_told(tmp_path: Path, run: Run) -> None:
    name = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.csv")
    Path(name).write_text("id,cif\n")
    status, said = run("csv", name, "--output", tmp_path / "s")
    assert status == 2
    assert "caf\\udce9.csv: the name is not UTF-8" in said
    os.mkfifo(tmp_path / "fifo.json")
    assert "pipe" in run("alexandria", tmp_path / "fifo.json", "--output", tmp_path / "s")[1]


def test_errors_print_no_control_characters(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "a.csv"
    path.write_text("\x1b]0;owned\x07,\x9b31m\n1,2\n")
    status, said = run("csv", path, "--output", tmp_path / "s")
    assert status == 2
    assert "\\x1b]0;owned\\x07" in said
    assert said[:-1].isprintable()
    path = write_alexandria(tmp_path / "b.json", [alexandria_entry("\x1b[2J", random_structure(0))])
    status, said = run("alexandria", path, "--output", tmp_path / "t")
    assert status == 0
    assert "\x1b" not in said


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("tcp://user:pass@host:8786", "tcp://***@host:8786"),
        ("mysql+pymysql://me:p%40ss@db/x: refused", "mysql+pymysql://***@db/x: refused"),
        ("postgresql://u:a@b@host/x", "postgresql://***@host/x"),
        ("https://token@host/a?x=1&api_key=abc&y=2", "https://***@host/a?x=1&api_key=***&y=2"),
        ("https://host/a?X-Amz-Signature=abc", "https://host/a?X-Amz-Signature=***"),
        ("sqlite:///runs/trials.db", "sqlite:///runs/trials.db"),
        ("mail me@host.org about a:b", "mail me@host.org about a:b"),
    ],
)
def test_passwords_in_addresses_are_masked(text: str, shown: str) -> None:
    assert masked(text) == shown
    assert printable(text) == shown


def test_the_password_of_a_scheduler_is_not_told(tmp_path: Path, run: Run) -> None:
    status = main(
        ["prototypes", "--output", str(tmp_path / "s"), "--scheduler", "nope://me:secret@h:1"]
    )
    assert status == 2
