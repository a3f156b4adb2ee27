"""Whether a composition and a pattern contradict each other, by a model that aligns the two.

The score of a pair is the logarithm of the odds that the aligned model gives the composition among
a bank of other compositions, for this pattern. Its agreement is the share of sound pairs that score
no higher: a p-value, uniform for sound pairs that are exchangeable with those it was calibrated on.
What that detects is measured when it is calibrated: `experiments/assessment/evidence.py`.

Shapes: N pairs, K compositions of the bank, E element slots, L grid points, W embedding width.
"""

from collections.abc import Collection, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.composition import Candidates
from datamodules.formula import parse_formula
from datamodules.io.arguments import printable
from lightning_modules import checkpoints
from lightning_modules.backbone.xrd import all_measured
from lightning_modules.checkpoints.export import write_evidence
from lightning_modules.checkpoints.places import DESCRIPTION, find, is_model
from lightning_modules.checkpoints.whole import EVIDENCE, digest, read_checked, write_checked
from lightning_modules.objectives.alignment import Alignment

FORMAT_VERSION = 1
#: Of calibrations that do not say; what the first model that came with the project needed.
POWER, MISREAD = 0.85, 0.02


def pad_compositions(
    compositions: Sequence[tuple[np.ndarray, np.ndarray]],
) -> tuple[Tensor, Tensor]:
    """Elements and fractions of compositions, padded with 0: (N, E) int64 and float32."""
    slots = max(1, *(len(elements) for elements, _ in compositions))
    numbers = torch.zeros(len(compositions), slots, dtype=torch.int64)
    shares = torch.zeros(len(compositions), slots)
    for row, (elements, fractions) in enumerate(compositions):
        numbers[row, : len(elements)] = torch.from_numpy(np.asarray(elements, np.int64))
        shares[row, : len(elements)] = torch.from_numpy(np.asarray(fractions, np.float32))
    return numbers, shares


class AlignedModel:
    """Embeds compositions and patterns with a checkpoint of an alignment.

    Args:
        checkpoint: Of `Contrastive` or `MaskedContrastive`.
        device: `cpu`, `cuda`, …
        allow_tasks: Other tasks that the checkpoint may name; see `checkpoints.load_task`.

    Raises:
        ValueError: if the checkpoint is of a task without alignment.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        device: str | torch.device = "cpu",
        allow_tasks: Collection[str] = (),
    ) -> None:
        task = checkpoints.load_task(checkpoint, allow_tasks)
        alignment = getattr(task, "alignment", None)
        if not isinstance(alignment, Alignment):
            raise ValueError(
                f"{checkpoint}: was made by task {type(task).__name__}, which does not align "
                "composition and pattern; give one of lightning_modules.Contrastive or "
                "MaskedContrastive"
            )
        self.path, self.device = find(checkpoint), torch.device(device)
        self.alignment = alignment.to(device)
        self.backbone = task.backbone.to(device)
        self.grid = task.grid
        self.peaks = checkpoints.peaks_of(checkpoint)
        self.temperature = alignment.temperature().item()

    @torch.no_grad()
    def compositions(self, elements: Tensor, fractions: Tensor) -> Tensor:
        """Unit vectors of compositions, (N, W)."""
        parts = []
        for numbers, shares in zip(elements.split(4096), fractions.split(4096), strict=True):
            numbers, shares = numbers.to(self.device), shares.to(self.device)
            given = torch.ones(len(numbers), dtype=torch.bool, device=self.device)
            tokens = self.backbone.composition(numbers, shares, given)[0]
            parts.append(F.normalize(self.alignment.composition(tokens[:, 0]).float(), dim=1))
        return torch.cat(parts)

    @torch.no_grad()
    def patterns(self, xrd: Tensor, measured: Tensor) -> Tensor:
        """Unit vectors of rendered patterns, (N, W)."""
        given = torch.ones(len(xrd), dtype=torch.bool, device=self.device)
        visible = all_measured(measured.to(self.device), self.backbone.config.patch_points)
        tokens = self.backbone.xrd(xrd.to(self.device), visible, given)
        return F.normalize(self.alignment.xrd(tokens[:, 0]).float(), dim=1)

    def scores(self, composition_NW: Tensor, xrd_NW: Tensor, bank_KW: Tensor) -> Tensor:
        """Log-odds of each pair's composition among the bank, for its pattern, (N,)."""
        own_N = (composition_NW * xrd_NW).sum(dim=1) / self.temperature
        return own_N - torch.logsumexp(xrd_NW @ bank_KW.T / self.temperature, dim=1)


