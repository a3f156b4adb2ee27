"""A row of the input on its way to an answer: what is known of it, and what came out."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from datamodules import batch as keys
from datamodules.composition import Candidates, Stated, candidates_of, parse_composition
from datamodules.grid import Grid
from datamodules.io.arguments import printable
from datamodules.io.files import explain
from datamodules.measured import ConvertedPattern, Options, convert, read_scan
from datamodules.measured.wavelength import wavelength_of_row
from datamodules.store.collection import Collection
from datamodules.store.gathering import Gatherer

#: What the answer was made from, by the mode that gave it.
GIVEN = {"both": "composition+xrd", "composition": "composition", "xrd": "xrd"}
ERROR, WARNINGS = "error", "warnings"
#: Share of sound pairs of formula and pattern that fit no better, and whether the two contradict.
AGREEMENT, CONTRADICTION = "agreement", "contradiction"
#: What was averaged over, of a composition that is not known to the atom.
CANDIDATES = "candidates"
#: Known materials that are near, and the picture's file; where they are asked for.
NEIGHBOURS, PICTURE = "neighbours", "picture"
#: Where a table's reader puts fields beyond the columns.
SURPLUS = "\0"


@dataclass
class Row:
    """A row of the input.

    Attributes:
        given: What was given, by column.
        elements: Atomic numbers, ascending, (n,); empty where no composition is known.
        fractions: Atomic fractions, (n,).
        candidates: Compositions that it may have, the first being that above; None where it is
            known.
        stored: Row of the stores that has its pattern.
        converted: Its measured pattern on the model's grid.
        warnings: What is doubtful.
        weights: Of the candidates, once they were judged, (K,).
        result: What came out, by column.
        error: Why nothing came out.
    """

    given: dict[str, Any]
    elements: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint8))
    fractions: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))
    candidates: Candidates | None = None
    stored: int | None = None
    converted: ConvertedPattern | None = None
    warnings: list[str] = field(default_factory=list)
    weights: np.ndarray | None = None
    result: dict[str, Any] = field(default_factory=dict)
    error: str = ""

    @property
    def has_pattern(self) -> bool:
        """Whether there is a pattern, from a store or measured."""
        return self.stored is not None or self.converted is not None

    def compositions(self) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """What the composition may be: atomic numbers, fractions (K, n) each, weights (K,)."""
        if self.candidates is not None:
            weights = self.candidates.weights if self.weights is None else self.weights
            return *self.candidates.padded(), weights
        if not len(self.elements):
            return None
        return self.elements[None].astype(np.int64), self.fractions[None], np.ones(1)

    def modes(self) -> list[str]:
        """What can be predicted from, the best first."""
        has_composition, has_xrd = len(self.elements) > 0, self.has_pattern
        both = ["both"] if has_composition and has_xrd else []
        return both + ["composition"] * has_composition + ["xrd"] * has_xrd


class RowReader:
    """Finds out what is known of rows: composition, and pattern from a store or a file.

    Args:
        grid: The model's grid.
        patch_points: Points of one of the model's patches.
        options: How measured patterns are converted.
        folder: What relative paths of patterns start from.
        axis: What the first column of text files is: "two_theta" or "q".
        stores: Folders of stores in which to look patterns up by id.

    Attributes:
        gatherer: Of the stores' patterns; None without stores.

    Raises:
        ValueError: if a store does not fit the grid.
    """

    def __init__(
        self,
        grid: Grid,
        patch_points: int,
        options: Options,
        folder: Path,
        axis: str,
        stores: Sequence[str | Path],
    ) -> None:
        self._grid, self._patch_points = grid, patch_points
        self._options, self._folder, self._axis = options, folder, axis
        self._rows_by_id: dict[str, int] = {}
        self.gatherer: Gatherer | None = None
        if stores:
            collection = Collection(stores)
            collection.check_grid(grid)
            self.gatherer = Gatherer(collection.stores, [], collection.max_elements)
            # The first store that has an id wins.
            ids = collection.column("id")
            self._rows_by_id = {name: row for row, name in reversed(list(enumerate(ids)))}

    def read(self, given: dict[str, Any]) -> Row:
        """A row; whatever is wrong with it is its `error`.

        Args:
            given: Its fields by column.
        """
        row = Row(given)
        try:
            self._read(row)
        except ValueError as error:
            row.error = str(error)
        except OSError as error:
            row.error = explain(error)
        except Exception as error:
            # A fault of ours; the table has other rows.
            row.error = f"cannot be read ({type(error).__name__}: {error})"
        row.error = printable(row.error)
        return row

    def _read(self, row: Row) -> None:
        formula, name, file = (
            str(row.given.get(key) or "").strip() for key in ("formula", "id", "pattern")
        )
        if row.given.pop(SURPLUS, None):
            raise ValueError(
                "the row has more fields than the table has columns; quote what has commas in it"
            )
        if not (formula or name or file):
            raise ValueError("neither a formula nor an id nor a pattern")
        if name and file:
            raise ValueError("both an id and a pattern: which pattern is meant?")
        if formula:
            self._compose(formula, row)
        if name:
            row.stored = self._find(name, row)
        if file:
            self._measure(file, row)

    def _compose(self, text: str, row: Row) -> None:
        """Read a composition, and what it allows where it is not known to the atom."""
        known = parse_composition(text)
        if isinstance(known, Stated):
            row.candidates = candidates_of(known)
            row.elements, row.fractions = row.candidates.elements, row.candidates.fractions[0]
            if len(row.candidates) == 1:
                row.candidates = None
        else:
            row.elements, row.fractions = known
        if not np.isfinite(row.fractions).all():
            raise ValueError(f"{text}: its amounts are not finite")

    def _measure(self, file: str, row: Row) -> None:
        """Read and convert a measured pattern."""
        options = self._options
        if wavelength := wavelength_of_row(row.given.get("wavelength")):
            options = replace(options, wavelength=wavelength)
        path = self._folder / file
        pattern = convert(read_scan(path, self._axis), self._grid, options)
        measured = np.isfinite(pattern.profile).reshape(-1, self._patch_points).all(axis=1)
        if not measured.any():
            raise ValueError(f"{path}: no patch of the model's pattern is measured as a whole")
        row.converted, row.warnings = pattern, list(pattern.warnings)

    def _find(self, name: str, row: Row) -> int:
        """Row of a pattern in the stores."""
        if self.gatherer is None:
            raise ValueError(f"id {name!r}: no store was given to look it up (--store)")
        if name not in self._rows_by_id:
            raise ValueError(f"id {name!r}: no such material in the store")
        number = self._rows_by_id[name]
        if len(row.elements):
            stored = self.gatherer.gather(np.array([number]))
            n = int((stored[keys.ELEMENTS] > 0).sum())
            same = np.array_equal(stored[keys.ELEMENTS][0, :n], row.elements)
            if row.candidates is None:
                theirs = stored[keys.FRACTIONS][0, :n]
                same = same and np.allclose(theirs, row.fractions, atol=1e-3)
            if not same:
                raise ValueError(f"id {name!r}: is another composition in the store")
        return number
