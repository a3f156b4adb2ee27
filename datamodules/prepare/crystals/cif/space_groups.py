"""Which symmetry operations a CIF means: those it lists, or those of the group that it names.

A name alone is often not enough: of 24 groups there are two origins, rhombohedral ones have two
kinds of axes, and a monoclinic name may leave open which axis is unique. The cell excludes some;
what it leaves open are several settings, of which the caller takes the one that fits the formula.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache

import gemmi
import numpy as np
from numpy.typing import NDArray

from datamodules.prepare.crystals.crystal import EntryError, Note

_OPERATIONS = (
    "_symmetry_equiv_pos_as_xyz",
    "_space_group_symop_operation_xyz",
    "_space_group_symop_magn_operation.xyz",
)
_CENTERINGS = "_space_group_symop_magn_centering.xyz"
_NAMES = (
    "_space_group_name_h-m_alt", "_symmetry_space_group_name_h-m", "_space_group_name_h-m",
    "_space_group_name_h-m_ref", "_space_group_name_h-m_full", "_symmetry_space_group_name_h-m_alt",
)  # fmt: skip
_HALL = ("_space_group_name_hall", "_symmetry_space_group_name_hall")
_NUMBERS = ("_space_group_it_number", "_symmetry_int_tables_number")
_CODE = "_space_group_it_coordinate_system_code"

_MOST_OPERATIONS = 400
"""192 in a face-centred cubic cell; magnetic groups repeat them with time reversed."""
_CELL_TOLERANCE = 0.01
"""Relative, of the metric tensor: 0.5 % of lengths, 0.6° of angles."""

_ORIGIN = {"1": "1", "2": "2", "s": "1", "z": "2", "o1": "1", "o2": "2", "h": "H", "r": "R"}
_E_GLIDES = {"aem2": "abm2", "aea2": "aba2", "cmce": "cmca", "cmme": "cmma", "ccce": "ccca"}


@dataclass(frozen=True)
class Setting:
    """Symmetry operations x' = rotation · x + translation on fractional coordinates.

    Attributes:
        name: For messages.
        rotations: Shape (n, 3, 3), float64.
        translations: Shape (n, 3), in [0, 1).
        doubtful: Why nobody should believe it unless the stated formula and the number of formula
            units agree with it; empty if it needs no proof.
    """

    name: str
    rotations: NDArray[np.float64]
    translations: NDArray[np.float64]
    doubtful: str = ""


def settings(
    values: Callable[[str], list[str]], lattice: NDArray[np.float64]
) -> tuple[list[Setting], list[Note]]:
    """The symmetry that a CIF states.

    Args:
        values: The values of a tag (in lower case), without those that are unknown.
        lattice: Cell vectors as rows, shape (3, 3), Å.

    Returns:
        The settings that fit what is stated, and notes.

    Raises:
        EntryError: if it is not understood, contradicts itself, or does not fit the cell.
    """

    def first(*tags: str) -> str | None:
        return next((found[0] for tag in tags if (found := values(tag))), None)

    name, hall, number = _name(first), first(*_HALL), _number(first(*_NUMBERS))
    listed = next((found for tag in _OPERATIONS if (found := values(tag))), [])
    if listed:
        return _listed(listed, values(_CENTERINGS), name, number, lattice)
    if hall is not None:
        return [_by_hall(hall, name, number, lattice)], []
    if name is not None:
        return _by_name(name, first(_CODE), number, lattice)
    if number is not None:
        return _by_number(number, lattice)
    setting = Setting("P 1", np.eye(3)[None], np.zeros((1, 3)))
    return [setting], [Note("no symmetry stated", "the atoms are taken as all of the cell's")]


def _name(first: Callable[..., str | None]) -> str | None:
    """The Hermann–Mauguin name, under the first of its tags.

    Raises:
        EntryError: if the old and the new tag name different settings.
    """
    new, old = first(_NAMES[0]), first(_NAMES[1])
    if new is not None and old is not None:
        both = [{group.xhm() for group in _lookup(name)[0]} for name in (new, old)]
        if all(both) and not both[0] & both[1]:
            raise EntryError("space group's names contradict each other", f"{new} and {old}")
    return first(*_NAMES)


def _number(text: str | None) -> int | None:
    """The number of a space group.

    Raises:
        EntryError: if there is something else.
    """
    if text is None:
        return None
    if not re.fullmatch(r"\d{1,3}", text) or not 1 <= int(text) <= 230:
        raise EntryError("space group not understood", f"number {text}")
    return int(text)


def _listed(
    operations: list[str],
    centerings: list[str],
    name: str | None,
    number: int | None,
    lattice: NDArray[np.float64],
) -> tuple[list[Setting], list[Note]]:
    if len(operations) * max(len(centerings), 1) > _MOST_OPERATIONS:
        raise EntryError("too many symmetry operations", str(len(operations)))
    rotations, translations = _group(tuple(operations), tuple(centerings))
    if not _fits_cell(rotations, lattice):
        raise EntryError(
            "cell and symmetry operations contradict each other",
            f"{len(rotations)} operations, {_cell(lattice)}",
        )
    known = _tabulated(tuple(operations)) if not centerings else None
    stated = number if number is not None else _number_of(name)
    doubtful, notes = "", []
    if known is not None and stated is not None and known.number != stated:
        doubtful = f"the operations are those of {known.xhm()}, stated is {name or number}"
    elif known is not None and name and not _may_mean(name, known):
        detail = f"the operations are those of {known.xhm()}, named is {name}"
        notes.append(Note("listed operations of another setting than the name's", detail))
    return [Setting("the listed operations", rotations, translations, doubtful)], notes


@lru_cache(maxsize=512)
def _group(
    operations: tuple[str, ...], centerings: tuple[str, ...] = ()
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rotations (n, 3, 3) and translations (n, 3), each operation once.

    Raises:
        EntryError: if one is not understood, or they are no group.
    """
    all_of_them: dict[tuple[int, ...], None] = {}
    parsed = [_operation(text) for text in operations]
    for centering in [_operation(text) for text in centerings] or [gemmi.Op("x,y,z")]:
        for operation in parsed:
            product = (centering * operation).wrap()
            all_of_them[tuple(np.ravel(product.rot).tolist() + list(product.tran))] = None
    table = np.array(list(all_of_them), np.int64)
    rotations, translations = table[:, :9].reshape(-1, 3, 3) // gemmi.Op.DEN, table[:, 9:]
    # A lost line would lose atoms: every product must be there.
    products = np.einsum("aij,bjk->abik", rotations, rotations).reshape(-1, 9)
    moved = np.einsum("aij,bj->abi", rotations, translations) + translations[:, None]
    keys = np.concatenate([products, moved.reshape(-1, 3) % gemmi.Op.DEN], axis=1)
    present = np.concatenate([rotations.reshape(-1, 9), translations % gemmi.Op.DEN], axis=1)
    if not set(map(bytes, keys)) <= set(map(bytes, present)):
        raise EntryError("symmetry operations are no group", f"{len(table)} operations")
    return rotations.astype(np.float64), translations / gemmi.Op.DEN