@dataclass
class Calibration:
    """What an aligned model's scores mean, as measured on held-out materials.

    Attributes:
        checkpoint: Digest of the checkpoint that it belongs to.
        bank: Formulas of the bank, from the training split.
        scores: Scores of sound pairs of the calibration split, ascending.
        false_alarms: Share of sound pairs that are flagged.
        kinds: By kind of contradiction, measured on the test split: `auc`, `detected` (share
            flagged at `false_alarms`) and `n`; `sound` has the share of sound pairs flagged.
        settings: Stores, split and augmentation it was made with.
        power: Of the likelihood of compositions of which one is right; below 1 where the model is
            too sure of patterns with worse faults than it was trained on.
        misread: Share of such patterns that say nothing of the composition, whatever it scores.
        format_version: Of the writer.
    """

    checkpoint: str
    bank: list[str]
    scores: list[float]
    false_alarms: float
    kinds: dict[str, dict[str, float]]
    settings: dict[str, Any]
    power: float = POWER
    misread: float = MISREAD
    format_version: int = FORMAT_VERSION

    def keep(self, checkpoint: Path) -> Path:
        """Writes it beside a checkpoint, or into a model's description; returns the file."""
        if is_model(checkpoint):
            write_evidence(checkpoint, asdict(self))
        else:
            write_checked(calibration_path(checkpoint), asdict(self))
        return calibration_path(checkpoint)

    @classmethod
    def load(cls, checkpoint: Path) -> "Calibration":
        """The calibration that lies beside a checkpoint, or in a model's description.

        Raises:
            ValueError: if there is none, or it is of another checkpoint.
        """
        path = calibration_path(checkpoint)
        how = f"run `xxact report evidence --checkpoint {checkpoint} --store STORE`"
        described = read_checked(path, how) if path.is_file() else {}
        if is_model(checkpoint):
            described = described.get("evidence", {})
        if not described:
            raise ValueError(f"{checkpoint}: its similarity is not calibrated; {how}")
        try:
            if described["format_version"] != FORMAT_VERSION:
                raise ValueError(f"format version {described['format_version']}")
            # The first ones had neither power nor misread.
            names = [f.name for f in fields(cls) if f.default is MISSING or f.name in described]
            found = cls(**{name: described[name] for name in names})
            found._check()
        except (ValueError, KeyError, TypeError) as error:
            reason = printable(str(error).split("\n")[0], 200)
            raise ValueError(f"{path}: cannot be read ({reason}); {how}") from None
        if found.checkpoint != digest(checkpoint):
            raise ValueError(f"{path}: was made for another checkpoint; {how} again")
        return found

    def _check(self) -> None:
        """Refuse what no calibration holds: the file may be a stranger's."""
        if not isinstance(self.bank, list) or not self.bank:
            raise ValueError("its bank is no list of formulas")
        for formula in self.bank:
            parse_formula(formula if isinstance(formula, str) else "")
        scores = np.asarray(self.scores, np.float64)
        if scores.ndim != 1 or not np.isfinite(scores).all() or (np.diff(scores) < 0).any():
            raise ValueError("its scores are no ascending numbers")
        if not isinstance(self.false_alarms, float) or not 0.0 < self.false_alarms < 1.0:
            raise ValueError("its false_alarms is no share between 0 and 1")
        for name, least, most in (("power", 0.0, 2.0), ("misread", 0.0, 1.0)):
            value = getattr(self, name)
            if not isinstance(value, float) or not least <= value <= most:
                raise ValueError(f"its {name} is no number from {least:g} to {most:g}")
        if not isinstance(self.kinds, dict) or not isinstance(self.settings, dict):
            raise ValueError("what it detects and how it was made is no table")

    def agreement(self, scores: np.ndarray) -> np.ndarray:
        """Share of sound pairs that score no higher, (N,): (1 + how many) / (1 + all)."""
        ranks = np.searchsorted(np.asarray(self.scores), scores, side="right")
        agreement: np.ndarray = (1 + ranks) / (1 + len(self.scores))
        return agreement


