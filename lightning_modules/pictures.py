"""Figures for TensorBoard and the run's folder."""

import numpy as np
from matplotlib.figure import Figure

from datamodules.elements import SYMBOLS

# Arrays here: B patterns, L grid points, E element slots.


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
) -> Figure:
    """Draw patterns one below the other, hidden regions shaded.

    Args:
        two_theta: Grid in degrees, (L,).
        elements: Atomic numbers, (B, E).
        fractions: Atomic fractions, (B, E).
        target: Square root of intensity, (B, L).
        masked: Hidden points, (B, L) bool.
        prediction: Reconstruction, (B, L).
        prediction_without_composition: Reconstruction with the composition hidden, (B, L).
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
        axis.set_title(composition_label(elements[i], fractions[i]), fontsize=9, loc="left")
        axis.set_ylabel("√intensity")
        axis.margins(x=0)
    axes[0].legend(fontsize=8, ncols=4, loc="lower right", bbox_to_anchor=(1, 1), frameon=False)
    axes[-1].set_xlabel("2θ (degrees, Cu Kα)")
    return figure
