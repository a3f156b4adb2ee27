"""Test errors side by side: by whether the chemical system was in training, and within formulas.

Splits are by formula. A formula of a chemical system that was in training may have near
neighbours there; one of a new system has none. So the materials of new systems say what a split by
chemical system would, without further runs.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from lightning_modules.experiments.study.run import NEW_SYSTEM

SYSTEMS = {"system in training": False, "new system": True}
WITHIN = {
    "within formulas": "mae",
    "pairs ranked rightly": "pairs",
    "patterns shuffled": "shuffled_mae",
}


def breakdown(results: Iterable[dict[str, Any]], name: str) -> dict[str, float]:
    """Means over runs, by the name of a table's column; what no run has is left out.

    Args:
        results: Results of tested runs that differ in their seeds.
        name: What is judged, as `mode/target`.
    """
    found: dict[str, list[float]] = {}
    for result in results:
        errors = result.get("errors", {})
        if name in errors and NEW_SYSTEM in errors:
            values = np.array(errors[name], float)
            new = np.array(errors[NEW_SYSTEM], bool)
            for column, which in SYSTEMS.items():
                chosen = values[(new == which) & np.isfinite(values)]
                if len(chosen):
                    found.setdefault(column, []).append(float(chosen.mean()))
        for column, key in WITHIN.items():
            value = result.get("test", {}).get(f"test/{name}/within/{key}")
            if value is not None:
                found.setdefault(column, []).append(value)
    return {column: float(np.mean(values)) for column, values in found.items()}
