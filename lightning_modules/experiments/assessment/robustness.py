"""`xxact report robustness`: errors and coverage against what real patterns suffer from.

Every change is put on the simulated patterns of the test split alone, at several strengths, for
each of the models given. Random signs and partners are the same for all of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from datamodules import batch as keys
from datamodules.batch import Batch
from datamodules.io.arguments import ArgumentParser
from datamodules.randomness import Purpose, normal, uniform
from datamodules.randomness import keys as random_keys
from datamodules.rendering.augmentation import Perturbation
from lightning_modules.experiments.assessment.models import (
    check_output,
    check_units,
    common_split,
    load_regression,
    named_checkpoints,
)
from lightning_modules.experiments.assessment.split_batches import SplitBatches
from lightning_modules.experiments.report.tables import Report
from lightning_modules.inference.devices import choose_device
from lightning_modules.metrics.conformal import coverage
from lightning_modules.regression import Regression


def _key(batch: Batch, purpose: Purpose) -> Tensor:
    zero = torch.zeros((), dtype=torch.int64, device=batch[keys.INDEX].device)
    return random_keys(zero, zero, batch[keys.INDEX], purpose)


def _constant(batch: Batch, value: float) -> Tensor:
    return torch.full(batch[keys.INDEX].shape, value, device=batch[keys.INDEX].device)


def _signed(batch: Batch, value: float, purpose: Purpose) -> Tensor:
    """The value with a random sign for each material."""
    return torch.where(uniform(_key(batch, purpose), 1)[:, 0] < 0.5, -value, value)


def _width(batch: Batch, fwhm: float) -> Perturbation:
    zero = _constant(batch, 0.0)
    return Perturbation(caglioti_u=zero, caglioti_v=zero, caglioti_w=_constant(batch, fwhm**2))


def _strain(batch: Batch, strain: float) -> Perturbation:
    return Perturbation(strain=_signed(batch, strain, Purpose.STRAIN))


def _zero_shift(batch: Batch, degrees: float) -> Perturbation:
    return Perturbation(zero_shift=_signed(batch, degrees, Purpose.ZERO_SHIFT))


def _jitter(batch: Batch, sigma: float) -> Perturbation:
    return Perturbation(line_jitter=sigma, line_keys=_key(batch, Purpose.LINE_JITTER))


def _noise(batch: Batch, share: float) -> Perturbation:
    counts = _constant(batch, 1.0 / share**2)
    return Perturbation(noise=counts, noise_keys=_key(batch, Purpose.NOISE) + 1)


def _background(batch: Batch, height: float) -> Perturbation:
    shape = torch.stack([uniform(_key(batch, Purpose.BACKGROUND) + 1 + i, 1)[:, 0] - 0.5
                         for i in range(4)], dim=1)  # fmt: skip
    return Perturbation(background=_constant(batch, height), background_shape=shape)


def _impurity(batch: Batch, share: float) -> Perturbation:
    return Perturbation(impurity=_constant(batch, share))


def _window(batch: Batch, degrees: float) -> Perturbation:
    """A third of what is missing at the start, two thirds at the end, as short scans have it."""
    cut = torch.tensor([degrees / 3.0, degrees * 2.0 / 3.0], device=batch[keys.INDEX].device)
    return Perturbation(window=cut.expand(len(batch[keys.INDEX]), 2))


def _plain(batch: Batch, strength: float) -> Perturbation:
    return Perturbation()


def _even_noise(batch: Batch, sigma: float) -> Tensor:
    """Patterns with the noise that a background leaves when it is taken off, (B, L)."""
    intensity = batch[keys.XRD].square()
    noise = normal(_key(batch, Purpose.NOISE) + 2, intensity.shape[1])
    intensity = (intensity + sigma * noise).clamp_(min=0.0) * batch[keys.MEASURED]
    return (intensity / intensity.amax(dim=1, keepdim=True).clamp_min(1e-30)).sqrt()


@dataclass(frozen=True)
class Disturbance:
    """A change at several strengths.

    Attributes:
        label: For tables and figures, with its unit.
        levels: Strengths; the plain pattern is judged once for all.
        change: Draws it for a batch at a strength.
        impure: Whether each pattern gets another material's lines.
        after: Changes the rendered patterns, too.
    """

    label: str
    levels: tuple[float, ...]
    change: Callable[[Batch, float], Perturbation]
    impure: bool = False
    after: Callable[[Batch, float], Tensor] | None = None


DISTURBANCES: dict[str, Disturbance] = {
    "noise": Disturbance("counting noise of lines, σ at the maximum", (0.01, 0.1), _noise),
    "even_noise": Disturbance(
        "noise of a removed background, σ", (0.005, 0.01, 0.02, 0.05), _plain, after=_even_noise
    ),
    "width": Disturbance("peak width, FWHM °", (0.1, 0.3, 0.4, 0.6, 0.8, 1.2), _width),
    "zero_shift": Disturbance("zero shift, ±°", (0.05, 0.1, 0.2, 0.4), _zero_shift),
    "strain": Disturbance("isotropic strain, ±", (0.003, 0.01, 0.02, 0.04), _strain),
    "jitter": Disturbance("intensity jitter of lines, σ", (0.2, 0.5, 1.0), _jitter),
    "impurity": Disturbance("impurity's intensity share", (0.05, 0.1, 0.2, 0.4), _impurity, True),
    "window": Disturbance("window not measured, °", (10.0, 25.0, 40.0, 60.0), _window),
    "background": Disturbance("background left, of the maximum", (0.02, 0.05, 0.1), _background),
}


def _at_level(name: str, level: float, batch: Batch) -> Perturbation:
    return DISTURBANCES[name].change(batch, level)


@torch.no_grad()
def judge(
    task: Regression, batches: SplitBatches, limit: int | None, only: Sequence[str]
) -> list[dict[str, Any]]:
    """Errors and coverage of a model in every mode and target, for every change and strength.

    Args:
        task: The model.
        batches: Its test split.
        limit: Materials at most.
        only: Names of the disturbances.
    """
    rows = batches.rows("test", limit)
    levels: list[tuple[str, float]] = [("none", 0.0)]
    levels += [(name, level) for name in only for level in DISTURBANCES[name].levels]
    found = []
    for name, level in levels:
        change = None if name == "none" else partial(_at_level, name, level)
        impure = name != "none" and DISTURBANCES[name].impure
        # What is not given cannot disturb.
        modes = [mode for mode in task.modes if name == "none" or mode != "composition"]
        values: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {mode: [] for mode in modes}
        labels, formulas = [], []
        for batch in batches.batches(rows, change, impure):
            after = None if name == "none" else DISTURBANCES[name].after
            if after is not None:
                batch = batch | {keys.XRD: after(batch, level)}
            labels.append(batch[keys.TARGETS])
            formulas.append(batch[keys.FORMULA_KEY])
            for mode in modes:
                prediction, m = task.predict(batch, mode), list(task.modes).index(mode)
                values[mode].append((prediction.value, *task.targets.interval(prediction, m)))
        label_NT, formula_N = torch.cat(labels).cpu(), torch.cat(formulas).cpu()
        calibrated = not bool(task.targets.conformal.isnan().any())
        for mode, parts in values.items():
            value_NT, low_NT, high_NT = (torch.cat(part).cpu() for part in zip(*parts, strict=True))
            for t, target in enumerate(task.targets.names):
                there = ~label_NT[:, t].isnan()
                label = label_NT[there, t]
                ends = low_NT[there, t], high_NT[there, t]
                covered = coverage(*ends, label, formula_N[there])
                found.append(
                    {
                        "change": name,
                        "level": level,
                        "given": mode,
                        "target": target,
                        "mae": float((value_NT[there, t] - label).abs().mean()),
                        "coverage": covered.get("coverage") if calibrated else None,
                        "n": int(there.sum()),
                    }
                )
    return found


def draw(rows: list[dict[str, Any]], names: Sequence[str], target: str, what: str) -> Figure:
    """One panel a change: a line for each model and mode, against the strength."""
    changes = [c for c in DISTURBANCES if any(row["change"] == c for row in rows)]
    columns = 3
    lines = -(-len(changes) // columns)
    figure = Figure(figsize=(3.4 * columns, 2.9 * lines), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False)
    for axes in grid.flat[len(changes) :]:
        axes.set_visible(False)
    styles = {"both": "-", "xrd": "--", "composition": ":"}
    for change, axes in zip(changes, grid.flat, strict=False):
        for i, model in enumerate(names):
            for mode, style in styles.items():
                line = [
                    (row["level"], row[what])
                    for row in rows
                    if (row["model"], row["given"], row["target"]) == (model, mode, target)
                    and row["change"] in (change, "none")
                    and row[what] is not None
                    # The plain pattern has the width that the model was judged with.
                    and not (row["change"] == "none" and change == "width")
                ]
                if mode == "composition" and line:
                    axes.axhline(line[0][1], linestyle=style, color=f"C{i}", linewidth=1)
                elif line:
                    x, y = zip(*sorted(line), strict=True)
                    axes.plot(x, y, style, marker=".", color=f"C{i}", label=f"{model}, {mode}")
        axes.set_xlabel(DISTURBANCES[change].label)
        if what == "mae":
            axes.set_ylim(bottom=0)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    # A dotted line is the composition alone, which no change of the pattern touches.
    figure.legend(handles, labels, loc="outside upper center", ncols=3, fontsize=8)
    figure.supylabel(f"{target}: {'mean absolute error' if what == 'mae' else what}")
    return figure


def _tabled(rows: list[dict[str, Any]], names: Sequence[str], target: str) -> list[dict[str, Any]]:
    """A line a change and strength; columns are models and modes: error (coverage)."""
    lines: dict[tuple[str, float], dict[str, Any]] = {}
    for row in rows:
        if row["target"] != target or row["given"] == "composition":
            continue
        line = lines.setdefault(
            (row["change"], row["level"]), {"change": row["change"], "strength": row["level"]}
        )
        inside = "" if row["coverage"] is None else f" ({row['coverage']:.2f})"
        line[f"{row['model']}, {row['given']}"] = f"{row['mae']:.4g}{inside}"
    keys_ = dict.fromkeys(key for line in lines.values() for key in line)
    return [{key: line.get(key) for key in keys_} for line in lines.values()]


def main(argv: Sequence[str]) -> int:
    """Runs `xxact report robustness`."""
    parser = ArgumentParser(
        prog="xxact report robustness",
        description="Errors and coverage on disturbed patterns of the test split.",
    )
    parser.add_argument(
        "--checkpoint",
        action="append",
        required=True,
        metavar="[NAME=]CHECKPOINT",
        help="of a regression; repeatable, to compare models",
    )
    parser.add_argument("--store", action="append", required=True, help="repeatable")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--only", default=",".join(DISTURBANCES), metavar="noise,width,…")
    parser.add_argument("--limit", type=int, help="materials at most")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, …")
    parser.add_allow_task()
    given = parser.parse_args(argv)
    only = [name for name in given.only.split(",") if name]
    unknown = sorted(set(only) - set(DISTURBANCES))
    if unknown or not only:
        raise ValueError(
            f"--only: no {', '.join(unknown) or 'name'}; there are {','.join(DISTURBANCES)}"
        )
    if given.limit is not None and given.limit < 2:
        raise ValueError(f"--limit {given.limit}: must be at least 2")
    check_output(given.output)
    device = choose_device(given.device)
    models = named_checkpoints(given.checkpoint)
    split = common_split(list(models.values()))
    rows: list[dict[str, Any]] = []
    targets: dict[str, None] = {}
    for name, path in models.items():
        task, peaks = load_regression(path, given.allow_task)
        batches = SplitBatches(given.store, task.grid, peaks, split, task.targets.names, device)
        check_units(path, task, batches.collection)
        found = judge(task.to(device), batches, given.limit, only)
        rows += [{"model": name, **row} for row in found]
        targets |= dict.fromkeys(task.targets.names)
    report = Report("Robustness against what measured patterns suffer from", {"rows": rows})
    report.say(
        "Mean absolute errors in the targets' units, and the share of labels in the intervals. "
        f"{rows[0]['n']} materials of the test split; each change alone. Strained crystals are "
        "judged by the volume and density that they have."
    )
    for target in targets:
        caption = f"{target}: error (coverage)"
        report.table(f"robustness_{target}", caption, _tabled(rows, list(models), target))
        for what in ("mae", "coverage"):
            if any(row[what] is not None and row["target"] == target for row in rows):
                figure = draw(rows, list(models), target, what)
                report.figure(f"{what}_{target}", f"{target}, {what}", figure)
    written = report.write(given.output)
    print(written[0].read_text(encoding="utf-8"))
    print("\n".join(str(path) for path in written))
    return 0