def _operation(text: str) -> gemmi.Op:
    plain = re.sub(r",\s*[+-]1\s*$", "", text.strip())  # time reversal of magnetic groups
    try:
        operation = gemmi.Op(plain) if len(plain) <= 100 else None
    except (RuntimeError, ValueError):
        operation = None
    if operation is None or any(x % gemmi.Op.DEN for row in operation.rot for x in row):
        raise EntryError("symmetry operation not understood", text)
    return operation


@lru_cache(maxsize=512)
def _tabulated(operations: tuple[str, ...]) -> gemmi.SpaceGroup | None:
    """The tabulated setting of some operations."""
    return gemmi.find_spacegroup_by_ops(gemmi.GroupOps([_operation(o) for o in operations]))


def _may_mean(name: str, group: gemmi.SpaceGroup) -> bool:
    """Whether a name, if it is known, may mean a setting."""
    groups, _ = _lookup(name)
    return not groups or group.hall in {known.hall for known in groups}


def _number_of(name: str | None) -> int | None:
    """Number of the group of a name, if the name is known."""
    found = {group.number for group in _lookup(name)[0]} if name else set()
    return found.pop() if len(found) == 1 else None


def _by_hall(
    hall: str, name: str | None, number: int | None, lattice: NDArray[np.float64]
) -> Setting:
    try:
        operations = gemmi.symops_from_hall(hall)
        found = gemmi.find_spacegroup_by_ops(operations)
    except (RuntimeError, ValueError):
        raise EntryError("space group not understood", f"Hall's symbol {hall}") from None
    setting = _setting(f"Hall's {hall}", operations)
    stated = number if number is not None else _number_of(name)
    if found is not None and (
        (stated is not None and found.number != stated) or (name and not _may_mean(name, found))
    ):
        raise EntryError(
            "space group's names contradict each other",
            f"Hall's {hall} is {found.xhm()}, stated is {name or number}",
        )
    if not _fits_cell(setting.rotations, lattice):
        raise EntryError("cell and space group contradict each other", f"{hall}, {_cell(lattice)}")
    return setting


