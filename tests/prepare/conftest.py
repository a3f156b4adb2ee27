"""A source with bad rows and duplicates, and the store it must become."""

from __future__ import annotations

from pathlib import Path

import pytest

from datamodules.prepare.sources.csv_cif import CsvSource
from tests.prepare.examples import (
    csv_rows,
    write_csv,
)
from tests.prepare.pipelines import GAP, contents, make


@pytest.fixture
def source(tmp_path: Path) -> CsvSource:
    """Three files of 11, 8 and 6 rows with bad ones and duplicates in and across files."""
    first, second, third = csv_rows(11), csv_rows(8, seed=100), csv_rows(6, seed=200)
    first[2][2] = "broken"
    first[9][0] = first[1][0]
    second[3][0] = first[1][0]
    second[5][0] = first[2][0]  # the first with this id was rejected: no duplicate
    third[0][0] = second[7][0]
    third[5][2] = ""
    paths = [
        write_csv(tmp_path / name, rows)
        for name, rows in (("a.csv", first), ("b.csv", second), ("c.csv", third))
    ]
    return CsvSource(tuple(paths), labels=(GAP,))


@pytest.fixture
def expected(source: CsvSource, tmp_path: Path) -> dict[str, bytes]:
    """The store of an uninterrupted run in one process."""
    make(source, tmp_path / "expected")
    return contents(tmp_path / "expected")
