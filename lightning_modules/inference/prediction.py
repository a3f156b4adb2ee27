"""Formulas, with or without patterns, to predictions with intervals and evidence.

From Python:

    predictor = Predictor("runs/regression/checkpoints/last.ckpt")
    for row in predictor(["NaCl", {"formula": "MnO", "pattern": "MnO.xy", "wavelength": "CuKa"}]):
        print(row["formula"], row["density_predicted"], row["density_low"], row["density_high"])

The command is in `command_line.py`.

Shapes: R rows of a chunk, E element slots, L grid points.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules import batch as keys
from datamodules.batch import Batch
from datamodules.composition import Candidates
from datamodules.measured import Options
from datamodules.rendering.renderer import Renderer
from lightning_modules import checkpoints
from lightning_modules.inference.answers.pictures import draw, picture_name
from lightning_modules.inference.averaging import average
from lightning_modules.inference.batches import RowBatches
from lightning_modules.inference.devices import choose_device
from lightning_modules.inference.evidence import Evidence
from lightning_modules.inference.neighbours import Library, Nearest
from lightning_modules.inference.rows import (
    AGREEMENT,
    CANDIDATES,
    CONTRADICTION,
    ERROR,
    GIVEN,
    NEIGHBOURS,
    PICTURE,
    WARNINGS,
    Row,
    RowReader,
)
from lightning_modules.regression import Regression

#: Compositions of a row that are asked; the heaviest where there are more.
MOST_CANDIDATES = 256
_VALUES = ("predicted", "low", "high")


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
        library: Folders of stores; the known materials that are nearest are told beside each
            answer, by the vectors of `aligned`.
        pictures: Folder for a picture of each row that has a pattern; made where it does not exist.
        allow_tasks: Tasks of other packages that the checkpoints may name; importing them runs
            their code.

    Raises:
        ValueError: if the checkpoint is of another task, a store does not fit its grid, or the
            alignment has another grid or is not calibrated, a library is to be searched without
            one, or the folder for pictures has something in it.
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
        library: Sequence[str | Path] = (),
        pictures: str | Path | None = None,
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
        renderer = Renderer(task.grid, checkpoints.peaks_of(checkpoint))
        shape = renderer.shape
        converting = replace(options or Options(), model_polarization=shape.polarization)
        if converting.fwhm is None:
            converting = replace(converting, fwhm=shape.fwhm)
        self._evidence = None if aligned is None else Evidence(aligned, self.device, allow_tasks)
        if self._evidence is not None:
            theirs = self._evidence.model.grid
            if theirs != task.grid or self._evidence.model.peaks != renderer.shape:
                raise ValueError(
                    f"{aligned}: another grid or other peaks than {checkpoint}; train both on one"
                )
        #: How measured patterns are converted, with the model's own width and polarization.
        self.converting = converting
        patch_points = task.backbone.config.patch_points
        self._reader = RowReader(task.grid, patch_points, converting, Path(folder), axis, stores)
        self._batches = RowBatches(renderer, self._reader.gatherer, self.device)
        self._nearest: Nearest | None = None
        if library:
            if self._evidence is None:
                raise ValueError(
                    "a library is searched by the vectors of an aligned model: give one (--aligned)"
                )
            self._nearest = Nearest(Library(library, self._evidence.model), self.units)
        self._pictures = None if pictures is None else _empty_folder(Path(pictures))

    @property
    def units(self) -> dict[str, str]:
        """Unit by target."""
        return dict(zip(self.task.targets.names, self.task.targets.units, strict=True))

    @property
    def library(self) -> Library | None:
        """The known materials that are told beside each answer; None where there is no library."""
        return None if self._nearest is None else self._nearest.library

    @property
    def confidence(self) -> float:
        """With what probability an interval holds the label."""
        return float(self.task.constructed_with["confidence"])

    @property
    def columns(self) -> list[str]:
        """Names of the columns that predictions add to a table."""
        names: list[str] = []
        for target in self.task.targets.names:
            names += [f"{target}_{x}" for x in (*_VALUES, "unit", "from")]
            for mode in ("composition", "xrd"):
                names += [f"{target}_{mode}_{x}" for x in _VALUES]
        names += [CANDIDATES, AGREEMENT, CONTRADICTION]
        names += [NEIGHBOURS] * (self._nearest is not None) + [PICTURE] * bool(self._pictures)
        return [*names, WARNINGS, ERROR]

    def __call__(self, rows: Iterable[str | Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Predict rows; a row that cannot be predicted carries its reason in `error`.

        Args:
            rows: Compositions, or mappings with `formula` and a pattern, or one of them; other
                entries are passed through. A composition is a formula, `Fe,O` (elements only), or
                percentages such as `Fe 55±2, O 45±2 at%`: what is averaged over is then told in
                `candidates`. The pattern is `pattern`, a diffractometer's file (with
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
        given, number = iter(rows), 0
        while part := list(islice(given, self.batch_size)):
            read = [self._read(r) for r in part]
            self._answer([row for row in read if not row.error])
            for row in read:
                number += 1
                if not row.error:
                    self._show(row, number)
                yield {
                    **row.given,
                    **dict.fromkeys(self.columns),
                    **({} if row.error else row.result),
                    WARNINGS: "; ".join(row.warnings),
                    ERROR: row.error,
                }

    def _answer(self, rows: Sequence[Row]) -> None:
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

    def _read(self, given: str | Mapping[str, Any]) -> Row:
        """Find out what is known of a row, and whether the model can answer it."""
        row = self._reader.read({"formula": given} if isinstance(given, str) else dict(given))
        if not row.error and not any(mode in self.task.modes for mode in row.modes()):
            needed = " and ".join(self.task.modalities)
            row.error = f"the model needs {needed}, the row has {row.modes()[0]} alone"
        return row

    def _show(self, row: Row, number: int) -> None:
        """Find a row's nearest known materials and draw its picture, where they are asked for.

        Args:
            row: Answered.
            number: Its place in the input, from 1.
        """
        if self._nearest is None and self._pictures is None:
            return
        batch = self._batches([row])
        if self._nearest is not None:
            row.result[NEIGHBOURS] = self._nearest.find(
                row.compositions(),
                (batch[keys.XRD], batch[keys.MEASURED]) if row.has_pattern else None,
            )
        if self._pictures is not None and row.has_pattern:
            path = self._pictures / picture_name(row, number)
            patches = batch[keys.MEASURED][0].unflatten(
                0, (-1, self.task.backbone.config.patch_points)
            )
            # Patches that are not wholly measured are not read.
            read = patches.all(dim=1, keepdim=True).expand_as(patches).flatten()
            root = batch[keys.XRD][0].masked_fill(~read, math.nan).cpu().numpy()
            draw(row, root, self.task.grid, self.units, path)
            row.result[PICTURE] = str(path)

    def _judge(self, rows: Sequence[Row]) -> None:
        """Tell which formulas and patterns contradict each other."""
        pairs = [row for row in rows if len(row.elements) and row.has_pattern]
        if self._evidence is None or not pairs:
            return
        batch = self._batches(pairs)
        agreement, contradiction = self._evidence(
            batch[keys.ELEMENTS], batch[keys.FRACTIONS], batch[keys.XRD], batch[keys.MEASURED]
        )
        for row, share, flag in zip(pairs, agreement, contradiction, strict=True):
            row.result[AGREEMENT] = _number(float(share))
            row.result[CONTRADICTION] = "yes" if flag else "no"

    @torch.no_grad()
    def _predict(self, rows: Sequence[Row]) -> None:
        """Fill in the rows' results, mode by mode."""
        for row in rows:
            if row.candidates is not None:
                self._predict_average(row, row.candidates)
        rows = [row for row in rows if row.candidates is None]
        self._judge(rows)
        for m, mode in enumerate(self.task.modes):
            chosen = [row for row in rows if mode in row.modes()]
            if chosen:
                prediction = self.task.predict(self._batches(chosen), mode)
                ends = self.task.targets.interval(prediction, m)
                columns = [x.tolist() for x in (prediction.value, *ends)]
                for row, *numbers in zip(chosen, *columns, strict=True):
                    self._fill(row, mode, numbers)

    def _predict_average(self, row: Row, candidates: Candidates) -> None:
        """Fill in the result of a row whose composition is not known to the atom."""
        batch = self._batches([row])
        weights = {"composition": candidates.weights, "both": candidates.weights}
        if self._evidence is not None and row.has_pattern:
            judged = self._evidence.judge_candidates(
                candidates, batch[keys.XRD], batch[keys.MEASURED]
            )
            weights["both"] = judged.weights
            row.result[AGREEMENT] = _number(judged.agreement)
            row.result[CONTRADICTION] = "yes" if judged.contradiction else "no"
        row.weights = weights["both"]
        row.result[CANDIDATES] = candidates.told(row.weights)
        for m, mode in enumerate(self.task.modes):
            if mode not in row.modes():
                continue
            if mode == "xrd":
                prediction = self.task.predict(batch, mode)
                ends = self.task.targets.interval(prediction, m)
                self._fill(row, mode, [x[0].tolist() for x in (prediction.value, *ends)])
            else:
                found = self._average(batch, candidates, weights[mode], mode, m)
                self._fill(row, mode, [x.tolist() for x in found])

    def _average(
        self, batch: Batch, candidates: Candidates, weights: np.ndarray, mode: str, m: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Value, lower and upper end of a row's targets, averaged over its candidates."""
        chosen = np.argsort(-weights, kind="stable")[:MOST_CANDIDATES]
        elements, fractions = (torch.from_numpy(x[chosen]) for x in candidates.padded())
        value, half = [], []
        targets = self.task.targets
        parts = zip(elements.split(self.batch_size), fractions.split(self.batch_size), strict=True)
        for numbers, shares in parts:
            prediction = self.task.predict(
                {
                    keys.ELEMENTS: numbers.to(self.device),
                    keys.FRACTIONS: shares.to(self.device),
                    keys.XRD: batch[keys.XRD].expand(len(numbers), -1),
                    keys.MEASURED: batch[keys.MEASURED].expand(len(numbers), -1),
                    keys.INDEX: torch.arange(len(numbers), device=self.device),
                },
                mode,
            )
            value.append(prediction.value.cpu())
            half.append((targets.conformal[m] * prediction.spread).cpu())
        kept = torch.from_numpy(weights[chosen] / weights[chosen].sum())
        mean, low, high = average(torch.cat(value), torch.cat(half), kept, self.confidence)
        low = torch.where(targets.positive.cpu(), low.clamp_min(0.0), low)
        return mean, low, high

    def _fill(self, row: Row, mode: str, numbers: Sequence[Sequence[float]]) -> None:
        """Add what a mode answers to a row's result: values, lower and upper ends by target."""
        targets = self.task.targets
        for t, name in enumerate(targets.names):
            found = {key: _number(values[t]) for key, values in zip(_VALUES, numbers, strict=True)}
            # Modes come best first: the first one answers.
            if f"{name}_from" not in row.result:
                row.result |= {f"{name}_{key}": value for key, value in found.items()}
                row.result[f"{name}_unit"] = targets.units[t]
                row.result[f"{name}_from"] = GIVEN[mode]
            if mode != "both":
                row.result |= {f"{name}_{mode}_{key}": x for key, x in found.items()}


def _empty_folder(folder: Path) -> Path:
    """A folder with nothing in it, made where it does not exist."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ValueError(f"{folder}: exists already; choose another folder for the pictures")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _number(value: float) -> float | None:
    """Six digits, as many as float32 has; None for NaN."""
    return None if value != value else float(f"{value:.6g}")