def _by_name(
    name: str, code: str | None, number: int | None, lattice: NDArray[np.float64]
) -> tuple[list[Setting], list[Note]]:
    groups, extension = _lookup(name)
    if not groups:
        raise EntryError("space group not understood", name)
    if number is not None:
        if not any(group.number == number for group in groups):
            raise EntryError(
                "space group's name and number contradict each other", f"{name}, number {number}"
            )
        groups = [group for group in groups if group.number == number]
    if code is not None:
        origin, axes = re.fullmatch(r"([12HhRr]?)(.*)", code.strip()).groups()  # type: ignore[union-attr]
        origin = _ORIGIN.get(origin.lower(), "")
        if origin and extension and origin != extension:
            raise EntryError(
                "space group's names contradict each other", f"{name}, coordinate system {code}"
            )
        extension = extension or origin
        if axes and len(groups) > 1:
            axes = "" if axes == "abc" else axes
            groups = [group for group in groups if group.qualifier == axes] or groups
    fitting = [(g, _setting(g.xhm(), g.operations())) for g in groups]
    fitting = [(g, s) for g, s in fitting if _fits_cell(s.rotations, lattice)]
    if not fitting:
        raise EntryError(
            "cell and space group contradict each other",
            f"{name}{f', number {number}' if number else ''}, {_cell(lattice)}",
        )
    if fitting[0][0].ext in ("1", "2") and extension in ("1", "2"):
        fitting = [(g, s) for g, s in fitting if g.ext == extension]
    # Rhombohedral or hexagonal: the cell has judged. A short name means the b axis if it can.
    axis = fitting[0][0].monoclinic_unique_axis()
    return [s for g, s in fitting if g.monoclinic_unique_axis() == axis], []


def _by_number(number: int, lattice: NDArray[np.float64]) -> tuple[list[Setting], list[Note]]:
    """The standard setting of a group, or both origins of it."""
    groups = [g for g in gemmi.spacegroup_table() if g.number == number]
    fitting: list[Setting] = []
    for standard in (("", "b1"), ("c1",)):  # the c axis is unique where the cell says so
        chosen = [_setting(g.xhm(), g.operations()) for g in groups if g.qualifier in standard]
        fitting = fitting or [s for s in chosen if _fits_cell(s.rotations, lattice)]
    if not fitting:
        raise EntryError(
            "cell and space group contradict each other", f"number {number}, {_cell(lattice)}"
        )
    note = Note("only the number of the space group is stated", f"{fitting[0].name} is taken")
    return fitting, [note]


def _setting(name: str, operations: gemmi.GroupOps) -> Setting:
    rotations, translations = _group(tuple(operation.triplet() for operation in operations))
    return Setting(name, rotations, translations)


def _fits_cell(rotations: NDArray[np.float64], lattice: NDArray[np.float64]) -> bool:
    """Whether the operations keep all lengths and angles."""
    metric = lattice @ lattice.T
    turned = np.swapaxes(rotations, 1, 2) @ metric @ rotations
    scale = np.sqrt(np.outer(np.diag(metric), np.diag(metric)))
    return bool((np.abs(turned - metric) <= _CELL_TOLERANCE * scale).all())


