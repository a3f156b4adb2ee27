"""Small crystals and input files for the tests of preparation."""

from __future__ import annotations

import bz2
import csv
import json
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pymatgen.core import Lattice, Structure
from pymatgen.io.cif import CifParser, CifWriter

from datamodules.prepare.crystals.crystal import Crystal

ROCK_SALT = Structure.from_spacegroup(
    "Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]
)


def symbol_of(species: Any) -> str:
    """Symbol of a pymatgen element, ion or dummy; deuterium's `symbol` there is hydrogen's."""
    element = getattr(species, "element", species)
    return str(getattr(element, "name", None) or species.symbol)


def pymatgen_crystal(text: str) -> Crystal:
    """What pymatgen reads in a CIF."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        [structure] = CifParser.from_str(text).parse_structures(primitive=False)
    return crystal_of(structure)


def crystal_of(structure: Structure) -> Crystal:
    """A pymatgen structure as flat arrays, a row a species."""
    rows = [
        (symbol_of(species), site.frac_coords, occupancy)
        for site in structure
        for species, occupancy in site.species.items()
    ]
    return Crystal.from_symbols(
        structure.lattice.matrix,
        np.array([row[1] for row in rows]),
        [row[0] for row in rows],
        np.array([row[2] for row in rows]),
    )


def random_structure(seed: int, n_atoms: int = 5) -> Structure:
    """A triclinic cell of random atoms, none nearer than 0.6 Å to another."""
    random = np.random.default_rng(seed)
    lattice = Lattice.from_parameters(*random.uniform(4, 8, 3), *random.uniform(60, 115, 3))
    elements = ["Li", "O", "Ti", "Fe", "Ba", "Cu", "Si", "S"]
    symbols = [str(s) for s in random.choice(elements, n_atoms)]
    while True:
        structure = Structure(lattice, symbols, random.random((n_atoms, 3)))
        if structure.is_valid(tol=0.6):
            return structure


def cif_text(structure: Structure) -> str:
    """The structure as a CIF that lists all atoms."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return str(CifWriter(structure))


def write_csv(path: Path, rows: Iterable[Sequence[Any]], header: Sequence[str] = ()) -> Path:
    """Writes rows of (material_id, band_gap, cif)."""
    with open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(header or ["material_id", "band_gap", "cif"])
        writer.writerows(rows)
    return path


def csv_rows(n: int, seed: int = 0) -> list[list[Any]]:
    """n rows for `write_csv`; every third has no band gap."""
    return [
        [f"m-{seed}-{i}", "" if i % 3 == 0 else 0.1 * i, cif_text(random_structure(seed + i, 3))]
        for i in range(n)
    ]


def alexandria_entry(identifier: str, structure: Structure, **data: Any) -> dict[str, Any]:
    """An entry as Alexandria writes them, in short."""
    return {
        "@module": "pymatgen.entries.computed_entries",
        "@class": "ComputedStructureEntry",
        "energy": float("nan"),
        "data": {"mat_id": identifier, "e_form": -0.5, "band_gap_ind": 0.25, **data},
        "structure": structure.as_dict(),
    }


def write_alexandria(path: Path, entries: Sequence[Any], bare: bool = False) -> Path:
    """Writes entries as JSON, compressed if the name says so."""
    text = json.dumps(list(entries) if bare else {"entries": list(entries)}).encode()
    path.write_bytes(bz2.compress(text) if path.suffix == ".bz2" else text)
    return path


def written_cif(
    cell: Sequence[float],
    sites: str,
    symmetry: str = "",
    formula: str = "",
    units: int | None = None,
    columns: str = "label type_symbol fract_x fract_y fract_z",
    head: str = "",
) -> str:
    """A CIF as people write them.

    Args:
        cell: Lengths in Å and angles in degrees; one length is a cube.
        sites: Rows of the sites' loop, by line.
        symmetry: A name of the space group, or several operations, by line.
        formula: The sum formula.
        units: Formula units in the cell.
        columns: Of the loop.
        head: Other lines.
    """
    cell = [*cell] * 3 + [90.0] * 3 if len(cell) == 1 else cell
    names = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
    lines = ["data_x", head, *(f"_cell_{name} {x}" for name, x in zip(names, cell, strict=True))]
    if formula:
        lines.append(f"_chemical_formula_sum '{formula}'")
    if units:
        lines.append(f"_cell_formula_units_Z {units}")
    if "," in symmetry:
        operations = [f"'{line.strip()}'" for line in symmetry.strip().splitlines()]
        lines += ["loop_", "_symmetry_equiv_pos_as_xyz", *operations]
    elif symmetry:
        lines.append(f"_symmetry_space_group_name_H-M '{symmetry}'")
    lines += ["loop_", *(f"_atom_site_{name}" for name in columns.split())]
    return "\n".join([*lines, *(line.strip() for line in sites.strip().splitlines()), ""])
