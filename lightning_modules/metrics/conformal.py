"""Split-conformal intervals, and how often they contain the label.

The interval of a material is its prediction plus and minus its spread times a quantile of
|error| / spread on a split that nothing was fitted to. Splits hold out whole formulas, whose
materials have errors that go together: exchangeable are the formulas, not the rows. So every
formula has the same weight, which its materials share. Then a material drawn from a new formula
lies in its interval with the stated probability, whatever the model is worth, and however many
structures the formulas have.

Sources: Vovk et al., Algorithmic Learning in a Random World (2005); the score normalised by the
spread as in Lei et al., J. Am. Stat. Assoc. 113 (2018) 1094; formulas of equal weight as in Lee,
Barber & Willett, arXiv 2306.06342.

Shapes: N materials, M modes, T targets.
"""

import math

import numpy as np
import torch
from torch import Tensor

from lightning_modules.metrics.bootstrap import drawn_sums, interval
from lightning_modules.metrics.predictions import Table

#: Enough for an interval that stands beside a figure.
_DRAWS = 1000


def group_weights(groups_N: Tensor) -> tuple[Tensor, int]:
    """The inverse size of each material's group, (N,) float64, and the number of groups."""
    _, group, size = groups_N.unique(return_inverse=True, return_counts=True)
    return 1.0 / size.double()[group], len(size)


def conformal_quantile(scores_N: Tensor, groups_N: Tensor, confidence: float) -> float:
    """The smallest score that covers a material of a new group with the given probability.

    Args:
        scores_N: Scores of the calibration split; NaN where a label is missing.
        groups_N: What the split holds together: the materials' formulas.
        confidence: Probability, in (0, 1).

    Returns:
        The smallest score at which the weights 1 / ((G + 1) n) of the scores up to it, n being
        the size of a score's group and G the number of groups, sum up to the confidence; infinite
        if they never do. With one material a group it is the ceil((G + 1) * confidence)-th score.
    """
    there = ~scores_N.isnan()
    weights, n_groups = group_weights(groups_N[there])
    scores, order = scores_N[there].sort(stable=True)
    reached = weights[order].cumsum(0)
    # Rounding: 0.9 * 10 is not exactly 9 in binary for every such product, nor ten tenths 1.
    needed = (n_groups + 1) * confidence * (1 - 1e-9)
    place = int(torch.searchsorted(reached, needed))
    return float(scores[place]) if place < len(scores) else math.inf


def quantiles(table: Table, groups_N: Tensor, confidence: float) -> Tensor:
    """The quantile for each mode and target, (M, T).

    Args:
        table: Predictions of the calibration split.
        groups_N: What the split holds together: the materials' formulas.
        confidence: Probability, in (0, 1).
    """
    scores_NMT = (table.value - table.target[:, None]).abs() / table.spread
    n_modes, n_targets = scores_NMT.shape[1:]
    return torch.tensor(
        [
            [
                conformal_quantile(scores_NMT[:, m, t], groups_N, confidence)
                for t in range(n_targets)
            ]
            for m in range(n_modes)
        ]
    )


def coverage(low_N: Tensor, high_N: Tensor, target_N: Tensor, groups_N: Tensor) -> dict[str, float]:
    """Share of labels inside their intervals, by formula and by row, each with its interval.

    Args:
        low_N: Lower ends.
        high_N: Upper ends.
        target_N: Labels, NaN where missing.
        groups_N: What the split holds together: the materials' formulas.

    Returns:
        `coverage`, for which every group counts once (this is what is promised), and its 95 %
        interval `coverage_low` to `coverage_high`; `coverage_rows`, for which every row counts
        once, and its `coverage_rows_low` to `coverage_rows_high`; the mean `width` of a row's
        interval. Empty if there is no label.

    Sources: Wilson, J. Am. Stat. Assoc. 22 (1927) 209, for a share of so many groups, which is
        on the safe side where a group is covered in part; a bootstrap over groups for the rows.
    """
    there = ~target_N.isnan()
    if not there.any():
        return {}
    inside = ((target_N >= low_N) & (target_N <= high_N))[there].double()
    weights, n = group_weights(groups_N[there])
    share, z = float((inside * weights).sum()) / n, 1.96
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    group = groups_N[there].unique(return_inverse=True)[1].numpy()
    sums = [np.bincount(group, inside.numpy()), np.bincount(group).astype(float)]
    drawn = drawn_sums(np.stack(sums), _DRAWS)
    rows_low, rows_high = interval(drawn[:, 0] / drawn[:, 1])
    return {
        "coverage": share,
        "coverage_low": max(0.0, centre - half),
        "coverage_high": min(1.0, centre + half),
        "coverage_rows": float(inside.mean()),
        "coverage_rows_low": rows_low,
        "coverage_rows_high": rows_high,
        "width": float((high_N - low_N)[there].mean()),
    }
