"""What ASE reads, written by ASE: XYZ, databases, trajectories, folders of POSCARs."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules.prepare.command_line import main
from datamodules.prepare.executors import LocalProcesses
from datamodules.store.store import Store
from tests.prepare.examples import cif_text, random_structure, write_csv
from tests.prepare.pipelines import contents, make
from tests.prepare.sources.test_sources import Run, assert_mistake, rejected

# An extra; `.[dev]` has it.
ase = pytest.importorskip("ase")

from ase import Atoms  # noqa: E402
from ase.calculators.singlepoint import SinglePointCalculator  # noqa: E402
from ase.db import connect  # noqa: E402
from ase.io import write  # noqa: E402

from datamodules.prepare.sources.ase_files import AseSource  # noqa: E402
from datamodules.prepare.sources.source import Target  # noqa: E402

ENERGY = "energy/nsites=energy:eV/atom"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*argv: object) -> tuple[int, str]:
        status = main([*map(str, argv), "--workers", "1", "--quiet"])
        captured = capsys.readouterr()
        return status, captured.out + captured.err

    return call


def atoms(seed: int, **info: Any) -> Atoms:
    structure = random_structure(seed, 3)
    symbols = [site.species_string for site in structure]
    made = Atoms(symbols, structure.cart_coords, cell=structure.lattice.matrix, pbc=True)
    made.calc = SinglePointCalculator(made, energy=-1.5 * (seed + 1), forces=np.zeros((3, 3)))
    made.info.update(info)
    return made


def ids(store: Path) -> list[str]:
    return list(Store(store).column("id"))


@pytest.mark.parametrize("name", ["a.xyz", "a.extxyz", "a.traj", "a.db"])
def test_every_image_of_a_named_file_is_an_entry(name: str, tmp_path: Path, run: Run) -> None:
    path = tmp_path / name
    if name == "a.db":
        with connect(path) as database:
            for seed in range(5):
                database.write(atoms(seed), gap=0.5 * seed)
    else:
        write(path, [atoms(seed, gap=0.5 * seed) for seed in range(5)])
    targets = f"{ENERGY},gap:eV"
    status, said = run("ase", path, "--output", tmp_path / "s", "--targets", targets)
    assert status == 0, said
    store = Store(tmp_path / "s")
    first = 1 if name == "a.db" else 0
    assert ids(tmp_path / "s") == [f"{name}#{i + first}" for i in range(5)]
    np.testing.assert_allclose(store.column("energy"), -0.5 * np.arange(1, 6), rtol=1e-6)
    np.testing.assert_allclose(store.column("gap"), 0.5 * np.arange(5), rtol=1e-6)
    texts = [[str(seed), "", cif_text(random_structure(seed, 3))] for seed in range(5)]
    csv = write_csv(tmp_path / "a.csv", texts)
    assert run("csv", csv, "--output", tmp_path / "t")[0] == 0
    same = Store(tmp_path / "t")
    assert store.column("formula").tolist() == same.column("formula").tolist()
    for i in range(5):
        ours, theirs = store.material(i), same.material(i)
        assert ours.structure == pytest.approx(theirs.structure, rel=1e-3, abs=1e-6)


def test_a_folder_gives_the_last_image_of_each_file_with_labels_beside(
    tmp_path: Path, run: Run
) -> None:
    folder = tmp_path / "many"
    (folder / "sub").mkdir(parents=True)
    write(folder / "POSCAR_1", atoms(1), format="vasp")
    write(folder / "sub" / "b.vasp", atoms(2), format="vasp")
    write(folder / "relaxation.traj", [atoms(3), atoms(4)])
    (folder / "notes.txt").write_text("no structure")
    (folder / ".hidden").write_text("no structure")
    write_csv(tmp_path / "l.csv", [["POSCAR_1", 1.5], ["sub/b", 2.5]], ["id", "gap"])
    command = ["ase", folder, "--output", tmp_path / "s", "--labels", tmp_path / "l.csv"]
    status, said = run(*command, "--targets", "gap:eV")
    assert status == 0, said
    assert ids(tmp_path / "s") == ["POSCAR_1", "relaxation.traj", "sub/b.vasp"]
    np.testing.assert_allclose(Store(tmp_path / "s").column("gap"), [1.5, np.nan, 2.5])
    last = random_structure(4, 3).composition.reduced_formula
    assert Store(tmp_path / "s").column("formula")[1] == last
    assert [(r["id"], r["reason"]) for r in rejected(tmp_path / "s")] == [
        ("notes.txt", "unreadable file")
    ]


def test_identifiers_come_from_the_images_where_they_have_some(tmp_path: Path, run: Run) -> None:
    write(tmp_path / "a.xyz", [atoms(i, material_id=f"m{i}", key=f"k{i}") for i in range(3)])
    assert run("ase", tmp_path / "a.xyz", "--output", tmp_path / "s")[0] == 0
    assert ids(tmp_path / "s") == ["m0", "m1", "m2"]
    command = ["ase", tmp_path / "a.xyz", "--output", tmp_path / "t", "--id-column", "key"]
    assert run(*command)[0] == 0
    assert ids(tmp_path / "t") == ["k0", "k1", "k2"]


def test_what_is_no_crystal_is_rejected(tmp_path: Path, run: Run) -> None:
    molecule = atoms(0)
    molecule.pbc = False
    slab = atoms(1)
    slab.pbc = [True, True, False]
    ghost = atoms(2)
    ghost.symbols[0] = "X"
    mixed = atoms(4)
    mixed.info["occupancy"] = {"0": {"Fe": 0.5, "Ni": 0.5}}
    write(tmp_path / "a.traj", [molecule, slab, ghost, atoms(3), mixed])
    assert run("ase", tmp_path / "a.traj", "--output", tmp_path / "s")[0] == 0
    assert ids(tmp_path / "s") == ["a.traj#3"]
    assert [r["reason"] for r in rejected(tmp_path / "s")] == [
        "not periodic in three dimensions",
        "not periodic in three dimensions",
        "unknown element",
        "disordered",
    ]


def test_workers_and_compression_do_not_change_a_byte(tmp_path: Path) -> None:
    write(tmp_path / "a.xyz", [atoms(i) for i in range(11)])
    labels = (Target("energy/nsites", "energy", "eV/atom"),)
    source = AseSource((tmp_path / "a.xyz",), labels=labels)
    make(source, tmp_path / "one")
    make(source, tmp_path / "two", LocalProcesses(2))
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    (tmp_path / "a.xyz.gz").write_bytes(gzip.compress((tmp_path / "a.xyz").read_bytes()))
    packed = make(AseSource((tmp_path / "a.xyz.gz",), labels=labels), tmp_path / "packed")
    assert packed.column("energy").tolist() == Store(tmp_path / "one").column("energy").tolist()


def test_mistakes_are_told_in_one_line(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = ["--output", tmp_path / "s"]
    good = tmp_path / "a.xyz"
    write(good, [atoms(i) for i in range(4)])
    assert_mistake(run("ase", tmp_path / "none.xyz", *output), "no such file")
    assert_mistake(run("ase", good, *output, "--targets", "gap"), "'gap'", "energy")
    assert_mistake(run("ase", good, *output, "--targets", "forces"), "'forces'")
    assert_mistake(run("ase", good, *output, "--id-column", "key"), "'key'")
    (tmp_path / "empty").mkdir()
    assert_mistake(run("ase", tmp_path / "empty", *output), "no files in it")
    (tmp_path / "b.txt").write_text("nothing that ASE knows\x1b[2J\n")
    assert_mistake(run("ase", tmp_path / "b.txt", *output), "ASE cannot read it")
    text = good.read_text()
    (tmp_path / "cut.xyz").write_text(text[:-40].rpartition("\n")[0])
    assert_mistake(run("ase", tmp_path / "cut.xyz", *output), "ends within an image")
    (tmp_path / "bad.xyz").write_text("x" + text)
    assert_mistake(run("ase", tmp_path / "bad.xyz", *output), "number of atoms")
    (tmp_path / "bad.db").write_bytes(b"SQLite format 3\x00" + b"x" * 100)
    assert_mistake(run("ase", tmp_path / "bad.db", *output), "ASE cannot read it")
    monkeypatch.setitem(__import__("sys").modules, "ase", None)
    assert_mistake(run("ase", good, *output), "pip install 'xxact[ase]'")
