"""What a model knows of the structures of one formula, where the composition has nothing to say.

All figures are of formulas with at least two labelled structures among those evaluated:

- `mae`: mean absolute error of differences from the formula's mean, |(p - p̄) - (y - ȳ)|;
- `pairs`: share of the pairs of structures of one formula that are ranked rightly. Pairs whose
  labels are not further apart than a tolerance are left out; a pair that is predicted alike counts
  half. Whatever knows the composition alone predicts all of a formula's structures alike: 0.5;
- `shuffled_mae`: `mae` when the patterns are exchanged among the structures of a formula, on
  average over the exchanges. What it exceeds `mae` by is what the model takes from the pattern.

No model is run for the exchange. All that a model is given is composition and pattern, and
structures of a formula share the composition: with each other's patterns they have each other's
predictions.

A formula's structures, in an order by hash, are compared with their neighbours up to `_REACH`
places away, around a circle: in formulas of up to 2 `_REACH` + 1 structures these are all pairs,
in larger ones a sample of them.

Shapes: N materials, M predictions of each, G formulas, K draws.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from datamodules.randomness import Purpose, hash_uint64
from lightning_modules.metrics.bootstrap import drawn_sums, interval

FIGURES = ("mae", "pairs", "shuffled_mae")
#: Labels that are this close are as good as equal, by unit: what calculations are converged to.
TOLERANCES = {"eV/atom": 0.001, "eV": 0.01, "Å³": 0.01, "g/cm³": 0.01, "GPa": 1.0}
#: Of a target in any other unit: this share of the standard deviation of the training labels.
_OTHER_TOLERANCE = 1e-3
#: Predictions are alike if they differ by less than this share of the tolerance: what rounding
#: does to equal inputs.
_ALIKE = 0.01
_REACH = 64


def pair_tolerance(
    name: str, unit: str, std: float, chosen: Mapping[str, float] | None = None
) -> float:
    """How far apart labels must be for the order of a pair to count.

    Args:
        name: The target.
        unit: Its unit.
        std: Standard deviation of the training labels.
        chosen: Tolerances by target, in place of the default of the unit.
    """
    default = TOLERANCES.get(unit, _OTHER_TOLERANCE * std)
    return float((chosen or {}).get(name, default))


def check_tolerances(chosen: Mapping[str, float] | None, targets: list[str]) -> None:
    """Refuse tolerances of targets that are not there, and negative ones.

    Raises:
        ValueError: naming the target.
    """
    for name, value in (chosen or {}).items():
        if name not in targets:
            raise ValueError(f"pair_tolerance: no target {name!r}; there are {', '.join(targets)}")
        if not 0.0 <= value < float("inf"):
            raise ValueError(f"pair_tolerance of {name} is {value}: must be 0 or more")


@dataclass(frozen=True)
class Pairs:
    """Pairs of structures of one formula.

    Attributes:
        first: Places of the first structures in the table, (P,).
        second: Places of the second ones, (P,).
        formula: Number of their formula, 0 to G - 1, (P,).
    """

    first: np.ndarray
    second: np.ndarray
    formula: np.ndarray


def groups_with_several(formula_N: np.ndarray, labelled_N: np.ndarray) -> np.ndarray:
    """Numbers 0 to G - 1 of formulas with at least two labelled structures, (N,); -1 for others."""
    found = np.full(len(formula_N), -1)
    _, group, size = np.unique(formula_N[labelled_N], return_inverse=True, return_counts=True)
    numbers = np.where(size > 1, np.cumsum(size > 1) - 1, -1)
    found[labelled_N] = numbers[group]
    return found


def pairs_of(group_N: np.ndarray, index_N: np.ndarray) -> Pairs:
    """Pairs within groups, each once, the same whatever the order of the rows.

    Args:
        group_N: Numbers of the groups; rows of -1 are in none.
        index_N: Row numbers in the stores, by whose hash a large group's pairs are chosen.
    """
    rows = np.flatnonzero(group_N >= 0)
    order = np.lexsort((hash_uint64(0, 0, int(Purpose.PAIR), index_N[rows]), group_N[rows]))
    rows = rows[order]
    group = group_N[rows]
    _, start, size = np.unique(group, return_index=True, return_counts=True)
    start, size = np.repeat(start, size), np.repeat(size, size)
    place = np.arange(len(rows)) - start
    first, second = [], []
    for step in range(1, min(_REACH, int(size.max(initial=0)) // 2) + 1):
        # Half way around an even circle each pair would come twice.
        chosen = np.flatnonzero((2 * step < size) | ((2 * step == size) & (place < step)))
        first.append(chosen)
        second.append(start[chosen] + (place[chosen] + step) % size[chosen])
    a, b = (np.concatenate(part) if part else np.empty(0, int) for part in (first, second))
    return Pairs(rows[a], rows[b], group[a])


def ranked_rightly(
    predicted_P: np.ndarray, true_P: np.ndarray, tolerance: float
) -> tuple[np.ndarray, np.ndarray]:
    """How far pairs are ranked rightly: 0, ½ (predicted alike) or 1; and which of them count.

    Args:
        predicted_P: Predicted differences.
        true_P: Differences of the labels.
        tolerance: Only larger ones count.
    """
    right = np.where(np.sign(predicted_P) == np.sign(true_P), 1.0, 0.0)
    right[np.abs(predicted_P) <= _ALIKE * tolerance] = 0.5
    return right, np.abs(true_P) > tolerance


@dataclass(frozen=True)
class WithinFormulas:
    """Sums over formulas from which the figures and their intervals follow.

    Attributes:
        sums: Errors and pairs ranked rightly, (3, M, G), in the order of `FIGURES`.
        counts: What they are divided by, (3, G).
        structures: Labelled structures of these formulas.
    """

    sums: np.ndarray
    counts: np.ndarray
    structures: int

    def values(self, draws: int = 0) -> np.ndarray:
        """The figures, and those of formulas drawn with replacement, (1 + K, 3, M)."""
        n_figures, n_predictions, n_formulas = self.sums.shape
        flat = np.concatenate((self.sums.reshape(-1, n_formulas), self.counts))
        rows = flat.sum(axis=1)[None]
        if draws:
            rows = np.concatenate((rows, drawn_sums(flat, draws)))
        sums = rows[:, :-n_figures].reshape(-1, n_figures, n_predictions)
        with np.errstate(invalid="ignore"):
            return np.asarray(sums / rows[:, -n_figures:, None])


def within_formulas(
    value_NM: np.ndarray,
    target_N: np.ndarray,
    formula_N: np.ndarray,
    index_N: np.ndarray,
    tolerance: float,
) -> WithinFormulas | None:
    """Judge predictions of one target within formulas.

    Args:
        value_NM: Predictions.
        target_N: Labels, NaN where missing.
        formula_N: Hashes of the formulas.
        index_N: Row numbers in the stores.
        tolerance: Pairs with labels not further apart do not count.

    Returns:
        The sums by formula; None if no formula has two labelled structures.
    """
    group = groups_with_several(formula_N, np.isfinite(target_N))
    rows = np.flatnonzero(group >= 0)
    if not len(rows):
        return None
    n_formulas = int(group.max()) + 1

    def by_formula(values: np.ndarray, number: np.ndarray) -> np.ndarray:
        return np.bincount(number, weights=values, minlength=n_formulas)

    def deviations(values: np.ndarray) -> np.ndarray:
        mean = by_formula(values[rows], group[rows]) / size
        return values - mean[np.maximum(group, 0)]

    size = by_formula(np.ones(len(rows)), group[rows])
    target = deviations(target_N.astype(np.float64))
    pairs = pairs_of(group, index_N)
    first, second, formula = pairs.first, pairs.second, pairs.formula
    n_exchanges = by_formula(np.full(len(first), 2.0), formula)
    sums = []
    for column in value_NM.T.astype(np.float64):
        value = deviations(column)
        right, counted = ranked_rightly(
            value[first] - value[second], target[first] - target[second], tolerance
        )
        exchanged = np.abs(value[first] - target[second]) + np.abs(value[second] - target[first])
        sums.append(
            (
                by_formula(np.abs(value - target)[rows], group[rows]),
                by_formula(right * counted, formula),
                # The mean over exchanges of each formula, weighted by its structures as `mae`.
                by_formula(exchanged, formula) / n_exchanges * size,
            )
        )
    counted = np.abs(target[first] - target[second]) > tolerance
    counts = np.stack((size, by_formula(counted.astype(float), formula), size))
    return WithinFormulas(np.stack(sums, axis=1), counts, len(rows))


def figures(
    value_NM: np.ndarray,
    target_N: np.ndarray,
    formula_N: np.ndarray,
    index_N: np.ndarray,
    tolerance: float,
    draws: int = 0,
) -> list[dict[str, float]]:
    """The figures of each prediction by name.

    Args:
        value_NM: Predictions.
        target_N: Labels, NaN where missing.
        formula_N: Hashes of the formulas.
        index_N: Row numbers in the stores.
        tolerance: Pairs with labels not further apart do not count.
        draws: Of a bootstrap over formulas, whose 95 % intervals are given as `…_low` and
            `…_high`; 0 gives none.

    Returns:
        For each of the M predictions `mae`, `pairs` (left out if no pair counts), `shuffled_mae`,
        the `tolerance`, and the numbers of `formulas` and `structures`; empty dictionaries if
        there is no formula to judge.
    """
    found = within_formulas(value_NM, target_N, formula_N, index_N, tolerance)
    if found is None:
        return [{} for _ in value_NM.T]
    values = found.values(draws)
    rows: list[dict[str, float]] = []
    for m in range(value_NM.shape[1]):
        row: dict[str, float] = {}
        for i, name in enumerate(FIGURES):
            if np.isnan(values[0, i, m]):
                continue
            row[name] = float(values[0, i, m])
            if draws:
                row[f"{name}_low"], row[f"{name}_high"] = interval(values[1:, i, m])
        n_formulas = found.counts.shape[1]
        row |= {"tolerance": tolerance, "formulas": float(n_formulas)}
        rows.append(row | {"structures": float(found.structures)})
    return rows
