"""Hypothetical crystals: known structure types with other elements, and a potential's energies.

Made in three steps. `begin` examines the parents and fits the energies of the elements; the records
are candidates, evaluated a formula at a time; `complete` adds the distances from the hull, which
need the whole set.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from datamodules.elements import ATOMIC_NUMBERS, SYMBOLS
from datamodules.io.files import replace_file
from datamodules.prepare.crystals.crystal import EntryError
from datamodules.prepare.crystals.substitution import NEAR, chemical_scale
from datamodules.prepare.hypothetical.drawing import FEWEST, Formula, formulas, start
from datamodules.prepare.hypothetical.evaluation import (
    Evaluated,
    Limits,
    Outcome,
    evaluate,
    scan,
)
from datamodules.prepare.hypothetical.parents import (
    Parent,
    examine,
    load,
    sample,
    structure_types,
)
from datamodules.prepare.hypothetical.potential import Potential
from datamodules.prepare.hypothetical.scan import relax
from datamodules.prepare.hypothetical.thermodynamics import (
    FEWEST_PARENTS,
    fitted_references,
    fitted_volumes,
    hull_of_parents,
)
from datamodules.prepare.sources.prototypes import BarePrototypeSource
from datamodules.prepare.sources.source import (
    Entry,
    Part,
    Progress,
    Run,
    Source,
    SourceError,
    Target,
)

CANDIDATES = 100_000
WINDOW = 1.0
MOST_PARENTS = 20_000
LARGEST_ELEMENT = 8
"""Atoms in the cells in which the elements are scanned where no labels are given."""
REFERENCES, VOLUMES = "references.json", "volumes.json"

Record = tuple[Formula, int]
"""A formula and the number of one of its structures."""


@dataclass(frozen=True, kw_only=True)
class HypotheticalSource(Source):
    """Hypothetical crystals with energies of a potential.

    Attributes:
        parents: Known crystals.
        potential: What gives the energies.
        label: The parents' target that is a formation energy, to which the energies of the elements
            are fitted; None takes each element's own lowest energy among the prototypes.
        candidates: Structures that are tried.
        seed: Another seed gives other formulas.
        window: eV/atom above a formula's lowest energy from which a structure is left out.
        relax_steps: Steps of relaxation of cell and atoms at most.
        most_parents: Parents that are used at most, chosen evenly by hash.
        prototypes: More structure types; pymatgen's AFLOW library.
        folder: Where `begin` left its results.
    """

    parents: Source
    potential: Potential
    label: str | None = None
    candidates: int = CANDIDATES
    seed: int = 0
    window: float = WINDOW
    relax_steps: int = 0
    most_parents: int = MOST_PARENTS
    prototypes: Source = field(default_factory=BarePrototypeSource)
    folder: Path | None = None
    name = "hypothetical"
    growing = ("candidates",)

    @property
    def licence(self) -> str:  # type: ignore[override]
        """Licences of everything that is in the set."""
        licences = [f"parents: {self.parents.licence}", self.prototypes.licence]
        return "; ".join(dict.fromkeys([*licences, self.potential.licence]))

    @property
    def citation(self) -> str:  # type: ignore[override]
        """Citations of everything that is in the set."""
        citations = [self.parents.citation, self.prototypes.citation, self.potential.citation]
        return "; ".join(dict.fromkeys(citations))

    @property
    def targets(self) -> tuple[Target, ...]:
        """The potential's labels, named so that nobody takes them for DFT."""
        return tuple(
            Target(name, f"{name}_{self.potential.name}", unit)
            for name, unit in (
                ("formation_energy", "eV/atom"),
                ("energy", "eV/atom"),
                ("hull_distance", "eV/atom"),
                ("bulk_modulus", "GPa"),
            )
        )

    def options(self) -> dict[str, Any]:
        """What is drawn, and the limits."""
        return {
            **super().options(),
            "parents": {"source": self.parents.name, **self.parents.options()},
            "potential": self.potential.check(),
            "label": self.label,
            "candidates": self.candidates,
            "seed": self.seed,
            "near": NEAR,
            "window": self.window,
            "relax_steps": self.relax_steps,
            "most_parents": self.most_parents,
        }

    def parts(self) -> list[Part]:
        """One part: the candidates; its checksum is that of the parents and the potential.

        Raises:
            SourceError: if the parents cannot be used.
        """
        version = self.potential.check()  # first: the rest takes seconds
        known = [*self.parents.parts(), *self.prototypes.parts()]
        texts = [*([part.name, part.checksum] for part in known), [version]]
        digest = hashlib.sha256(json.dumps(texts).encode()).hexdigest()
        return [Part("candidates", f"sha256:{digest}", entries=self.candidates)]

    def begin(self, folder: Path, run: Run) -> HypotheticalSource:
        """Examines the parents and determines the energies of the elements.

        Raises:
            SourceError: if the parents cannot be read, or are too few.
        """
        jobs: list[tuple[Any, ...]] = []
        sources = dict.fromkeys((self.parents, self.prototypes))
        for source, label in zip(sources, (self.label, None), strict=False):
            for entries in sample(source, self.most_parents):
                path = folder / f"parents-{len(jobs):06d}.json"
                jobs.append((path, label, self.potential, entries))
        run("parents", examine, [job for job in jobs if not job[0].exists()])
        if not (folder / VOLUMES).exists():
            volumes = {SYMBOLS[z]: v for z, v in fitted_volumes(_parents(folder)).items()}
            replace_file(folder / VOLUMES, json.dumps(volumes).encode())
        if not (folder / REFERENCES).exists():
            self._refer(folder, run)
        begun = replace(self, folder=folder)
        if next(begun._formulas(), None) is None:
            raise SourceError(
                f"hypothetical: no formula of the parents can be made in {FEWEST} structures of "
                "elements with a reference energy; give more parents"
            )
        return begun

    def _refer(self, folder: Path, run: Run) -> None:
        """Writes the energies of the elements."""
        if self.label is not None:
            references, residual = fitted_references(_parents(folder))
            if len(references) < 2:
                raise SourceError(
                    f"hypothetical: no two elements are in {FEWEST_PARENTS} parents with the label "
                    f"'{self.label}'; give more parents, or leave out --formation-energy"
                )
            origin = f"fitted to the parents' {self.label}, median residual {residual:.4f} eV/atom"
        else:
            paths = {s: folder / f"element-{s}.json" for s in chemical_scale()}
            missing = [item for item in paths.items() if not item[1].exists()]
            run("elements", _scan_element, [(p, s, self.potential, folder) for s, p in missing])
            energies = {s: json.loads(path.read_bytes()) for s, path in paths.items()}
            references = {ATOMIC_NUMBERS[s]: e for s, e in energies.items() if e is not None}
            origin = "lowest of the elements' prototypes"
        found = {SYMBOLS[number]: energy for number, energy in sorted(references.items())}
        content = {"origin": origin, "energies": found}
        replace_file(folder / REFERENCES, json.dumps(content, ensure_ascii=False).encode())

    def records(self, part: Part, progress: Progress) -> Iterator[Record]:
        """Yields the candidates, those of one formula after each other."""
        left = self.candidates
        for formula in self._formulas():
            for option in range(len(formula.options)):
                if not left:
                    return
                left -= 1
                yield formula, option

    def entry(self, record: Record, position: int) -> Entry:
        """Evaluates the formula, if that was not done just before, and gives one structure of it.

        Raises:
            EntryError: if the structure was left out.
        """
        formula, option = record
        outcome = _outcomes(self, formula)[option]
        if isinstance(outcome, EntryError):
            raise EntryError(outcome.reason, outcome.detail)
        values = (outcome.formation_energy, outcome.energy, None, outcome.bulk_modulus)
        targets = {target.name: value for target, value in zip(self.targets, values, strict=True)}
        return Entry(self.identify(record), outcome.crystal, targets)

    def identify(self, record: Record) -> str:
        """Seed, number of the formula, number of the structure, and the type's parent."""
        formula, option = record
        return f"hypothetical-{self.seed}-{formula.number}-{option}-{self._type(record).id}"

    def complete(self, rows: Sequence[pa.RecordBatch]) -> dict[str, NDArray[np.float32]]:
        """Distances from the hull of the set and its parents."""
        assert self.folder is not None
        references = _references(self.folder)
        hull = hull_of_parents(_parents(self.folder), references)
        formation, _, distance, _ = (target.name for target in self.targets)
        for row in _compositions(rows, formation):
            hull.add(*row)
        distances = [
            max(0.0, energy - hull.energy(numbers, fractions))
            for numbers, fractions, energy in _compositions(rows, formation)
        ]
        return {distance: np.array(distances, np.float32)}

    def describe(self) -> dict[str, Any]:
        """The parents' files, and the energies of the elements with their origin."""
        assert self.folder is not None
        return {
            "parents": [{"name": p.name, "checksum": p.checksum} for p in self.parents.parts()],
            "used_parents": len(_parents(self.folder)),
            "structure_types": sum(map(len, _types(self.folder).values())),
            "references": json.loads((self.folder / REFERENCES).read_bytes()),
        }

    def _formulas(self) -> Iterator[Formula]:
        assert self.folder is not None
        parents = _parents(self.folder)
        pool = frozenset(SYMBOLS[number] for number in _references(self.folder))
        systems = [parent.amounts for parent in parents]
        types = _types(self.folder)
        return formulas(systems, types, pool & set(chemical_scale()), self.seed)

    def _type(self, record: Record) -> Parent:
        assert self.folder is not None
        formula, option = record
        return _types(self.folder)[formula.stoichiometry][formula.options[option][0]]


