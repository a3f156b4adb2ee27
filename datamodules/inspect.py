"""`xxact inspect STORE`: what a store holds. Needs neither torch nor pymatgen.

A file in place of a folder is a measured pattern: `datamodules/measured/inspection.py`.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.grid import Grid
from datamodules.io.arguments import ArgumentParser, printable, printable_lines
from datamodules.io.files import replace_picture
from datamodules.store.contents import contents
from datamodules.store.store import NOTES, REJECTED, Store, StoreError
from datamodules.store.structure import INTEGERS, RECIPROCAL_METRIC


def main(argv: list[str]) -> int:
    """Runs `xxact inspect`.

    Args:
        argv: Arguments after `inspect`.

    Returns:
        The exit status: 0, or 2 if there is no such store or it is damaged.
    """
    words = [Path(word) for word in argv if not word.startswith("-")]
    if any(word.is_file() for word in words) and not any(word.is_dir() for word in words):
        # Imported here: SciPy and pybaselines take half a second.
        from datamodules.measured.inspection import main as inspect_pattern

        return inspect_pattern(argv)
    parser = ArgumentParser(
        prog="xxact inspect",
        description="Tells what a store holds, or (PATTERN_FILE --help) a diffractometer's file.",
    )
    parser.add_argument("store", type=Path, metavar="STORE", help="its folder, or a pattern's file")
    parser.add_argument("--plot", metavar="ID", help="draw the pattern of one material")
    parser.add_argument(
        "--picture", type=Path, metavar="FILE.png", help="where to draw it (default: ID.png)"
    )
    parser.add_argument("--json", action="store_true", help="print all that is known as one object")
    parser.add_argument("--verify", action="store_true", help="compare all shards' checksums")
    arguments = parser.parse_args(argv)
    try:
        if arguments.picture is not None and arguments.plot is None:
            raise StoreError("--picture: names a file to draw to; say what to draw with --plot ID")
        store = Store(arguments.store)
        if arguments.verify:
            store.verify()
            n = len(store.manifest.shards)
            print(f"{arguments.store}: {n} shards agree with their checksums")
        if arguments.plot is not None:
            print(plot(store, arguments.plot, arguments.picture))
        if not arguments.verify and arguments.plot is None:
            told = contents(store)
            print(
                json.dumps(told, allow_nan=False)
                if arguments.json
                else printable_lines(describe(told))
            )
    except StoreError as error:
        print(f"xxact: error: {printable(str(error), 2000)}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        raise  # the reader of the output has gone: no file is at fault
    except OSError as error:
        print(f"xxact: error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    return 0


def describe(told: dict[str, Any]) -> str:
    """A store in words and tables.

    Args:
        told: What `contents` says of it.
    """
    counts, source, rows = told["counts"], told["source"], told["rows"]
    several = told["formulas_with_several"]
    lines = [
        told["store"],
        f"  source      {source.get('name')}; {source.get('licence')}",
        f"  citation    {source.get('citation')}",
    ]
    for file in source.get("files", []):
        kb = "" if file.get("bytes") is None else f", {file['bytes'] / 1e6:.1f} MB"
        lines.append(f"  file        {file['name']}{kb}")
    options = ", ".join(f"{k}={_plain(v)}" for k, v in told["options"].items())
    lines += [
        f"  made with   {options or 'no options'}",
        f"  made by     {', '.join(f'{k} {v}' for k, v in told['software'].items())}",
        f"  format      version {told['format_version']}, layout {told['layout']}, "
        f"fingerprint {told['fingerprint']}",
        f"  {_covered(told)}",
        f"  counts      {counts.get('read', 0)} read = {counts.get('written', 0)} written + "
        f"{counts.get('rejected', 0)} rejected + {counts.get('duplicates', 0)} duplicates",
        f"  size        {rows} materials in {told['shards']} shards, "
        f"{told['bytes'] / 1e6:.1f} MB, {told['bytes'] / rows:.0f} bytes a material",
        "",
        "  bytes a material by column",
        *_columns([f"{name} {n / rows:.1f}" for name, n in told["column_bytes"].items()]),
        "",
        f"  formulas    {told['formulas']} distinct, {several} with several structures; "
        "elements a material "
        + ", ".join(f"{n}: {c}" for n, c in told["elements_a_material"].items()),
    ]
    if (found := told["lines_a_material"]) is not None:
        lines.append(
            f"  lines       {found['median']:.0f} a material (median), "
            f"{found['min']:.0f} to {found['max']:.0f}"
        )
    if told["space_groups"]:
        lines.append(f"  space groups {len(told['space_groups'])} different")
    if classes := told["bravais_classes"]:
        by_class = ", ".join(f"{name} {n}" for name, n in classes.items())
        lines.append(f"  Bravais classes {by_class}; none found: {rows - sum(classes.values())}")
    by_element = [f"{symbol} {n}" for symbol, n in told["materials_by_element"].items()]
    lines += ["", "  materials by element", *_columns(by_element), ""]
    lines += _target_table(told["targets"])
    lines += ["", *_floor_table(told["targets"])]
    folder = Path(told["store"])
    for heading, found in (
        (f"left out (see {folder / REJECTED})", told["left_out"]),
        (f"written, but (see {folder / NOTES})", told["notes"]),
    ):
        if found:
            lines += ["", f"  {heading}"]
            lines += [f"    {n:>9} × {printable(reason)}" for reason, n in found.items()]
    return "\n".join(lines)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _covered(told: dict[str, Any]) -> str:
    if told["grid"] is not None:
        return "grid        " + ", ".join(f"{k} {v:g}" for k, v in told["grid"].items())
    physics = told["physics"]
    low, high = physics.get("q_range", (float("nan"), float("nan")))
    return (
        f"lines       Q {low:.4f}–{high:.4f} Å⁻¹, merged within "
        f"{physics.get('merge_within_degrees')}°, from {physics.get('min_relative_intensity')} "
        "of the strongest"
    )


def _columns(items: list[str], width: int = 96) -> list[str]:
    """Items in as many aligned columns as fit."""
    each = max((len(item) for item in items), default=0) + 2
    per_line = max(1, width // each)
    return [
        "    " + "".join(item.ljust(each) for item in items[i : i + per_line]).rstrip()
        for i in range(0, len(items), per_line)
    ]


def _number(value: float | None) -> str:
    return f"{'–':>11}" if value is None else f"{value:>11.4g}"


def _target_table(targets: dict[str, dict[str, Any]]) -> list[str]:
    header = f"  {'target':<24}{'unit':<9}{'labels':>9}{'missing':>9}"
    lines = [header + "".join(f"{name:>11}" for name in ("mean", "std", "min", "max"))]
    for name, info in targets.items():
        if name in (*INTEGERS, *RECIPROCAL_METRIC) and not info["labels"]:
            continue
        numbers = "".join(_number(info.get(key)) for key in ("mean", "std", "min", "max"))
        start = f"  {name:<24}{info['unit']:<9}{info['labels']:>9}{info['missing']:>9.1%}"
        lines.append(f"{start}{numbers}".rstrip("– "))
    return lines


def _floor_table(targets: dict[str, dict[str, Any]]) -> list[str]:
    """What the composition alone cannot know, of labels and volumes."""
    lines = [
        "  what no model of the composition alone can know: differences within a formula",
        f"  {'target':<24}{'unit':<9}{'formulas with several':>23}{'their rows':>12}"
        f"{'variance within':>17}{'least MAE there':>17}",
    ]
    for name, info in targets.items():
        if name in (*INTEGERS, *RECIPROCAL_METRIC) or not info["labels"]:
            continue
        share = info["within_formula_share"]
        lines.append(
            f"  {name:<24}{info['unit']:<9}{info['formulas_with_several']:>23}"
            f"{info['rows_of_several']:>12}{'–' if share is None else f'{share:.2%}':>17}"
            f"{_number(info['composition_floor_mae']):>17}"
        )
    return lines


def profile(
    q: np.ndarray, intensity: np.ndarray, grid: Grid, fwhm: float = 0.1
) -> tuple[np.ndarray, np.ndarray]:
    """A plain pattern of some lines, for pictures: Gaussian peaks, maximum 1.

    Args:
        q: Scattering vectors, shape (n_lines,), Å⁻¹.
        intensity: Without Lorentz–polarization, shape (n_lines,).
        grid: The grid of 2θ.
        fwhm: Full width at half maximum, degrees.

    Returns:
        2θ in degrees and the intensity (not its root), both of shape (grid.n_points,).
    """
    x = grid.two_theta()
    sine = np.asarray(q, np.float64) * grid.wavelength / (4 * np.pi)
    inside = sine < 1
    theta = np.arcsin(sine[inside])
    heights = np.asarray(intensity, np.float64)[inside]
    heights = heights * (1 + np.cos(2 * theta) ** 2) / (np.sin(theta) ** 2 * np.cos(theta))
    y = np.zeros(len(x))
    reach, sigma = 6 * fwhm, fwhm / (2 * np.sqrt(2 * np.log(2)))
    for position, height in zip(np.degrees(2 * theta), heights, strict=True):
        first, last = np.searchsorted(x, [position - reach, position + reach])
        y[first:last] += height * np.exp(-0.5 * ((x[first:last] - position) / sigma) ** 2)
    return x, y / max(y.max(), 1e-30)


def plot(store: Store, identifier: str, path: Path | None = None) -> Path:
    """Draws the pattern of a material.

    Args:
        store: The store.
        identifier: The material's id.
        path: The picture; by default the id as a file name.

    Returns:
        The picture's path.

    Raises:
        StoreError: if there is no such material.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    material = store.material(store.find(identifier))
    path = path or Path(re.sub(r"[^\w.+-]", "_", identifier) + ".png")
    figure, axes = pyplot.subplots(figsize=(10, 4), layout="constrained")
    if material.profile is not None:
        grid = Grid(**(store.manifest.grid or {}))
        y = material.profile.astype(np.float64)
        axes.plot(grid.two_theta(), y / np.nanmax(y), linewidth=0.8)
    else:
        grid = Grid()
        x, y = profile(material.q, material.intensity, grid)
        axes.plot(x, y, linewidth=0.8)
        lines = 2 * np.degrees(np.arcsin(material.q * grid.wavelength / (4 * np.pi)))
        axes.vlines(lines, -0.06, -0.02, color="0.4", linewidth=0.5)
    labels = {"density": material.density, "volume_per_atom": material.volume_per_atom}
    labels.update(material.targets)
    units = store.target_units
    text = ", ".join(f"{k} {v:.4g} {units[k]}" for k, v in labels.items() if v is not None)
    axes.set_title(f"{material.formula}  ({identifier})\n{text}", fontsize=9)
    axes.set_xlabel(f"2θ (°) at {grid.wavelength} Å")
    axes.set_ylabel("intensity")
    axes.set_xlim(grid.two_theta_min, grid.two_theta_max)
    replace_picture(path, figure, dpi=150)
    pyplot.close(figure)
    return path
