"""What every report writes: Markdown and CSV of the same rows, JSON of the numbers, PNG figures."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from datamodules.io.files import replace_file, replace_picture, replace_table


@dataclass
class Report:
    """A report in the making; nothing is written before `write`.

    Attributes:
        title: First line of the Markdown file.
        numbers: What goes into `numbers.json`.
    """

    title: str
    numbers: dict[str, Any] = field(default_factory=dict)
    _parts: list[str] = field(default_factory=list)
    _tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    _figures: dict[str, Figure] = field(default_factory=dict)

    def say(self, text: str) -> None:
        """Add a paragraph."""
        self._parts.append(text)

    def table(self, name: str, caption: str, rows: Sequence[dict[str, Any]]) -> None:
        """Add a table; a row may lack what another has, as half a study's do."""
        columns = dict.fromkeys(key for row in rows for key in row)
        whole = [{key: row.get(key) for key in columns} for row in rows]
        self._tables[name] = whole
        self._parts.append(f"**{caption}**\n\n{markdown(whole)}")

    def figure(self, name: str, caption: str, figure: Figure) -> None:
        """Add a figure."""
        self._figures[name] = figure
        self._parts.append(f"![{caption}]({name}.png)\n\n{caption}")

    def write(self, folder: Path) -> list[Path]:
        """Write everything.

        Returns:
            The files, `report.md` first.
        """
        folder.mkdir(parents=True, exist_ok=True)
        text = "\n\n".join([f"# {self.title}", *self._parts])
        written = [_write(folder / "report.md", text + "\n")]
        content = json.dumps(finite(self.numbers), indent=1, allow_nan=False)
        written.append(_write(folder / "numbers.json", content + "\n"))
        for name, rows in self._tables.items():
            path = folder / f"{name}.csv"
            replace_table(path, rows)
            written.append(path)
        for name, figure in self._figures.items():
            path = folder / f"{name}.png"
            replace_picture(path, figure, dpi=150)
            written.append(path)
        return written


def _write(path: Path, text: str) -> Path:
    replace_file(path, text)
    return path


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """A Markdown table."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([_cell(v) for v in r.values()] for r in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def span(low: float, high: float, digits: int = 3) -> str:
    """An interval as text."""
    return f"[{_short(low, digits)}, {_short(high, digits)}]"


def _short(value: float, digits: int) -> str:
    return "∞" if math.isinf(value) else f"{value:.{digits}g}"


def finite(value: Any) -> Any:
    """Plain values with null in place of what is not finite: JSON has no NaN."""
    if isinstance(value, dict):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


#: Colours that can be told apart, also by the colour-blind; source: Okabe & Ito, 2008.
COLOURS = ("#000000", "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442")


def colours(names: Sequence[str]) -> dict[str, str]:
    """A colour for each name."""
    return {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}


class _Ticks(LogLocator):
    """Fewer ticks on an axis of more than a decade, where their numbers would touch."""

    def tick_values(self, vmin: float, vmax: float) -> Sequence[float]:
        few = vmax > 12.0 * max(vmin, 1e-30)
        self.set_params(subs=(1.0, 2.0, 5.0) if few else (1.0, 1.5, 2.0, 3.0, 5.0, 7.0))
        return super().tick_values(vmin, vmax)


def logarithmic(axis: Axis) -> None:
    """Make an axis logarithmic, with plain numbers."""
    set_scale = axis.axes.set_xscale if axis is axis.axes.xaxis else axis.axes.set_yscale
    set_scale("log")
    axis.set_major_locator(_Ticks(numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
