"""Formulas, with or without patterns, to predictions with intervals and evidence.

From Python:

    predictor = Predictor("runs/regression/checkpoints/last.ckpt")
    for row in predictor(["NaCl", {"formula": "MnO", "pattern": "MnO.xy", "wavelength": "CuKa"}]):
        print(row["formula"], row["density_predicted"], row["density_low"], row["density_high"])

The command is in `prediction_table.py`.

Shapes: R rows of a chunk, E element slots, L grid points.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules import batch as keys
from datamodules.batch import Batch
from datamodules.formula import parse_formula
from datamodules.io.arguments import printable
from datamodules.io.files import explain
from datamodules.measured import Options, convert, read_scan
from datamodules.measured.wavelength import wavelength_of_row
from datamodules.rendering.renderer import Renderer
from datamodules.store.collection import Collection
from datamodules.store.gathering import Gatherer
from lightning_modules import checkpoints
from lightning_modules.inference.devices import choose_device
from lightning_modules.inference.evidence import Evidence
from lightning_modules.regression import Regression

#: What the answer was made from, by the mode that gave it.
GIVEN = {"both": "composition+xrd", "composition": "composition", "xrd": "xrd"}
ERROR, WARNINGS = "error", "warnings"
#: Share of sound pairs of formula and pattern that fit no better, and whether the two contradict.
AGREEMENT, CONTRADICTION = "agreement", "contradiction"
#: Where a table's reader puts fields beyond the columns.
SURPLUS = "\0"
_VALUES = ("predicted", "low", "high")


@dataclass
class _Row:
    """A row of the input on its way: what is known of it, and what came out."""

    given: dict[str, Any]
    elements: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint8))
    fractions: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))
    stored: int | None = None
    profile: np.ndarray | None = None
    warnings: list[str] = field(default_factory=list)
    result: dict[str, Any] = field(default_factory=dict)
    error: str = ""

    @property
    def has_pattern(self) -> bool:
        """Whether there is a pattern, from a store or measured."""
        return self.stored is not None or self.profile is not None

    def modes(self) -> list[str]:
        """What can be predicted from, the best first."""
        has_composition, has_xrd = len(self.elements) > 0, self.has_pattern
        both = ["both"] if has_composition and has_xrd else []
        return both + ["composition"] * has_composition + ["xrd"] * has_xrd


class Predictor:
    """Predicts from a checkpoint of a regression alone; no recipe is needed.

    Args:
        checkpoint: Of a run of `lightning_modules.Regression`.
        stores: Folders of stores in which to look patterns up by id.
        device: `cpu`, `cuda`, … or `auto`.
        batch_size: Rows at a time.
        aligned: Checkpoint of a calibrated alignment, to tell formulas and patterns that
            contradict each other.
        options: How measured patterns are converted; `fwhm` is the model's unless given.
        folder: What relative paths of patterns start from.
        axis: What the first column of text files is: "two_theta" or "q".
        allow_tasks: Tasks of other packages that the checkpoints may name; importing them runs
            their code.

    Raises:
        ValueError: if the checkpoint is of another task, a store does not fit its grid, or the
            alignment has another grid or is not calibrated.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        stores: Sequence[str | Path] = (),
        device: str = "auto",
        batch_size: int = 256,
        aligned: str | Path | None = None,
        options: Options | None = None,
        folder: str | Path = ".",
        axis: str = "two_theta",
        allow_tasks: Sequence[str] = (),
    ) -> None:
        task = checkpoints.load_task(checkpoint, allow_tasks)
        if not isinstance(task, Regression):
            raise ValueError(
                f"{checkpoint}: was made by task {type(task).__name__}, which predicts no "
                "property; give a checkpoint of lightning_modules.Regression"
            )
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; give at least 1")
        self.device = choose_device(device)
        self.task = task.to(self.device)
        self.batch_size = batch_size
        self._renderer = Renderer(task.grid, checkpoints.peaks_of(checkpoint))
        self._folder, self._axis = Path(folder), axis
        self._options = replace(
            options or Options(), model_polarization=self._renderer.shape.polarization
        )
        if self._options.fwhm is None:
            self._options = replace(self._options, fwhm=self._renderer.shape.fwhm)
        self._evidence = None if aligned is None else Evidence(aligned, self.device, allow_tasks)
        if self._evidence is not None:
            theirs = self._evidence.model.grid
            if theirs != task.grid or self._evidence.model.peaks != self._renderer.shape:
                raise ValueError(
                    f"{aligned}: another grid or other peaks than {checkpoint}; train both on one"
                )
        self._rows_by_id: dict[str, int] = {}
        self._gatherer: Gatherer | None = None
        if stores:
            collection = Collection(stores)
            collection.check_grid(task.grid)
            self._gatherer = Gatherer(collection.stores, [], collection.max_elements)
            # The first store that has an id wins.
            ids = collection.column("id")
            self._rows_by_id = {name: row for row, name in reversed(list(enumerate(ids)))}

    @property
    def columns(self) -> list[str]:
        """Names of the columns that predictions add to a table."""
        names: list[str] = []
        for target in self.task.targets.names:
            names += [f"{target}_{x}" for x in (*_VALUES, "unit", "from")]
            for mode in ("composition", "xrd"):
                names += [f"{target}_{mode}_{x}" for x in _VALUES]
        return [*names, AGREEMENT, CONTRADICTION, WARNINGS, ERROR]

    def __call__(self, rows: Iterable[str | Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Predict rows; a row that cannot be predicted carries its reason in `error`.

        Args:
            rows: Formulas, or mappings with `formula` and a pattern, or one of them; other entries
                are passed through. The pattern is `pattern`, a diffractometer's file (with
                `wavelength`, where neither it nor the options have one), or `id`, of a store's
                material.

        Returns:
            A dictionary for each row, in their order: what was given, then for each target
            `…_predicted` from all that was given, its conformal interval `…_low` and `…_high`
            (None if the checkpoint is not calibrated or the mode was not trained), `…_unit`,
            `…_from`, and the same from composition and pattern alone.
        """
        return list(self.stream(rows))

    def stream(self, rows: Iterable[str | Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        """Predict rows one batch after the other; what comes out is as of a call.

        Args:
            rows: As of a call.
        """
        # Read as they are predicted: a thousand dense patterns are 17 MB.
        given = iter(rows)
        while part := list(islice(given, self.batch_size)):
            read = [self._read({"formula": r} if isinstance(r, str) else dict(r)) for r in part]
            self._answer([row for row in read if not row.error])
            for row in read:
                yield {
                    **row.given,
                    **dict.fromkeys(self.columns),
                    **({} if row.error else row.result),
                    WARNINGS: "; ".join(row.warnings),
                    ERROR: row.error,
                }

    def _answer(self, rows: Sequence[_Row]) -> None:
        """Predict rows at once; where that fails, one by one, to find the row that is at fault."""
        try:
            if rows:
                self._predict(rows)
        except Exception as error:
            for row in rows:
                row.result = {}
                if len(rows) > 1:
                    self._answer([row])
                else:
                    row.error = f"cannot be predicted ({type(error).__name__}: {error})"
            return
        for row in rows:
            for name in self.task.targets.names:
                value = row.result.get(f"{name}_predicted")
                if value is None or not math.isfinite(value):
                    row.error = f"the model's answer for {name} is not finite"

    def _read(self, given: dict[str, Any]) -> _Row:
        """Find out what is known of a row."""
        row = _Row(given)
        formula, name, file = (
            str(given.get(key) or "").strip() for key in ("formula", "id", "pattern")
        )
        try:
            if row.given.pop(SURPLUS, None):
                raise ValueError("the row has more fields than the table has columns")
            if not (formula or name or file):
                raise ValueError("neither a formula nor an id nor a pattern")
            if name and file:
                raise ValueError("both an id and a pattern: which pattern is meant?")
            if formula:
                row.elements, row.fractions = parse_formula(formula)
                if not np.isfinite(row.fractions).all():
                    raise ValueError(f"{formula}: its amounts are not finite")
            if name:
                row.stored = self._find(name, row)
            if file:
                self._measure(file, row)
            trained = self.task.modes
            if not any(mode in trained for mode in row.modes()):
                needed = " and ".join(self.task.modalities)
                raise ValueError(f"the model needs {needed}, the row has {row.modes()[0]} alone")
        except ValueError as error:
            row.error = str(error)
        except OSError as error:
            row.error = explain(error)
        except Exception as error:
            # A fault of ours; the table has other rows.
            row.error = f"cannot be read ({type(error).__name__}: {error})"
        row.error = printable(row.error)
        return row

    def _measure(self, file: str, row: _Row) -> None:
        """Read and convert a measured pattern."""
        options = self._options
        if wavelength := wavelength_of_row(row.given.get("wavelength")):
            options = replace(options, wavelength=wavelength)
        path = self._folder / file
        pattern = convert(read_scan(path, self._axis), self.task.grid, options)
        patch = self.task.backbone.config.patch_points
        measured = np.isfinite(pattern.profile).reshape(-1, patch).all(axis=1)
        if not measured.any():
            raise ValueError(f"{path}: no patch of the model's pattern is measured as a whole")
        row.profile, row.warnings = pattern.profile, pattern.warnings

    def _find(self, name: str, row: _Row) -> int:
        """Row of a pattern in the stores."""
        if self._gatherer is None:
            raise ValueError(f"id {name!r}: no store was given to look it up (--store)")
        if name not in self._rows_by_id:
            raise ValueError(f"id {name!r}: no such material in the store")
        number = self._rows_by_id[name]
        if len(row.elements):
            stored = self._gatherer.gather(np.array([number]))
            n = int((stored[keys.ELEMENTS] > 0).sum())
            same = np.array_equal(stored[keys.ELEMENTS][0, :n], row.elements)
            if not (same and np.allclose(stored[keys.FRACTIONS][0, :n], row.fractions, atol=1e-3)):
                raise ValueError(f"id {name!r}: is another composition in the store")
        return number

    def _batch(self, rows: Sequence[_Row]) -> Batch:
        """A rendered batch; what a row lacks is zero and not to be read."""
        slots = max(1, *(len(row.elements) for row in rows))
        elements = np.zeros((len(rows), slots), np.int64)
        fractions = np.zeros((len(rows), slots), np.float32)
        for b, row in enumerate(rows):
            elements[b, : len(row.elements)] = row.elements
            fractions[b, : len(row.elements)] = row.fractions
        n_points = self.task.grid.n_points
        xrd = torch.zeros(len(rows), n_points, device=self.device)
        measured = torch.zeros(len(rows), n_points, dtype=torch.bool, device=self.device)
        for found, lines in self._patterns(rows):
            rendered = self._renderer(lines, augment=False)
            where = torch.tensor(found, device=self.device)
            xrd[where], measured[where] = rendered[keys.XRD], rendered[keys.MEASURED]
        return {
            keys.ELEMENTS: torch.from_numpy(elements).to(self.device),
            keys.FRACTIONS: torch.from_numpy(fractions).to(self.device),
            keys.XRD: xrd,
            keys.MEASURED: measured,
            keys.INDEX: torch.arange(len(rows), device=self.device),
        }

    def _patterns(self, rows: Sequence[_Row]) -> Iterator[tuple[list[int], Batch]]:
        """Positions of the rows with patterns, and what to render them from."""
        stored = [b for b, row in enumerate(rows) if row.stored is not None]
        if stored:
            assert self._gatherer is not None
            numbers = np.array([rows[b].stored for b in stored])
            arrays = self._gatherer.gather(numbers) | {keys.INDEX: numbers}
            yield stored, {k: torch.from_numpy(v).to(self.device) for k, v in arrays.items()}
        profiles = {b: row.profile for b, row in enumerate(rows) if row.profile is not None}
        if profiles:
            dense = torch.from_numpy(np.stack(list(profiles.values()))).to(self.device)
            index = torch.arange(len(dense), device=self.device)
            yield list(profiles), {keys.PROFILE: dense, keys.INDEX: index}

    def _judge(self, rows: Sequence[_Row]) -> None:
        """Tell which formulas and patterns contradict each other."""
        pairs = [row for row in rows if len(row.elements) and row.has_pattern]
        if self._evidence is None or not pairs:
            return
        batch = self._batch(pairs)
        agreement, contradiction = self._evidence(
            batch[keys.ELEMENTS], batch[keys.FRACTIONS], batch[keys.XRD], batch[keys.MEASURED]
        )
        for row, share, flag in zip(pairs, agreement, contradiction, strict=True):
            row.result[AGREEMENT] = _number(float(share))
            row.result[CONTRADICTION] = "yes" if flag else "no"

    @torch.no_grad()
    def _predict(self, rows: Sequence[_Row]) -> None:
        """Fill in the rows' results, mode by mode."""
        self._judge(rows)
        targets = self.task.targets
        for m, mode in enumerate(self.task.modes):
            chosen = [row for row in rows if mode in row.modes()]
            if not chosen:
                continue
            prediction = self.task.predict(self._batch(chosen), mode)
            low, high = targets.interval(prediction, m)
            columns = [x.tolist() for x in (prediction.value, low, high)]
            for row, *numbers in zip(chosen, *columns, strict=True):
                for t, name in enumerate(targets.names):
                    found = {
                        key: _number(values[t])
                        for key, values in zip(_VALUES, numbers, strict=True)
                    }
                    # Modes come best first: the first one answers.
                    if f"{name}_from" not in row.result:
                        row.result |= {f"{name}_{key}": value for key, value in found.items()}
                        row.result[f"{name}_unit"] = targets.units[t]
                        row.result[f"{name}_from"] = GIVEN[mode]
                    if mode != "both":
                        row.result |= {f"{name}_{mode}_{key}": x for key, x in found.items()}


def _number(value: float) -> float | None:
    """Six digits, as many as float32 has; None for NaN."""
    return None if value != value else float(f"{value:.6g}")
