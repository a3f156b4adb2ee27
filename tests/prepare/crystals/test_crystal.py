"""What makes sense as a crystal."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from datamodules.prepare.crystals.composition import reduced_formula
from datamodules.prepare.crystals.crystal import Crystal, EntryError
from datamodules.prepare.sources.prototypes import _library
from tests.prepare.examples import ROCK_SALT, crystal_of, random_structure

CELL = 4.0 * np.eye(3)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"symbols": ["Xx"]}, "unknown element"),
        ({"symbols": ["Fe3+"]}, "unknown element"),
        ({"symbols": [], "coordinates": np.empty((0, 3))}, "no atoms"),
        ({"coordinates": np.array([[0, np.nan, 0]])}, "value that is not finite"),
        ({"coordinates": np.zeros((2, 3))}, "malformed structure"),
        ({"coordinates": np.zeros((1, 2))}, "malformed structure"),
        ({"lattice": CELL * np.inf}, "value that is not finite"),
        ({"lattice": np.zeros((3, 3))}, "absurd volume per atom"),
        ({"lattice": np.array([[1.0, 0, 0], [2, 0, 0], [0, 0, 3]])}, "absurd volume per atom"),
        ({"lattice": CELL * 3}, "absurd volume per atom"),
        ({"lattice": np.diag([0.05, 20, 2000])}, "cell edge too long"),
        ({"lattice": CELL * 15}, "cell volume too large"),
        ({"occupancies": np.array([0.0])}, "occupancy outside of (0, 1]"),
        ({"occupancies": np.array([1.5])}, "occupancy outside of (0, 1]"),
        ({"occupancies": np.array([np.nan])}, "value that is not finite"),
        ({"symbols": ["H"] * 5001, "coordinates": np.zeros((5001, 3))}, "too many atoms"),
    ],
)
def test_nonsense_is_rejected_with_its_reason(change: dict, reason: str) -> None:
    arguments = {"lattice": CELL, "coordinates": np.zeros((1, 3)), "symbols": ["Fe"], **change}
    with pytest.raises(EntryError) as error:
        Crystal.from_symbols(**arguments)
    assert error.value.reason == reason
    assert pickle.loads(pickle.dumps(error.value)).args == error.value.args


def test_density_volume_and_formula_equal_pymatgens() -> None:
    mixed = Structure(Lattice.cubic(4), [{"Fe": 0.25, "Ni": 0.5}, "O"], [[0, 0, 0], [0.5] * 3])
    heavy = Structure(Lattice.cubic(4), ["O", "D", "D"], np.eye(3))
    for structure in [ROCK_SALT, mixed, random_structure(1), *_library()[::9]]:
        crystal = crystal_of(structure)
        assert crystal.volume == pytest.approx(structure.volume, rel=1e-12)
        assert crystal.density == pytest.approx(float(structure.density), rel=1e-6)
        if structure.is_ordered:
            formula = structure.composition.reduced_formula
            assert reduced_formula(*crystal.composition()) == formula
    assert crystal_of(heavy).density == pytest.approx(float(heavy.density), rel=1e-6)
