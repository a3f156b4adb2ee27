"""`xxact predict`: a table of formulas, with or without patterns, to predictions with intervals.

From Python:

    predictor = Predictor("runs/regression/checkpoints/last.ckpt")
    for row in predictor(["NaCl", "Fe2O3"]):
        print(row["formula"], row["density_predicted"], row["density_low"], row["density_high"])

Shapes: R rows of a chunk, E element slots, L grid points.
"""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules import batch as keys
from datamodules.arguments import ArgumentParser
from datamodules.batch import Batch
from datamodules.collection import Collection
from datamodules.formula import parse_formula
from datamodules.gather import Gatherer
from datamodules.rendering import PeakShape, Renderer
from lightning_modules import checkpoints
from lightning_modules.regression import Regression
from lightning_modules.task_callbacks import write_csv

#: What the answer was made from, by the mode that gave it.
GIVEN = {"both": "composition+xrd", "composition": "composition", "xrd": "xrd"}
ERROR = "error"
_SURPLUS = "\0"
_VALUES = ("predicted", "low", "high")


@dataclass
class _Row:
    """A row of the input on its way: what is known of it, and what came out."""

    given: dict[str, Any]
    elements: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint8))
    fractions: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))
    pattern: int | None = None
    result: dict[str, Any] = field(default_factory=dict)
    error: str = ""

    def modes(self) -> list[str]:
        """What can be predicted from, the best first."""
        has_composition, has_xrd = len(self.elements) > 0, self.pattern is not None
        both = ["both"] if has_composition and has_xrd else []
        return both + ["composition"] * has_composition + ["xrd"] * has_xrd


class Predictor:
    """Predicts from a checkpoint of a regression alone; no recipe is needed.

    Args:
        checkpoint: Of a run of `lightning_modules.Regression`.
        stores: Folders of stores in which to look patterns up by id.
        device: `cpu`, `cuda`, … or `auto`.
        batch_size: Rows at a time.

    Raises:
        ValueError: if the checkpoint is of another task, or a store does not fit its grid.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        stores: Sequence[str | Path] = (),
        device: str = "auto",
        batch_size: int = 256,
    ) -> None:
        task = checkpoints.load_task(checkpoint)
        if not isinstance(task, Regression):
            raise ValueError(
                f"{checkpoint}: was made by task {type(task).__name__}, which predicts no "
                "property; give a checkpoint of lightning_modules.Regression"
            )
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.task = task.to(device)
        self.device = torch.device(device)
        self.batch_size = batch_size
        peaks = checkpoints.read(checkpoint)[checkpoints.KEY].get("peaks", {})
        self._renderer = Renderer(task.grid, PeakShape(**peaks))
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
        return [*names, ERROR]

    def __call__(self, rows: Iterable[str | Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Predict rows; a row that cannot be predicted carries its reason in `error`.

        Args:
            rows: Formulas, or mappings with `formula`, `id` (of a store's material, whose pattern
                is used) or both; other entries are passed through.

        Returns:
            A dictionary for each row, in their order: what was given, then for each target
            `…_predicted` from all that was given, its conformal interval `…_low` and `…_high`
            (None if the checkpoint is not calibrated or the mode was not trained), `…_unit`,
            `…_from`, and the same from composition and pattern alone.
        """
        read = [self._read({"formula": r} if isinstance(r, str) else dict(r)) for r in rows]
        sound = [row for row in read if not row.error]
        for start in range(0, len(sound), self.batch_size):
            self._predict(sound[start : start + self.batch_size])
        return [
            {**row.given, **dict.fromkeys(self.columns), **row.result, ERROR: row.error}
            for row in read
        ]

    def _read(self, given: dict[str, Any]) -> _Row:
        """Find out what is known of a row."""
        row = _Row(given)
        formula, name = str(given.get("formula") or "").strip(), str(given.get("id") or "").strip()
        try:
            if row.given.pop(_SURPLUS, None):
                raise ValueError("the row has more fields than the table has columns")
            if not formula and not name:
                raise ValueError("neither a formula nor an id")
            if formula:
                row.elements, row.fractions = parse_formula(formula)
            if name:
                row.pattern = self._find(name, row)
            trained = self.task.modes
            if not any(mode in trained for mode in row.modes()):
                needed = " and ".join(self.task.modalities)
                raise ValueError(f"the model needs {needed}, the row has {row.modes()[0]} alone")
        except ValueError as error:
            row.error = str(error)
        return row

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
        with_pattern = [b for b, row in enumerate(rows) if row.pattern is not None]
        if with_pattern:
            assert self._gatherer is not None
            numbers = np.array([rows[b].pattern for b in with_pattern])
            arrays = self._gatherer.gather(numbers) | {keys.INDEX: numbers}
            lines = {k: torch.from_numpy(v).to(self.device) for k, v in arrays.items()}
            rendered = self._renderer(lines, augment=False)
            where = torch.tensor(with_pattern, device=self.device)
            xrd[where], measured[where] = rendered[keys.XRD], rendered[keys.MEASURED]
        return {
            keys.ELEMENTS: torch.from_numpy(elements).to(self.device),
            keys.FRACTIONS: torch.from_numpy(fractions).to(self.device),
            keys.XRD: xrd,
            keys.MEASURED: measured,
            keys.INDEX: torch.arange(len(rows), device=self.device),
        }

    @torch.no_grad()
    def _predict(self, rows: Sequence[_Row]) -> None:
        """Fill in the rows' results, mode by mode."""
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


