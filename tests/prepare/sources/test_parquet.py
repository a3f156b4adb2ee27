"""Parquet files in the form of LeMat-Bulk, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pymatgen.core import Structure

from datamodules.prepare.command_line import main
from datamodules.prepare.executors import LocalProcesses
from datamodules.prepare.sources.parquet import ParquetSource
from datamodules.prepare.sources.source import Target
from datamodules.store.store import Store
from tests.prepare.examples import ROCK_SALT, cif_text, random_structure, write_csv
from tests.prepare.pipelines import contents, make
from tests.prepare.sources.test_sources import Run, assert_mistake, rejected


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*argv: object) -> tuple[int, str]:
        status = main([*map(str, argv), "--workers", "1", "--quiet"])
        captured = capsys.readouterr()
        return status, captured.out + captured.err

    return call


def row(identifier: str | None, structure: Structure, **others: Any) -> dict[str, Any]:
    return {
        "immutable_id": identifier,
        "lattice_vectors": structure.lattice.matrix.tolist(),
        "species_at_sites": [site.species_string for site in structure],
        "cartesian_site_positions": structure.cart_coords.tolist(),
        "nsites": len(structure),
        "nperiodic_dimensions": 3,
        "chemical_formula_descriptive": structure.composition.formula,
        "energy": -3.0 * len(structure),
        "band_gap": None,
        "forces": [[0.0, 0.0, 0.0]],
        **others,
    }


def write(path: Path, rows: list[dict[str, Any]], rows_per_group: int = 3) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=rows_per_group)
    return path


def structures(n: int) -> list[Structure]:
    return [random_structure(i, 3) for i in range(n)]


def test_rows_become_the_same_store_as_their_cifs(tmp_path: Path, run: Run) -> None:
    rows = [row(f"agm{i}", s) for i, s in enumerate(structures(11))]
    path = write(tmp_path / "a.parquet", rows)
    targets = "energy/nsites=energy:eV/atom,band_gap:eV"
    status, said = run("parquet", path, "--output", tmp_path / "s", "--targets", targets)
    assert status == 0, said
    store = Store(tmp_path / "s")
    assert store.column("id").tolist() == [f"agm{i}" for i in range(11)]
    np.testing.assert_allclose(store.column("energy"), -3.0)
    assert np.isnan(store.column("band_gap")).all()
    texts = [[f"agm{i}", "", cif_text(s)] for i, s in enumerate(structures(11))]
    csv = write_csv(tmp_path / "a.csv", texts)
    assert run("csv", csv, "--output", tmp_path / "t")[0] == 0
    same = Store(tmp_path / "t")
    assert store.column("formula").tolist() == same.column("formula").tolist()
    for i in range(11):
        ours, theirs = store.material(i), same.material(i)
        assert ours.structure == pytest.approx(theirs.structure, rel=1e-3, abs=1e-6)
        strong = ours.intensity > 1e-3
        nearest = np.abs(ours.q[strong, None] - theirs.q).min(axis=1)
        assert nearest.max() < 1e-3


def test_what_is_wrong_with_a_row_rejects_it(tmp_path: Path, run: Run) -> None:
    good = random_structure(0, 3)
    bad = [
        (row(None, good), "no identifier"),
        (row("b", good, lattice_vectors=None), "no structure"),
        (row("c", good, lattice_vectors=[[1.0, 0, 0], [0, 1.0, 0]]), "malformed structure"),
        (row("d", good, lattice_vectors=[[4.0, 0, 0]] * 3), "absurd volume per atom"),
        (row("e", good, cartesian_site_positions=[[0.0, 0, 0]]), "malformed structure"),
        (row("f", good, species_at_sites=["Xx", "O", "O"]), "unknown element"),
        (row("g", good, nperiodic_dimensions=2), "not periodic in three dimensions"),
        (row("h", good, cartesian_site_positions=[[0.0, 0, float("nan")]] * 3),
         "value that is not finite"),
    ]  # fmt: skip
    path = write(tmp_path / "a.parquet", [row("a", good), *(r for r, _ in bad), row("z", good)])
    assert run("parquet", path, "--output", tmp_path / "s")[0] == 0
    assert Store(tmp_path / "s").column("id").tolist() == ["a", "z"]
    assert [r["reason"] for r in rejected(tmp_path / "s")] == [reason for _, reason in bad]
    assert rejected(tmp_path / "s")[1]["id"] == "b"
    salt = row("salt", ROCK_SALT, chemical_formula_descriptive="K4 Cl4")
    wrong = write(tmp_path / "b.parquet", [row("a", good), salt])
    assert run("parquet", wrong, "--output", tmp_path / "t")[0] == 0
    assert [r["id"] for r in rejected(tmp_path / "t")] == ["salt"]


def test_row_groups_slices_and_workers_do_not_change_a_byte(tmp_path: Path) -> None:
    rows = [row(f"agm{i}", s) for i, s in enumerate(structures(14))]
    found = []
    for n, groups in enumerate((1, 5, 100)):
        (tmp_path / str(n)).mkdir()
        path = write(tmp_path / str(n) / "a.parquet", rows, groups)
        source = ParquetSource((path,), labels=(Target("energy", "energy", "eV"),))
        store = make(source, tmp_path / f"s{n}", LocalProcesses(2) if n == 1 else None)
        found.append([store.manifest.shards[0].checksum, len(store)])
    assert found == [found[0]] * 3
    assert found[0][1] == 14


def test_files_of_another_form_are_told_in_one_line(tmp_path: Path, run: Run) -> None:
    output = ["--output", tmp_path / "s"]
    rows = [row(f"agm{i}", s) for i, s in enumerate(structures(40))]
    good = write(tmp_path / "good.parquet", rows, 10)
    assert_mistake(run("parquet", tmp_path / "none.parquet", *output), "no such file")
    (tmp_path / "text.parquet").write_text("a,b\n1,2\n")
    assert_mistake(run("parquet", tmp_path / "text.parquet", *output), "not a Parquet file")
    (tmp_path / "cut.parquet").write_bytes(good.read_bytes()[:-50])
    assert_mistake(run("parquet", tmp_path / "cut.parquet", *output), "not a Parquet file")
    for name in ("lattice_vectors", "species_at_sites", "cartesian_site_positions"):
        lacking = [{k: v for k, v in r.items() if k != name} for r in rows]
        path = write(tmp_path / "lacking.parquet", lacking)
        assert_mistake(run("parquet", path, *output), f"needs a column {name}", "there are")
        flat = write(tmp_path / "flat.parquet", [{**r, name: "x"} for r in rows])
        assert_mistake(run("parquet", flat, *output), f"needs a column {name}")
    assert_mistake(run("parquet", good, *output, "--targets", "gap"), "'gap'", "band_gap")
    assert_mistake(run("parquet", good, *output, "--targets", "forces"), "has lists")
    assert_mistake(run("parquet", good, *output, "--id-column", "key"), "'key'", "--id-column")
    damaged = bytearray(good.read_bytes())
    damaged[200 : len(damaged) // 3] = b"\xff" * (len(damaged) // 3 - 200)
    (tmp_path / "damaged.parquet").write_bytes(damaged)
    assert_mistake(run("parquet", tmp_path / "damaged.parquet", *output), "row group 0")


def test_lists_of_other_arrow_types_are_read(tmp_path: Path) -> None:
    rows = [row(f"agm{i}", s) for i, s in enumerate(structures(3))]
    table = pa.Table.from_pylist(rows)
    vector = pa.list_(pa.float32(), 3)
    kinds = {
        "lattice_vectors": pa.large_list(vector),
        "cartesian_site_positions": pa.list_(vector),
        "species_at_sites": pa.large_list(pa.large_string()),
    }
    fields = [pa.field(f.name, kinds.get(f.name, f.type)) for f in table.schema]
    pq.write_table(table.cast(pa.schema(fields)), tmp_path / "a.parquet")
    store = make(ParquetSource((tmp_path / "a.parquet",)), tmp_path / "s")
    assert len(store) == 3
    assert "shard-00000.arrow" in contents(tmp_path / "s")
