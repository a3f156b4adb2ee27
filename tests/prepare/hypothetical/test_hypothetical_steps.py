"""The steps by which hypothetical crystals are made, each by itself."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
from pymatgen.core import Composition, Element, Structure

from datamodules.elements import SYMBOLS
from datamodules.prepare.crystals.crystal import Crystal, EntryError
from datamodules.prepare.crystals.substitution import NEAR
from datamodules.prepare.hypothetical import evaluation
from datamodules.prepare.hypothetical.drawing import FEWEST, MOST, formulas
from datamodules.prepare.hypothetical.evaluation import Evaluated, Limits, evaluate
from datamodules.prepare.hypothetical.parents import Parent, examine, load, sample, structure_types
from datamodules.prepare.hypothetical.potential import GPA, Chgnet
from datamodules.prepare.hypothetical.scan import fitted_minimum, scaled
from datamodules.prepare.hypothetical.thermodynamics import Hull, fitted_references
from datamodules.prepare.sources.parquet import ParquetSource
from datamodules.prepare.sources.source import Target
from tests.prepare.examples import ROCK_SALT, crystal_of
from tests.prepare.hypothetical.pairs import Pairs, compounds
from tests.prepare.sources.test_parquet import row, write


def test_hull_of_several_elements_is_pymatgens() -> None:
    """Random compounds of up to five elements, many of them not corners."""
    random = np.random.default_rng(0)
    system = [3, 8, 12, 17, 26]
    hull, entries = Hull(), [PDEntry(Composition(SYMBOLS[z]), 0.0) for z in system]
    compounds = []
    for _ in range(120):
        numbers = sorted(random.choice(system, random.integers(2, 6), replace=False).tolist())
        amounts = random.integers(1, 5, len(numbers))
        energy = float(random.normal(-0.3, 0.5))
        compounds.append((numbers, (amounts / amounts.sum()).tolist(), energy))
        hull.add(*compounds[-1])
        parts = {SYMBOLS[z]: int(n) for z, n in zip(numbers, amounts, strict=True)}
        entries.append(PDEntry(Composition(parts), energy * int(amounts.sum())))
    diagram = PhaseDiagram(entries)
    for (numbers, fractions, energy), entry in zip(compounds, entries[5:], strict=True):
        expected = diagram.get_e_above_hull(entry)
        assert energy - hull.energy(numbers, fractions) == pytest.approx(expected, abs=1e-8)


class Wells(Pairs):
    """Birch–Murnaghan's curve of second order with the minimum that a crystal's masses tell."""

    def energies(self, crystals: Any) -> Any:
        """Energies in eV/atom: depth, bulk modulus and volume are hidden in the masses."""
        found = []
        for crystal in crystals:
            depth, modulus, volume = crystal.masses[:3]
            strain = (volume / crystal.volume_per_atom) ** (2 / 3) - 1
            found.append(depth + 9 / 8 * modulus / GPA * volume * strain**2)
        return np.array(found)


def well(
    start: float = 22.0, volume: float = 22.0, energy: float = -1.0, modulus: float = 50.0
) -> Crystal:
    """A start at a volume per atom, for `Wells`."""
    crystal = scaled(crystal_of(ROCK_SALT), start)
    return replace(crystal, masses=np.array([energy, modulus, volume, *[0.0] * 5]))


def evaluated(*starts: Crystal | EntryError, window: float = 1.0) -> list[Any]:
    """Volume and energy of what is kept, the reason of what is not."""
    references = {11: 0.0, 17: 0.0}

    def relax(*_: Any) -> Crystal:
        raise AssertionError("not asked for")

    outcomes = evaluate(starts, Wells(), references, Limits(window, 0), relax)
    return [o.reason if isinstance(o, EntryError) else o for o in outcomes]


def test_the_minimum_energy_and_modulus_of_the_scan_are_the_curves() -> None:
    (found,) = evaluated(well(start=24.0, volume=21.0, energy=-1.5, modulus=60.0))
    assert found.crystal.volume_per_atom == pytest.approx(21.0, rel=1e-6)
    assert found.energy == pytest.approx(-1.5, abs=1e-9)
    assert found.bulk_modulus == pytest.approx(60.0, rel=1e-4)
    assert found.formation_energy == pytest.approx(-1.5, abs=1e-9)


@pytest.mark.parametrize(
    ("start", "reason"),
    [
        (well(start=22, volume=32), "no minimum inside the scan"),
        (well(start=22, volume=14), "no minimum inside the scan"),
        (well(start=8, volume=8), "atoms too near"),
        (well(start=3.9, volume=3.9), "small volume per atom"),
        (well(modulus=1.9), "absurd bulk modulus"),
        (well(modulus=510), "absurd bulk modulus"),
        (well(start=61, volume=60.5), "large volume per atom"),
        (well(energy=-5.1), "absurd formation energy"),
        (well(energy=1.6), "absurd formation energy"),
        (EntryError("no volume predicted"), "no volume predicted"),
        (well(energy=np.nan), "no energy"),
    ],
)
def test_what_is_no_crystal_has_its_reason(start: Any, reason: str) -> None:
    assert evaluated(start) == [reason]


def test_the_window_counts_from_the_lowest_that_is_sound() -> None:
    starts = [well(energy=-1), well(energy=-0.3, volume=23), well(energy=-5.5), well(energy=0.1)]
    kept = evaluated(*starts)
    assert [isinstance(o, Evaluated) for o in kept] == [True, True, False, False]
    assert kept[2:] == ["absurd formation energy", "too far above the formula's lowest"]
    narrow = evaluated(*starts, window=0.5)
    assert narrow[1] == "too far above the formula's lowest"


def test_equal_energy_and_volume_come_once() -> None:
    same = "same energy and volume as another of the formula"
    kept = evaluated(well(), well(start=23), well(volume=22.2), well(energy=-1.001))
    assert [o if isinstance(o, str) else "kept" for o in kept] == ["kept", same, "kept", "kept"]


def test_no_two_of_four_points_without_a_minimum_between() -> None:
    volumes = np.array([10.0, 12.0, 14.0, 16.0])
    assert fitted_minimum(volumes, 0.1 * volumes) is None
    assert fitted_minimum(volumes, -((volumes - 13.0) ** 2)) is None


def parents_of(structures: tuple[tuple[str, Structure], ...]) -> list[Parent]:
    """Parents without energies, each atom with a Wyckoff letter of its own kind."""
    return [
        Parent(name, crystal_of(s), "a" * len(s), 1 + i % 4, None, None)
        for i, (name, s) in enumerate(structures)
    ]


def test_formulas_are_near_the_known_ones_and_come_once() -> None:
    parents = parents_of(compounds())
    types = structure_types(parents)
    pool = frozenset(SYMBOLS[z] for z in (3, 8, 9, 11, 12, 16, 17, 19, 20, 34, 35, 37, 38))
    systems = [parent.amounts for parent in parents]
    drawn = [f for f, _ in zip(formulas(systems, types, pool, 3), range(40), strict=False)]
    again = [f for f, _ in zip(formulas(systems, types, pool, 3), range(40), strict=False)]
    assert drawn == again
    other = [f for f, _ in zip(formulas(systems, types, pool, 4), range(40), strict=False)]
    assert drawn != other
    made = set()
    known = {tuple(sorted(a)) for a in systems if len(a) > 1}
    for formula in drawn:
        kinds = types[formula.stoichiometry]
        assert FEWEST <= len(formula.options) <= MOST
        assert len(set(formula.options)) == len(formula.options)
        compositions = set()
        for kind, replacing in formula.options:
            new = dict(replacing)
            compositions.add(tuple(sorted((new[z], n) for z, n in kinds[kind].amounts.items())))
        assert len(compositions) == 1
        made.add(compositions.pop())
    assert len(made) == len(drawn)
    for composition in made:
        elements = [Element.from_Z(z) for z, _ in composition]
        assert any(
            all(
                min(abs(e.mendeleev_no - Element.from_Z(z).mendeleev_no) for z in system) <= NEAR
                for e in elements
            )
            for system in known
        )


def test_formulas_end_where_there_are_no_more() -> None:
    parents = parents_of(compounds())
    systems = [parent.amounts for parent in parents]
    types = structure_types(parents)
    drawn = list(formulas(systems, types, frozenset({"Li", "Na", "Cl"}), 0))
    compositions = {tuple(sorted(new for _, new in f.options[0][1])) for f in drawn}
    assert 1 <= len(drawn) <= 6
    assert compositions <= {(3, 11), (3, 17), (11, 17)}


def test_references_of_rare_elements_are_not_fitted() -> None:
    parents = [replace(parent, energy=-1.0, label=0.5) for parent in parents_of(compounds())]
    references, _ = fitted_references(parents[:11])
    assert 3 not in references or len([p for p in parents[:11] if 3 in p.amounts]) >= 8
    assert fitted_references(parents[:5]) == ({}, pytest.approx(np.nan, nan_ok=True))


def test_relaxation_follows_forces_downhill() -> None:
    pytest.importorskip("ase", reason="ASE comes with the extra `potential`")
    from datamodules.prepare.hypothetical.scan import relax

    start = crystal_of(ROCK_SALT)
    moved = start.coordinates.copy()
    moved[0] += 0.03
    start = replace(start, coordinates=moved, lattice=start.lattice * 0.98)
    before = Pairs().derivatives(start)
    few, many = (Pairs().derivatives(relax(Pairs(), start, n)) for n in (3, 60))
    assert many.energy < few.energy < before.energy
    assert np.abs(many.forces).max() < 0.1 * np.abs(before.forces).max()


def test_the_test_potentials_forces_and_stress_are_its_energies_slopes() -> None:
    crystal = crystal_of(ROCK_SALT)
    crystal = replace(crystal, coordinates=crystal.coordinates + 0.01 * np.eye(8, 3))
    found = Pairs().derivatives(crystal)
    step = np.zeros((8, 3))
    step[0, 0] = 1e-5
    moved = [
        replace(crystal, coordinates=crystal.coordinates + s @ np.linalg.inv(crystal.lattice))
        for s in (step, -step)
    ]
    slope = np.diff(Pairs().energies(moved))[0] * 8 / 2e-5
    assert found.forces[0, 0] == pytest.approx(slope, rel=1e-4)
    strained = [replace(crystal, lattice=crystal.lattice * (1 + e)) for e in (1e-5, -1e-5)]
    slope = -np.diff(Pairs().energies(strained))[0] * 8 / 2e-5
    assert np.trace(found.stress) * crystal.volume == pytest.approx(slope, rel=1e-3)


def test_chgnet_gives_what_its_own_package_says() -> None:
    chgnet = pytest.importorskip("chgnet.model", reason="CHGNet is the extra `potential`")
    crystals = [crystal_of(ROCK_SALT), crystal_of(compounds()[3][1])]
    energies = Chgnet().energies([*crystals, scaled(crystals[0], 900.0)])
    model = chgnet.CHGNet.load(use_device="cpu", verbose=False)
    assert energies[0] == pytest.approx(float(model.predict_structure(ROCK_SALT)["e"]), abs=1e-5)
    assert np.isnan(energies[2])  # atoms alone
    assert (Chgnet().energies(crystals) == energies[:2]).all()
    found = Chgnet().derivatives(scaled(crystals[0], 15.0))
    assert found.energy > energies[0]
    assert np.trace(found.stress) < 0  # compressed: it wants to grow
    minimum = evaluation.scan([crystals[0]], Chgnet())[0]
    assert isinstance(minimum, Evaluated)
    assert minimum.bulk_modulus == pytest.approx(24, abs=8)  # experiment: 25 GPa
    assert minimum.crystal.volume_per_atom == pytest.approx(22.9, abs=1.0)


def test_parents_are_a_sample_in_the_sources_order_whatever_it_is(tmp_path: Path) -> None:
    """Parquet's records read their file themselves: only their entries go to workers."""
    rows = [row(f"{name}-{i}", s, e=-1.0) for i, (name, s) in enumerate(compounds())]
    path = write(tmp_path / "parents.parquet", rows)
    source = ParquetSource(files=(path,), labels=(Target("e", "formation_energy", "eV/atom"),))
    every, some = (
        [entry for entries in sample(source, most) for entry in entries] for most in (1000, 20)
    )
    assert [entry.id for entry in every] == [row["immutable_id"] for row in rows]
    chosen = [entry.id for entry in some]
    assert len(chosen) == 20
    assert chosen == [entry.id for entry in every if entry.id in chosen]
    assert chosen != [entry.id for entry in every[:20]]
    examine(
        tmp_path / "parents.json", "formation_energy", Pairs(), pickle.loads(pickle.dumps(some))
    )
    parents = load([tmp_path / "parents.json"])
    assert [parent.id for parent in parents] == chosen
    assert {parent.label for parent in parents} == {-1.0}
    by_name = {f"{name}-{i}": s for i, (name, s) in enumerate(compounds())}
    for parent in parents:
        known = by_name[parent.id]
        assert parent.crystal.volume_per_atom == pytest.approx(known.volume / len(known), rel=1e-6)
        assert len(parent.crystal.numbers) == len(known.get_primitive_structure())
