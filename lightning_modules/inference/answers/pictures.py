"""One picture a row: the scan, what the model saw of it, and the answer above them."""

import re
import textwrap
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from datamodules.grid import Grid
from datamodules.io.arguments import printable
from datamodules.io.files import replace_picture
from datamodules.measured.inspection import draw_background, draw_scan, draw_seen, shade
from lightning_modules.inference.answers.printed import brief, title_of
from lightning_modules.inference.rows import Row

#: Letters of a heading's line, of the size below.
_LETTERS = 110


def picture_name(row: Row, number: int) -> str:
    """Name of a row's picture: its place in the input, and its scan, id or formula.

    Args:
        row: The row.
        number: Its place, from 1.
    """
    given = row.given
    name = str(given.get("pattern") or given.get("id") or given.get("formula") or "")
    plain = re.sub(r"[^\w.+-]+", "_", Path(name).name)
    return f"{number:04d}_{plain[:80]}.png"


def draw(row: Row, root: np.ndarray, grid: Grid, units: Mapping[str, str], path: Path) -> None:
    """Draw the pattern of a row, with its answer in the title.

    Args:
        row: A row with a pattern, answered.
        root: What the model saw: square root of the intensity on its grid, (L,); NaN where it was
            shown nothing.
        grid: The model's grid.
        units: Unit by target.
        path: The file to draw to; its folder must exist.
    """
    panels = 1 if row.converted is None else 3
    figure = Figure(figsize=(10, 1.5 + 2.6 * panels), layout="constrained")
    axes = figure.subplots(panels, 1, squeeze=False)[:, 0]
    if row.converted is not None:
        draw_scan(axes[0], row.converted)
        axes[0].set_title(f"as read ({printable(row.converted.scan.format, 80)})")
        draw_background(axes[1], row.converted)
        shade(axes[1], grid, np.isfinite(row.converted.profile))
    draw_seen(axes[-1], grid, root)
    said = [title_of(row.given), *brief(row.result, units)]
    if row.warnings:
        said.append("warning: " + "; ".join(map(printable, row.warnings)))
    lines = [line for text in said for line in textwrap.wrap(text, _LETTERS)]
    # Dollars would be mathematics.
    figure.suptitle("\n".join(lines).replace("$", r"\$"), fontsize=10, x=0.02, ha="left")
    replace_picture(path, figure, dpi=100)
