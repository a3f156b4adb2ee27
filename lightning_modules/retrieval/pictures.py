"""A picture of a scan over the lines of the materials that fit it best."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from datamodules.io.arguments import printable
from datamodules.io.files import replace_picture
from datamodules.radiation import lorentz_polarization
from lightning_modules.inference.neighbours import Library
from lightning_modules.retrieval.retriever import Answer, Match

#: Matches whose lines are drawn.
SHOWN = 3
_COLOURS = ("#0072B2", "#D55E00", "#009E73")


def draw(answer: Answer, library: Library, path: Path, title: str) -> None:
    """Draws `figure_of` an answer.

    Args:
        answer: What fits the scan.
        library: What was searched.
        path: File to write; its folder must exist.
        title: Heading, such as the scan's file.
    """
    replace_picture(path, figure_of(answer, library, title), dpi=110)


def figure_of(answer: Answer, library: Library, title: str) -> Figure:
    """A scan as it was compared, and below it the lines of the first matches.

    Lines lie where they fit, strained and shifted; their heights are square roots, as the scan's.

    Args:
        answer: What fits the scan.
        library: What was searched.
        title: Heading, such as the scan's file.
    """
    shown = answer.matches[:SHOWN]
    grid = answer.profile.grid
    two_theta = grid.two_theta()
    figure = Figure(figsize=(11, 3.4 + 0.95 * len(shown)), layout="constrained")
    axes = figure.subplots(
        1 + len(shown), 1, sharex=True, height_ratios=[3.0] + [0.9] * len(shown), squeeze=False
    )[:, 0]
    measured = answer.profile.measured.numpy()
    root = np.where(measured, np.sqrt(answer.profile.intensity.numpy()), np.nan)
    axes[0].plot(two_theta, root, color="0.2", linewidth=0.7)
    verdict = "confident" if answer.confident else "no confident match"
    axes[0].set_title(f"{printable(title, 90)}: {verdict}", loc="left")
    axes[0].set(ylabel="√ intensity", ylim=(0, 1.08))
    for axis, match, colour in zip(axes[1:], shown, _COLOURS, strict=False):
        angles, heights = _lines(match, library, grid.wavelength)
        axis.vlines(angles, 0, heights, color=colour, linewidth=1.0)
        strong = heights > 0.3
        axes[0].vlines(angles[strong], 0, 1.08, color=colour, linewidth=0.5, alpha=0.25)
        known = match.known
        label = f"{match.rank}. {known.formula}  {known.id}  score {match.score:.3f}"
        axis.text(
            0.995, 0.93, printable(label, 110), transform=axis.transAxes, ha="right", va="top",
            fontsize=8, color=colour, bbox={"facecolor": "white", "alpha": 0.8, "linewidth": 0},
        )  # fmt: skip
        axis.set(ylim=(0, 1.15), yticks=[])
    axes[-1].set(xlabel=f"2θ (°) at {grid.wavelength:g} Å", xlim=_window(two_theta, measured))
    if len(answer.phases) == 2:
        first, second = answer.phases
        axes[0].text(
            0.995, 0.96, f"{first.share:.0%} {first.match.known.formula}, "
            f"{second.share:.0%} {second.match.known.formula}", transform=axes[0].transAxes,
            ha="right", va="top", fontsize=9,
        )  # fmt: skip
    return figure


def _window(two_theta: np.ndarray, measured: np.ndarray) -> tuple[float, float]:
    inside = two_theta[measured]
    return float(inside[0]) - 0.5, float(inside[-1]) + 0.5


def _lines(match: Match, library: Library, wavelength: float) -> tuple[np.ndarray, np.ndarray]:
    """Angles (degrees) and heights of a material's lines as they fit the scan."""
    material = library.collection.material(match.known.row)
    sine = material.q.astype(np.float64) * wavelength / (4 * np.pi) / (1 + match.strain)
    inside = (sine > 0) & (sine < 0.999)
    sine, intensity = sine[inside], material.intensity[inside].astype(np.float64)
    heights = np.sqrt(intensity * lorentz_polarization(sine))
    return np.degrees(2 * np.arcsin(sine)) + match.shift, heights / max(heights.max(), 1e-30)
