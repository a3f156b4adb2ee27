"""Rank of the right formula for scans with a laboratory's faults, by one or several aligned models.

    python benchmarks/hard_scans.py --table mp.csv.gz --store data/mp --scans /tmp/hard
        --checkpoint old=models/aligned --checkpoint new=runs/aligned [--measured DIR/index.csv]

Scans of held-out formulas, made from the structures of a table (columns `material_id` and `cif`) by
code that shares nothing with the augmentation: structure factors of every hkl, a cell that differs
by axis as far as the crystal system allows, March and Dollase's texture along a true direction, Kα1
and Kα2, tails of axial divergence, air, humps, a second phase, counts. They are written as files
(once; a folder that has its `index.csv` is used as it is) and read as a user's scan is. One JSON
line a model; of several the last has the ratio of each model's figures to the first one's.
"""

import argparse
import csv
import gzip
import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from pymatgen.analysis.diffraction.xrd import ATOMIC_SCATTERING_PARAMS
from pymatgen.core import Lattice, Structure
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

from datamodules import batch as keys
from datamodules.formula import parse_formula
from datamodules.measured import Options, convert, read_scan
from datamodules.measured.wavelength import parse_wavelength
from datamodules.rendering.renderer import Renderer
from datamodules.store.splits import assign
from datamodules.store.store import Store
from lightning_modules import checkpoints
from lightning_modules.inference.evidence import AlignedModel, pad_compositions

