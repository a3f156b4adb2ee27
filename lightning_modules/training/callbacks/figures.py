"""Figures for the run's folder and its loggers."""

import gc
from pathlib import Path

import lightning as L
import numpy as np
from matplotlib.figure import Figure

from datamodules.elements import SYMBOLS
from datamodules.io.files import replace_picture
from lightning_modules.training.callbacks.loggers import show

# Arrays here: B patterns, L grid points, E element slots.


def publish(trainer: L.Trainer, figure: Figure, tag: str, path: Path) -> None:
    """Put a figure into the run's folder and before its loggers, and let go of it.

    A figure is a knot of references, some megabytes large. Python unties such knots rarely in a
    training, which makes few objects: without this, memory grows from picture to picture.

    Args:
        trainer: Of the run; its global step is the figure's.
        figure: Of no further use afterwards.
        tag: Its name for loggers.
        path: Its file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_picture(path, figure, dpi=110)
    for logger in trainer.loggers:
        show(logger, figure, tag, path, trainer.global_step)
    figure.clear()
    gc.collect()


def composition_label(elements: np.ndarray, fractions: np.ndarray) -> str:
    """A formula with atomic fractions in percent, such as `Na 50 Cl 50`."""
    return " ".join(
        f"{SYMBOLS[z]} {100 * f:.0f}" for z, f in zip(elements, fractions, strict=True) if z > 0
    )


def reconstruction_figure(
    two_theta: np.ndarray,
    elements: np.ndarray,
    fractions: np.ndarray,
    target: np.ndarray,
    masked: np.ndarray,
    prediction: np.ndarray,
    prediction_without_composition: np.ndarray,
    strongest: np.ndarray,
    placed: np.ndarray,
) -> Figure:
    """Draw patterns one below the other, hidden regions shaded.

    A grey triangle marks the strongest hidden line, a blue one where the model puts it.

    Args:
        two_theta: Grid in degrees, (L,).
        elements: Atomic numbers, (B, E).
        fractions: Atomic fractions, (B, E).
        target: Square root of intensity, (B, L).
        masked: Hidden points, (B, L) bool.
        prediction: Reconstruction, (B, L).
        prediction_without_composition: Reconstruction with the composition hidden, (B, L).
        strongest: Grid point of the strongest hidden line, (B,) int; negative where there is none.
        placed: Grid point where the reconstruction is highest, (B,) int.
    """
    n = len(target)
    # A Figure of its own, without pyplot: no global state and no leak over a long run.
    figure = Figure(figsize=(12, 2.4 * n), layout="constrained")
    axes = np.atleast_1d(figure.subplots(n, 1, sharex=True))
    for i, axis in enumerate(axes):
        axis.fill_between(
            two_theta, 0, 1, where=masked[i], transform=axis.get_xaxis_transform(),
            color="0.92", step="mid", linewidth=0, label="hidden",
        )  # fmt: skip
        axis.plot(two_theta, target[i], color="0.25", linewidth=0.8, label="truth")
        for values, color, label in (
            (prediction_without_composition, "tab:orange", "reconstruction, composition hidden"),
            (prediction, "tab:blue", "reconstruction"),
        ):
            shown = np.where(masked[i], values[i], np.nan)
            axis.plot(two_theta, shown, color=color, linewidth=1.0, label=label)
        if strongest[i] >= 0:
            for point, color, label in (
                (strongest[i], "0.25", "strongest hidden line"),
                (placed[i], "tab:blue", "where the model puts it"),
            ):
                axis.plot(
                    two_theta[point], 1.05, color=color, marker="v", linestyle="none",
                    clip_on=False, transform=axis.get_xaxis_transform(), label=label,
                )  # fmt: skip
        axis.set_title(composition_label(elements[i], fractions[i]), fontsize=9, loc="left")
        axis.set_ylabel("√intensity")
        axis.margins(x=0)
    figure.legend(
        *axes[0].get_legend_handles_labels(), fontsize=8, ncols=6, loc="outside upper right"
    )
    axes[-1].set_xlabel("2θ (degrees, Cu Kα)")
    return figure


def parity_figure(
    names: list[str], units: list[str], target: np.ndarray, value: dict[str, np.ndarray]
) -> Figure:
    """Predictions against labels: a row for each target, a column for each mode.

    Args:
        names: Targets.
        units: Their units.
        target: Labels, (N, T), NaN where missing.
        value: Predictions by mode, (N, T) each.
    """
    figure = Figure(figsize=(3.6 * len(value), 3.4 * len(names)), layout="constrained")
    axes = np.atleast_2d(figure.subplots(len(names), len(value), squeeze=False))
    for t, (name, unit) in enumerate(zip(names, units, strict=True)):
        there = np.isfinite(target[:, t])
        for axis, (mode, predicted) in zip(axes[t], value.items(), strict=True):
            x, y = target[there, t], predicted[there, t]
            axis.set_title(f"{name} from {mode}", fontsize=9, loc="left")
            axis.set_xlabel(f"label ({unit})", fontsize=8)
            axis.set_ylabel(f"prediction ({unit})", fontsize=8)
            if not len(x):
                continue
            low, high = min(x.min(), y.min()), max(x.max(), y.max())
            axis.plot([low, high], [low, high], color="0.7", linewidth=0.8, zorder=0)
            if len(x) > 2000:
                axis.hexbin(x, y, gridsize=60, bins="log", cmap="viridis", mincnt=1)
            else:
                axis.scatter(x, y, s=6, alpha=0.5, linewidth=0)
            error = f"MAE {np.abs(y - x).mean():.3g} {unit}, n = {len(x)}"
            axis.text(0.03, 0.97, error, transform=axis.transAxes, va="top", fontsize=8)
    return figure