def calibration_path(checkpoint: Path) -> Path:
    """Where the calibration of a checkpoint or a model lies."""
    if is_model(checkpoint):
        return checkpoint.with_name(DESCRIPTION)
    return checkpoint.with_name(checkpoint.name + EVIDENCE)


class Judged(NamedTuple):
    """Compositions of which one is right, judged by a pattern.

    Attributes:
        weights: Of each, (K,) float64, sum 1.
        agreement: Of the one that fits best.
        contradiction: Whether even that one contradicts the pattern.
    """

    weights: np.ndarray
    agreement: float
    contradiction: bool


def weighed(prior_K: np.ndarray, scores_K: np.ndarray, power: float, misread: float) -> np.ndarray:
    """Weights of compositions of which one is right, after a look at the pattern.

    The contrast that aligns compositions and patterns is least where their similarity over the
    temperature is the logarithm of p(pattern | composition) / p(pattern), up to a constant (van den
    Oord et al., arXiv 1807.03748): its exponential is a likelihood. That is true of patterns like
    those of the training. Others are read worse: the likelihood is flattened by a power, and a
    share of the weight stays as it was without the pattern.

    Args:
        prior_K: Weights without the pattern, (K,), sum 1.
        scores_K: Similarity over temperature, up to a constant, (K,).
        power: As of `Calibration`.
        misread: As of `Calibration`.

    Returns:
        Weights, (K,) float64, sum 1.
    """
    posterior = prior_K * np.exp(power * (scores_K - scores_K.max()))
    result: np.ndarray = (1.0 - misread) * posterior / posterior.sum() + misread * prior_K
    return result


class Evidence:
    """Judges pairs of composition and pattern with a calibrated aligned model.

    Args:
        checkpoint: Of an alignment, with its calibration beside it; or a model.
        device: `cpu`, `cuda`, …
        allow_tasks: Other tasks that the checkpoint may name; see `checkpoints.load_task`.

    Raises:
        ValueError: if the checkpoint does not align or is not calibrated.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        device: str | torch.device = "cpu",
        allow_tasks: Collection[str] = (),
    ) -> None:
        self.calibration = Calibration.load(find(checkpoint))
        self.model = AlignedModel(checkpoint, device, allow_tasks)
        bank = [parse_formula(formula) for formula in self.calibration.bank]
        self._bank_KW = self.model.compositions(*pad_compositions(bank))

    def __call__(
        self, elements: Tensor, fractions: Tensor, xrd: Tensor, measured: Tensor
    ) -> tuple[np.ndarray, np.ndarray]:
        """Agreement of pairs, (N,), and whether they contradict each other, (N,) bool."""
        scores = self.model.scores(
            self.model.compositions(elements, fractions),
            self.model.patterns(xrd, measured),
            self._bank_KW,
        )
        agreement = self.calibration.agreement(scores.cpu().numpy())
        return agreement, agreement <= self.calibration.false_alarms

    def candidate_scores(
        self, elements: Tensor, fractions: Tensor, xrd: Tensor, measured: Tensor
    ) -> np.ndarray:
        """Scores of compositions for one pattern, (K,) float64.

        Args:
            elements: Atomic numbers, (K, E); 0 after those that are there.
            fractions: Atomic fractions, (K, E).
            xrd: The rendered pattern, (1, L).
            measured: What of it was measured, (1, L).
        """
        composition_KW = self.model.compositions(elements, fractions)
        xrd_1W = self.model.patterns(xrd, measured)
        scores = self.model.scores(composition_KW, xrd_1W, self._bank_KW)
        found: np.ndarray = scores.double().cpu().numpy()
        return found

    def judge_candidates(self, candidates: Candidates, xrd: Tensor, measured: Tensor) -> Judged:
        """Weigh compositions by how well they fit one pattern.

        Args:
            candidates: The compositions, with their weights without the pattern.
            xrd: The rendered pattern, (1, L).
            measured: What of it was measured, (1, L).
        """
        elements, fractions = map(torch.from_numpy, candidates.padded())
        scores = self.candidate_scores(elements, fractions, xrd, measured)
        scale = self.calibration
        agreement = float(scale.agreement(scores.max()))
        return Judged(
            weighed(candidates.weights, scores, scale.power, scale.misread),
            agreement,
            agreement <= scale.false_alarms,
        )
