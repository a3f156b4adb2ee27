"""The table of known materials, on a terminal and in a page the same."""

from typing import Any

from lightning_modules.inference.answers.known import known_table
from lightning_modules.inference.answers.printed import describe
from tests.lightning_modules.inference.answers.test_printed import ROW

KNOWN: list[dict[str, Any]] = [
    {"id": "mp-1", "formula": "Fe2O3", "similarity": 0.98765, "gap": 2.0512, "hardness": None},
    {"id": "a\x1bb", "formula": "FeO", "similarity": None, "gap": None, "hardness": None},
]
UNITS = {"gap": "eV", "hardness": "GPa", "count": ""}


def test_labels_have_units_and_those_that_nobody_has_are_left_out() -> None:
    counted = [one | {"count": 3} for one in KNOWN]
    lines = known_table(counted, "similarity", UNITS, 3)
    assert lines[0] == ["formula", "id", "similarity", "gap (eV)", "count"]
    assert lines[1] == ["Fe2O3", "mp-1", "0.988", "2.051", "3"]
    assert lines[2][2:] == ["-", "-", "3"]
    assert "\x1b" not in lines[2][1]
    assert [line[3:] for line in known_table(counted, "similarity", UNITS, 1)] == [
        ["gap (eV)"], ["2.051"], ["-"]
    ]  # fmt: skip


def test_it_is_printed_in_columns_or_below_each_other() -> None:
    row = ROW | {"neighbours": KNOWN}
    wide = describe(row, {"gap": "eV"}, 0.9, 120).splitlines()
    at = wide.index("  nearest known materials")
    assert wide[at + 1].split() == ["formula", "id", "similarity", "gap", "(eV)"]
    assert wide[at + 2].split() == ["Fe2O3", "mp-1", "0.988", "2.051"]
    assert wide[at + 1].index("(eV)") + 4 == len(wide[at + 2])
    narrow = describe(row, {"gap": "eV"}, 0.9, 40).splitlines()
    at = narrow.index("  nearest known materials")
    said = " ".join(" ".join(narrow[at + 1 :]).split())
    assert said.startswith("Fe2O3 mp-1: similarity 0.988, gap (eV) 2.051")
    assert all(len(line) <= 40 for line in narrow[at:])
