"""What people have of a crystal structure, as the flat arrays that are simulated."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datamodules.elements import SYMBOLS
from datamodules.prepare.crystals.cif import crystal_from_cif
from datamodules.prepare.crystals.crystal import Crystal, EntryError

#: A symbol and, at most, an oxidation state: Fe, Fe3+, O2-, Fe+3.
_SPECIES = re.compile(r"([A-Z][a-z]?)(?:\d*[+-]\d*)?")


def to_crystal(given: Any) -> Crystal:
    """Reads a crystal structure of any usual form.

    Args:
        given: A pymatgen `Structure`, ASE `Atoms`, the `Path` of a CIF, a tuple (lattice, species,
            positions) or (lattice, species, positions, occupancies), or a `Crystal`:

            lattice: Cell vectors as rows, shape (3, 3), Å, or (a, b, c, α, β, γ) in Å and degrees.
            species: Of each row an element's symbol ("Fe", "Fe3+", "D"), an atomic number, or of
                a mixed site a mapping such as {"Fe": 0.6, "Mn": 0.4} from symbols to occupancies.
            positions: Fractional coordinates, shape (n, 3).
            occupancies: Shape (n,); 1 if left out. Rows may share a position.

    Raises:
        EntryError: if it is no crystal: an unknown element, no atoms, values that are not finite,
            no volume, an occupancy outside of (0, 1], or beyond the caps of `Crystal`.
        TypeError: if it is of another form.
    """
    if isinstance(given, Crystal):
        return given
    if isinstance(given, Path):
        return _of_file(given)
    if isinstance(given, tuple | list) and len(given) in (3, 4):
        return _of_arrays(*given)
    if hasattr(given, "get_scaled_positions"):
        return of_atoms(given)
    if hasattr(given, "lattice") and hasattr(given, "frac_coords"):
        return _of_structure(given)
    raise TypeError(
        f"structure: cannot simulate {type(given).__name__}; give a pymatgen Structure, ASE Atoms, "
        "the Path of a CIF, or (lattice, species, positions[, occupancies])"
    )


def _of_file(path: Path) -> Crystal:
    return crystal_from_cif(path.read_bytes().decode("utf-8", "replace"))


def _of_structure(structure: Any) -> Crystal:
    """A periodic pymatgen structure."""
    rows = [
        (species, number, occupancy)
        for number, site in enumerate(structure)
        for species, occupancy in site.species.items()
    ]
    coordinates = np.asarray(structure.frac_coords, np.float64).reshape(-1, 3)
    return Crystal.from_symbols(
        np.asarray(structure.lattice.matrix),
        coordinates[[number for _, number, _ in rows]],
        [_name(species) for species, _, _ in rows],
        np.array([occupancy for _, _, occupancy in rows]),
    )


@cache
def _name(species: Any) -> str:
    """The symbol of a pymatgen element or ion; not its `symbol`: deuterium's is hydrogen's."""
    element = getattr(species, "element", species)
    return getattr(element, "name", None) or str(species.symbol)


def of_atoms(atoms: Any) -> Crystal:
    """Reads periodic ASE atoms.

    Raises:
        EntryError: if they are not periodic, or a site is not occupied by one species alone.
    """
    if not all(atoms.pbc) or atoms.cell.rank < 3:
        raise EntryError("not periodic in three dimensions")
    for site in (atoms.info.get("occupancy") or {}).values():
        if any(share < 1 for share in site.values()):
            # ASE keeps one of several species and forgets how often a site is occupied.
            raise EntryError("disordered", "ASE reads one species a site; read the CIF without it")
    return Crystal.from_symbols(
        np.array(atoms.cell[:], np.float64),
        atoms.get_scaled_positions(wrap=False),
        atoms.get_chemical_symbols(),
    )


def _of_arrays(
    lattice: ArrayLike,
    species: Sequence[str | int | Mapping[str, float]],
    positions: ArrayLike,
    occupancies: ArrayLike | None = None,
) -> Crystal:
    """Plain arrays; see `to_crystal`."""
    cell = _numbers("lattice", lattice)
    if cell.shape == (6,):
        cell = _cell(cell)
    coordinates = _numbers("positions", positions)
    n = len(species)
    if coordinates.shape != (n, 3):
        raise EntryError(
            "malformed structure", f"{n} species and positions of shape {coordinates.shape}"
        )
    shares = np.ones(n) if occupancies is None else _numbers("occupancies", occupancies)
    if shares.shape != (n,):
        raise EntryError("malformed structure", f"{n} species, occupancies {shares.shape}")
    rows = [
        (symbol, index, part * shares[index])
        for index, one in enumerate(species)
        for symbol, part in _shares(one)
    ]
    return Crystal.from_symbols(
        cell,
        coordinates[[index for _, index, _ in rows]],
        [symbol for symbol, _, _ in rows],
        np.array([share for _, _, share in rows]),
    )


def _numbers(what: str, values: ArrayLike) -> NDArray[np.float64]:
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise EntryError("malformed structure", f"{what} are not numbers") from None


def _shares(species: str | int | Mapping[str, float]) -> Iterable[tuple[str, float]]:
    """The elements of a site, and the part of it that each has."""
    if isinstance(species, Mapping):
        return [(_symbol(one), float(part)) for one, part in species.items()]
    return [(_symbol(species), 1.0)]


def _symbol(species: Any) -> str:
    if isinstance(species, int | np.integer):
        if not 1 <= species < len(SYMBOLS):
            raise EntryError("unknown element", f"atomic number {species}")
        return SYMBOLS[int(species)]
    match = _SPECIES.fullmatch(str(species).strip())
    if match is None:
        raise EntryError("unknown element", repr(str(species)))
    return match[1]


def _cell(parameters: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cell vectors of (a, b, c, α, β, γ): c along z, a in the x-z plane."""
    a, b, c = parameters[:3]
    alpha, beta, gamma = np.radians(parameters[3:])
    cosines = np.cos([alpha, beta, gamma])
    rest = 1 - (cosines**2).sum() + 2 * cosines.prod()
    if not (np.isfinite(parameters).all() and parameters.min() > 0 and rest > 1e-12):
        told = ", ".join(f"{x:g}" for x in parameters)
        raise EntryError("impossible cell", f"a, b, c, α, β, γ = {told}")
    reciprocal = (cosines[0] * cosines[1] - cosines[2]) / (math.sin(alpha) * math.sin(beta))
    angle = math.acos(max(-1.0, min(1.0, reciprocal)))
    return np.array(
        [
            [a * math.sin(beta), 0.0, a * cosines[1]],
            [
                -b * math.sin(alpha) * math.cos(angle),
                b * math.sin(alpha) * math.sin(angle),
                b * cosines[0],
            ],
            [0.0, 0.0, c],
        ]
    )
