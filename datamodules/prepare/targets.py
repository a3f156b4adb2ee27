"""Labels as a command line names them: columns, names and units."""

from __future__ import annotations

from datamodules.prepare.sources.source import SourceError, Target
from datamodules.store.store import STRUCTURE_TARGETS

UNITS = {
    "formation_energy": "eV/atom",
    "band_gap": "eV",
    "hull_distance": "eV/atom",
    "electrostatic_energy": "eV/atom",
}
"""Units of the canonical targets, where the user gives none."""

_COLUMNS = {
    "id", "formula", "formula_key", "system_key", "elements", "fractions", "q", "intensity",
    "profile", *STRUCTURE_TARGETS,
}  # fmt: skip


def parse_targets(text: str) -> tuple[Target, ...]:
    """Reads labels given as `COLUMN[=NAME][:UNIT],…`.

    Raises:
        SourceError: if a target cannot be read, or two have one name.
    """
    targets: list[Target] = []
    for item in filter(None, (item.strip() for item in text.split(","))):
        rest, _, unit = item.partition(":")
        column, _, name = (piece.strip() for piece in rest.partition("="))
        name = name or column
        if not column:
            raise SourceError(f"--targets: '{item}' names no column; write COLUMN[=NAME][:UNIT]")
        if name in _COLUMNS:
            raise SourceError(
                f"--targets: '{name}' is a column of every store; give it another name: "
                f"{column}=NAME"
            )
        if name in [target.name for target in targets]:
            raise SourceError(f"--targets: '{name}' is named twice")
        targets.append(Target(column, name, unit.strip() or UNITS.get(name, "")))
    return tuple(targets)
