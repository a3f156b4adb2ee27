"""Keys, shapes and units of a batch: a dictionary from these names to tensors.

Legend: B rows of the batch on this rank, E element slots, L points of the grid, T targets,
P diffraction lines of all rows together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:  # `prepare` reads these names without paying for torch's import.
    import torch

    Batch: TypeAlias = dict[str, torch.Tensor]
else:
    Batch = dict

ELEMENTS = "elements"
"""(B, E) int64: atomic numbers in ascending order, padded with 0."""
FRACTIONS = "fractions"
"""(B, E) float32: atomic fractions, sum 1, padded with 0."""
XRD = "xrd"
"""(B, L) float32: square root of the intensity, at most 1 (reached in the measured window)."""
MEASURED = "measured"
"""(B, L) bool: whether the point was measured; where it was not, `xrd` is 0 and means nothing."""
VIEW = "view"
"""(B, L) float32, in training with `data.views`: another pattern of each material, changed at
random; like XRD."""
VIEW_MEASURED = "view_measured"
"""(B, L) bool: like MEASURED, of VIEW."""
TARGETS = "targets"
"""(B, T) float32: physical units as in the manifest, NaN where the label is missing."""
INDEX = "index"
"""(B,) int64: row number in the concatenated stores; what a row's random numbers follow from. In
training further copies of a repeated row have greater numbers: `stream.number_copies`."""
FORMULA_KEY = "formula_key"
"""(B,) int64: hash of the reduced formula, the bits of the store's uint64."""
SYSTEM_KEY = "system_key"
"""(B,) int64: hash of the chemical system, the bits of the store's uint64."""
WEIGHT = "weight"
"""(B,) float32: 1, or 0 for a row that only pads the batch to its fixed shape."""
EPOCH = "epoch"
"""() int64: epoch whose random numbers apply to the batch."""
SEED = "seed"
"""() int64: seed of the run's random numbers."""

LINE_Q = "line_q"
"""(P,) float32, before rendering: scattering vectors of the lines, Å⁻¹, row after row."""
LINE_INTENSITY = "line_intensity"
"""(P,) float32, before rendering: multiplicity × |F|², without Lorentz–polarization."""
LINE_OFFSETS = "line_offsets"
"""(B + 1,) int64, before rendering: row b owns lines offsets[b] to offsets[b + 1]."""
PROFILE = "profile"
"""(B, L) float16, before rendering: dense intensities, NaN where not measured. Stores of the
profile layout only; all NaN for a row that comes from a store of the peaks layout."""

IMPURITY_SLOT = "impurity_slot"
"""(A,) int64, before rendering: the batch's rows that get another material's pattern mixed in."""
IMPURITY_Q = "impurity_q"
"""Like LINE_Q, for the A impurities."""
IMPURITY_INTENSITY = "impurity_intensity"
"""Like LINE_INTENSITY, for the A impurities."""
IMPURITY_OFFSETS = "impurity_offsets"
"""(A + 1,) int64, like LINE_OFFSETS."""
IMPURITY_PROFILE = "impurity_profile"
"""(A, L) float16, like PROFILE."""
