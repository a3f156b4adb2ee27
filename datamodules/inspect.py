"""`xxact inspect STORE`: what a store holds. Needs neither torch nor pymatgen.

A file in place of a folder is a measured pattern: `datamodules/measured/inspection.py`.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.arguments import ArgumentParser, printable
from datamodules.elements import SYMBOLS
from datamodules.files import replace_picture
from datamodules.grid import Grid
from datamodules.store.store import (
    NOTES,
    REJECTED,
    STRUCTURE_TARGETS,
    Store,
    StoreError,
    TargetInfo,
)


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
            print(describe(store))
    except StoreError as error:
        print(f"xxact: error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        raise  # the reader of the output has gone: no file is at fault
    except OSError as error:
        print(f"xxact: error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    return 0


def describe(store: Store) -> str:
    """A store in words and tables."""
    manifest = store.manifest
    counts, source = manifest.counts, manifest.source
    size = sum(shard.bytes for shard in manifest.shards)
    content = _Content(store)
    lines = [
        f"{store.folder}",
        f"  source      {source.get('name')}; {source.get('licence')}",
        f"  citation    {source.get('citation')}",
    ]
    for file in source.get("files", []):
        kb = "" if file.get("bytes") is None else f", {file['bytes'] / 1e6:.1f} MB"
        lines.append(f"  file        {file['name']}{kb}")
    options = ", ".join(f"{k}={_plain(v)}" for k, v in manifest.options.items())
    lines += [
        f"  made with   {options or 'no options'}",
        f"  made by     {', '.join(f'{k} {v}' for k, v in manifest.software.items())}",
        f"  format      version {manifest.format_version}, layout {manifest.layout}, "
        f"fingerprint {store.fingerprint}",
        f"  {_covered(store)}",
        f"  counts      {counts.get('read', 0)} read = {counts.get('written', 0)} written + "
        f"{counts.get('rejected', 0)} rejected + {counts.get('duplicates', 0)} duplicates",
        f"  size        {len(store)} materials in {len(manifest.shards)} shards, "
        f"{size / 1e6:.1f} MB, {size / len(store):.0f} bytes a material",
        "",
        "  bytes a material by column",
        *_columns([f"{name} {n / len(store):.1f}" for name, n in content.column_bytes.items()]),
        "",
        f"  formulas    {content.n_formulas} distinct; elements a material "
        + ", ".join(f"{n}: {c}" for n, c in sorted(content.n_elements.items())),
    ]
    if content.n_lines is not None:
        low, middle, high = content.n_lines
        lines.append(f"  lines       {middle:.0f} a material (median), {low:.0f} to {high:.0f}")
    if content.space_groups:
        lines.append(f"  space groups {len(content.space_groups)} different")
    lines += ["", "  materials by element", *_columns(_by_element(content.elements)), ""]
    lines += _target_table(content.targets, len(store))
    if gone := _reasons(store):
        lines += ["", f"  left out (see {store.folder / REJECTED})"]
        lines += [f"    {n:>9} × {printable(reason)}" for reason, n in gone.most_common()]
    if manifest.notes:
        lines += ["", f"  written, but (see {store.folder / NOTES})"]
        lines += [f"    {n:>9} × {printable(note)}" for note, n in manifest.notes.items()]
    return "\n".join(lines)


class _Content:
    """What only the rows tell, gathered shard by shard so that memory stays flat."""

    def __init__(self, store: Store) -> None:
        names = [t.name for t in store.manifest.targets]
        self.targets = list(store.manifest.targets)
        self.column_bytes: Counter[str] = Counter()
        self.n_elements: Counter[int] = Counter()
        self.elements = np.zeros(256, np.int64)
        self.space_groups: Counter[int] = Counter()
        formulas, n_lines = [], []
        structure: dict[str, list[np.ndarray]] = {k: [] for k in STRUCTURE_TARGETS}
        for number in range(len(store.manifest.shards)):
            batch = store.shard(number)
            for name in batch.schema.names:
                self.column_bytes[name] += batch.column(name).nbytes
            elements = batch.column("elements")
            self.n_elements.update(np.diff(elements.offsets.to_numpy()).tolist())
            self.elements += np.bincount(elements.flatten().to_numpy(), minlength=256)
            formulas.append(np.unique(batch.column("formula_key").to_numpy()))
            groups = batch.column("space_group").drop_null().to_numpy(zero_copy_only=False)
            self.space_groups.update(groups.tolist())
            if "q" in batch.schema.names:
                n_lines.append(np.diff(batch.column("q").offsets.to_numpy()))
            for name, values in structure.items():
                if name not in names:
                    values.append(batch.column(name).to_numpy(zero_copy_only=False))
        self.n_formulas = len(np.unique(np.concatenate(formulas)))
        self.n_lines = np.percentile(np.concatenate(n_lines), [0, 50, 100]) if n_lines else None
        for name, values in structure.items():
            if values:
                finite = np.concatenate(values).astype(np.float64)
                finite = finite[np.isfinite(finite)]
                info = TargetInfo(name, STRUCTURE_TARGETS[name], count=len(finite))
                if len(finite):
                    info.mean, info.std = float(finite.mean()), float(finite.std())
                    info.min, info.max = float(finite.min()), float(finite.max())
                self.targets.append(info)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _covered(store: Store) -> str:
    manifest = store.manifest
    if manifest.grid is not None:
        grid = manifest.grid
        return "grid        " + ", ".join(f"{k} {v:g}" for k, v in grid.items())
    physics = manifest.physics
    low, high = physics.get("q_range", (float("nan"), float("nan")))
    return (
        f"lines       Q {low:.4f}–{high:.4f} Å⁻¹, merged within "
        f"{physics.get('merge_within_degrees')}°, from {physics.get('min_relative_intensity')} "
        "of the strongest"
    )


def _by_element(counts: np.ndarray) -> list[str]:
    order = np.argsort(-counts, kind="stable")
    return [f"{SYMBOLS[z]} {counts[z]}" for z in order if counts[z] and z < len(SYMBOLS)]


def _columns(items: list[str], width: int = 96) -> list[str]:
    """Items in as many aligned columns as fit."""
    each = max((len(item) for item in items), default=0) + 2
    per_line = max(1, width // each)
    return [
        "    " + "".join(item.ljust(each) for item in items[i : i + per_line]).rstrip()
        for i in range(0, len(items), per_line)
    ]


def _target_table(targets: list[TargetInfo], rows: int) -> list[str]:
    header = f"  {'target':<24}{'unit':<9}{'labels':>9}{'missing':>9}"
    header += "".join(f"{name:>11}" for name in ("mean", "std", "min", "max"))
    lines = [header]
    for info in targets:
        numbers = "".join(
            f"{'–':>11}" if value is None else f"{value:>11.4g}"
            for value in (info.mean, info.std, info.min, info.max)
        )
        missing = 1 - info.count / rows
        lines.append(f"  {info.name:<24}{info.unit:<9}{info.count:>9}{missing:>9.1%}{numbers}")
    return lines


def _reasons(store: Store) -> Counter[str]:
    path = store.folder / REJECTED
    if not path.exists():
        return Counter()
    with open(path, encoding="utf-8") as stream:
        return Counter(json.loads(line)["reason"] for line in stream)


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
