"""Hypothetical crystals, with a potential that needs no weights."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
from pymatgen.core import Composition, Element

from datamodules.elements import SYMBOLS
from datamodules.prepare.command_line import main
from datamodules.prepare.executors import LocalProcesses
from datamodules.prepare.hypothetical.potential import Chgnet
from datamodules.prepare.hypothetical.scan import scaled
from datamodules.prepare.hypothetical.source import HypotheticalSource
from datamodules.prepare.pipeline import WORK
from datamodules.prepare.sources.source import SourceError
from datamodules.store.store import Store
from tests.prepare.examples import crystal_of
from tests.prepare.hypothetical.pairs import Pairs, compounds, source_of, write_parents
from tests.prepare.pipelines import contents, make


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_parents(tmp_path_factory.mktemp("parents") / "parents.csv")


@pytest.fixture(scope="module")
def source(table: Path) -> HypotheticalSource:
    return source_of(table)


@pytest.fixture(scope="module")
def store(source: HypotheticalSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run in one process."""
    output = tmp_path_factory.mktemp("expected") / "store"
    make(source, output)
    return output


def test_every_candidate_is_a_row_or_has_a_reason(store: Path) -> None:
    counts = Store(store).manifest.counts
    assert counts["read"] == 60
    assert counts["written"] > 15
    reasons = Counter(json.loads(x)["reason"] for x in (store / "rejected.jsonl").open())
    assert sum(reasons.values()) == counts["rejected"] == 60 - counts["written"]


def test_labels_are_the_potentials_and_named_so(store: Path) -> None:
    made = Store(store)
    units = {name: unit for name, unit in made.target_units.items() if name.endswith("_pairs")}
    assert units == {
        "formation_energy_pairs": "eV/atom",
        "energy_pairs": "eV/atom",
        "hull_distance_pairs": "eV/atom",
        "bulk_modulus_pairs": "GPa",
    }
    for row in range(len(made)):
        material = made.material(row)
        targets = {name: float(value or 0) for name, value in material.targets.items()}
        elements = -0.1 * float(material.fractions @ material.elements)
        formed = targets["energy_pairs"] - elements
        assert targets["formation_energy_pairs"] == pytest.approx(formed, abs=1e-4)


def test_references_are_those_of_the_labels(store: Path) -> None:
    references = Store(store).manifest.source["references"]
    assert "median residual 0.0000" in references["origin"]
    for symbol, energy in references["energies"].items():
        assert energy == pytest.approx(-0.1 * Element(symbol).Z, abs=1e-5)


def test_within_a_formula_the_window_holds_and_none_comes_twice(store: Path) -> None:
    made = Store(store)
    by_formula = defaultdict(list)
    for formula, energy, volume in zip(
        *(made.column(c) for c in ("formula", "energy_pairs", "volume_per_atom")), strict=True
    ):
        by_formula[formula].append((float(energy), float(volume)))
    assert max(map(len, by_formula.values())) > 1
    for found in by_formula.values():
        energies = [energy for energy, _ in found]
        assert max(energies) - min(energies) < 0.8
        for i, (energy, volume) in enumerate(found):
            for other, other_volume in found[:i]:
                assert abs(energy - other) >= 4e-4 or abs(volume / other_volume - 1) >= 1.9e-3


def test_hull_distances_are_pymatgens(source: HypotheticalSource, store: Path) -> None:
    made = Store(store)
    known = {z for row in range(len(made)) for z in made.material(row).elements.tolist()}
    entries = [PDEntry(Composition(SYMBOLS[z]), 0.0) for z in known]
    for name, structure in compounds():
        crystal = crystal_of(structure)
        formed = Pairs().energies([crystal])[0] + 0.1 * crystal.numbers.mean()
        if structure.composition.elements[1:]:
            entries.append(PDEntry(structure.composition, formed * len(structure), name=name))
    rows = []
    for row in range(len(made)):
        material = made.material(row)
        energy = float(material.targets["formation_energy_pairs"] or 0)
        composition = Composition(material.formula)
        entries.append(PDEntry(composition, energy * composition.num_atoms))
        rows.append((entries[-1], material.targets["hull_distance_pairs"]))
    diagrams: dict[frozenset[Element], PhaseDiagram] = {}
    for entry, distance in rows:
        system = frozenset(entry.composition.elements)
        if system not in diagrams:
            inside = [e for e in entries if set(e.composition.elements) <= system]
            diagrams[system] = PhaseDiagram(inside)
        expected = diagrams[system].get_e_above_hull(entry)
        assert distance == pytest.approx(expected, abs=2e-6)
    assert any(distance > 0.01 for _, distance in rows)


def test_another_number_of_workers_gives_the_same_bytes(
    source: HypotheticalSource, store: Path, tmp_path: Path
) -> None:
    make(source, tmp_path / "two", LocalProcesses(2))
    assert contents(tmp_path / "two") == contents(store)


