"""Columns of every store that tell of the crystal structure; each may be a target of training.

They are null where a structure is not known (measured patterns) or where no symmetry was found, and
in the rows of stores of format 1, which has the first three only.
"""

from __future__ import annotations

from dataclasses import dataclass

RECIPROCAL_METRIC = (
    "reciprocal_metric_11",
    "reciprocal_metric_22",
    "reciprocal_metric_33",
    "reciprocal_metric_23",
    "reciprocal_metric_13",
    "reciprocal_metric_12",
)
"""G*ᵢⱼ = a*ᵢ · a*ⱼ of the reduced cell in Å⁻², without 2π, so that 1/d² = Σ hᵢ G*ᵢⱼ hⱼ.

The reduced cell is Niggli's, of the primitive lattice, |a₁| ≤ |a₂| ≤ |a₃|; aᵢ · a*ⱼ = δᵢⱼ. The
order of the components is Voigt's.
"""

INTEGERS = ("space_group", "bravais_class", "n_sites")
"""Columns of int16: international number, 1 + index in `BRAVAIS_CLASSES`, sites of the primitive
cell."""

STRUCTURE_TARGETS = {
    "volume_per_atom": "Å³",
    "density": "g/cm³",
    **dict.fromkeys(INTEGERS, ""),
    **dict.fromkeys(RECIPROCAL_METRIC, "Å⁻²"),
}
"""Their units."""

BRAVAIS_CLASSES = (
    "aP", "mP", "mC", "oP", "oS", "oI", "oF", "tP", "tI", "hR", "hP", "cP", "cI", "cF",
)  # fmt: skip
"""Bravais classes by their symbols; the column `bravais_class` counts them from 1."""


@dataclass(frozen=True)
class Symmetry:
    """What the symmetry of a structure says.

    Attributes:
        space_group: International number, 1–230.
        bravais_class: 1 + index in `BRAVAIS_CLASSES`.
        n_sites: Sites in the primitive cell.
        reciprocal_metric: Components in the order of `RECIPROCAL_METRIC`, Å⁻².
    """

    space_group: int
    bravais_class: int
    n_sites: int
    reciprocal_metric: tuple[float, float, float, float, float, float]

    def columns(self) -> dict[str, float]:
        """The values by the names of their columns."""
        integers = (self.space_group, self.bravais_class, self.n_sites)
        values = zip(INTEGERS, integers, strict=True)
        return {**dict(values), **dict(zip(RECIPROCAL_METRIC, self.reciprocal_metric, strict=True))}
