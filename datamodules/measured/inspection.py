"""`xxact inspect PATTERN_FILE`: what a file holds, what is done with it, and a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from datamodules.grid import Grid
from datamodules.io.arguments import ArgumentParser
from datamodules.io.files import replace_picture
from datamodules.measured.conversion import ConvertedPattern, convert
from datamodules.measured.errors import PatternError
from datamodules.measured.options import add_options, options_from
from datamodules.measured.readers.files import read_scan

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURE = ".pattern.png"


def main(argv: list[str]) -> int:
    """Runs `xxact inspect` on a measured pattern.

    Args:
        argv: Arguments after `inspect`.

    Returns:
        0; what is wrong with the file is a `ValueError`.
    """
    parser = ArgumentParser(
        prog="xxact inspect",
        description="Tells what a diffractometer's file holds, brings it to the model's grid, "
        "says what was done, and draws it.",
    )
    parser.add_argument("pattern", type=Path, metavar="PATTERN_FILE")
    parser.add_argument(
        "--picture",
        type=Path,
        metavar="FILE.png",
        help=f"where to draw (default: the file's name with {PICTURE})",
    )
    parser.add_argument(
        "--fwhm",
        type=float,
        default=0.5,
        metavar="DEGREES",
        help="widen narrower lines to this, as prediction does to the width that its model was "
        "trained on (default: 0.5, the recipes'); 0 leaves them as measured",
    )
    add_options(parser)
    arguments = parser.parse_args(argv)
    options = options_from(arguments, arguments.fwhm or None)
    path = arguments.pattern
    picture = arguments.picture or Path(path.name + PICTURE)
    if picture.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise ValueError(f"--picture {picture}: give a .png, .pdf or .svg")
    scan = read_scan(path, arguments.axis)
    unit = "°" if scan.axis == "two_theta" else " Å⁻¹"
    print(
        f"{path}\n  {scan.format}: {len(scan.x)} points, {scan.x[0]:g}–{scan.x[-1]:g}{unit}, "
        f"intensities {scan.intensity.min():g} to {scan.intensity.max():g}"
    )
    try:
        pattern = convert(scan, Grid(), options)
    except PatternError as error:
        raise PatternError(f"{path}: {error}") from None
    for note in pattern.notes:
        print(f"  {note}")
    if pattern.fwhm is not None:
        print(f"  lines are {pattern.fwhm:.2f}° wide (median, as measured)")
    for warning in pattern.warnings:
        print(f"  warning: {warning}")
    try:
        picture.parent.mkdir(parents=True, exist_ok=True)
        draw(pattern, picture, title=path.name)
    except OSError as error:
        raise ValueError(
            f"{picture}: cannot be written ({error.strerror}); choose --picture"
        ) from None
    print(f"  picture: {picture}")
    return 0


def draw(pattern: ConvertedPattern, picture: Path, title: str) -> None:
    """Draws the scan as it was read, with its background, and the result.

    Args:
        pattern: A converted pattern.
        picture: The file to draw to.
        title: Its heading.
    """
    replace_picture(picture, figure_of(pattern, title), dpi=110)


def figure_of(pattern: ConvertedPattern, title: str) -> Figure:
    """The scan as it was read, with its background, and the result, one above the other.

    Args:
        pattern: A converted pattern.
        title: Its heading.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 9), layout="constrained")
    scan, grid, result = figure.subplots(3, 1, height_ratios=(1, 1.2, 1.2))
    draw_scan(scan, pattern)
    scan.set_title(f"{title}: as read ({pattern.scan.format})")
    draw_background(grid, pattern)
    draw_seen(result, pattern.grid, np.sqrt(pattern.profile))
    shade(grid, pattern.grid, np.isfinite(pattern.profile))
    return figure


def draw_scan(axes: Any, pattern: ConvertedPattern) -> None:
    """Draws a scan as it was read.

    Args:
        axes: Of matplotlib, as of the functions below.
        pattern: The converted pattern.
    """
    raw = pattern.scan
    axes.plot(raw.x, raw.intensity, linewidth=0.6, color="0.3")
    wavelength = "" if pattern.wavelength is None else f" at {pattern.wavelength.mean:.5f} Å"
    label = f"2θ (°){wavelength}" if raw.axis == "two_theta" else "Q (Å⁻¹)"
    axes.set(xlabel=label, ylabel="intensity")


def draw_background(axes: Any, pattern: ConvertedPattern) -> None:
    """Draws a scan on the model's grid, with its background."""
    two_theta = pattern.grid.two_theta()
    axes.plot(two_theta, pattern.raw, linewidth=0.6, color="0.3", label="on the model's grid")
    axes.plot(two_theta, pattern.background, linewidth=1.2, color="tab:orange", label="background")
    # The background is what is to be judged here: the lines may leave the frame.
    inside = pattern.raw[np.isfinite(pattern.raw)]
    low, high = np.percentile(inside, [1, 97])
    ceiling = max(high, float(np.nanmax(pattern.background)))
    axes.set(ylim=(min(0.0, low), 1.3 * ceiling), ylabel="intensity")
    axes.set_xlim(pattern.grid.two_theta_min, pattern.grid.two_theta_max)
    axes.legend(loc="upper right")


def draw_seen(axes: Any, grid: Grid, root: np.ndarray) -> None:
    """Draws what a model sees; what it does not is grey.

    Args:
        axes: Of matplotlib.
        grid: The model's grid.
        root: Square root of the intensity, (L,); NaN where it is not seen.
    """
    axes.plot(grid.two_theta(), root, linewidth=0.7, color="tab:blue")
    axes.set(
        title="what the model sees",
        xlabel=f"2θ (°) at {grid.wavelength:g} Å",
        ylabel="√ intensity",
        ylim=(0, 1.05),
        xlim=(grid.two_theta_min, grid.two_theta_max),
    )
    shade(axes, grid, np.isfinite(root))


def shade(axes: Any, grid: Grid, there: np.ndarray) -> None:
    """Greys the ranges of the grid in which there is nothing.

    Args:
        axes: Of matplotlib.
        grid: The model's grid.
        there: Where there is something, (L,) bool.
    """
    missing = np.concatenate([[0], (~there).astype(np.int8), [0]])
    edges = np.flatnonzero(np.diff(missing))
    for first, end in zip(edges[::2], edges[1::2], strict=True):
        ends = (grid.two_theta_min + grid.step * (edge - 0.5) for edge in (first, end))
        axes.axvspan(*ends, color="0.85", linewidth=0)