@pytest.mark.parametrize("calls", [1, 2, 3, 4, 9, 16])
def test_interrupted_anywhere_the_same_command_continues(
    calls: int,
    source: HypotheticalSource,
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the parents (call 1) and in the candidates; in one process, so that the calls count."""
    made = 0
    real = Pairs.energies

    def interrupting(self: Pairs, crystals: Any) -> Any:
        nonlocal made
        made += 1
        if made == calls:
            raise KeyboardInterrupt
        return real(self, crystals)

    with monkeypatch.context() as patch:
        patch.setattr(Pairs, "energies", interrupting)
        with pytest.raises(KeyboardInterrupt):
            make(source, tmp_path / "store")
    assert not (tmp_path / "store" / "manifest.json").exists()
    make(source, tmp_path / "store")
    assert contents(tmp_path / "store") == contents(store)


def test_killed_before_the_hull_the_same_command_continues(
    table: Path, store: Path, source: HypotheticalSource, tmp_path: Path
) -> None:
    output = tmp_path / "store"
    program = (
        "import os, signal, sys, pathlib\n"
        "from tests.prepare.hypothetical import test_hypothetical as t\n"
        "from datamodules.prepare.hypothetical import source as s\n"
        "s.hull_of_parents = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "t.make(t.source_of(pathlib.Path(sys.argv[1])), pathlib.Path(sys.argv[2]))\n"
    )
    command = [sys.executable, "-c", program, str(table), str(output)]
    done = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert list((output / WORK).glob("*/*.arrow"))
    make(source, output)
    assert contents(output) == contents(store)


@pytest.mark.parametrize("fewer", [30, 32], ids=["a slice is cut", "slices are whole"])
def test_more_candidates_continue_an_unfinished_store(
    fewer: int,
    source: HypotheticalSource,
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every slice of the smaller set is there; only its last one is made again."""
    output = tmp_path / "store"
    with monkeypatch.context() as patch:
        patch.setattr(HypotheticalSource, "complete", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            make(replace(source, candidates=fewer), output)
    slices = {p: p.stat().st_mtime_ns for p in (output / WORK).glob("*/0*.json")}
    assert len(slices) == 8 + (fewer == 32)
    with pytest.raises(SourceError, match=f"candidates is {fewer}, asked for 29") as raised:
        make(replace(source, candidates=29), output)
    assert "\n" not in str(raised.value)
    with pytest.raises(SourceError, match="window is"):
        make(replace(source, candidates=60, window=0.5), output)
    with monkeypatch.context() as patch:
        patch.setattr(HypotheticalSource, "complete", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            make(source, output)
    assert sum(p.stat().st_mtime_ns == then for p, then in slices.items()) == len(slices) - 1
    assert json.loads((output / WORK / "plan.json").read_text())["candidates"] == 60
    with pytest.raises(SourceError, match="candidates is 60, asked for 30"):
        make(replace(source, candidates=30), output)
    make(source, output)
    assert contents(output) == contents(store)


def test_a_changed_option_or_potential_is_refused(source: HypotheticalSource, store: Path) -> None:
    for change in ({"window": 0.5}, {"seed": 1}, {"candidates": 61}, {"relax_steps": 1}):
        with pytest.raises(SourceError, match=next(iter(change))):
            make(replace(source, **change), store)
    with pytest.raises(SourceError, match="pairs 2"):
        make(replace(source, potential=Pairs("pairs 2")), store)


def test_parents_without_labels_take_the_elements_own_energies(
    source: HypotheticalSource, tmp_path: Path
) -> None:
    made = make(replace(source, label=None, candidates=30), tmp_path / "store")
    references = made.manifest.source["references"]
    assert references["origin"] == "lowest of the elements' prototypes"
    calcium = crystal_of(compounds()[-1][1])
    lowest = Pairs().energies([scaled(calcium, v) for v in np.linspace(20, 40, 400)]).min()
    assert references["energies"]["Ca"] == pytest.approx(lowest, abs=2e-3)
    assert len(made) > 5


def test_mistakes_are_told_in_one_line(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setattr(Chgnet, "check", lambda self: "chgnet 0")
    output = ["--output", str(tmp_path / "s"), "--workers", "1", "--quiet"]

    def told(*argv: object) -> str:
        assert main(["hypothetical", *map(str, argv), *output]) == 2
        said = capsys.readouterr().err
        assert said.startswith("xxact: error: ")
        assert said.count("\n") == 1, said
        return said

    assert "--window 0" in told(table, "--window", "0")
    assert "--candidates 0" in told("--candidates", "0")
    assert "--seed -1" in told("--seed", "-1")
    assert "name PARENTS" in told("--formation-energy", "x")
    assert "--labels" in told(table, "--labels", "l.csv")
    assert "neither .csv nor .json" in told(tmp_path / "a.xyz")
    assert "of one kind" in told(table, tmp_path)
    assert "no column 'x'" in told(table, "--formation-energy", "x")


def test_without_the_potential_the_extra_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from importlib.metadata import PackageNotFoundError

    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    module = "datamodules.prepare.hypothetical.potential.version"
    monkeypatch.setattr(module, missing)
    assert main(["hypothetical", "--output", str(tmp_path / "s"), "--quiet"]) == 2
    said = capsys.readouterr().err
    assert "pip install -e '.[potential]'" in said
    assert said.count("\n") == 1
    assert not (tmp_path / "s").exists()
