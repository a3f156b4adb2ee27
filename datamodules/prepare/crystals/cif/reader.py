"""CIF text to a crystal, compared with what the file itself says of it.

A fast way takes structures that list every atom of the cell, as databases export them: space
group P1, full occupancy, plain symbols. All others are read site by site: what is on it
(`sites.py`), the symmetry that is meant (`space_groups.py`), all atoms of the cell
(`positions.py`), hydrogens that are stated but not located. Where a name leaves the setting open,
the one is taken that gives the stated formula; what contradicts it is refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import gemmi
import numpy as np
from numba import njit
from numpy.typing import NDArray

from datamodules.prepare.crystals.cif.positions import expand
from datamodules.prepare.crystals.cif.sites import Site, read_sites
from datamodules.prepare.crystals.cif.space_groups import Setting, settings
from datamodules.prepare.crystals.composition import Stated, check_composition, read_amounts
from datamodules.prepare.crystals.crystal import Crystal, EntryError, Note, is_symbol
from datamodules.prepare.crystals.distances import check_distances

MAX_CIF = 32 << 20
"""Characters; files with embedded reflections have up to 20 MB."""

_CELL = (
    "_cell_length_a", "_cell_length_b", "_cell_length_c",
    "_cell_angle_alpha", "_cell_angle_beta", "_cell_angle_gamma",
)  # fmt: skip
_OPERATIONS = ("_symmetry_equiv_pos_as_xyz", "_space_group_symop_operation_xyz")
_GROUP_NUMBERS = ("_symmetry_Int_Tables_number", "_space_group_IT_number")
_SITE = ("type_symbol", "fract_x", "fract_y", "fract_z", "?occupancy", "?attached_hydrogens")
_UNKNOWN = ("?", ".", "")
# Species this close (fractions of the cell) are one disordered site.
_SAME_SITE = 1e-4

#: Words of a text that may be modulated; then its tags are looked at.
_MAYBE_MODULATED = ("modulation_dim", "_ssg_", "wave_vector", "special_func", "subsystem")
_MODULATED = re.compile(
    r"_cell_wave_vector|_cell_subsystem|_space_group_ssg|_symmetry_ssg|.*_ssg_operation"
    r"|_atom_site_\w*(?:special_func|fourier)|_cell_modulation_dimension"
)
#: The dictionary language of 2011 writes categories with a dot.
_DOTTED = re.compile(
    r"(?m)(?<![^\s])(_(?:atom_site|cell|chemical_formula|chemical|space_group_symop|space_group"
    r"|symmetry_equiv|symmetry))\.(?=\w)"
)


def crystal_from_cif(text: str) -> Crystal:
    """Reads a CIF.

    Args:
        text: The content of a CIF file with one structure.

    Raises:
        EntryError: if it is no CIF, the crystal in it makes no sense, or contradicts what the file
            says of it.
    """
    block, notes = _block(text)
    crystal = _listed_crystal(block) or _symmetric_crystal(block)
    return replace(crystal, notes=(*notes, *crystal.notes)) if notes else crystal


def fast_crystal(text: str) -> Crystal | None:
    """Reads a CIF that lists all atoms of an ordered cell; None if it is another kind of CIF."""
    return _listed_crystal(_block(text)[0])


def general_crystal(text: str) -> Crystal:
    """Reads any CIF the long way.

    Raises:
        EntryError: as `crystal_from_cif`.
    """
    return _symmetric_crystal(_block(text)[0])


def _block(text: str) -> tuple[gemmi.cif.Block, list[Note]]:
    """The block of the structure."""
    if len(text) > MAX_CIF:
        raise EntryError("CIF too large", f"{len(text)} characters > {MAX_CIF}")
    text = text.removeprefix("\ufeff")
    if "_atom_site." in text:
        text = _DOTTED.sub(r"\1_", text)
    notes: list[Note] = []
    try:
        document = gemmi.cif.read_string(text)
    except (ValueError, RuntimeError, UnicodeEncodeError) as error:
        document = _damaged(text, error)
        notes.append(Note("CIF with mistakes", str(error)))
    lowered = text.lower()
    if any(word in lowered for word in _MAYBE_MODULATED):
        for block in document:
            _refuse_modulated(block)
    blocks = [block for block in document if len(block.find_values("_atom_site_fract_x"))]
    if not blocks:
        raise EntryError("unreadable CIF", "no atoms with fractional coordinates in it")
    if len(blocks) > 1:
        raise EntryError("several structures in one CIF", str(len(blocks)))
    return blocks[0], notes


def _damaged(text: str, error: Exception) -> gemmi.cif.Document:
    """A CIF with letters that are no ASCII outside of quotes, or mistakes that leave no doubt.

    Raises:
        EntryError: with the parser's reason.
    """
    plain = text.replace("□", "Va").encode("ascii", "replace").decode()
    try:
        document = gemmi.cif.read_string(plain, check_level=0)
    except (ValueError, RuntimeError):
        raise EntryError("unreadable CIF", str(error)) from None
    for block in document:
        tags: set[str] = set()
        for item in block:
            for name in _names(item):
                if name in tags and re.match("_(cell|atom_site|symmetry|space_group)_", name):
                    raise EntryError("unreadable CIF", f"{name} twice")
                tags.add(name)
    return document


def _names(item: Any) -> list[str]:
    """The tags of an item of a block, in lower case."""
    tags = [item.pair[0]] if item.pair else list(item.loop.tags) if item.loop else []
    return [tag.lower() for tag in tags]


def _refuse_modulated(block: gemmi.cif.Block) -> None:
    for item in block:
        for name in _names(item):
            if not _MODULATED.match(name):
                continue
            known = [v for v in block.find_values(name) if v not in _UNKNOWN]
            harmless = {"_cell_modulation_dimension": "0", "_cell_subsystems_number": "1"}
            if known and known[0].strip("'\"") != harmless.get(name):
                raise EntryError("modulated structure", f"{name} {known[0]}")


def _listed_crystal(block: gemmi.cif.Block) -> Crystal | None:
    """The crystal of a block that lists all atoms of an ordered cell, else None."""
    for tag in _OPERATIONS:
        operations = block.find_values(tag)
        if len(operations):
            break
    else:
        return None
    if len(operations) != 1 or operations.str(0).replace(" ", "").lower() != "x,y,z":
        return None
    if any(block.find_value(tag) not in (None, "1") for tag in _GROUP_NUMBERS):
        return None
    name = block.find_value("_symmetry_space_group_name_H-M") or "P1"
    sites = block.find("_atom_site_", _SITE)
    if name.strip("'\"").replace(" ", "") != "P1" or not len(sites) or sites.has_column(5):
        return None
    try:
        lattice = _lattice(block)
        symbols = [gemmi.cif.as_string(value) for value in sites.column(0)]
        coordinates = np.array([_numbers(sites.column(i)) for i in (1, 2, 3)]).T.copy()
        if sites.has_column(4) and set(_numbers(sites.column(4))) != {1.0}:
            return None
    except ValueError:
        return None
    if not all(is_symbol(symbol) for symbol in symbols) or not np.isfinite(coordinates).all():
        return None
    if not _tidy(coordinates):
        return None
    crystal = Crystal.from_symbols(lattice, coordinates, symbols)
    stated = _stated(block)
    if stated and _missing_hydrogens(crystal, stated):
        return None
    notes = check_composition(crystal, stated)
    return replace(crystal, notes=tuple(notes)) if notes else crystal


def _symmetric_crystal(block: gemmi.cif.Block) -> Crystal:
    """The crystal of any block."""

    def values(tag: str) -> list[str]:
        found = (gemmi.cif.as_string(v).strip() for v in block.find_values(tag) if v not in "?.")
        return [value for value in found if value not in _UNKNOWN]

    lattice = _lattice(block)
    stated = _stated(block)
    symbols = re.findall("[A-Z][a-z]?", stated[0].text) if stated else []
    sites, notes = read_sites(block, frozenset(symbols))
    meant, remarks = settings(values, lattice)
    notes += remarks
    found: list[tuple[Setting, Crystal]] = []
    failures: list[EntryError] = []
    for setting in meant:
        try:
            found.append((setting, _crystal(sites, setting, lattice, stated)))
        except EntryError as error:
            failures.append(error)
    if not found:
        names = ", ".join(setting.name for setting in meant)
        detail = f"{failures[0].detail} ({names})" if failures[0].detail else names
        raise EntryError(failures[0].reason, detail)
    if len(found) > 1:
        names = " or ".join(setting.name for setting, _ in found)
        raise EntryError("origin or setting of the space group not stated", names)
    setting, crystal = found[0]
    if setting.doubtful:
        if not any(claim.units for claim in stated):
            raise EntryError("symmetry contradicts itself", setting.doubtful)
        notes.append(Note("symmetry contradicts itself, the formula decides", setting.doubtful))
    elif len(meant) > 1:
        notes.append(Note("setting of the space group found by the formula", setting.name))
    return replace(crystal, notes=(*notes, *crystal.notes))


def _crystal(
    sites: list[Site], setting: Setting, lattice: NDArray[np.float64], stated: list[Stated]
) -> Crystal:
    """The crystal in one setting, with hydrogens that nobody located.

    Raises:
        EntryError: if it is none, or not what is stated.
    """
    crystal = expand(sites, setting, lattice)
    check_distances(crystal)
    if stated:
        missing = _missing_hydrogens(crystal, stated)
    elif any(site.symbol in ("H", "D", "T") for site in sites):
        missing = 0.0  # those that a label such as Ow implies are among them
    else:
        implied = [replace(site, attached=site.implied) for site in sites]
        missing = expand(implied, setting, lattice).hydrogens
    if missing > 0:
        crystal = replace(crystal, hydrogens=crystal.hydrogens + missing)
    if crystal.hydrogens > 0:
        detail = f"{crystal.hydrogens:.4g} in the cell: counted, but they do not scatter"
        note = Note("hydrogens without a place", detail)
        crystal = replace(crystal, notes=(*crystal.notes, note))
    crystal.check()
    return replace(crystal, notes=(*crystal.notes, *check_composition(crystal, stated)))


def _missing_hydrogens(crystal: Crystal, stated: list[Stated]) -> float:
    """Hydrogens in the cell that the file's formula has and its sites have not.

    Raises:
        EntryError: if deuterium is missing, whose mass and number would be guessed.
    """
    claim = stated[0]
    amounts = read_amounts(claim.text)
    if amounts is None or 1 not in amounts:
        return 0.0
    elements, counts = crystal.composition()
    heavy = elements != 1
    others = sum(amount for z, (amount, _) in amounts.items() if z != 1)
    if not heavy.any() or not others:
        return 0.0
    units = float(counts[heavy].sum()) / others
    missing = units * amounts[1][0] - float(counts[~heavy].sum())
    if missing <= 0.01 * units or missing <= 0.005 * crystal.n_atoms * (amounts[1][1] > 0):
        return 0.0
    if re.search(r"\b[DT](?![a-z])", claim.text):
        raise EntryError("deuterium stated but not located", f"{claim.where} is {claim.text}")
    return missing


def _stated(block: gemmi.cif.Block) -> list[Stated]:
    """What the file says of its composition: the sum formula, else the moieties'."""
    text = block.find_value("_cell_formula_units_Z")
    units = None
    if text is not None and text not in _UNKNOWN:
        try:
            [units] = _numbers([gemmi.cif.as_string(text)])
        except ValueError:
            units = None
    if units is not None and not 0 < units < 1e6:
        units = None
    for tag in ("_chemical_formula_sum", "_chemical_formula_moiety"):
        value = block.find_value(tag)
        formula = "" if value is None or value in _UNKNOWN else gemmi.cif.as_string(value)
        formula = " ".join(formula.split())
        if formula in _UNKNOWN:
            continue
        if tag == "_chemical_formula_sum":
            return [Stated(tag, formula, units, whole=True)]
        if (moieties := _sum_of_moieties(formula)) is not None:
            return [Stated(tag, moieties, units, whole=True)]
    return []


