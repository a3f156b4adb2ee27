"""`xxact report retrieval`: how often a known material is found in a scan, and what scores mean.

Materials of the library's held-out formulas are measured by computer, with the faults of measured
patterns, and pass through everything that a file passes through. Each is looked for twice: in the
whole library, and after its formula was taken out, where every confident answer is a false one.
Half of the scans says how score and lead are weighed, the other half how good that is.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules import batch as keys
from datamodules.grid import Grid
from datamodules.io.arguments import ArgumentParser, require
from datamodules.measured import PatternError, Scan
from datamodules.measured.wavelength import parse_wavelength
from datamodules.rendering.augmentation import Augmentation, draw
from datamodules.rendering.peaks import PeakShape
from datamodules.rendering.renderer import Renderer
from datamodules.store.splits import SplitConfig, split_rows
from datamodules.stream.batches import IMPURITY_KEYS, choose_impurities
from lightning_modules import checkpoints
from lightning_modules.experiments.assessment.recipe_augmentation import read_augmentation
from lightning_modules.inference.devices import choose_device
from lightning_modules.inference.evidence import AlignedModel
from lightning_modules.inference.neighbours import Library
from lightning_modules.retrieval import Retriever
from lightning_modules.retrieval.confidence import LARGEST_LEAD, OWN, Confidence
from lightning_modules.retrieval.matching import Fits

#: Faults of a scan as it is written, with the widths of a laboratory's lines. (The overlay
#: configs/augmentation/measured.yaml imitates what is left of them when a scan has been read.)
FAULTS = Augmentation(
    strain=0.01,
    zero_shift=0.1,
    displacement=0.0005,
    crystallite_size=(150.0, 2000.0),
    caglioti_u=(0.0, 0.02),
    caglioti_v=(-0.005, 0.0),
    caglioti_w=(0.01, 0.05),
    eta=(0.0, 1.0),
    doublet=0.5,
    line_jitter=0.2,
    debye_waller=1.0,
    impurity=0.1,
    impurity_probability=0.3,
    background=0.05,
    noise=(1.0e3, 1.0e5),
    window=15.0,
)
#: σ of each line's own relative shift in Q: computed cells are not wrong by the same everywhere.
LINES_APART = 0.001
_SEED = 7
_COUNTS = 10_000.0
RANKS = (1, 5, 10)
LEVELS = (0.02, 0.05)


def simulated_scans(
    library: Library,
    rows: Sequence[int],
    augmentation: Augmentation,
    lines_apart: float = LINES_APART,
    seed: int = _SEED,
) -> Iterator[tuple[Scan, int | None]]:
    """Scans of some materials with random faults, the same at each call.

    Args:
        library: The materials.
        rows: Which.
        augmentation: The faults.
        lines_apart: σ of the relative shift of each line by itself.
        seed: Another one gives other faults.

    Yields:
        A scan at Cu Kα, and the row of the material that is mixed in.
    """
    grid = Grid()
    renderer, everyone = Renderer(grid, PeakShape()), np.arange(len(library))
    zero = torch.zeros((), dtype=torch.int64)
    for row in rows:
        random = np.random.default_rng([seed, row])
        lines = library.lines(np.array([row]))
        slots, partners = choose_impurities(seed, 0, np.array([row]), augmentation, everyone)
        if len(slots) and augmentation.has_impurity:
            extra = library.lines(partners)
            lines[keys.IMPURITY_SLOT] = torch.from_numpy(slots)
            lines |= {to: extra[key] for key, to in IMPURITY_KEYS.items() if key in extra}
        for name in (keys.LINE_Q, keys.IMPURITY_Q):
            if name in lines:
                apart = random.normal(1.0, lines_apart, len(lines[name])).astype(np.float32)
                lines[name] = lines[name] * torch.from_numpy(apart)
        changes = draw(augmentation, zero + seed, zero, lines[keys.INDEX])
        root, measured = renderer.render(lines, changes)
        seen = measured[0].numpy()
        counts = _COUNTS * root[0].numpy()[seen].astype(np.float64) ** 2
        partner = int(partners[0]) if keys.IMPURITY_SLOT in lines else None
        wavelength = parse_wavelength("CuKa")
        yield (
            Scan(grid.two_theta()[seen], counts, wavelength=wavelength, format="simulated"),
            partner,
        )


@dataclass
class _Found:
    """What was found for one scan."""

    ranks: dict[str, int] = field(default_factory=dict)
    #: Score, lead and whether the first is right; by library: as it is, without the formula.
    first: dict[str, tuple[float, float, bool]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


class _Judge:
    """Looks for scans of known materials in every way that is compared."""

    def __init__(self, retriever: Retriever) -> None:
        self.retriever, self.library = retriever, retriever.library
        self.formulas = self.library.collection.column("formula_key")
        self.everyone = np.arange(len(self.library))

    def __call__(self, scan: Scan, row: int) -> _Found:
        retriever, found = self.retriever, _Found()
        _, profile = retriever.read(scan)
        own = self.formulas == self.formulas[row]
        if self.library.model is not None:
            start = time.process_time()
            order = retriever.similar(profile, self.everyone, retriever.candidates)
            found.seconds["vectors"] = time.process_time() - start
            found.ranks["vectors alone"] = _rank(own[order])
        start = time.process_time()
        rows = retriever.narrowed(profile, self.everyone)
        coarse = retriever.matcher.coarse(profile, rows)
        fits = retriever.matcher.fine(profile, coarse.best(retriever.refined))
        fits = fits.best(retriever.refined)
        found.seconds["lines"] = time.process_time() - start
        start = time.process_time()
        forgiven = retriever.forgiven(profile, coarse, fits)
        found.seconds["smeared lines"] = time.process_time() - start
        found.ranks["lines, smeared ones too"] = _rank(own[forgiven.rows.numpy()])
        self._add(found, "lines", fits, own)
        without = fits[torch.from_numpy(~own[fits.rows.numpy()])]
        self._add(found, "absent", without, own)
        bits = self.library.element_bits
        elements = np.flatnonzero((bits == bits[row]).all(axis=1))
        known = retriever.fits(profile, elements)
        self._add(found, "lines, elements known", known, own)
        others = elements[~own[elements]]
        if len(others):
            self._add(found, "absent, elements known", retriever.fits(profile, others), own)
        return found

    def _add(self, found: _Found, name: str, fits: Fits, own: np.ndarray) -> None:
        best = fits.best(len(fits.rows))
        right = own[best.rows.numpy()]
        if not name.startswith("absent"):
            found.ranks[name] = _rank(right)
        score = float(best.scores[0])
        found.first[name] = (score, self.retriever.lead(best), bool(right[0]))


def _rank(right: np.ndarray) -> int:
    """Place of the first that is right, from 1; 10⁹ if there is none."""
    return int(right.argmax()) + 1 if right.any() else 10**9


def measure(
    retriever: Retriever,
    rows: np.ndarray,
    augmentation: Augmentation = FAULTS,
    mixtures: int = 0,
) -> Confidence:
    """Measures how well materials are found, and what scores mean.

    Args:
        retriever: Its own idea of confidence is not used.
        rows: Materials to measure, in any order; at least 20.
        augmentation: The faults.
        mixtures: How many of the scans are made once more, pure and mixed with another material
            that has up to half of the intensity, to look for a second phase.

    Raises:
        ValueError: if there are too few materials.
    """
    if len(rows) < 20:
        raise ValueError(f"{len(rows)} held-out materials; at least 20 are needed")
    judge = _Judge(retriever)
    found, refused = [], 0
    for (scan, _), row in zip(
        simulated_scans(retriever.library, rows.tolist(), augmentation), rows, strict=True
    ):
        try:
            found.append(judge(scan, int(row)))
        except PatternError:
            refused += 1
    fitted, judged = found[::2], found[1::2]
    values = np.array([one.first["lines"] for one in fitted])
    absent = np.array([one.first["absent"] for one in fitted])
    inputs = np.concatenate([values[:, :2], absent[:, :2]])
    inputs[:, 1] = inputs[:, 1].clip(max=LARGEST_LEAD)
    right = np.concatenate([values[:, 2], np.zeros(len(absent))]) > 0
    # An extra: everything else here does without.
    from sklearn.linear_model import LogisticRegression

    weights = LogisticRegression(C=1e3, max_iter=10_000).fit(30 * inputs, right).coef_[0]
    result = Confidence(float(max(weights[1], 0.0) / max(weights[0], 1e-6)), [1.0], [1.0])

    def scale(some: list[_Found]) -> list[float]:
        return sorted(result.value(*one.first["absent"][:2]) for one in some)

    result.absent = scale(fitted)
    figures: dict[str, Any] = {"scans": len(found), "refused": refused}
    for name in found[0].ranks:
        ranks = np.array([one.ranks[name] for one in found])
        figures[name] = {f"recall@{k}": float((ranks <= k).mean()) for k in (*RANKS, 1000)}
    for level in LEVELS:
        figures[f"called confident at {level}"] = {
            name: _confident(result, judged, name, level)
            for name in ("lines", "lines, elements known", "absent", "absent, elements known")
        }
    figures["seconds of processor"] = {
        name: float(np.mean([one.seconds[name] for one in found])) for name in found[0].seconds
    }
    if mixtures:
        figures["second phase"] = _second_phases(retriever, result, rows[:mixtures], augmentation)
    # The more scans, the finer the scale: all of them make the one that is kept.
    result.absent, result.figures = scale(found), figures
    return result


def _confident(
    confidence: Confidence, found: list[_Found], name: str, level: float
) -> dict[str, float]:
    """Share of all scans that are called confident: rightly and wrongly."""
    firsts = [one.first[name] for one in found if name in one.first]
    called = [
        right for score, lead, right in firsts if confidence.false_share(score, lead) <= level
    ]
    n = max(len(firsts), 1)
    return {"right": sum(called) / n, "wrong": (len(called) - sum(called)) / n, "n": len(firsts)}


def _second_phases(
    retriever: Retriever, result: Confidence, rows: np.ndarray, augmentation: Augmentation
) -> dict[str, Any]:
    """Looks for a second phase where there is none and where there is one."""
    everyone = np.arange(len(retriever.library))
    formulas = retriever.library.collection.column("formula_key")
    pure = replace(augmentation, impurity_probability=0.0, impurities=1)
    alone = replace(augmentation, impurity_share=(0.0, 0.0), impurities=1)
    mixed = replace(alone, impurity=0.499, impurity_probability=1.0)
    gains: list[float] = []
    both: list[tuple[float, bool, bool]] = []
    for faults in (pure, mixed):
        for (scan, partner), row in zip(
            simulated_scans(retriever.library, rows.tolist(), faults), rows, strict=True
        ):
            try:
                _, profile = retriever.read(scan)
            except PatternError:
                continue
            fits = retriever.fits(profile, everyone)
            second = retriever.second(profile, fits, everyone)
            gain = 0.0 if second is None else second[1]
            if partner is None:
                gains.append(gain)
                continue
            there = {formulas[row], formulas[partner]}
            named = [int(fits.rows[0])] + ([] if second is None else [int(second[0].rows[0])])
            first_right = formulas[named[0]] in there
            both.append((gain, first_right, first_right and {formulas[i] for i in named} == there))
    result.single_gains = sorted(gains)
    told = {
        f"told at {level}": {
            "of one phase": float(np.mean([result.single_share(g) <= level for g in gains])),
            "of two": float(np.mean([result.single_share(g) <= level for g, _, _ in both])),
            "of two, both right": float(
                np.mean([result.single_share(g) <= level and right for g, _, right in both])
            ),
        }
        for level in LEVELS
    }
    return {
        "scans of one phase": len(gains),
        "scans of two": len(both),
        "first is one of the two": float(np.mean([right for _, right, _ in both])),
        "both right, told or not": float(np.mean([right for _, _, right in both])),
        **told,
    }


def main(argv: Sequence[str]) -> int:
    """Runs `xxact report retrieval`."""
    parser = ArgumentParser(
        prog="xxact report retrieval",
        description="Measure how often held-out materials of a library are found in simulated "
        "scans, and what scores mean where they are not in it; write the scale for `xxact retrieve "
        "--confidence`.",
    )
    parser.add_argument("--library", action="append", required=True, help="store; repeatable")
    parser.add_argument("--checkpoint", type=Path, help="of an alignment, for the first stage")
    parser.add_argument("--index", type=Path, help="file of the library's vectors")
    parser.add_argument("--limit", type=int, default=400, help="scans (400)")
    parser.add_argument("--mixtures", type=int, default=100, help="scans for second phases (100)")
    parser.add_argument(
        "--everything",
        type=int,
        help="rows up to which all are compared line by line (as `xxact retrieve` does)",
    )
    parser.add_argument(
        "--augmentation", type=Path, metavar="OVERLAY.yaml", help="other faults than the usual ones"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("confidence.json"), help="file (confidence.json)"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, …")
    parser.add_allow_task()
    given = parser.parse_args(argv)
    require("sklearn", "probes", "xxact report retrieval")
    if given.limit < 20 or given.mixtures < 0:
        raise ValueError("--limit: give at least 20; --mixtures: at least 0")
    device = choose_device(given.device)
    model, split = None, SplitConfig()
    if given.checkpoint is not None:
        model = AlignedModel(given.checkpoint, device, given.allow_task)
        split = checkpoints.split_of(given.checkpoint)
    library = Library(given.library, model, given.index)
    whatever = Confidence(0.5, [1.0] * 100, [1.0] * 100)
    more = {} if given.everything is None else {"everything": given.everything}
    retriever = Retriever(library, confidence=whatever, device=device, **more)
    rows = split_rows(library.collection, split)["test"]
    rows = np.random.default_rng(_SEED).permutation(rows)[: given.limit]
    augmentation = read_augmentation(given.augmentation) if given.augmentation else FAULTS
    result = measure(retriever, rows, augmentation, min(given.mixtures, len(rows)))
    result.settings = {
        "library": [Path(folder).name for folder in given.library],
        "rows": len(library),
        "checkpoint": None if given.checkpoint is None else given.checkpoint.name,
        "augmentation": "usual" if given.augmentation is None else str(given.augmentation),
        "lines_apart": LINES_APART,
    }
    result.save(given.output)
    for name, numbers in result.figures.items():
        print(f"{name}: {numbers}")
    print(f"{given.output}: scale of {len(result.absent)} scans; for everyone: {OWN}")
    return 0
