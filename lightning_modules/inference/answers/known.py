"""Known materials with their labels as a table of texts, wherever it is drawn."""

from collections.abc import Mapping, Sequence
from typing import Any

from datamodules.io.arguments import printable

#: Where a label is missing.
_NOT_KNOWN = "-"


def known_table(
    known: Sequence[Mapping[str, Any]], score: str, units: Mapping[str, str], most: int
) -> list[list[str]]:
    """The table's lines: its headings, then formula, id, score and labels of each material.

    Labels that none of the materials has are left out.

    Args:
        known: For each its `formula`, its `id`, its score by name, and its labels by name; scores
            and labels are None where they are not known.
        score: Name of the score.
        units: Unit by label, in the order in which labels are told.
        most: Labels at most.
    """
    names = [name for name in units if any(one.get(name) is not None for one in known)][:most]
    headings = [
        name.replace("_", " ") + (f" ({units[name]})" if units[name] else "") for name in names
    ]
    lines = [["formula", "id", score, *headings]]
    for one in known:
        named = [printable(str(one[key]), 60) for key in ("formula", "id")]
        lines.append([*named, _told(one[score], ".3f"), *(_told(one.get(x), ".4g") for x in names)])
    return lines


def _told(value: float | None, digits: str) -> str:
    return _NOT_KNOWN if value is None else format(value, digits)