def _sum_of_moieties(text: str) -> str | None:
    """`C12 H8 N2, 2(H2 O), Cl 1-` as one formula; None if it is not plain."""
    total: dict[str, float] = {}
    for part in re.split("[,;]", text):
        part = re.sub(r"(?<=\s)\d*[+-](?=\s|\)|$)", "", part).strip()
        match = re.fullmatch(r"(\d+(?:\.\d+)?)?\s*\(?([^()]*)\)?\s*", part)
        terms = match[2].split() if match else []
        for term in terms:
            found = re.fullmatch(r"([A-Z][a-z]?)(\d+(?:\.\d+)?)?", term)
            if found is None or not is_symbol(found[1]):
                return None
            amount = float(match[1] or 1) * float(found[2] or 1)  # type: ignore[index]
            total[found[1]] = total.get(found[1], 0.0) + amount
        if not terms:
            return None
    return " ".join(f"{symbol}{amount:g}" for symbol, amount in total.items())


def _lattice(block: gemmi.cif.Block) -> NDArray[np.float64]:
    """The cell.

    Raises:
        EntryError: if there is none.
    """
    texts = [block.find_value(tag) for tag in _CELL]
    shown = " ".join(str(text) for text in texts)
    try:
        numbers = _numbers(["" if text is None else text for text in texts])
    except ValueError:
        raise EntryError("no cell", shown) from None
    lattice = lattice_from_parameters(*numbers)
    if lattice is None:
        raise EntryError("no cell", shown)
    return lattice


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
    if not all(map(math.isfinite, (a, b, c, alpha, beta, gamma))):
        return None
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
        return [float(value.strip("'\"").split("(", 1)[0]) for value in values]


@njit(cache=True)
def _tidy(coordinates: NDArray[np.float64]) -> bool:
    """Puts coordinates into the cell and 0.3333 to 1/3, in place; False if two sites coincide.

    As pymatgen does: within 1e-4 of their value thirds are meant to be exact, and sites within
    1e-4 of each other are one disordered site.
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
