"""`xxact inspect`: every number is the store's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from datamodules.inspect import main
from datamodules.prepare.command_line import main as prepare
from datamodules.store.store import REJECTED, Store
from tests.factories import make_store
from tests.prepare.examples import csv_rows, write_csv


@pytest.fixture
def store(tmp_path: Path) -> Path:
    rows = csv_rows(8)
    rows[2][2] = "broken"
    rows[5][2] = ""
    rows[6][2] = ""
    rows[7][0] = rows[0][0]
    path = write_csv(tmp_path / "a.csv", rows)
    command = [
        "csv",
        str(path),
        "--output",
        str(tmp_path / "store"),
        "--targets",
        "band_gap=gap:eV",
    ]
    command += ["--licence", "CC0", "--citation", "nobody", "--workers", "1", "--quiet"]
    assert prepare(command) == 0
    return tmp_path / "store"


def test_contents_are_told(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main([str(store)]) == 0
    said = capsys.readouterr().out
    opened = Store(store)
    gap = opened.column("gap")
    gap = gap[np.isfinite(gap)]
    for text in (
        "8 read = 4 written + 3 rejected + 1 duplicates",
        "4 materials in 1 shards",
        "csv; CC0",
        "nobody",
        "a.csv",
        opened.fingerprint,
        "2 × no structure",
        "1 × unreadable CIF",
        "1 × duplicate id",
        "Q 0.2844–6.0090 Å⁻¹",
    ):
        assert text in said, text
    table = said.split("missing")[1].split("differences within a formula")[0]
    (line,) = [line for line in table.splitlines() if line.strip().startswith("gap ")]
    words = line.split()
    assert words[1:4] == ["eV", str(len(gap)), f"{1 - len(gap) / 4:.1%}"]
    np.testing.assert_allclose(
        [float(word) for word in words[4:]],
        [gap.mean(), gap.std(), gap.min(), gap.max()],
        rtol=1e-3,
    )
    (line,) = [line for line in table.splitlines() if line.strip().startswith("density ")]
    assert float(line.split()[4]) == pytest.approx(opened.column("density").mean(), rel=1e-3)
    columns = said.split("by column")[1].split("formulas")[0].split()
    total = sum(float(word) for word in columns[1::2])
    assert total * 4 < sum(shard.bytes for shard in opened.manifest.shards)
    elements = said.split("materials by element")[1].split("target")[0].split()
    by_element = dict(zip(elements[::2], map(int, elements[1::2]), strict=True))
    assert sum(by_element.values()) == sum(len(opened.material(i).elements) for i in range(4))


def test_a_dense_store_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_store(tmp_path / "dense", 5, layout="profile")
    assert main([str(tmp_path / "dense")]) == 0
    said = capsys.readouterr().out
    assert "layout profile" in said
    assert "step 0.02" in said
    identifier = Store(tmp_path / "dense").material(0).id
    picture = tmp_path / "x.png"
    assert main([str(tmp_path / "dense"), "--plot", identifier, "--picture", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_pattern_is_drawn(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([str(store), "--plot", "m-0-1"]) == 0
    assert (tmp_path / "m-0-1.png").read_bytes().startswith(b"\x89PNG")
    assert main([str(store), "--plot", "none"]) == 2
    assert "no material 'none'" in capsys.readouterr().err


def test_checksums_are_verified(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(store), "--verify"]) == 0
    shard = store / "shard-00000.arrow"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    assert main([str(store), "--verify"]) == 2
    assert "shard-00000.arrow: checksum" in capsys.readouterr().err


def test_what_is_no_store_is_told(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (store / REJECTED).unlink()
    assert main([str(store)]) == 0
    manifest = json.loads((store / "manifest.json").read_text())
    (store / "manifest.json").write_text(json.dumps({**manifest, "format_version": 99}))
    for arguments in (
        [str(tmp_path / "none")],
        [str(tmp_path)],
        [str(store)],
        [str(store), "--picture", "x.png"],
    ):
        capsys.readouterr()
        assert main(arguments) == 2
        said = capsys.readouterr().err
        assert said.startswith("xxact: error: ")
        assert said.count("\n") == 1


def test_everything_is_told_as_one_object(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main([str(store), "--json"]) == 0
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    told = json.loads(said)
    opened = Store(store)
    assert (told["rows"], told["formulas"]) == (4, len(set(opened.column("formula").tolist())))
    assert told["left_out"] == {"no structure": 2, "unreadable CIF": 1, "duplicate id": 1}
    assert told["counts"] == opened.manifest.counts
    assert sum(told["bravais_classes"].values()) == sum(told["space_groups"].values()) == 4
    assert sum(told["materials_by_element"].values()) == sum(
        len(opened.material(i).elements) for i in range(4)
    )
    gap = told["targets"]["gap"]
    assert (gap["unit"], gap["labels"]) == ("eV", int(np.isfinite(opened.column("gap")).sum()))
    assert gap["mean"] == pytest.approx(np.nanmean(opened.column("gap")), rel=1e-6)
    assert "reciprocal_metric_13" in told["targets"]


def test_the_floor_of_the_composition_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two neighbouring rows of a synthetic store share a formula and differ by their cells."""
    store = make_store(tmp_path / "s", 40)
    assert main([str(store.folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    energy = store.column("formation_energy").astype(float).reshape(-1, 2)
    half = np.abs(np.diff(energy, axis=1)) / 2
    found = told["targets"]["formation_energy"]
    assert found["formulas_with_several"] == told["formulas_with_several"] == 20
    assert found["composition_floor_mae"] == pytest.approx(half.mean(), rel=1e-6)
    share = (half**2).mean() / energy.var()
    assert found["within_formula_share"] == pytest.approx(share, rel=1e-5)
    assert main([str(store.folder)]) == 0
    table = capsys.readouterr().out.split("differences within a formula")[1]
    (line,) = [line for line in table.splitlines() if line.startswith("  formation_energy")]
    assert line.split()[2:] == ["20", "40", f"{share:.2%}", f"{half.mean():.4g}"]


def test_a_store_of_format_1_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(__file__).parents[1] / "stores" / "format_1"
    assert main([str(folder)]) == 0
    assert main([str(folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["targets"]["bravais_class"]["labels"] == 0
    assert told["targets"]["band_gap"]["labels"] == 3
