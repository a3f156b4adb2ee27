"""NREL's hypothetical crystals in their published form, from a local server."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.io.vasp import Poscar

from datamodules.prepare import command_line as cli
from datamodules.prepare.downloads import public_data
from datamodules.prepare.sources import nrel
from datamodules.prepare.sources.nrel import ENERGIES, REFERENCES, STRUCTURES
from datamodules.store.store import Store
from tests.prepare.sources.test_sources import rejected
from tests.prepare.test_download import Server, downloader, server  # noqa: F401  (a fixture)

ZINC_BLENDE = Structure.from_spacegroup(
    "F-43m", Lattice.cubic(5.9), ["Li", "Zn", "As"], [[0.5] * 3, [0.25] * 3, [0, 0, 0]]
)


def structures() -> dict[str, Structure]:
    stretched = ZINC_BLENDE.copy()
    stretched.scale_lattice(ZINC_BLENDE.volume * 1.1)
    with_iron = ZINC_BLENDE.copy()
    with_iron.replace_species({"Zn": "Fe"})
    near = [[0, 0, 0], [0.5] * 3, [0.2, 0, 0]]  # lithium and arsenic 1 Å apart
    collapsed = Structure(Lattice.cubic(5), ["Li", "Zn", "As"], near)
    return {
        "LiZnAs_a_216": ZINC_BLENDE,
        "LiZnAs_b_216": stretched,
        "LiFeAs_c_216": with_iron,
        "LiZnAs_small_216": collapsed,
        "LiZnAs_unknown": ZINC_BLENDE,
        "LiZnAs_other": ZINC_BLENDE,
    }


def published() -> dict[str, bytes]:
    """The two files; one structure has no energy, one energy no structure, one another formula."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        tar.addfile(tarfile.TarInfo("relaxed_hypotheticals/README"), io.BytesIO())
        for identifier, structure in structures().items():
            content = Poscar(structure.get_sorted_structure()).get_str().encode()
            member = tarfile.TarInfo(f"relaxed_hypotheticals/POSCAR_{identifier}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        bad = tarfile.TarInfo("relaxed_hypotheticals/POSCAR_bad")
        bad.size = 5
        tar.addfile(bad, io.BytesIO(b"none\n"))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["composition", "structure_id", "energyperatom"])
    for identifier, energy in (
        ("LiZnAs_a_216", -3.0),
        ("LiZnAs_b_216", -2.5),
        ("LiFeAs_c_216", -4.0),
        ("LiZnAs_small_216", 9.0),
        ("LiZnAs_other", -1.0),
        ("bad", -1.0),
        ("nowhere", -1.0),
    ):
        iron = "Fe1" if "Fe" in identifier or "other" in identifier else "Zn1"
        writer.writerow([f"Li1{iron}As1", identifier, energy])
    return {f"/{ENERGIES}": text.getvalue().encode(), f"/{STRUCTURES}": archive.getvalue()}


@pytest.fixture
def command(
    server: Server,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> list[str]:
    server.files = published()
    monkeypatch.setattr(public_data, "NREL_TABLE_BYTES", len(server.files[f"/{ENERGIES}"]))
    where = ["--mirror", server.url, "--keep-in", str(tmp_path / "kept")]
    rest = ["--output", str(tmp_path / "store"), "--workers", "1", "--quiet"]
    return ["csv", "--download", "nrel", *where, *rest]


def test_the_published_files_become_a_store(command: list[str], tmp_path: Path) -> None:
    assert cli.main(command) == 0
    store = Store(tmp_path / "store")
    assert store.column("id").tolist() == ["LiZnAs_a_216", "LiZnAs_b_216", "LiFeAs_c_216"]
    np.testing.assert_allclose(store.column("energy"), [-3.0, -2.5, -4.0])
    elements = sum(REFERENCES[symbol] for symbol in ("Li", "Zn", "As")) / 3
    np.testing.assert_allclose(
        store.column("formation_energy"), [-3 - elements, -2.5 - elements, np.nan], rtol=1e-6
    )  # iron has no reference
    assert store.column("space_group").tolist() == [216, 216, 216]
    assert [(r["id"], r["reason"]) for r in rejected(tmp_path / "store")][:1] == [
        ("LiZnAs_small_216", "collapsed cell")
    ]
    reasons = {r["id"]: r["reason"] for r in rejected(tmp_path / "store")}
    assert set(reasons) == {"LiZnAs_small_216", "LiZnAs_unknown", "LiZnAs_other", "bad", "nowhere"}
    assert (reasons["LiZnAs_unknown"], reasons["nowhere"]) == ("no energy", "no structure")
    assert reasons["bad"] == "unreadable POSCAR"
    note = json.loads((tmp_path / "kept" / "SOURCE.json").read_text())
    assert "Pandey" in note["citation"]
    assert store.manifest.source["licence"].startswith("MIT")


def test_kept_files_are_not_fetched_again(
    command: list[str],
    server: Server,  # noqa: F811
    tmp_path: Path,
) -> None:
    assert cli.main(command) == 0
    server.requests.clear()
    assert cli.main(command) == 0
    assert server.requests == []
    assert sorted(p.name for p in (tmp_path / "kept").iterdir()) == sorted(
        [ENERGIES, STRUCTURES, "SOURCE.json"]
    )


@pytest.mark.parametrize("name", [ENERGIES, STRUCTURES])
def test_a_cut_or_foreign_file_is_not_used(
    name: str,
    command: list[str],
    server: Server,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cli, "Downloader", lambda quiet: downloader(tries=2))
    for content in (server.files[f"/{name}"][:-9], b"<html>moved</html>"):
        server.files[f"/{name}"] = content
        assert cli.main(command) == 2
        said = capsys.readouterr().err
        assert name in said
        assert said.count("\n") == 1
        assert not (tmp_path / "kept" / name).exists()


def test_archives_that_unpack_to_too_much_are_refused(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(nrel, "MAX_TOTAL", 500)
    assert cli.main(command) == 2
    assert "unpacks to" in capsys.readouterr().err


def test_options_that_it_does_not_take_are_told(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*command, "--targets", "energy"]) == 2
    assert "--download nrel: knows its columns" in capsys.readouterr().err
