"""Measured patterns beside simulated ones, and the rank of the right formula; a JSON line a file.

    python benchmarks/measured.py FOLDER/index.csv --store data/mp --aligned CHECKPOINT --output OUT

The table has columns `file` and `formula`, and `wavelength_angstrom` for files that have none. For
each pattern: a picture on the model's grid beside the pattern simulated from the structure of the
same formula in the store that is most alike, if there is one; and the rank of its formula among all
formulas of the store by the aligned model, for the measured and for the simulated pattern.
"""

import argparse
import csv
import json
from pathlib import Path

import matplotlib
import numpy as np
import torch

matplotlib.use("Agg")
from matplotlib import pyplot

from datamodules import batch as keys
from datamodules.formula import parse_formula
from datamodules.measured import Options, convert, read_scan
from datamodules.measured.wavelength import parse_wavelength
from datamodules.rendering.renderer import Renderer
from datamodules.store.gathering import Gatherer
from datamodules.store.splits import SplitConfig, assign
from datamodules.store.store import Store
from lightning_modules.inference.evidence import AlignedModel, pad_compositions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--aligned", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    model, store = AlignedModel(given.aligned), Store(given.store)
    renderer = Renderer(model.grid, model.peaks)
    formulas = store.column("formula")
    names, first = np.unique(formulas, return_index=True)
    trained = set(assign(store.column("formula_key"), SplitConfig())["train"].tolist())
    compositions = [parse_formula(name) for name in names]
    bank = model.compositions(*pad_compositions(compositions))
    systems = [tuple(elements.tolist()) for elements, _ in compositions]

    rows = list(csv.DictReader(given.table.open(encoding="utf-8")))
    figure, axes = pyplot.subplots(
        len(rows), 1, figsize=(11, 2.1 * len(rows)), sharex=True, layout="constrained"
    )
    for row, axis in zip(rows, np.atleast_1d(axes), strict=True):
        scan = read_scan(given.table.parent / row["file"])
        wavelength = None if scan.wavelength else parse_wavelength(row["wavelength_angstrom"])
        pattern = convert(scan, model.grid, Options(wavelength, fwhm=model.peaks.fwhm))
        dense = torch.from_numpy(pattern.profile)[None]
        index = torch.zeros(1, dtype=torch.int64)
        measured = renderer({keys.PROFILE: dense, keys.INDEX: index}, augment=False)
        right = find(compositions, row["formula"])
        result = {"file": row["file"], "formula": row["formula"], "fwhm": pattern.fwhm}
        axis.plot(model.grid.two_theta(), np.sqrt(pattern.profile), linewidth=0.8, label="measured")
        if right is not None:
            same = np.flatnonzero(formulas == names[right])
            simulated = rendered(store, same, renderer)
            visible = measured[keys.MEASURED][0]
            a = measured[keys.XRD][0][visible]
            alike = [cosine(a, other[visible]) for other in simulated[keys.XRD]]
            best = int(np.argmax(alike))
            label = f"simulated, {store.material(int(same[best])).id} of {len(same)}"
            axis.plot(
                model.grid.two_theta(), -simulated[keys.XRD][best], linewidth=0.8, label=label
            )
            result |= {
                "structures": len(same),
                "cosine_with_best": round(alike[best], 3),
                "in_training": bool(int(first[right]) in trained),
                **ranks("measured", model, measured, bank, right, systems),
                **ranks("simulated", model, take(simulated, best), bank, right, systems),
            }
        elements, fractions = parse_formula(row["formula"])
        own = model.compositions(*pad_compositions([(elements, fractions)]))
        result["rank_of"] = len(names)
        vector = model.patterns(measured[keys.XRD], measured[keys.MEASURED])
        similarity = (vector @ bank.T)[0]
        result["formulas_more_similar"] = int((similarity > (own * vector).sum()).sum())
        result["best_formulas"] = names[similarity.topk(5).indices.numpy()].tolist()
        axis.legend(loc="upper right", fontsize=7)
        axis.set_ylabel(row["formula"])
        print(json.dumps(result))
    axis.set_xlabel(f"2θ (°) at {model.grid.wavelength} Å")
    axis.set_xlim(model.grid.two_theta_min, model.grid.two_theta_max)
    figure.savefig(given.output / "measured.png", dpi=90)


def find(compositions: list, formula: str) -> int | None:
    """Position of a composition, however its formula is written."""
    elements, fractions = parse_formula(formula)
    for i, (other, shares) in enumerate(compositions):
        if np.array_equal(elements, other) and np.allclose(fractions, shares, atol=1e-4):
            return i
    return None


def rendered(store: Store, rows: np.ndarray, renderer: Renderer) -> dict[str, torch.Tensor]:
    arrays = Gatherer([store], [], store.manifest.max_elements).gather(rows) | {
        keys.INDEX: rows.astype(np.int64)
    }
    lines = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return renderer(lines, augment=False)


def take(batch: dict[str, torch.Tensor], row: int) -> dict[str, torch.Tensor]:
    return {name: batch[name][row : row + 1] for name in (keys.XRD, keys.MEASURED)}


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a * b).sum() / (a.norm() * b.norm()).clamp_min(1e-12))


def ranks(
    name: str,
    model: AlignedModel,
    batch: dict[str, torch.Tensor],
    bank: torch.Tensor,
    right: int,
    systems: list,
) -> dict[str, object]:
    """Rank among all formulas (1 is best), and among those of the same elements."""
    vector = model.patterns(batch[keys.XRD], batch[keys.MEASURED])
    similarity = (vector @ bank.T)[0]
    same = [i for i, system in enumerate(systems) if system == systems[right]]
    in_system = 1 + int((similarity[same] > similarity[right]).sum())
    return {
        f"rank_{name}": 1 + int((similarity > similarity[right]).sum()),
        f"rank_in_system_{name}": f"{in_system}/{len(same)}",
    }


if __name__ == "__main__":
    main()
