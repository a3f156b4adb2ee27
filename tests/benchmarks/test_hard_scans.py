"""The test bed of hard scans: its lines are pymatgen's, its scans can be read, its ranks count."""

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hard_scans
import numpy as np
import pytest
import torch
from pymatgen.analysis.diffraction.xrd import XRDCalculator
from pymatgen.core import Lattice, Structure

from datamodules.measured import Options, convert, read_scan
from datamodules.measured.wavelength import parse_wavelength

CELL = Structure(Lattice.tetragonal(4.6, 2.95), ["Ti", "O"], [[0, 0, 0], [0.3, 0.3, 0.1]])


def test_reflections_are_pymatgens() -> None:
    g, intensity = hard_scans.reflections(CELL, CELL.lattice, b=0.0)
    sine = np.linalg.norm(g, axis=1) * hard_scans.KA1 / (4 * np.pi)
    theta = np.arcsin(sine)
    heights = intensity * (1 + np.cos(2 * theta) ** 2) / (np.sin(theta) ** 2 * np.cos(theta))
    bins = np.arange(5.03, 90.0, 0.1)
    found = np.histogram(np.degrees(2 * theta), bins, weights=heights)[0]
    pattern = XRDCalculator(wavelength=hard_scans.KA1).get_pattern(CELL, two_theta_range=(5, 90))
    expected = np.histogram(pattern.x, bins, weights=pattern.y)[0]
    np.testing.assert_allclose(found / found.max(), expected / expected.max(), atol=1e-3)


def test_scans_are_smaller_cells_with_faults_and_read_as_any(tmp_path: Path) -> None:
    cif = CELL.to(fmt="cif")
    x, counts, facts = hard_scans.simulated(cif, cif, np.random.default_rng(3))
    again = hard_scans.simulated(cif, cif, np.random.default_rng(3))
    assert np.array_equal(counts, again[1])
    assert x[0] == facts["start"]
    assert 0.005 <= facts["mismatch"] <= 0.03
    np.savetxt(tmp_path / "a.xy", np.stack([x, counts], axis=1))
    pattern = convert(read_scan(tmp_path / "a.xy"), options=Options(parse_wavelength("CuKa")))
    assert np.nanmax(pattern.profile) == 1.0


def test_textured_lines_are_stronger_and_cells_smaller() -> None:
    instrument = {"zero": 0, "displacement": 0, "axial": 0, "w": 0.01, "size": 1e5, "eta": 0.5}
    x = np.arange(5.0, 90.0, 0.02)
    cif = Structure(Lattice.cubic(4.0), ["Po"], [[0, 0, 0]]).to(fmt="cif")

    def drawn(mismatch: float, texture: float) -> Any:
        random = np.random.default_rng(0)
        return hard_scans.phase(cif, x, mismatch, texture, instrument, random)

    plain, shrunk, textured = drawn(0.0, 1.0), drawn(0.02, 1.0), drawn(0.0, 0.5)
    first = x[np.argmax(plain)], x[np.argmax(shrunk)]
    assert first[1] > first[0] + 0.2
    lines = plain > 0.1 * plain.max()
    ratio = textured[lines] / plain[lines]
    assert ratio.max() > 1.3 * ratio.min()


def test_ranks_count_the_formulas_that_are_more_similar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    formulas = np.unique(["Fe2O3", "FeO", "NaCl", "TiO2"])
    places = {name: row for row, name in enumerate(formulas)}
    # FeO's pattern is most similar to NaCl, then FeO, then Fe2O3.
    seen = torch.zeros(2, 4)
    seen[0, [places["NaCl"], places["FeO"], places["Fe2O3"]]] = torch.tensor([0.9, 0.5, 0.2])
    seen[1, places["TiO2"]] = 1.0
    monkeypatch.setattr(hard_scans, "read", lambda *_: iter([("FeO", seen[0]), ("TiO2", seen[1])]))
    model: Any = SimpleNamespace(compositions=lambda *_: torch.eye(4))
    found = hard_scans.judged(model, formulas, tmp_path, among=2)
    assert found["all"]["median"] == 1.5
    assert found["all"]["first 1"] == 0.5
    assert found["all, elements"]["first 1"] == 1.0
    ratios = hard_scans.ratios({"model": "a", **found}, {"model": "b", **found})
    assert ratios["all"] == pytest.approx(dict.fromkeys(found["all"], 1.0))


def test_scans_are_written_for_each_formula(tmp_path: Path) -> None:
    cif = CELL.to(fmt="cif")
    table = tmp_path / "table.csv"
    with table.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerows([["material_id", "cif"], ["one", cif]])
    store: Any = SimpleNamespace(
        column=lambda _: np.array(["TiO"]), material=lambda _: SimpleNamespace(id="one")
    )
    hard_scans.write_scans(table, store, np.array([0]), tmp_path / "scans", 5)
    rows = list(csv.DictReader((tmp_path / "scans" / "index.csv").open()))
    assert [row["formula"] for row in rows] == ["TiO"]
    assert (tmp_path / "scans" / rows[0]["file"]).exists()