def _compositions(
    rows: Sequence[pa.RecordBatch], energy: str
) -> Iterator[tuple[list[int], list[float], float]]:
    """Atomic numbers, fractions and formation energy of each row."""
    for batch in rows:
        columns = [batch.column(name).to_pylist() for name in ("elements", "fractions", energy)]
        yield from zip(*columns, strict=True)


@lru_cache(maxsize=2)
def _parents(folder: Path) -> list[Parent]:
    return load(sorted(folder.glob("parents-*.json")))


@lru_cache(maxsize=2)
def _types(folder: Path) -> dict[tuple[int, ...], list[Parent]]:
    return structure_types(_parents(folder))


@lru_cache(maxsize=2)
def _references(folder: Path) -> dict[int, float]:
    energies = json.loads((folder / REFERENCES).read_bytes())["energies"]
    return {ATOMIC_NUMBERS[symbol]: energy for symbol, energy in energies.items()}


@lru_cache(maxsize=2)
def _volumes(folder: Path) -> dict[int, float]:
    volumes = json.loads((folder / VOLUMES).read_bytes())
    return {ATOMIC_NUMBERS[symbol]: volume for symbol, volume in volumes.items()}


@lru_cache(maxsize=4)
def _outcomes(source: HypotheticalSource, formula: Formula) -> list[Outcome]:
    """What became of the structures of a formula; of the last formulas it is remembered."""
    assert source.folder is not None
    types = _types(source.folder)[formula.stoichiometry]
    volumes = _volumes(source.folder)
    starts = [start(types[kind], dict(replacing), volumes) for kind, replacing in formula.options]
    limits = Limits(source.window, source.relax_steps)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return evaluate(starts, source.potential, _references(source.folder), limits, relax)


def _scan_element(path: Path, symbol: str, potential: Potential, folder: Path) -> None:
    """Writes the lowest energy of an element among the elements' structure types, or null."""
    number = ATOMIC_NUMBERS[symbol]
    kinds = [
        parent
        for parent in _types(folder).get((1,), [])
        if len(parent.crystal.numbers) <= LARGEST_ELEMENT
    ]
    starts = [start(kind, {next(iter(kind.amounts)): number}, _volumes(folder)) for kind in kinds]
    energies = [o.energy for o in scan(starts, potential) if isinstance(o, Evaluated)]
    lowest = round(min(energies), 6) if energies else None
    replace_file(path, json.dumps(lowest).encode())
