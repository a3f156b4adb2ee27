"""Small synthetic stores for every room's tests, made in milliseconds without pymatgen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from datamodules.elements import SYMBOLS
from datamodules.grid import Grid
from datamodules.store.store import (
    MAX_SHARD_ROWS,
    Layout,
    Manifest,
    Material,
    Store,
    summarise_targets,
    write_shard,
)
from datamodules.store.structure import Symmetry

UNITS = {"formation_energy": "eV/atom", "band_gap": "eV"}


def make_material(number: int, seed: int = 0, missing: float = 0.2) -> Material:
    """A primitive cubic "crystal" whose lines follow from its composition and cell.

    `formation_energy` depends on composition and cell and is always there; `band_gap` depends on
    the composition and is missing in a share of the rows. Two neighbouring numbers share a formula.
    """
    by_formula = np.random.default_rng([seed, number // 2])
    by_row = np.random.default_rng([seed, number, 1])
    n_elements = int(by_formula.integers(1, 5))
    elements = np.sort(by_formula.choice(np.arange(1, 58), n_elements, replace=False))
    counts = by_formula.integers(1, 5, n_elements)
    counts //= np.gcd.reduce(counts)
    fractions = counts / counts.sum()
    formula = "".join(
        SYMBOLS[z] + (str(n) if n > 1 else "") for z, n in zip(elements, counts, strict=True)
    )
    cell = float(by_row.uniform(3.0, 8.0))
    h, k, l = np.meshgrid(*[np.arange(0, 13)] * 3, indexing="ij")  # noqa: E741
    norm, multiplicity = np.unique((h * h + k * k + l * l)[1:].ravel(), return_counts=True)
    q = 2.0 * np.pi / cell * np.sqrt(norm[norm > 0])
    multiplicity = multiplicity[norm > 0]
    inside = (q > 0.285) & (q < 6.01)
    q = q[inside]
    scattering = float(fractions @ elements) * np.exp(-0.05 * q * q)
    intensity = multiplicity[inside] * scattering**2 * by_row.uniform(0.05, 1.0, len(q))
    volume = cell**3 / float(counts.sum())
    mean_z = float(fractions @ elements)
    return Material(
        id=f"synthetic-{seed}-{number}",
        formula=formula,
        elements=elements.astype(np.uint8),
        fractions=fractions.astype(np.float32),
        q=q.astype(np.float32),
        intensity=(intensity / intensity.max()).astype(np.float32),
        volume_per_atom=volume,
        density=2.1 * mean_z / volume * 1.66054,
        symmetry=cubic(cell),
        targets={
            "formation_energy": -0.05 * mean_z + 0.2 * (cell - 5.0),
            "band_gap": None if by_row.random() < missing else max(0.0, 4.0 - 0.1 * mean_z),
        },
    )


def cubic(cell: float, space_group: int = 221) -> Symmetry:
    """The symmetry of a primitive cubic cell, with any space group."""
    return Symmetry(space_group, 12, 1, (*[cell**-2] * 3, 0.0, 0.0, 0.0))


def make_profile(material: Material, grid: Grid) -> np.ndarray:
    """A dense profile of a material's lines (Gaussian, FWHM 0.1°); 10 points are not measured."""
    two_theta = grid.two_theta()
    positions = 2.0 * np.degrees(np.arcsin(np.minimum(material.q * grid.wavelength / 12.566371, 1)))
    theta = np.radians(positions / 2.0)
    heights = (
        material.intensity * (1 + np.cos(2 * theta) ** 2) / (np.sin(theta) ** 2 * np.cos(theta))
    )
    sigma = 0.1 / 2.354820045
    shape = np.exp(-0.5 * ((two_theta[:, None] - positions) / sigma) ** 2)
    profile = shape @ heights
    profile /= profile.max()
    profile[:10] = np.nan
    return profile.astype(np.float16)


def make_store(
    folder: Path,
    n: int = 64,
    *,
    seed: int = 0,
    layout: Layout = "peaks",
    grid: Grid | None = None,
    rows_per_shard: int = MAX_SHARD_ROWS,
    units: Mapping[str, str] | None = None,
    materials: Sequence[Material] | None = None,
    missing: float = 0.2,
) -> Store:
    """Writes a synthetic store and opens it.

    Args:
        folder: Made where it does not exist.
        n: Rows.
        seed: Another seed gives other materials.
        layout: "peaks" or "profile".
        grid: Grid of the profile layout.
        rows_per_shard: Small values give several shards.
        units: Unit by target, `UNITS` unless told.
        materials: Rows to write in place of made ones.
        missing: Share of rows without a band gap.
    """
    folder.mkdir(parents=True, exist_ok=True)
    units = UNITS if units is None else units
    grid = grid or Grid()
    rows = list(materials or (make_material(i, seed, missing) for i in range(n)))
    if layout == "profile":
        for row in rows:
            row.profile = make_profile(row, grid)
            row.q = row.intensity = np.empty(0, np.float32)
    shards = [
        write_shard(
            folder / f"shard-{i:05d}.arrow",
            rows[start : start + rows_per_shard],
            list(units),
            layout,
        )
        for i, start in enumerate(range(0, len(rows), rows_per_shard))
    ]
    Manifest(
        layout=layout,
        source={"name": "synthetic", "licence": "MIT", "citation": "none", "files": []},
        options={"seed": seed, "n": len(rows)},
        counts={"read": len(rows), "written": len(rows), "rejected": 0, "duplicates": 0},
        grid=grid.to_dict() if layout == "profile" else None,
        physics={"q_range": [0.284, 6.01]},
        targets=summarise_targets(folder, shards, dict(units)),
        max_elements=max(shard.max_elements for shard in shards),
        shards=shards,
    ).save(folder)
    return Store(folder)