KA1, KA2 = 1.540593, 1.544427
STEP = 0.02
#: Directions along which plates and needles lie.
AXES = ((0, 0, 1), (1, 0, 0), (0, 1, 0), (1, 1, 0), (1, 0, 1), (1, 1, 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", type=Path, required=True, help="CSV with the structures")
    parser.add_argument("--store", type=Path, required=True, help="prepared from that table")
    parser.add_argument("--scans", type=Path, required=True, help="folder of the scans")
    parser.add_argument("--checkpoint", action="append", required=True, metavar="NAME=PLACE")
    parser.add_argument("--measured", type=Path, help="table of measured patterns")
    parser.add_argument("--among", type=int, default=81)
    parser.add_argument("--limit", type=int, default=240)
    parser.add_argument("--offset", type=float, default=0.0, help="added to intensities of 0 to 1")
    given = parser.parse_args()
    store = Store(given.store)
    models = dict(item.split("=", 1) for item in given.checkpoint)
    if not (given.scans / "index.csv").exists():
        split = checkpoints.split_of(next(iter(models.values())))
        rows = assign(store.column("formula_key"), split)["test"]
        write_scans(given.table, store, rows, given.scans, given.limit)
    formulas = np.unique(store.column("formula"))
    results = []
    for name, place in models.items():
        model = AlignedModel(place)
        result = {"model": name} | judged(model, formulas, given.scans, given.among, given.offset)
        if given.measured:
            result |= measured_ranks(model, formulas, given.measured, given.offset)
        print(json.dumps(result), flush=True)
        results.append(result)
    if len(results) > 1:
        print(json.dumps([ratios(results[0], other) for other in results[1:]]))


def write_scans(table: Path, store: Store, rows: np.ndarray, folder: Path, limit: int) -> None:
    """Writes scans of as many rows, and `index.csv` last; one structure for each formula."""
    formulas = store.column("formula")
    rows = rows[np.sort(np.unique(formulas[rows], return_index=True)[1])]
    rows = rows[np.linspace(0, len(rows) - 1, min(limit, len(rows))).round().astype(int)]
    wanted = {store.material(int(row)).id: formulas[row] for row in rows}
    opener = gzip.open if table.suffix == ".gz" else open
    csv.field_size_limit(2**30)
    with opener(table, "rt", encoding="utf-8") as lines:
        cifs = {
            row["material_id"]: row["cif"]
            for row in csv.DictReader(lines)
            if row["material_id"] in wanted
        }
    folder.mkdir(parents=True, exist_ok=True)
    names, random = list(wanted), np.random.default_rng(0)
    index = []
    for number, name in enumerate(names):
        second = names[int(random.integers(len(names)))]
        x, counts, facts = simulated(cifs[name], cifs[second], random)
        file = f"{number:03d}.xy"
        np.savetxt(folder / file, np.stack([x, counts], axis=1), fmt=["%.3f", "%d"])
        index.append({"file": file, "formula": wanted[name], **facts})
    with (folder / "index.csv").open("w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, list(index[0]))
        writer.writeheader()
        writer.writerows(index)


def simulated(
    cif: str, other: str, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """Angles, counts, and what was drawn."""

    def log_uniform(low: float, high: float) -> float:
        return float(np.exp(random.uniform(math.log(low), math.log(high))))

    start, stop = random.choice([5.0, 10.0, 20.0]), random.choice([70.0, 80.0, 90.0])
    x = np.arange(start, stop + STEP / 2, STEP)
    texture = float(np.exp(random.normal(0.0, 0.3))) if random.random() < 0.7 else 1.0
    mismatch = random.uniform(0.005, 0.03)
    instrument = {
        "zero": random.uniform(-0.06, 0.06),
        "displacement": random.normal(0.0, 5e-4),
        "axial": random.uniform(0.0, 0.04),
        "w": random.uniform(0.06, 0.15) ** 2,
        "size": log_uniform(150.0, 3000.0),
        "eta": random.uniform(0.2, 0.9),
    }
    profile = phase(cif, x, mismatch, texture, instrument, random)
    share = log_uniform(0.02, 0.3) if random.random() < 0.5 else 0.0
    if share:
        extra = phase(other, x, random.uniform(0.005, 0.03), 1.0, instrument, random)
        if extra.sum() > 0:
            profile = profile + extra * share / (1.0 - share) * profile.sum() / extra.sum()
    profile /= profile.max()
    ground = random.uniform() * np.exp(-(x - 5.0) / log_uniform(4.0, 30.0)) + random.uniform()
    for _ in range(random.integers(3)):
        centre, width = random.uniform(12.0, 50.0), random.uniform(4.0, 12.0)
        ground += random.uniform(0.0, 1.5) * np.exp(-(((x - centre) / width) ** 2) / 2.0)
    height, counts = log_uniform(0.01, 0.3), log_uniform(300.0, 30000.0)
    expected = counts * (profile + height * ground / ground.max())
    facts = {
        "mismatch": round(mismatch, 4),
        "texture": round(texture, 3),
        "second": round(share, 3),
        "background": round(height, 3),
        "counts": round(counts),
        "start": float(start),
        "stop": float(stop),
    }
    return x, random.poisson(expected), facts


def phase(
    cif: str,
    x: np.ndarray,
    mismatch: float,
    texture: float,
    instrument: dict[str, float],
    random: np.random.Generator,
) -> np.ndarray:
    """Intensity of one phase at the angles: lines of all hkl of a cell smaller than computed."""
    found = SpacegroupAnalyzer(Structure.from_str(cif, fmt="cif"), symprec=0.05)
    cell = found.get_conventional_standard_structure()
    shrink = 1.0 / (1.0 + mismatch + random.uniform(-1.0, 1.0, 3) * mismatch / 2.0)
    system = found.get_crystal_system()
    if system == "cubic":
        shrink[:] = shrink[0]
    elif system in ("tetragonal", "hexagonal", "trigonal"):
        shrink[1] = shrink[0]
    lattice = Lattice.from_parameters(*(np.array(cell.lattice.abc) * shrink), *cell.lattice.angles)
    g, intensity = reflections(cell, lattice, float(random.uniform(0.3, 1.5)))
    axis = np.array(AXES[int(random.integers(len(AXES)))]) @ lattice.reciprocal_lattice.matrix
    length = np.linalg.norm(g, axis=1)
    cosine = g @ axis / (length * np.linalg.norm(axis))
    intensity = intensity * (texture**2 * cosine**2 + (1 - cosine**2) / texture) ** -1.5
    # Equal lengths are one line; each line has grains enough or not.
    rounded, inverse = np.unique(length.round(4), return_inverse=True)
    intensity = np.bincount(inverse, intensity) * np.exp(random.normal(0.0, 0.1, len(rounded)))
    keep = intensity > 1e-5 * intensity.max()
    return drawn_lines(rounded[keep], intensity[keep], x, instrument)


def reflections(cell: Structure, lattice: Lattice, b: float) -> tuple[np.ndarray, np.ndarray]:
    """Reciprocal vectors (Å⁻¹, with 2π) up to 2θ of 100°, and |F|² with an overall B (Å²)."""
    matrix = lattice.reciprocal_lattice.matrix
    largest = 4.0 * math.pi * math.sin(math.radians(50.0)) / KA1
    limits = [math.ceil(largest * length / (2.0 * math.pi)) for length in lattice.abc]
    hkl = np.array(list(itertools.product(*(range(-n, n + 1) for n in limits))))
    g = hkl @ matrix
    length = np.linalg.norm(g, axis=1)
    keep = (length > 0.05) & (length < largest)
    hkl, g, length = hkl[keep], g[keep], length[keep]
    square = (length / (4.0 * math.pi)) ** 2
    factors = {}
    for element in cell.composition.elements:
        a = np.array(ATOMIC_SCATTERING_PARAMS[element.symbol])
        total = (a[:, 0] * np.exp(-np.outer(square, a[:, 1]))).sum(axis=1)
        # The table is of electron scattering: Mott and Bethe's formula makes it that of X-rays.
        factors[element.symbol] = element.Z - 41.78214 * square * total
    structure_factor = np.zeros(len(hkl), complex)
    for site in cell:
        wave = np.exp(2j * math.pi * (hkl @ site.frac_coords))
        for element, share in site.species.items():
            structure_factor += share * factors[element.symbol] * wave
    return g, np.abs(structure_factor) ** 2 * np.exp(-2.0 * b * square)


def drawn_lines(
    q: np.ndarray, intensity: np.ndarray, x: np.ndarray, instrument: dict[str, float]
) -> np.ndarray:
    """Lines on the angles: LP, doublet, tails of axial divergence, pseudo-Voigts."""
    profile = np.zeros(len(x))
    for wavelength, part in ((KA1, 2.0 / 3.0), (KA2, 1.0 / 3.0)):
        sine = q * wavelength / (4.0 * math.pi)
        theta = np.arcsin(sine[sine < 0.999])
        lp = (1 + np.cos(2 * theta) ** 2) / (np.sin(theta) ** 2 * np.cos(theta))
        area = part * intensity[sine < 0.999] * lp
        size = np.degrees(0.9 * wavelength / (instrument["size"] * np.cos(theta)))
        fwhm = np.sqrt(instrument["w"] * (1 + np.tan(theta) ** 2) + size**2)
        centre = np.degrees(2 * theta - 2 * instrument["displacement"] * np.cos(theta))
        # Rays out of the equatorial plane arrive at smaller angles, densest where the shift is 0.
        tail = np.degrees(instrument["axial"] ** 2 / 2.0 / np.tan(2 * theta))
        for u in (0.1, 0.3, 0.5, 0.7, 0.9):
            add_peaks(
                profile, x, centre + instrument["zero"] - tail * u**2, area / 5, fwhm, instrument
            )
    return profile


def add_peaks(
    profile: np.ndarray,
    x: np.ndarray,
    centre: np.ndarray,
    area: np.ndarray,
    fwhm: np.ndarray,
    instrument: dict[str, float],
) -> None:
    """Adds pseudo-Voigts, each within 3° of its centre."""
    for c, a, w in zip(centre, area, fwhm, strict=True):
        first, last = np.searchsorted(x, (c - 3.0, c + 3.0))
        d = (x[first:last] - c) / w
        gauss = 2.0 * math.sqrt(math.log(2) / math.pi) * np.exp(-4.0 * math.log(2) * d**2)
        lorentz = 2.0 / math.pi / (1.0 + 4.0 * d**2)
        eta = instrument["eta"]
        profile[first:last] += a / w * (eta * lorentz + (1.0 - eta) * gauss)


def read(
    model: AlignedModel, table: Path, offset: float = 0.0
) -> Iterator[tuple[str, torch.Tensor]]:
    """Formula and the model's vector of each scan of a table, read as a user's."""
    renderer = Renderer(model.grid, model.peaks)
    for row in csv.DictReader(table.open(encoding="utf-8")):
        scan = read_scan(table.parent / row["file"])
        stated = row.get("wavelength_angstrom") or "CuKa"
        wavelength = None if scan.wavelength else parse_wavelength(stated)
        pattern = convert(scan, model.grid, Options(wavelength, fwhm=model.peaks.fwhm))
        batch = {
            keys.PROFILE: torch.from_numpy(pattern.profile)[None] + offset,
            keys.INDEX: torch.zeros(1, dtype=torch.int64),
        }
        seen = renderer(batch, augment=False)
        yield row["formula"], model.patterns(seen[keys.XRD], seen[keys.MEASURED])[0]


def judged(
    model: AlignedModel, formulas: np.ndarray, scans: Path, among: int, offset: float = 0.0
) -> dict[str, dict[str, float]]:
    """Ranks of the right formulas among some of the scans' and among all, with elements and not."""
    found = list(read(model, scans / "index.csv", offset))
    compositions = [parse_formula(name) for name in formulas]
    elements = [frozenset(numbers.tolist()) for numbers, _ in compositions]
    bank = model.compositions(*pad_compositions(compositions))
    right = np.searchsorted(formulas, [formula for formula, _ in found])
    similar = (torch.stack([vector for _, vector in found]) @ bank.T).numpy()
    ranks: dict[str, list[int]] = {}
    random = np.random.default_rng(0)
    for row, place in enumerate(right):
        better = similar[row] > similar[row, place]
        fitting = np.array([other <= elements[place] for other in elements])
        few = np.zeros(len(formulas), bool)
        few[random.choice(np.delete(right, row), among - 1, replace=False)] = True
        for name, allowed in {
            f"among {among}": few,
            f"among {among}, elements": few & fitting,
            "all": np.ones(len(formulas), bool),
            "all, elements": fitting,
        }.items():
            ranks.setdefault(name, []).append(1 + int((better & allowed).sum()))
    result: dict[str, dict[str, float]] = {}
    for name, values in ranks.items():
        result[name] = {
            f"first {n}": round(float((np.array(values) <= n).mean()), 3) for n in (1, 5, 10)
        }
        result[name]["median"] = float(np.median(values))
        # A mean of reciprocal ranks moves with every rank, and less by chance than a share.
        result[name]["reciprocal"] = round(float((1.0 / np.array(values)).mean()), 4)
    return {"scans": len(found), **result}  # type: ignore[dict-item]


def measured_ranks(
    model: AlignedModel, formulas: np.ndarray, table: Path, offset: float = 0.0
) -> dict[str, object]:
    """Rank of each measured pattern's formula among all of the store."""
    bank = model.compositions(*pad_compositions([parse_formula(name) for name in formulas]))
    ranks = {}
    for formula, vector in read(model, table, offset):
        own = model.compositions(*pad_compositions([parse_formula(formula)]))[0]
        ranks[formula] = 1 + int((bank @ vector > own @ vector).sum())
    return {"measured": ranks, "measured median": float(np.median(list(ranks.values())))}


def ratios(first: dict, other: dict) -> dict[str, object]:
    """Each figure of a model over the first one's; above 1 is better but for medians."""
    found: dict[str, object] = {"model": f"{other['model']} / {first['model']}"}
    for name, values in first.items():
        if isinstance(values, dict) and "reciprocal" in values:
            found[name] = {
                key: round(other[name][key] / value, 3) for key, value in values.items() if value
            }
    return found


if __name__ == "__main__":
    main()
