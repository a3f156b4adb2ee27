"""What a store holds, counted: the object that `xxact inspect --json` prints."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from typing import Any

import numpy as np

from datamodules.elements import SYMBOLS
from datamodules.store.floor import composition_floor
from datamodules.store.store import REJECTED, Store
from datamodules.store.structure import BRAVAIS_CLASSES, INTEGERS


def contents(store: Store) -> dict[str, Any]:
    """Everything that a store's manifest and rows tell, as plain values.

    Shards are read one after the other; kept of each row are its formula's hash and its labels.

    Args:
        store: The store.

    Returns:
        Among others, under `targets`, for each target: `unit`, `labels` (rows that have it),
        `missing` (share of the rows), `mean`, `std`, `min`, `max`, and what
        `datamodules.store.floor.CompositionFloor` says.
    """
    manifest = store.manifest
    rows = _Rows(store)
    formulas, of_row, counts = np.unique(
        store.column("formula_key"), return_inverse=True, return_counts=True
    )
    return {
        "store": str(store.folder),
        "format_version": manifest.format_version,
        "layout": manifest.layout,
        "fingerprint": store.fingerprint,
        "source": manifest.source,
        "options": manifest.options,
        "software": manifest.software,
        "physics": manifest.physics,
        "grid": manifest.grid,
        "counts": manifest.counts,
        "rows": len(store),
        "shards": len(manifest.shards),
        "bytes": sum(shard.bytes for shard in manifest.shards),
        "column_bytes": dict(rows.column_bytes),
        "formulas": len(formulas),
        "formulas_with_several": int((counts > 1).sum()),
        "elements_a_material": {str(n): count for n, count in sorted(rows.n_elements.items())},
        "materials_by_element": {
            SYMBOLS[z]: int(rows.elements[z])
            for z in np.argsort(-rows.elements, kind="stable")
            if rows.elements[z] and z < len(SYMBOLS)
        },
        "lines_a_material": rows.lines(),
        "space_groups": {str(group): int(n) for group, n in enumerate(rows.space_groups) if n},
        "bravais_classes": {
            name: int(n)
            for name, n in zip(BRAVAIS_CLASSES, rows.bravais_classes[1:], strict=True)
            if n
        },
        "targets": {name: _target(store, name, of_row) for name in store.target_names},
        "left_out": left_out(store),
        "notes": manifest.notes,
    }


class _Rows:
    """What only the rows tell, gathered shard by shard so that memory stays flat."""

    def __init__(self, store: Store) -> None:
        self.column_bytes: Counter[str] = Counter()
        self.n_elements: Counter[int] = Counter()
        self.elements = np.zeros(256, np.int64)
        self.space_groups = np.zeros(231, np.int64)
        self.bravais_classes = np.zeros(1 + len(BRAVAIS_CLASSES), np.int64)
        self._n_lines: list[np.ndarray] = []
        for number in range(len(store.manifest.shards)):
            batch = store.shard(number)
            for name in batch.schema.names:
                self.column_bytes[name] += batch.column(name).nbytes
            elements = batch.column("elements")
            self.n_elements.update(np.diff(elements.offsets.to_numpy()).tolist())
            self.elements += np.bincount(elements.flatten().to_numpy(), minlength=256)
            for name, count in (
                ("space_group", self.space_groups),
                ("bravais_class", self.bravais_classes),
            ):
                if name in batch.schema.names:
                    known = batch.column(name).drop_null().to_numpy(zero_copy_only=False)
                    count += np.bincount(known, minlength=len(count))
            if "q" in batch.schema.names:
                self._n_lines.append(np.diff(batch.column("q").offsets.to_numpy()))

    def lines(self) -> dict[str, float] | None:
        """Fewest, median and most diffraction lines of a material; None for dense patterns."""
        if not self._n_lines:
            return None
        low, middle, high = np.percentile(np.concatenate(self._n_lines), [0, 50, 100])
        return {"min": float(low), "median": float(middle), "max": float(high)}


def _target(store: Store, name: str, formulas: np.ndarray) -> dict[str, Any]:
    """Unit, statistics and floor of a target; of a column of integers only how many there are."""
    values = store.column(name).astype(np.float32)
    known = values[np.isfinite(values)].astype(np.float64)
    told: dict[str, Any] = {
        "unit": store.target_units[name],
        "labels": len(known),
        "missing": 1 - len(known) / len(store),
    }
    if name in INTEGERS:
        return told
    for key, function in (("mean", np.mean), ("std", np.std), ("min", np.min), ("max", np.max)):
        told[key] = float(function(known)) if len(known) else None
    return {**told, **asdict(composition_floor(formulas, values))}


def left_out(store: Store) -> dict[str, int]:
    """How many entries gave no row, for each reason, the most frequent first."""
    path = store.folder / REJECTED
    if not path.exists():
        return {}
    with open(path, encoding="utf-8") as stream:
        return dict(Counter(json.loads(line)["reason"] for line in stream).most_common())
