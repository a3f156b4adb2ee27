"""One bad entry is rejected, whatever it raises; what is odd about a good one is noted."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from datamodules.io.arguments import printable
from datamodules.prepare.command_line import main
from datamodules.prepare.crystals.crystal import Note
from datamodules.prepare.executors import LocalProcesses
from datamodules.prepare.sources.csv_cif import CsvSource
from datamodules.prepare.sources.source import Entry
from datamodules.store.store import NOTES, REJECTED, Store
from tests.prepare.examples import (
    ROCK_SALT,
    alexandria_entry,
    cif_text,
    csv_rows,
    random_structure,
    write_alexandria,
    write_csv,
)
from tests.prepare.pipelines import contents, make


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def raise_memory_error() -> None:
    raise MemoryError


def recurse() -> None:
    recurse()


def raise_unicode_error() -> None:
    "\udc80".encode()


RAISING: dict[str, Callable[[], object]] = {
    "m-0-1": lambda: 1 / 0,
    "m-0-2": raise_memory_error,
    "m-0-3": recurse,
    "m-0-4": lambda: 10**400 / 1.0,
    "m-0-5": raise_unicode_error,
    "m-0-6": lambda: {}["nothing"],
}


@dataclass(frozen=True)
class Raising(CsvSource):
    """Raises something else for each of some rows, after a warning; identifying fails too."""

    flags: Path = field(default=Path())

    def entry(self, record: Any, position: int) -> Entry:
        """Raises what the row's id stands for."""
        warnings.warn(f"row {record[0]} is odd\x1b[2J", UserWarning, stacklevel=1)
        warnings.warn("for programmers", DeprecationWarning, stacklevel=1)
        RAISING.get(record[0], bool)()
        return super().entry(record, position)

    def identify(self, record: Any) -> str | None:
        """Tells all identifiers but one."""
        return {"m-0-6": 1 / (record[0] != "m-0-6")} and record[0]


@pytest.mark.parametrize("workers", [1, 2])
def test_whatever_an_entry_raises_rejects_that_entry(tmp_path: Path, workers: int) -> None:
    source = Raising((write_csv(tmp_path / "a.csv", csv_rows(9)),))
    store = make(source, tmp_path / "s", LocalProcesses(2) if workers == 2 else None)
    assert list(store.column("id")) == ["m-0-0", "m-0-7", "m-0-8"]
    rejected = lines(tmp_path / "s" / REJECTED)
    assert [(r["file"], r["entry"], r["id"]) for r in rejected] == [
        ("a.csv", i, f"m-0-{i}" if i < 6 else None) for i in range(1, 7)
    ]
    assert [r["reason"] for r in rejected] == [
        "cannot be read", "too large for the memory", *["cannot be read"] * 4
    ]  # fmt: skip
    assert rejected[0]["detail"].startswith("ZeroDivisionError: division by zero; row m-0-1 is odd")
    assert "programmers" not in rejected[0]["detail"]


def test_warnings_of_a_reader_are_notes_that_are_counted(tmp_path: Path) -> None:
    source = Raising((write_csv(tmp_path / "a.csv", csv_rows(9)),))
    store = make(source, tmp_path / "s")
    notes = lines(tmp_path / "s" / NOTES)
    assert [(n["entry"], n["id"]) for n in notes] == [(0, "m-0-0"), (7, "m-0-7"), (8, "m-0-8")]
    assert notes[0]["detail"] == "row m-0-0 is odd\\x1b[2J"
    assert store.manifest.notes == {"warning of the reader": 3}


def test_a_store_without_notes_has_no_file_of_them(source: CsvSource, tmp_path: Path) -> None:
    store = make(source, tmp_path / "s")
    assert store.manifest.notes == {}
    assert NOTES not in contents(tmp_path / "s")


def test_a_table_that_contradicts_its_structure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        ["right", "NaCl", cif_text(ROCK_SALT)],
        ["wrong", "KCl", cif_text(ROCK_SALT)],
        ["named", "halite", cif_text(ROCK_SALT)],
        ["empty", "", cif_text(ROCK_SALT)],
    ]
    path = write_csv(tmp_path / "a.csv", rows, ["id", "formula", "cif"])
    store = tmp_path / "s"
    assert main(["csv", str(path), "--output", str(store), "--workers", "1", "--quiet"]) == 0
    assert list(Store(store).column("id")) == ["right", "named", "empty"]
    [rejected] = lines(store / REJECTED)
    assert rejected["reason"] == "stated formula and atoms disagree"
    assert "column formula is KCl, the atoms are Na4 Cl4" in rejected["detail"]
    said = capsys.readouterr().out
    assert "1 × stated formula and atoms disagree" in said
    assert "1 × stated formula not understood" in said
    assert Store(store).manifest.notes == {"stated formula not understood": 1}


def test_another_column_may_state_the_formula(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [["a", "NaCl", "KCl", cif_text(ROCK_SALT)], ["b", "KCl", "NaCl", cif_text(ROCK_SALT)]]
    path = write_csv(tmp_path / "a.csv", rows, ["id", "formula", "composition", "cif"])
    store = tmp_path / "store"
    command = ["csv", str(path), "--workers", "1", "--quiet", "--output"]
    assert main([*command, str(store), "--formula-column", "composition"]) == 0
    [rejected] = lines(store / REJECTED)
    assert rejected["id"] == "a"
    assert "column composition is KCl, the atoms are Na4 Cl4" in rejected["detail"]
    assert main([*command, str(tmp_path / "t"), "--formula-column", "nothing"]) == 2
    assert "no column 'nothing'" in capsys.readouterr().err


def test_alexandria_entries_that_contradict_themselves(tmp_path: Path) -> None:
    structure = random_structure(1, 3)
    good = alexandria_entry("good", structure, formula=structure.composition.reduced_formula)
    good["composition"] = structure.composition.as_dict()
    cell = alexandria_entry("cell", structure)
    cell["composition"] = {"H": 1.0}
    formula = alexandria_entry("formula", structure, formula="NaCl")
    twice = alexandria_entry("twice", structure)
    twice["structure"]["sites"].append(twice["structure"]["sites"][0])
    huge = alexandria_entry("huge", structure, e_form=10**400)
    large = alexandria_entry("large", structure, e_form=1e300)
    surrogate = alexandria_entry("x\ud800y", structure)
    long = alexandria_entry("y" * 5000, structure)
    entries = [good, cell, formula, twice, huge, large, surrogate, long]
    path = write_alexandria(tmp_path / "a.json", entries)
    store = tmp_path / "s"
    assert main(["alexandria", str(path), "--output", str(store), "--workers", "1"]) == 0
    assert list(Store(store).column("id")) == ["good"]
    assert [(r["id"][:8], r["reason"]) for r in lines(store / REJECTED)] == [
        ("cell", "stated formula and atoms disagree"),
        ("formula", "stated formula and atoms disagree"),
        ("twice", "the same atom twice"),
        ("huge", "label is not a number"),
        ("large", "label is not a number"),
        ("x\\ud800y", "identifier is not UTF-8"),
        ("yyyyyyyy", "identifier too long"),
    ]


def test_what_strangers_write_prints_harmlessly() -> None:
    assert printable("NaCl α–Fe₂O₃") == "NaCl α–Fe₂O₃"
    assert printable("\x1b]0;title\x07") == "\\x1b]0;title\\x07"
    assert printable("a\nb\tc\x9b\u202e\udcff") == "a\\nb\\tc\\x9b\\u202e\\udcff"
    assert len(printable("x" * 10**6)) < 510
    assert Note("a").detail == ""
