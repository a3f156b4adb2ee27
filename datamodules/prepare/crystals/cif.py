"""CIF text to a crystal: a fast way for the common form, pymatgen for everything else.

The fast way takes structures that list every atom of the cell (space group P1, as databases
export them), with full occupancy and plain element symbols. It gives what
`pymatgen.core.Structure.from_str` gives; symmetry, disorder, hydrogens without positions,
magnetism or several structures in a file go to pymatgen.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from typing import Any

import gemmi
import numpy as np
from numba import njit
from numpy.typing import NDArray

from datamodules.prepare.crystals.crystal import Crystal, EntryError, is_symbol

_CELL = (
    "_cell_length_a", "_cell_length_b", "_cell_length_c",
    "_cell_angle_alpha", "_cell_angle_beta", "_cell_angle_gamma",
)  # fmt: skip
_OPERATIONS = (
    "_symmetry_equiv_pos_as_xyz",
    "_space_group_symop_operation_xyz",
    "_space_group_symop.operation_xyz",
)
# Any of these means more than a list of atoms.
_SPECIAL = ("_atom_site_attached_hydrogens", "_space_group_symop_magn_operation.xyz")
_SITE = ("type_symbol", "fract_x", "fract_y", "fract_z", "?occupancy")
# pymatgen takes sites this close (fractions of the cell) for one disordered site.
_SAME_SITE = 1e-4


def crystal_from_cif(text: str) -> Crystal:
    """Reads a CIF.

    Args:
        text: The content of a CIF file with one structure.

    Raises:
        EntryError: if it is no CIF, or the crystal in it makes no sense.
    """
    fast = fast_crystal(text)
    return fast if fast is not None else pymatgen_crystal(text)


def fast_crystal(text: str) -> Crystal | None:
    """Reads a CIF that lists all atoms of an ordered cell; None if it is another kind of CIF."""
    try:
        document = gemmi.cif.read_string(text)
    except (ValueError, RuntimeError, UnicodeEncodeError):
        return None
    if len(document) != 1:
        return None
    block = document[0]
    for tag in _OPERATIONS:
        operations = block.find_values(tag)
        if len(operations):
            break
    else:
        return None
    if len(operations) != 1 or operations.str(0).replace(" ", "").lower() != "x,y,z":
        return None
    if any(len(block.find_values(tag)) for tag in _SPECIAL):
        return None
    sites = block.find("_atom_site_", _SITE)
    cell = [block.find_value(tag) for tag in _CELL]
    if not len(sites) or None in cell:
        return None
    try:
        lengths_angles = _numbers(cell)
        symbols = [gemmi.cif.as_string(value) for value in sites.column(0)]
        coordinates = np.array([_numbers(sites.column(i)) for i in (1, 2, 3)]).T.copy()
        if sites.has_column(4) and set(_numbers(sites.column(4))) != {1.0}:
            return None
    except ValueError:
        return None
    if not all(is_symbol(symbol) for symbol in symbols):
        return None
    lattice = lattice_from_parameters(*lengths_angles)
    if lattice is None or not _tidy(coordinates):
        return None
    return Crystal.from_symbols(lattice, coordinates, symbols)


def pymatgen_crystal(text: str) -> Crystal:
    """Reads any CIF with pymatgen.

    Raises:
        EntryError: if pymatgen cannot read it, or finds not exactly one structure.
    """
    from pymatgen.io.cif import CifParser

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            structures = CifParser.from_str(text).parse_structures(primitive=False)
        except Exception as error:  # pymatgen raises anything on broken CIFs
            raise EntryError("unreadable CIF", f"{type(error).__name__}: {error}") from None
    if len(structures) != 1:
        raise EntryError("several structures in one CIF", str(len(structures)))
    structure = structures[0]
    rows = [
        (specie, site.frac_coords, occupancy)
        for site in structure
        for specie, occupancy in site.species.items()
    ]
    return Crystal.from_symbols(
        structure.lattice.matrix,
        np.array([row[1] for row in rows]).reshape(-1, 3),
        [symbol_of(row[0]) for row in rows],
        np.array([row[2] for row in rows], dtype=np.float64),
    )


def symbol_of(species: Any) -> str:
    """Symbol of a pymatgen element, ion or dummy; deuterium's `symbol` there is hydrogen's."""
    element = getattr(species, "element", species)
    return str(getattr(element, "name", None) or species.symbol)


def lattice_from_parameters(
    a: float, b: float, c: float, alpha: float, beta: float, gamma: float
) -> NDArray[np.float64] | None:
    """Cell vectors as rows, shape (3, 3), Å, with a along x; None if no cell has such angles.

    Args:
        a: Å.
        b: Å.
        c: Å.
        alpha: Degrees.
        beta: Degrees.
        gamma: Degrees.
    """
    # Cosines of right angles are exact zeros, so that orthogonal cells stay orthogonal.
    cosines = [0.0 if x == 90 else math.cos(math.radians(x)) for x in (alpha, beta, gamma)]
    ca, cb, cg = cosines
    sg = math.sqrt(max(1 - cg * cg, 0.0))
    if not (a > 0 and b > 0 and c > 0 and sg > 0):
        return None
    y = (ca - cb * cg) / sg
    z2 = 1 - cb * cb - y * y
    if not z2 > 0:
        return None
    return np.array([[a, 0, 0], [b * cg, b * sg, 0], [c * cb, c * y, c * math.sqrt(z2)]])


def _numbers(values: Iterable[str]) -> list[float]:
    """CIF numbers without their standard uncertainties in parentheses.

    Raises:
        ValueError: if one is no number ("?" and "." included).
    """
    values = list(values)
    try:
        return [float(value) for value in values]
    except ValueError:
        return [float(value.split("(", 1)[0]) for value in values]


@njit(cache=True)
def _tidy(coordinates: NDArray[np.float64]) -> bool:
    """Puts coordinates into the cell and 0.3333 to 1/3, in place; False if two sites coincide.

    As pymatgen does: within 1e-4 of their value thirds are meant to be exact, which symmetry
    needs, and sites within 1e-4 of each other are one disordered site.
    """
    n = len(coordinates)
    for i in range(n):
        for axis in range(3):
            x = coordinates[i, axis]
            for ideal in (1 / 3, 2 / 3):
                if abs(x / ideal - 1) <= 1e-4:
                    x = ideal
            coordinates[i, axis] = x - np.floor(x)
    for i in range(n):
        for j in range(i):
            close = True
            for axis in range(3):
                difference = abs(coordinates[i, axis] - coordinates[j, axis])
                close = close and min(difference, 1 - difference) < _SAME_SITE
            if close:
                return False
    return True
