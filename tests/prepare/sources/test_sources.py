"""The sources through the command: what they read, and what they say about bad input."""

from __future__ import annotations

import bz2
import copy
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules.prepare.command_line import main, parse_targets
from datamodules.prepare.sources.source import SourceError
from datamodules.store.store import REJECTED, Store
from tests.prepare.examples import (
    ROCK_SALT,
    alexandria_entry,
    cif_text,
    csv_rows,
    random_structure,
    write_alexandria,
    write_csv,
)

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `xxact prepare` in one process; returns the exit status and what it said."""

    def call(*argv: object) -> tuple[int, str]:
        status = main([*map(str, argv), "--workers", "1", "--quiet"])
        captured = capsys.readouterr()
        return status, captured.out + captured.err

    return call


def rejected(store: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (store / REJECTED).read_text().splitlines()]


def assert_mistake(result: tuple[int, str], *words: object) -> None:
    status, said = result
    assert status == 2
    assert said.startswith("xxact: error: ")
    assert said.count("\n") == 1, said
    for word in words:
        assert str(word) in said


def test_csv_with_cif_becomes_a_store(tmp_path: Path, run: Run) -> None:
    rows = csv_rows(7)
    rows[3][0] = ""
    rows[4][2] = "nonsense"
    rows[5][1] = "wide"
    rows[6][1] = "nan"
    path = write_csv(tmp_path / "a.csv", [*rows, ["m-9", "nan"]])
    status, said = run("csv", path, "--output", tmp_path / "s", "--targets", "band_gap=gap:eV")
    assert status == 0, said
    store = Store(tmp_path / "s")
    assert list(store.column("id")) == ["m-0-0", "m-0-1", "m-0-2", "m-0-6"]
    np.testing.assert_allclose(store.column("gap"), [np.nan, 0.1, 0.2, np.nan], rtol=1e-6)
    assert store.target_units["gap"] == "eV"
    assert [(r["entry"], r["id"], r["reason"]) for r in rejected(tmp_path / "s")] == [
        (3, None, "no identifier"),
        (4, "m-0-4", "unreadable CIF"),
        (5, "m-0-5", "label is not a number"),
        (7, "m-9", "no structure"),
    ]
    assert store.manifest.counts == {"read": 8, "written": 4, "rejected": 4, "duplicates": 0}
    material = store.material(1)
    structure = random_structure(1, 3)
    assert material.formula == structure.composition.reduced_formula
    assert material.density == pytest.approx(float(structure.density), rel=1e-5)
    assert material.volume_per_atom == pytest.approx(structure.volume / 3, rel=1e-5)


def test_compressed_csv_gives_the_same_rows(tmp_path: Path, run: Run) -> None:
    path = write_csv(tmp_path / "a.csv", csv_rows(3))
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(path.read_bytes()))
    (tmp_path / "a.csv.bz2").write_bytes(bz2.compress(path.read_bytes()))
    for name in ("a.csv", "a.csv.gz", "a.csv.bz2"):
        assert run("csv", tmp_path / name, "--output", tmp_path / f"{name}.store")[0] == 0
    shards = {(tmp_path / f"a.csv{s}.store/shard-00000.arrow").read_bytes() for s in ("", ".gz")}
    assert len(shards) == 1


def test_bad_csv_is_told_in_one_line(tmp_path: Path, run: Run) -> None:
    good = write_csv(tmp_path / "good.csv", csv_rows(40))
    store = tmp_path / "store"
    missing = tmp_path / "missing.csv"
    assert_mistake(run("csv", missing, "--output", store), missing, "no such file")
    assert_mistake(run("csv", good, good, "--output", store), "given twice")
    assert_mistake(run("csv", "--output", store), "name either files or --download")
    assert_mistake(run("csv", good, "--output", store, "--targets", "gap"), "'gap'", "band_gap")
    assert_mistake(run("csv", good, "--output", store, "--id-column", "x"), "'x'", "material_id")
    assert_mistake(run("csv", good, "--output", store, "--targets", "band_gap=density"), "density")
    assert_mistake(run("csv", good, "--output", store, "--limit", "0"), "--limit 0")
    assert_mistake(run("csv", good, "--output", good), "is a file")
    other = write_csv(tmp_path / "other.csv", [[1, 2]], ["a", "b"])
    assert_mistake(run("csv", other, "--output", store), "material_id", "--id-column", "a, b")
    (tmp_path / "empty.csv").touch()
    assert_mistake(run("csv", tmp_path / "empty.csv", "--output", store), "empty")
    (tmp_path / "false.csv.gz").write_bytes(good.read_bytes())
    assert_mistake(run("csv", tmp_path / "false.csv.gz", "--output", store), "not a gz file")
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(good.read_bytes())[:-200])
    assert_mistake(run("csv", tmp_path / "cut.csv.gz", "--output", store), "truncated")
    (tmp_path / "quote.csv").write_bytes(good.read_bytes()[:-30])
    assert_mistake(run("csv", tmp_path / "quote.csv", "--output", tmp_path / "s2"), "line")
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.tex").write_text("precious")
    assert_mistake(run("csv", good, "--output", full), "not empty and not a store")
    assert [path.name for path in full.iterdir()] == ["thesis.tex"]


def test_targets_are_parsed() -> None:
    parsed = parse_targets("a, b=band_gap ,c=d:eV/atom")
    assert [(t.column, t.name, t.unit) for t in parsed] == [
        ("a", "a", ""),
        ("b", "band_gap", "eV"),
        ("c", "d", "eV/atom"),
    ]
    for text in ("=x", "a,b=a", "q", "a=id"):
        with pytest.raises(SourceError, match="--targets"):
            parse_targets(text)


def changed(**changes: Any) -> dict[str, Any]:
    """An entry with changed parts of its structure; None removes a part."""
    entry = copy.deepcopy(alexandria_entry("bad", ROCK_SALT))
    for path, value in changes.items():
        *keys, last = [int(k) if k.isdigit() else k for k in path.split("__")]
        target: Any = entry
        for key in keys:
            target = target[key]
        if value is None:
            del target[last]
        else:
            target[last] = value
    return entry


def test_every_bad_entry_of_alexandria_has_its_reason(tmp_path: Path, run: Run) -> None:
    site = "structure__sites__0"
    bad = [
        (changed(**{f"{site}__abc": [0.0, float("nan"), 0.0]}), "value that is not finite"),
        (changed(**{f"{site}__abc": [0.0, 0.5]}), "malformed structure"),
        (changed(**{f"{site}__abc": None}), "not an entry of Alexandria"),
        (changed(**{f"{site}__species": [{"element": "Xx", "occu": 1}]}), "unknown element"),
        (changed(**{f"{site}__species": [{"element": "Es", "occu": 1}]}), "no scattering factor"),
        (changed(structure__lattice__matrix=[[0, 0, 0]] * 3), "absurd volume per atom"),
        (changed(structure__lattice__matrix=[[900, 0, 0], [0, 900, 0], [0, 0, 9]]),
         "cell volume too large"),
        (changed(structure__lattice__matrix=[["a", 0, 0]] * 3), "malformed structure"),
        (changed(structure__sites=[]), "no atoms"),
        (changed(structure=None), "not an entry of Alexandria"),
        (changed(data__mat_id=None), "not an entry of Alexandria"),
        (changed(data__mat_id=""), "no identifier"),
        (changed(data__e_form="low"), "label is not a number"),
        (None, "not an entry of Alexandria"),
        ([1, 2], "not an entry of Alexandria"),
    ]  # fmt: skip
    good = [alexandria_entry(f"agm{i}", random_structure(i, 3), spg=1) for i in range(3)]
    good[1]["data"]["e_form"] = float("nan")
    entries = [good[0], *(entry for entry, _ in bad), good[1], good[2]]
    path = write_alexandria(tmp_path / "a.json.bz2", entries)
    store = tmp_path / "s"
    status, said = run("alexandria", path, "--output", store)
    assert status == 0, said
    assert list(Store(store).column("id")) == ["agm0", "agm1", "agm2"]
    np.testing.assert_allclose(Store(store).column("formation_energy"), [-0.5, np.nan, -0.5])
    assert np.isnan(Store(store).column("hull_distance")).all()
    assert Store(store).column("space_group").tolist() == [1, 1, 1]
    assert [(r["entry"], r["reason"]) for r in rejected(store)] == [
        (i, reason) for i, (_, reason) in enumerate(bad, start=1)
    ]
    assert all(reason in said for _, reason in bad)


def test_a_bare_list_and_plain_json_are_alexandria_too(tmp_path: Path, run: Run) -> None:
    entries = [alexandria_entry(f"agm{i}", random_structure(i, 3)) for i in range(4)]
    paths = [
        write_alexandria(tmp_path / "a.json.bz2", entries),
        write_alexandria(tmp_path / "b.json.bz2", entries, bare=True),
        write_alexandria(tmp_path / "c.json", entries),
    ]
    shards = set()
    for path in paths:
        store = tmp_path / f"{path.name}.store"
        assert run("alexandria", path, "--output", store)[0] == 0
        shards.add((store / "shard-00000.arrow").read_bytes())
    assert len(shards) == 1


def test_alexandria_equals_pymatgen_of_the_same_dictionary(tmp_path: Path, run: Run) -> None:
    """Disorder and oxidation states in the dictionary, read without pymatgen."""
    structure = random_structure(5, 4).add_oxidation_state_by_site([1, -1, 2, -2])
    structure.replace(0, {"Fe2+": 0.5, "Ni2+": 0.25})
    path = write_alexandria(tmp_path / "a.json", [alexandria_entry("x", structure)])
    assert run("alexandria", path, "--output", tmp_path / "s")[0] == 0
    material = Store(tmp_path / "s").material(0)
    amounts = structure.composition.element_composition
    elements = sorted(amounts.elements, key=lambda element: element.Z)
    assert material.elements.tolist() == [element.Z for element in elements]
    np.testing.assert_allclose(
        material.fractions, [amounts.get_atomic_fraction(e) for e in elements], rtol=1e-6
    )


def test_bad_files_of_alexandria_are_told_in_one_line(tmp_path: Path, run: Run) -> None:
    entries = [alexandria_entry(f"agm{i}", random_structure(i, 3)) for i in range(30)]
    good = write_alexandria(tmp_path / "good.json.bz2", entries)
    store = tmp_path / "store"

    def bad(name: str, content: bytes) -> tuple[int, str]:
        (tmp_path / name).write_bytes(content)
        return run("alexandria", tmp_path / name, "--output", tmp_path / f"{name}.store")

    text = bz2.decompress(good.read_bytes())
    assert_mistake(run("alexandria", "--output", store), "--download")
    assert_mistake(bad("no.json.bz2", text), "not a bz2 file")
    assert_mistake(bad("cut.json.bz2", good.read_bytes()[:-20]), "truncated")
    middle = len(good.read_bytes()) // 2
    flipped = bytearray(good.read_bytes())
    flipped[middle] ^= 255
    assert_mistake(bad("flipped.json.bz2", bytes(flipped)), "cannot be decompressed")
    assert_mistake(bad("cut.json", text[:-200]), "broken JSON")
    assert_mistake(bad("other.json", b'{"rows": []}'), "entries")
    assert_mistake(bad("empty.json.bz2", b""), "empty file")
    status, said = bad("none.json", b"[]")
    assert status == 2
    assert "no entry could be used" in said


def test_folder_of_cif_with_labels(tmp_path: Path, run: Run) -> None:
    folder = tmp_path / "cifs"
    (folder / "sub").mkdir(parents=True)
    (folder / "b.cif").write_text(cif_text(ROCK_SALT))
    (folder / "a.cif.gz").write_bytes(gzip.compress(cif_text(random_structure(0)).encode()))
    (folder / "sub" / "c.cif").write_text(cif_text(random_structure(1)))
    (folder / "bad.cif").write_text("?")
    (folder / "cut.cif.gz").write_bytes(gzip.compress(b"x" * 1000)[:20])
    (folder / "notes.txt").write_text("no structure")
    labels = write_csv(
        tmp_path / "labels.csv", [["b", "1.5"], ["sub/c.cif", ""], ["zz", "2"]], ["id", "gap"]
    )
    store = tmp_path / "s"
    arguments = ["cif", folder, "--output", store, "--labels", labels, "--targets", "gap:eV"]
    status, said = run(*arguments, "--space-groups")
    assert status == 0, said
    assert "--space-groups is no longer needed" in said
    assert list(Store(store).column("id")) == ["a", "b", "sub/c"]
    np.testing.assert_allclose(Store(store).column("gap"), [np.nan, 1.5, np.nan])
    assert Store(store).column("space_group").tolist() == [1, 225, 1]
    assert [(r["id"], r["reason"]) for r in rejected(store)] == [
        ("bad", "unreadable CIF"),
        ("cut", "unreadable file"),
    ]


def test_bad_folder_or_labels_are_told_in_one_line(tmp_path: Path, run: Run) -> None:
    folder = tmp_path / "cifs"
    folder.mkdir()
    output = ["--output", tmp_path / "s"]
    assert_mistake(run("cif", tmp_path / "none", *output), "no such folder")
    assert_mistake(run("cif", folder, *output), "no *.cif")
    (folder / "a.cif").write_text(cif_text(ROCK_SALT))
    assert_mistake(run("cif", folder, *output, "--targets", "gap"), "--labels")
    labels = ["--labels", tmp_path / "l.csv", "--targets", "gap"]
    assert_mistake(run("cif", folder, *output, *labels), "no such file")
    write_csv(tmp_path / "l.csv", [["a", 1]], ["id", "other"])
    assert_mistake(run("cif", folder, *output, *labels), "'gap'", "other")
    write_csv(tmp_path / "l.csv", [["x", 1]], ["id", "gap"])
    assert_mistake(run("cif", folder, *output, *labels), "none of its 1 identifiers")
    write_csv(tmp_path / "l.csv", [["a", 1], ["a.cif", 2]], ["id", "gap"])
    assert_mistake(run("cif", folder, *output, *labels), "has labels already")
