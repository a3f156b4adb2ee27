"""What is on the sites of a CIF: elements, vacancies, or water; how much, and where.

A type such as `OH-` or a label such as `Wat1` is oxygen with hydrogens that nobody located.
Nothing is dropped: a site whose element cannot be told rejects the structure.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import gemmi

from datamodules.prepare.crystals.crystal import (
    MAX_ATOMS,
    OCCUPANCY_TOLERANCE,
    EntryError,
    Note,
    is_symbol,
)

_COLUMNS = (
    "_atom_site_fract_x", "_atom_site_fract_y", "_atom_site_fract_z", "?_atom_site_label",
    "?_atom_site_type_symbol", "?_atom_site_occupancy", "?_atom_site_attached_hydrogens",
)  # fmt: skip
_NUMBER = re.compile(r"([+-]?(?:\d+\.?(\d*)|\.(\d+))(?:[eE][+-]?\d+)?)(?:\((\d{1,6})\))?")
_UNKNOWN = {"?", ".", ""}

#: Heavy atom and hydrogens of groups that stand on one site, by their name in capitals.
_GROUPS = {
    "OH": ("O", 1), "OD": ("O", 1), "H2O": ("O", 2), "HOH": ("O", 2), "OH2": ("O", 2),
    "D2O": ("O", 2), "OW": ("O", 2), "WAT": ("O", 2), "WATER": ("O", 2), "AQ": ("O", 2),
    "OWAT": ("O", 2), "H3O": ("O", 3), "NH": ("N", 1), "NH2": ("N", 2), "NH3": ("N", 3),
    "NH4": ("N", 4), "ND4": ("N", 4), "ND3": ("N", 3), "CH": ("C", 1), "CH2": ("C", 2),
    "CH3": ("C", 3), "CH4": ("C", 4), "SH": ("S", 1), "BH4": ("B", 4), "PH4": ("P", 4),
}  # fmt: skip
_VACANCY = re.compile(r"(?:va|vac|vacant|vacanc(?:y|ies)|void|□)\d*", re.I)
_ION = re.compile(r"([A-Z][a-z]?)\d*(?:[\s(^]*(?:\d*\.?\d*[+-]|[+-]\d*\.?\d*)\)?|\([IV]+\))?")
_ISOTOPE = re.compile(r"[\^(]*\d{1,3}[)\s-]*(?=[A-Z])")
_LABEL_GROUP = re.compile(r"(HOH|H3O|NH4|ND4|WAT|OW|OH)")
_SCATTERING_TYPE = re.compile(r"([A-Z][a-z]?)(?:val|va|iso|cor)")


@dataclass(frozen=True)
class Site:
    """A site of the asymmetric unit.

    Attributes:
        label: For messages.
        symbol: Element.
        position: Fractional coordinates.
        rounding: Of each coordinate, as a fraction: how far the true value may be off.
        occupancy: In (0, 1.001].
        attached: Hydrogens without a place that the file says are on it.
        implied: Hydrogens without a place that only its name says are on it.
    """

    label: str
    symbol: str
    position: tuple[float, float, float]
    rounding: tuple[float, float, float]
    occupancy: float
    attached: float = 0.0
    implied: float = 0.0


def read_sites(block: gemmi.cif.Block, stated: frozenset[str]) -> tuple[list[Site], list[Note]]:
    """The sites of a CIF.

    Args:
        block: The block.
        stated: Symbols in the stated formula, empty if there is none: they decide whether CA1 is
            calcium, and W1 water.

    Returns:
        The occupied sites with a place, and notes.

    Raises:
        EntryError: if a site is not understood.
    """
    table = block.find(_COLUMNS)
    if len(table) > MAX_ATOMS:
        raise EntryError("too many atoms", f"{len(table)} sites > {MAX_ATOMS}")
    sites: list[Site] = []
    notes: dict[str, Note] = {}
    for row in table:
        texts = [
            gemmi.cif.as_string(row[i]).strip() if row.has(i) else "" for i in range(len(_COLUMNS))
        ]
        label, kind, occupancy_text, attached = texts[3:]
        name = label if label not in _UNKNOWN else kind
        found = _species(kind, label, stated)
        if isinstance(found, str):
            raise EntryError("unknown element", f"site {name}: {found}")
        symbol, implied, note = found
        if symbol == "":
            notes.setdefault(note, Note(note, f"site {name}"))
            continue
        occupancy = _occupancy(occupancy_text, row[5] if row.has(5) else "", name)
        if row.has(5) and row[5] == "?":
            what = "unknown occupancy taken as 1"
            notes.setdefault(what, Note(what, f"site {name}"))
        if occupancy == 0:
            notes.setdefault("empty site", Note("empty site", f"site {name}: occupancy 0"))
            continue
        if any(text in _UNKNOWN for text in texts[:3]):
            if symbol not in ("H", "D", "T"):
                raise EntryError("site without coordinates", f"site {name}")
            if not stated:
                raise EntryError(
                    "site without coordinates", f"site {name}, and no formula is stated"
                )
            continue  # the stated formula counts it
        numbers = [_number(text, f"site {name}") for text in texts[:3]]
        if note:
            notes.setdefault(note, Note(note, f"site {name}: {kind or label}"))
        sites.append(
            Site(
                name,
                symbol,
                tuple(value for value, _ in numbers),  # type: ignore[arg-type]
                tuple(error for _, error in numbers),  # type: ignore[arg-type]
                occupancy,
                0.0 if attached in _UNKNOWN else _number(attached, f"site {name}")[0],
                implied,
            )
        )
        if sites[-1].attached < 0:
            raise EntryError("site not understood", f"site {name}: {attached} attached hydrogens")
    return sites, list(notes.values())


def _number(text: str, where: str) -> tuple[float, float]:
    """A number of a CIF and how far rounding and uncertainty may put it off.

    Raises:
        EntryError: if it is none.
    """
    match = _NUMBER.fullmatch(text)
    finite = re.fullmatch("[+-]?(nan|inf|infinity)", text, re.I) is None
    value = float(match[1]) if match else 0.0
    if not finite or not math.isfinite(value):
        raise EntryError("value that is not finite", f"{where}: {text}")
    if match is None:
        raise EntryError("not a number", f"{where}: {text}")
    decimals = len(match[2] or match[3] or "")
    if not decimals or (value * 8).is_integer():
        return value, 0.0
    uncertainty = min(int(match[4] or 0), 20)
    return value, (1 + uncertainty) * 10.0**-decimals


def _occupancy(text: str, raw: str, name: str) -> float:
    """An occupancy; `.` is the default, 1, and so is what is unknown.

    Raises:
        EntryError: if it is no number, or not in [0, 1.001].
    """
    if raw in _UNKNOWN or text in _UNKNOWN:
        return 1.0
    value, _ = _number(text, f"occupancy of {name}")
    if not 0 <= value <= 1 + OCCUPANCY_TOLERANCE:
        raise EntryError("occupancy outside of (0, 1]", f"site {name}: {value:g}")
    return value


def _species(kind: str, label: str, stated: frozenset[str]) -> tuple[str, float, str] | str:
    """Element ("" for none), hydrogens that the name implies, and a note; or what is wrong."""
    if kind not in _UNKNOWN:
        found = _of_type(kind, stated)
        return found if found is not None else f"type {kind} is no element"
    if label in _UNKNOWN:
        return "neither type nor label"
    found = _of_label(label, stated)
    return found if found is not None else f"label {label} does not begin with one element"


def _of_type(kind: str, stated: frozenset[str]) -> tuple[str, float, str] | None:
    if _VACANCY.fullmatch(kind):
        return "", 0.0, "vacancy"
    note = ""
    if isotope := _ISOTOPE.match(kind):
        kind, note = kind[isotope.end() :], "isotope read as its element"
    if (match := _ION.fullmatch(kind)) and is_symbol(match[1]):
        return match[1], 0.0, note
    if (match := _SCATTERING_TYPE.fullmatch(kind)) and is_symbol(match[1]):
        return match[1], 0.0, note
    core = re.sub(r"(?:\d*\+|\d*-|[+-]\d+)$", "", kind)
    # NH4+ is ammonium, OH1- is hydroxide: the shortest charge that leaves a group.
    for spelled in (kind.rstrip("+-"), re.sub(r"[+-]\d*$|\d[+-]$", "", kind), core):
        if group := _GROUPS.get(spelled.upper()):
            return group[0], float(group[1]), "group on one site"
    letters = re.fullmatch(r"([A-Za-z]{1,2})\d*", core)
    return _in_other_case(letters[1], stated) if letters else None


def _group_of_label(
    label: str, word: str, digits: str, options: list[str]
) -> tuple[str, int] | None:
    """Water, hydroxyl or ammonium on a site, by its label: OH1, Ow2, O1W, Wat, H2O1, NH4."""
    if re.match(r"O\d+W", label, re.I):
        return _GROUPS["OW"]
    if match := re.match("H2O|D2O", label.upper()):
        return _GROUPS[match[0]]
    match = None if word in options else _LABEL_GROUP.match((word + digits).upper())
    return _GROUPS[match[1]] if match else None


def _in_other_case(letters: str, stated: frozenset[str]) -> tuple[str, float, str] | None:
    """NA, na and o: the element, if the letters can mean only one."""
    symbol = letters.capitalize()
    if not is_symbol(symbol):
        return None
    parts = set(letters.upper())
    pair = len(letters) == 2 and letters.isupper() and all(is_symbol(part) for part in parts)
    if pair and symbol not in stated:
        return None
    return symbol, 0.0, ""


def _of_label(label: str, stated: frozenset[str]) -> tuple[str, float, str] | None:
    """A label begins with the element; letters and digits that tell sites apart follow."""
    match = re.match(r"[\^(]*\d{0,3}[)-]?([A-Za-z□]+)(\d*)", label)
    if match is None or re.search(r"[/,&]\s*[A-Z]", label):
        return None
    word, digits = match[1], match[2]
    note = "isotope read as its element" if label[0].isdigit() else ""
    two, one = word[:2].capitalize(), word[0].upper()
    options = [s for s in dict.fromkeys((two, one)) if is_symbol(s)]
    group = _group_of_label(label, word, digits, options)
    if group and not ("W" in stated and word[0] == "W") and (not stated or group[0] in stated):
        return group[0], float(group[1]), "group on one site"
    if word.upper() in ("CH", "NH", "SH") and not stated:
        return None  # carbon of a methyl group, or the third carbon of chain H
    if word in ("W", "Wa", "Wb", "Wc") and stated and "W" not in stated:
        # Wyckoff's and the mineralogists' water; hydrogens are those of the stated formula.
        return ("O", 2.0, "group on one site") if stated >= {"O", "H"} else None
    if _VACANCY.fullmatch(word) and not (word.isupper() and "V" in stated):
        return "", 0.0, "vacancy"
    if one == "T" and not (two != "T" and is_symbol(two)) and "T" not in stated:
        return None  # a tetrahedral site more likely than tritium
    if stated:
        said = [s for s in options if s in stated or (s in "DT" and "H" in stated)]
        if word[:2] == two and two in said:
            return two, 0.0, note
        if said:
            return (said[0], 0.0, note) if len(said) == 1 else None
    if word[:2] == two and two in options:
        return two, 0.0, note
    return (options[0], 0.0, note) if len(options) == 1 else None
