"""Several stores as one: rows one after the other, targets merged by name and unit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datamodules.grid import Grid
from datamodules.store.store import Material, Store, StoreError

_SLACK = 1e-3
"""Relative slack in comparing ranges of Q that were rounded on the way."""


class Collection:
    """Concatenated stores. Pickles as their paths.

    Args:
        folders: The stores' folders.

    Raises:
        StoreError: if there is none, if one is damaged or given twice, or if two stores give the
            same target in different units.
    """

    def __init__(self, folders: Sequence[str | Path]) -> None:
        if not folders:
            raise StoreError("no store given; name at least one folder (data.stores)")
        self.stores = [Store(folder) for folder in folders]
        seen: dict[str, Path] = {}
        for store in self.stores:
            if store.fingerprint in seen:
                raise StoreError(
                    f"{store.folder}: the same store as {seen[store.fingerprint]}; name it once"
                )
            seen[store.fingerprint] = store.folder
        self.units = self._merge_units()
        """Unit by name of every target of any store."""

    def _merge_units(self) -> dict[str, str]:
        units: dict[str, tuple[str, Path]] = {}
        for store in self.stores:
            for name, unit in store.target_units.items():
                known, folder = units.setdefault(name, (unit, store.folder))
                if known != unit:
                    raise StoreError(
                        f"target {name}: {folder} gives it in {known}, {store.folder} in {unit}; "
                        "prepare one of them again with the other's unit, or under another name"
                    )
        return {name: unit for name, (unit, _) in units.items()}

    def __len__(self) -> int:
        return sum(len(store) for store in self.stores)

    @property
    def fingerprints(self) -> list[str]:
        """Fingerprint of each store."""
        return [store.fingerprint for store in self.stores]

    @property
    def max_elements(self) -> int:
        """Most elements in one material."""
        return max(store.manifest.max_elements for store in self.stores)

    def column(self, name: str) -> np.ndarray:
        """A column of all stores; NaN in the rows of a store without this target."""
        parts = []
        for store in self.stores:
            if name in self.units and name not in store.shard(0).schema.names:
                parts.append(np.full(len(store), np.nan, np.float32))
            else:
                parts.append(store.column(name))
        return np.concatenate(parts)

    def material(self, row: int) -> Material:
        """A material by its row in the concatenated stores.

        Raises:
            IndexError: if there is no such row.
        """
        local = row
        for store in self.stores:
            if 0 <= local < len(store):
                return store.material(local)
            local -= len(store)
        raise IndexError(row)

    def check_targets(self, targets: Sequence[str]) -> None:
        """Refuses targets that no store has.

        Raises:
            ValueError: naming the targets that there are.
        """
        for name in targets:
            if name not in self.units:
                folders = ", ".join(str(store.folder) for store in self.stores)
                raise ValueError(
                    f"{folders}: no target '{name}'; there are {', '.join(sorted(self.units))}"
                )
        if len(set(targets)) != len(targets):
            raise ValueError(f"targets {', '.join(targets)}: one is named twice")

    def differences_of_peaks(self, fwhm: float, polarization: float) -> list[str]:
        """Where measured patterns were prepared for other peaks than the recipe draws.

        Args:
            fwhm: Width of the recipe's peaks, degrees.
            polarization: P of the recipe's polarization factor.

        Returns:
            A line for each difference, with its mend.
        """
        lines = []
        for store in self.stores:
            options = store.manifest.options
            if store.manifest.layout != "profile" or "fwhm" not in options:
                continue
            if options["fwhm"] is not None and abs(options["fwhm"] - fwhm) > _SLACK:
                lines.append(
                    f"{store.folder}: narrower lines were widened to {options['fwhm']:g}°, "
                    f"data.peaks.fwhm is {fwhm:g}°: measured and simulated patterns differ in "
                    f"width; prepare it again with --fwhm {fwhm:g}, or change data.peaks.fwhm"
                )
            # `prepare patterns` converts every measurement to an unpolarised tube's.
            its = options.get("model_polarization", 1.0)
            if abs(its - polarization) > _SLACK:
                lines.append(
                    f"{store.folder}: its intensities are those of polarization {its:g}, "
                    f"data.peaks.polarization is {polarization:g}: measured and simulated patterns "
                    f"differ in their intensities; set data.peaks.polarization to {its:g}"
                )
        return lines

    def check_grid(self, grid: Grid, strain: float = 0.0, shift: float = 0.0) -> None:
        """Refuses a grid on which a store's patterns cannot be given.

        Args:
            grid: The model's grid.
            strain: Largest strain of the lattice spacings, either way: it pulls lines into the
                window from beyond its ends.
            shift: Largest shift of the lines, either way, degrees 2θ; so does this.

        Raises:
            StoreError: if a dense store has another grid, or a store's lines end inside the window
                (what was never computed would look like nothing measured).
        """
        for store in self.stores:
            manifest = store.manifest
            if manifest.layout == "profile":
                if manifest.grid != grid.to_dict():
                    raise StoreError(
                        f"{store.folder}: its profiles lie on {_grid_text(manifest.grid)}, "
                        f"the model's is {_grid_text(grid.to_dict())}; set data.grid to the store's"
                    )
                continue
            low, high = manifest.physics.get("q_range", (0.0, np.inf))
            if grid.q_min < low * (1 - _SLACK) or grid.q_max > high * (1 + _SLACK):
                raise StoreError(
                    f"{store.folder}: has lines for Q = {low:.3f} to {high:.3f} Å⁻¹, the grid "
                    f"needs {grid.q_min:.3f} to {grid.q_max:.3f} Å⁻¹; narrow data.grid or prepare "
                    "the store with a wider range"
                )
            largest = min(
                high / q_at(grid, grid.two_theta_max + shift) - 1.0,
                1.0 - low / q_at(grid, grid.two_theta_min - shift),
            )
            if (strain > 0 or shift > 0) and strain > largest + _SLACK:
                raise StoreError(
                    f"{store.folder}: its lines end at Q = {low:.3f} and {high:.3f} Å⁻¹: a strain "
                    f"of {strain:g} would leave an edge of the window empty; lower data."
                    f"augmentation.strain to {max(largest, 0.0):.3f}, narrow data.grid, or prepare "
                    "the store with a wider range"
                )


def q_at(grid: Grid, two_theta: float) -> float:
    """Scattering vector (Å⁻¹) at an angle 2θ (degrees) and the grid's wavelength."""
    return 4.0 * math.pi / grid.wavelength * math.sin(math.radians(two_theta / 2.0))


def _grid_text(grid: dict[str, float] | None) -> str:
    if grid is None:
        return "(unknown)"
    return (
        f"{grid['two_theta_min']:g}° to {grid['two_theta_max']:g}° step {grid['step']:g}° "
        f"at {grid['wavelength']:g} Å"
    )
