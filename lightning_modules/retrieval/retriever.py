"""The known materials that fit a scan, best first, with *no confident match* where there is none.

From Python:

    library = Library("data/mp", AlignedModel("models/aligned"))
    answer = Retriever(library)(read_scan("sample.xrdml"), top=5)
    for match in answer.matches:
        print(match.known.id, match.known.formula, match.score, match.confident)

Two stages. Where the library is large, the vectors of an aligned model choose `candidates` of its
rows; these (of a small library all rows, with or without a model) are compared line by line.

Shapes: L points of the grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from datamodules.grid import Grid
from datamodules.measured import ConvertedPattern, Options, Scan, convert
from lightning_modules.inference.neighbours import ElementFilter, Known, Library
from lightning_modules.retrieval import phases
from lightning_modules.retrieval.confidence import Confidence
from lightning_modules.retrieval.matching import Fits, Freedom, Matcher, Profile
from lightning_modules.retrieval.tolerance import tolerant_scores

#: Libraries up to this are compared line by line as a whole: 0.05 ms a row, where vectors lose some
#: of the materials (docs/results.md).
EVERYTHING = 100_000
#: Share of scans of one phase that may be given a second one.
SECOND_LEVEL = 0.05
#: Degrees: the step of the grid on which scans are compared, unless the model's is finer.
_STEP = 0.02
#: Width to which `convert` widens lines at least: none is narrower.
_NARROWEST = 0.01
#: Where a scan's lines are too few or too weak to tell their width.
_USUAL_FWHM = 0.15
#: What the conversion's smoothing makes of a width.
_SMOOTHED = 1.06
#: Degrees by which a line of the first phase may lie elsewhere than computed.
_REACH = 0.06


@dataclass(frozen=True)
class Match:
    """A material that fits.

    Attributes:
        rank: From 1.
        known: The material; its `similarity` is None.
        score: How well it fits, at most 1; see `matching`.
        confident: Whether this is what the scan shows, by `Confidence`; of the first one only.
        strain: By which its lattice spacings were stretched to fit.
        shift: By which its lines were shifted to fit, degrees.
    """

    rank: int
    known: Known
    score: float
    confident: bool
    strain: float
    shift: float


@dataclass(frozen=True)
class Phase:
    """A material's part in a scan.

    Attributes:
        match: The material; the score of a second one is that of the two together.
        share: Of the scan's intensity, 0 to 1, that lies under its computed pattern.
    """

    match: Match
    share: float


@dataclass
class Answer:
    """What fits a scan.

    Attributes:
        matches: Best first.
        phases: What the first match explains, and the second phase where one was found.
        pattern: The scan as it was compared.
        profile: The same, as `matching` takes it.
        warnings: What is doubtful about the scan.
    """

    matches: list[Match]
    phases: list[Phase]
    pattern: ConvertedPattern
    profile: Profile
    warnings: list[str] = field(default_factory=list)

    @property
    def confident(self) -> bool:
        """Whether the first match is called confident."""
        return bool(self.matches) and self.matches[0].confident


class Retriever:
    """Finds known materials in scans.

    Args:
        library: What is known; with a model, large ones are searched by its vectors first.
        freedom: How far lines may move.
        candidates: Rows that the vectors choose.
        refined: Of them, those that are compared with lines of the scan's own width.
        false_confident: Share of scans of unknown materials that may be called confident.
        confidence: What scores mean; the package's own unless given.
        everything: Rows up to which all are compared line by line, whatever the model.
        device: Where to compare.

    Raises:
        ValueError: if a number is out of range, or the library's lines do not cover the grid.
    """

    def __init__(
        self,
        library: Library,
        freedom: Freedom | None = None,
        candidates: int = 1000,
        refined: int = 50,
        false_confident: float = 0.02,
        confidence: Confidence | None = None,
        everything: int = EVERYTHING,
        device: str | torch.device = "cpu",
    ) -> None:
        if candidates < 1 or refined < 1:
            raise ValueError(f"candidates {candidates}, refined {refined}: give at least 1")
        if not 0.0 < false_confident < 1.0:
            raise ValueError(f"false_confident is {false_confident}; give a share between 0 and 1")
        self.library, self.candidates, self.refined = library, candidates, refined
        self.confidence = confidence or Confidence.load()
        if false_confident * (1 + len(self.confidence.absent)) < 1:
            raise ValueError(
                f"false_confident is {false_confident}: {len(self.confidence.absent)} scans were "
                f"measured, with which no match is called confident; give at least "
                f"{1 / (1 + len(self.confidence.absent)):.3f}"
            )
        self.false_confident, self.everything = false_confident, everything
        model = library.model
        window = Grid() if model is None else model.grid
        self.grid = replace(window, step=min(window.step, _STEP))
        library.collection.check_grid(self.grid)
        polarization = 1.0 if model is None else model.peaks.polarization
        self.matcher = Matcher(library, freedom, device, polarization)

    def read(self, scan: Scan, options: Options | None = None) -> tuple[ConvertedPattern, Profile]:
        """Brings a scan to the grid, with lines as wide as they were measured.

        Args:
            scan: As `read_scan` gives it.
            options: How to convert it; their `fwhm` and `model_polarization` are not used.

        Raises:
            PatternError: if it cannot be used.
        """
        polarization = self.matcher.polarization
        asked = replace(options or Options(), fwhm=_NARROWEST, model_polarization=polarization)
        pattern = convert(scan, self.grid, asked)
        measured = torch.from_numpy(np.isfinite(pattern.profile))
        intensity = torch.from_numpy(np.nan_to_num(pattern.profile, nan=0.0))
        fwhm = _USUAL_FWHM if pattern.fwhm is None else _SMOOTHED * pattern.fwhm
        wavelength = pattern.wavelength
        doublet = (
            wavelength is not None
            and len(wavelength.lines) == 2
            and math.isclose(wavelength.mean, self.grid.wavelength, rel_tol=1e-3)
        )
        return pattern, Profile(self.grid, intensity, measured, fwhm, doublet)

    def __call__(
        self,
        scan: Scan,
        options: Options | None = None,
        top: int = 10,
        chosen: ElementFilter | None = None,
    ) -> Answer:
        """What fits a scan.

        Args:
            scan: As `read_scan` gives it.
            options: How to convert it.
            top: Matches at most.
            chosen: What is known of its elements.

        Raises:
            PatternError: if the scan cannot be used.
            ValueError: if no material of the library has such elements.
        """
        pool = self.pool(chosen)
        pattern, profile = self.read(scan, options)
        fits, confident = self.answers(profile, pool)
        known = self.library.known(fits.rows.tolist())
        matches = [
            Match(
                i + 1,
                known[i],
                float(fits.scores[i]),
                i == 0 and confident,
                float(fits.strain[i]),
                float(fits.shift[i]),
            )
            for i in range(min(top, len(known)))
        ]
        found = self._phases(profile, fits, matches[0], pool)
        return Answer(matches, found, pattern, profile, pattern.warnings)

    def pool(self, chosen: ElementFilter | None) -> np.ndarray:
        """Rows of the library that satisfy a filter.

        Raises:
            ValueError: if there are none.
        """
        rows = None if chosen is None else self.library.rows(chosen)
        if rows is None:
            return np.arange(len(self.library))
        if not len(rows):
            raise ValueError(
                f"none of the library's {len(self.library)} materials has such elements; allow "
                "more, or require fewer"
            )
        return rows

    def is_confident(self, score: float, lead: float) -> bool:
        """Whether a first match with this lead is what the scan shows."""
        return self.confidence.false_share(score, lead) <= self.false_confident

    def lead(self, fits: Fits) -> float:
        """By how much the first fit is better than the best of another formula."""
        formulas = [self.library.formula(row) for row in fits.rows.tolist()]
        others = [i for i, formula in enumerate(formulas) if formula != formulas[0]]
        return float(fits.scores[0] - fits.scores[others[0]]) if others else 1.0

    def similar(self, profile: Profile, pool: np.ndarray, top: int) -> np.ndarray:
        """The rows whose vectors are most similar to a scan's, best first.

        Args:
            profile: The scan's.
            pool: Rows to choose from, ascending.
            top: How many.

        Raises:
            ValueError: if the library has no model.
        """
        model = self.library.model
        if model is None:
            raise ValueError("the library was made without an aligned model; give it one")
        wide = profile.widened(model.peaks.fwhm)
        here, there = profile.grid.two_theta(), model.grid.two_theta()
        intensity = np.interp(there, here, wide.intensity.numpy())
        measured = np.interp(there, here, wide.measured.numpy().astype(float)) > 0.99
        xrd = np.sqrt(intensity * measured / max(float((intensity * measured).max()), 1e-12))
        vector = model.patterns(
            torch.from_numpy(xrd.astype(np.float32))[None].to(model.device),
            torch.from_numpy(measured)[None],
        )
        rows = None if len(pool) == len(self.library) else pool
        return self.library.search(vector, top, rows)[1][0].numpy()

    def narrowed(self, profile: Profile, pool: np.ndarray) -> np.ndarray:
        """The rows that are compared line by line."""
        if self.library.model is None or len(pool) <= max(self.everything, self.candidates):
            return pool
        return self.similar(profile, pool, self.candidates)

    def fits(self, profile: Profile, pool: np.ndarray) -> Fits:
        """How the best of some rows fit a scan, best first."""
        return self._rounds(profile, pool)[1]

    def _rounds(self, profile: Profile, pool: np.ndarray) -> tuple[Fits, Fits]:
        """Both comparisons: the coarse one of all rows, the fine one of its best, best first."""
        coarse = self.matcher.coarse(profile, self.narrowed(profile, pool))
        return coarse, self.matcher.fine(profile, coarse.best(self.refined)).best(self.refined)

    def answers(self, profile: Profile, pool: np.ndarray) -> tuple[Fits, bool]:
        """How some rows fit a scan in the order of the answer, and whether the first is confident.

        The comparison at the scan's own width says what is first and whether that is confident.
        Where it is not, materials that fit with smeared lines take turns with the others.

        Args:
            profile: The scan's.
            pool: Row numbers, (K,), at least one.

        Returns:
            The fits; their scores are those at the scan's own width, whatever their order.
        """
        coarse, fits = self._rounds(profile, pool)
        if self.is_confident(float(fits.scores[0]), self.lead(fits)):
            return fits, True
        return self.forgiven(profile, coarse, fits), False

    def forgiven(self, profile: Profile, coarse: Fits, fits: Fits) -> Fits:
        """Materials that fit a scan, in turns by lines of its own width and by smeared lines.

        Args:
            profile: The scan's.
            coarse: Of all rows that were compared; the best `candidates` are looked at.
            fits: The best of them with lines of the scan's own width, best first.

        Returns:
            `fits`, its first still first, and others that are among the `refined` best with smeared
            lines; the scores are those at the own width.
        """
        coarse, matcher = coarse.best(self.candidates), self.matcher
        scores = tolerant_scores(
            profile, self.library, coarse.rows, matcher.freedom.strain, matcher.polarization
        )
        smeared = coarse[torch.argsort(scores, descending=True, stable=True)[: self.refined]]
        new = smeared[~torch.isin(smeared.rows, fits.rows)]
        if len(new.rows):
            fits = Fits.joined([fits, matcher.fine(profile, new)])
        turn = torch.arange(len(fits.rows), dtype=torch.float32)
        place, other = torch.nonzero(fits.rows[:, None] == smeared.rows).unbind(dim=1)
        turn[place] = turn[place].minimum(other + 0.5)
        return fits[torch.argsort(turn)]

    def _phases(self, profile: Profile, fits: Fits, first: Match, pool: np.ndarray) -> list[Phase]:
        """The part of the first match, and the second phase where there is one."""
        intensity = profile.intensity
        one = self.matcher.placed(profile, fits[torch.tensor([0])])[0]
        explained = phases.scale(intensity, one) * one
        alone = [Phase(first, phases.share(intensity, explained))]
        second = self.second(profile, fits, pool)
        if second is None:
            return alone
        fit, gain, (a, b) = second
        if self.confidence.single_share(gain) > SECOND_LEVEL:
            return alone
        two = self.matcher.placed(profile, fit)[0]
        known = self.library.known(fit.rows.tolist())[0]
        match = Match(
            1, known, float(fit.scores[0]), False, float(fit.strain[0]), float(fit.shift[0])
        )
        return [
            Phase(first, phases.share(intensity, a * one)),
            Phase(match, phases.share(intensity, b * two)),
        ]

    def second(
        self, profile: Profile, fits: Fits, pool: np.ndarray
    ) -> tuple[Fits, float, tuple[float, float]] | None:
        """The material that explains most of what the first one leaves.

        Args:
            profile: The scan's.
            fits: Of the scan as a whole, best first.
            pool: Rows to choose from.

        Returns:
            The fit, whose score is that of both together; what it adds to the score of the first
            alone; and the factors of the two. None where nothing is left.
        """
        intensity = profile.intensity
        one = self.matcher.placed(profile, fits[torch.tensor([0])])[0]
        factor = phases.scale(intensity, one)
        rest = phases.left_over(intensity, factor * one, round(_REACH / profile.grid.step))
        others = pool[pool != int(fits.rows[0])]
        if not len(others) or not rest.max() > 0:
            return None
        found = self.fits(replace(profile, intensity=rest / rest.max()), others)
        placed = self.matcher.placed(profile, found)
        scores, factors = phases.pair_up(intensity, one, placed)
        alone = float(phases.cosine(intensity, one[None]))
        best = scores.argmax()[None]
        fit = found[best]
        fit.scores = scores[best]
        return fit, float(scores[best]) - alone, (float(factors[best, 0]), float(factors[best, 1]))


def retrieve(
    scan: Scan,
    library: Library,
    options: Options | None = None,
    top: int = 10,
    chosen: ElementFilter | None = None,
) -> list[Match]:
    """The known materials that fit a scan, best first: a `Retriever` with its defaults, once.

    Args:
        scan: As `read_scan` gives it.
        library: What is known.
        options: How to convert the scan.
        top: Matches at most.
        chosen: What is known of its elements.

    Raises:
        PatternError: if the scan cannot be used.
        ValueError: if no material of the library has such elements.
    """
    return Retriever(library)(scan, options, top, chosen).matches