def _cell(lattice: NDArray[np.float64]) -> str:
    a, b, c = np.linalg.norm(lattice, axis=1)
    unit = lattice / np.array([[a], [b], [c]])
    alpha, beta, gamma = np.degrees(
        np.arccos([unit[1] @ unit[2], unit[0] @ unit[2], unit[0] @ unit[1]])
    )
    return f"cell {a:.4g} {b:.4g} {c:.4g} Å {alpha:.4g} {beta:.4g} {gamma:.4g}°"


def _lookup(name: str) -> tuple[list[gemmi.SpaceGroup], str]:
    """The tabulated settings that a Hermann–Mauguin name may mean, and its mark of the origin."""
    text = name.strip().strip("'\"").replace("_", "").replace("−", "-")
    text = re.sub(r"\(\s*(?:no\.?|#)\s*\d+\s*\)", "", text, flags=re.I)
    text = re.sub(r"(\d)\((\d)\)", r"\1\2", text)  # P 2(1)/n
    mark = re.search(r"origin\s*(?:choice|at)?\s*:?\s*([12])", text, re.I)
    text = re.sub(r"[\s,(]*\(?origin.*$", "", text, flags=re.I)
    if axes := re.search(r"[\s,(]*(hex|rhomb)[a-z]*(?:\s*axes|\s*setting)?\)?\s*$", text, re.I):
        text = text[: axes.start()]
    text, _, extension = text.partition(":")
    extension = extension.strip().lower()
    if mark:
        extension = mark[1]
    elif axes:
        extension = axes[1][0].lower()
    for candidate, suffix in [(text, extension), *_without_suffix(text)]:
        for spelling in _spellings(candidate):
            if groups := _table().get(spelling):
                if suffix not in _ORIGIN and suffix:
                    code = "" if suffix == "abc" else suffix
                    marked = [g for g in groups if g.qualifier in (code, code.lstrip("12"))]
                    groups, suffix = marked, suffix[:1] if suffix[0] in "12" else ""
                return groups, _ORIGIN.get(suffix, "")
    return [], ""


def _without_suffix(text: str) -> list[tuple[str, str]]:
    """`F d -3 m S`, `P n n n O2`, `R -3 m H`: the mark of the origin or axes without a colon."""
    match = re.fullmatch(r"(.*[A-Za-z0-9])\s*([SZHR]|O[12])", text.strip())
    return [(match[1], match[2].lower())] if match else []


def _spellings(text: str) -> list[str]:
    """A name as the table has it, and without what full names say more."""
    compact = "".join(text.split()).lower()
    words = text.lower().split()
    spelled = [compact, _E_GLIDES.get(compact, compact)]
    if compact.startswith("h"):  # the Protein Data Bank's R on hexagonal axes
        spelled.append("r" + compact[1:])
    # P 21/n 21/m 21/a is Pnma, F 4/m -3 2/m is Fm-3m, P 4/m 2/m 2/m is P4/mmm.
    if (len(words) == 4 and sum("/" in word for word in words) >= 2) or "-3" in words:
        short = [re.sub(r"^\d+/", "", word) for word in words]
        spelled += ["".join([*words[:2], *short[2:]]), "".join(short)]
    return spelled


@cache
def _table() -> dict[str, list[gemmi.SpaceGroup]]:
    """Settings by name in lower case without blanks, short and old names too."""
    table: dict[str, list[gemmi.SpaceGroup]] = {}
    others: dict[str, list[gemmi.SpaceGroup]] = {}
    for group in gemmi.spacegroup_table():
        words = group.hm.lower().split()
        table.setdefault("".join(words), []).append(group)
        if 3 <= group.number <= 15:
            short = "".join(word for i, word in enumerate(words) if i == 0 or word != "1")
            others.setdefault(short, []).append(group)
        if group.number >= 195 and "-3" in words:  # Fd3m, before 1935 and long after
            others.setdefault("".join(words).replace("-3", "3"), []).append(group)
    return others | table
