"""The embedded data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Element
from pymatgen.core.structure_prediction.volume_predictor import DLSVolumePredictor

from datamodules.prepare.command_line import main
from datamodules.prepare.crystals.crystal import EntryError
from datamodules.prepare.crystals.substitution import NEAR
from datamodules.prepare.sources.prototypes import (
    VOLUME_RATIO,
    PrototypeSource,
    _library,
    _rescaled,
    electrostatic_energy,
    substitutions,
)
from datamodules.store.store import STRUCTURE_TARGETS, Store
from tests.prepare.examples import ROCK_SALT, random_structure


def test_substitutes_are_similar_distinct_and_always_the_same() -> None:
    drawn = substitutions({"Na": 4, "Cl": 4}, 7, 50)
    assert len(drawn) == 50
    assert drawn == substitutions({"Na": 4, "Cl": 4}, 7, 50)
    assert drawn != substitutions({"Na": 4, "Cl": 4}, 8, 50)
    assert len({frozenset(pair) for pair in drawn}) == 50
    for pair in drawn:
        for old, new in zip(("Na", "Cl"), pair, strict=True):
            assert abs(Element(old).mendeleev_no - Element(new).mendeleev_no) <= NEAR


def test_exchanged_elements_of_equal_amounts_are_drawn_once() -> None:
    drawn = substitutions({"Fe": 1, "Co": 1}, 0, 1000)
    assert len({frozenset(pair) for pair in drawn}) == len(drawn)
    assert all(a != b for a, b in drawn)
    assert ("Co", "Fe") not in drawn


def test_electrostatic_energy_of_rock_salt_is_madelungs() -> None:
    charge = (Element("Cl").X - Element("Na").X) / 2
    coulomb = 14.399645  # e²/(4πε₀) in eV Å
    expected = -1.747565 * charge**2 * coulomb / (5.64 / 2) / 2
    assert electrostatic_energy(ROCK_SALT) == pytest.approx(expected, rel=1e-5)


def test_electrostatic_energy_of_an_element_is_zero() -> None:
    structure = random_structure(0)
    structure.replace_species({element.symbol: "Fe" for element in structure.composition})
    assert electrostatic_energy(structure) == 0


def test_candidates_build_sensible_crystals() -> None:
    source = PrototypeSource()
    records = list(source.records(None, None))
    assert records == list(source.records(None, None))
    assert len({source.identify(record) for record in records}) == len(records) > 5000
    built, reasons = 0, set()
    for position in range(0, len(records), 300):
        try:
            entry = source.entry(records[position], position)
        except EntryError as error:
            reasons.add(error.reason)
            continue
        built += 1
        assert entry.crystal.occupancies.min() == 1
        assert -20 < (entry.targets["electrostatic_energy"] or 0) < 1
        volume = sum(float(Element.from_Z(int(z)).molar_volume) for z in entry.crystal.numbers)
        assert VOLUME_RATIO[0] / 2 < entry.crystal.volume / (volume / 0.602214) < VOLUME_RATIO[1]
    assert built > 12
    assert reasons <= {"substitutes do not fit the prototype"}


def test_volumes_are_those_of_pymatgens_predictor() -> None:
    predictor = DLSVolumePredictor(min_scaling=None, max_scaling=None)
    for number in range(1, 288, 24):
        prototype = _library()[number]
        amounts = {e.symbol: int(n) for e, n in prototype.composition.items()}
        for replaced in substitutions(amounts, number, 2):
            replacing = dict(zip(amounts, replaced, strict=True))
            structure = prototype.copy()
            structure.replace_species(replacing)
            ours = _rescaled(structure, number, replacing)
            assert ours.volume == pytest.approx(predictor.predict(structure), rel=1e-6)


def test_prototypes_become_a_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "store"
    command = ["prototypes", "--output", str(output), "--limit", "60", "--workers", "1", "--quiet"]
    assert main(command) == 0
    store = Store(output)
    counts = store.manifest.counts
    assert counts["read"] == 60
    assert counts["written"] == len(store) > 30
    assert store.target_units == {"electrostatic_energy": "eV/atom", **STRUCTURE_TARGETS}
    assert np.isfinite(store.column("space_group")).all()
    assert "AFLOW" in store.manifest.source["citation"]
    assert main(command) == 0
    assert "nothing to do" in capsys.readouterr().out
