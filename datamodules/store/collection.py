"""Several stores as one: rows one after the other, targets merged by name and unit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datamodules.grid import Grid
from datamodules.store.store import Store, StoreError

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

    def check_grid(self, grid: Grid) -> None:
        """Refuses a grid on which a store's patterns cannot be given.

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


def _grid_text(grid: dict[str, float] | None) -> str:
    if grid is None:
        return "(unknown)"
    return (
        f"{grid['two_theta_min']:g}° to {grid['two_theta_max']:g}° step {grid['step']:g}° "
        f"at {grid['wavelength']:g} Å"
    )