def read_table(path: Path, added: Sequence[str]) -> list[dict[str, Any]]:
    """Read a CSV with a `formula` or an `id` column.

    Args:
        path: The file.
        added: Columns that predictions will add; the table must not have them.

    Raises:
        ValueError: if the file cannot be read, lacks both columns or has a column twice or no rows.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restkey=_SURPLUS, strict=True)
            header = list(reader.fieldnames or [])
            rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: not a CSV table in UTF-8 ({error})") from error
    if not {"formula", "id"} & set(header):
        raise ValueError(
            f"{path}: has columns {', '.join(header) or 'none'}; needs `formula`, `id` (of a "
            "store's material) or both"
        )
    if len(set(header)) < len(header):
        raise ValueError(f"{path}: a column is named twice in {', '.join(header)}")
    if taken := sorted(set(header) & set(added)):
        raise ValueError(f"{path}: column {taken[0]} has the name of a result; rename it")
    if not rows:
        raise ValueError(f"{path}: has no rows")
    return rows


def main(args: Sequence[str]) -> int:
    """Run `xxact predict`."""
    parser = ArgumentParser(
        prog="xxact predict",
        description="Predict properties of the materials in a table; rows keep their order.",
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="of a regression run")
    parser.add_argument(
        "--input",
        type=Path,
        required=True,
        help="CSV with a column formula, id (of a store), or both",
    )
    parser.add_argument("--output", type=Path, help="CSV to write (default: INPUT.predictions.csv)")
    parser.add_argument(
        "--store",
        action="append",
        default=[],
        help="store with the patterns of the ids; repeatable",
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, … (default: auto)")
    parser.add_argument("--batch_size", type=int, default=256, help="rows at a time (256)")
    given = parser.parse_args(args)
    output: Path = given.output or given.input.with_suffix(".predictions.csv")
    if output.exists():
        raise ValueError(f"{output}: exists already; delete it or choose another with --output")
    predictor = Predictor(given.checkpoint, given.store, given.device, given.batch_size)
    rows = predictor(read_table(given.input, predictor.columns))
    write_csv(output, rows)
    failed = sum(bool(row[ERROR]) for row in rows)
    print(f"{output}: {len(rows) - failed} of {len(rows)} rows predicted", end="")
    print(f"; {failed} failed, see the column {ERROR!r}" if failed else "")
    if predictor.task.targets.conformal.isnan().all():
        print(
            "no intervals: the run was not calibrated (it did not end, or has no calibration split)"
        )
    return 0
