"""When a match is called confident, by what was measured on scans whose material was not there.

Two numbers tell a right first match from a wrong one: its score, and its lead over the best match
of another formula. How the two are weighed, and what they were for scans of materials that had been
taken out of the library, lies in a file that `xxact report retrieval` writes; the package's own was
made with the library and the faults that it names.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.io.files import replace_file

FORMAT_VERSION = 1
OWN = Path(__file__).with_name("confidence.json")
#: A lead beyond this says no more: the candidates may be few.
LARGEST_LEAD = 0.1


@dataclass
class Confidence:
    """What scores mean.

    Attributes:
        lead_weight: What the lead over the next formula counts beside the score.
        absent: Score + lead_weight × lead of the best match of scans whose formula was taken out of
            the library, ascending.
        single_gains: What a second phase adds to the score of scans that have one phase, ascending.
        settings: Library, faults and numbers of scans that this was measured with.
        figures: What was measured: see `xxact report retrieval`.
        format_version: Of the writer.
    """

    lead_weight: float
    absent: list[float]
    single_gains: list[float]
    settings: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    def save(self, path: Path) -> None:
        """Writes a JSON file whole or not at all."""
        text = json.dumps(asdict(self), indent=1, ensure_ascii=False, allow_nan=False)
        replace_file(path, text + "\n")

    @classmethod
    def load(cls, path: Path = OWN) -> Confidence:
        """What was measured before.

        Raises:
            ValueError: if the file is missing, damaged or of another version.
        """
        again = "write it again with `xxact report retrieval --library STORE`"
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if data["format_version"] != FORMAT_VERSION:
                raise ValueError(f"format version {data['format_version']}")
            found = cls(**{item.name: data[item.name] for item in fields(cls)})
            for values in (found.absent, found.single_gains, [found.lead_weight]):
                if not values or not np.isfinite(np.asarray(values, np.float64)).all():
                    raise ValueError("a number is missing")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: cannot be read ({error}); {again}") from None
        return found

    def value(self, score: float, lead: float) -> float:
        """The two numbers as one."""
        return score + self.lead_weight * min(lead, LARGEST_LEAD)

    def false_share(self, score: float, lead: float) -> float:
        """Share of scans without their material in the library whose best match looked as good."""
        return _share_above(self.absent, self.value(score, lead))

    def single_share(self, gain: float) -> float:
        """Share of scans of one phase to whose score a second phase added as much."""
        return _share_above(self.single_gains, gain)


def _share_above(values: Sequence[float], value: float) -> float:
    """(1 + how many are as large) / (1 + all)."""
    n_below = int(np.searchsorted(np.asarray(values), value, side="left"))
    return (1 + len(values) - n_below) / (1 + len(values))
