"""Cells strained along each axis: equal axes stay equal, scans can be read, ranks count."""

from types import SimpleNamespace
from typing import Any

import anisotropic_cells
import numpy as np
import pytest
import torch
from pymatgen.core import Lattice, Structure

from datamodules.measured import PatternError, convert

CELL = Structure(Lattice.tetragonal(4.6, 2.95), ["Ti", "O"], [[0, 0, 0], [0.3, 0.3, 0.1]])


def test_axes_are_strained_by_themselves_but_equal_ones_alike() -> None:
    lattice = anisotropic_cells.strained(CELL, 0.01, np.random.default_rng(0)).lattice
    assert lattice.a == pytest.approx(lattice.b)
    assert lattice.angles == pytest.approx((90, 90, 90))
    first, last = lattice.a / 4.6 - 1, lattice.c / 2.95 - 1
    assert 0.0 < abs(first) < 0.05
    assert abs(first - last) > 1e-4
    still = anisotropic_cells.strained(CELL, 0.0, np.random.default_rng(0))
    assert still.lattice.abc == pytest.approx(CELL.lattice.abc)


def test_scans_are_read_as_any_and_show_the_strained_cell() -> None:
    cif = CELL.to(fmt="cif")
    scan = anisotropic_cells.measured(cif, 0.0, np.random.default_rng(1))
    other = anisotropic_cells.measured(cif, 0.03, np.random.default_rng(1))
    assert np.nanmax(convert(scan).profile) == 1.0
    strongest = [one.x[np.argmax(one.intensity)] for one in (scan, other)]
    assert abs(strongest[0] - strongest[1]) > 0.05


def test_ranks_and_confident_answers_are_counted() -> None:
    def read(scan: Any) -> Any:
        if scan == "unreadable":
            raise PatternError("no")
        return None, scan

    def fits(scan: str, _: Any) -> Any:
        return SimpleNamespace(rows=torch.tensor([2, 1, 0] if scan == "a" else [0, 1, 2]))

    def answers(scan: str, _: Any) -> Any:
        return SimpleNamespace(rows=torch.tensor([2, 0, 1])), scan == "a"

    formulas = np.array(["NaCl", "KCl", "LiF"])
    library = SimpleNamespace(collection=SimpleNamespace(column=lambda _: formulas))
    retriever = SimpleNamespace(library=library, read=read, fits=fits, answers=answers)
    scans = [("a", 0), ("unreadable", 1), ("b", 2)]
    ranks, confident = anisotropic_cells.judged(retriever, scans)
    assert ranks == {"own width alone": [3, 3], "as retrieve answers": [2, 1]}
    assert confident == {True: 0, False: 1}
