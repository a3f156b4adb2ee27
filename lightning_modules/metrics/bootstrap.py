"""How far a figure would vary with other materials: whole formulas are drawn with replacement.

Materials of one formula have errors that go together, so drawing rows would give intervals that
are too narrow.

Shapes: R figures, N materials, G groups (formulas), K draws.
"""

import numpy as np

DRAWS = 4000
#: Numbers held at a time.
_CHUNK = 2**22


def interval(draws: np.ndarray) -> tuple[float, float]:
    """95 % interval of bootstrap draws, (K,).

    Infinite draws count; those in which there is nothing to judge (NaN) do not. NaN if all are so.
    """
    known = draws[~np.isnan(draws)]
    if not len(known):
        return np.nan, np.nan
    low, high = np.quantile(known, [0.025, 0.975], method="inverted_cdf")
    return float(low), float(high)


def drawn_sums(sums_RG: np.ndarray, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """Sums over groups that are drawn with replacement, (K, R).

    Args:
        sums_RG: Sums of each group.
        draws: How many times, K.
        seed: The same seed draws the same groups: all figures are paired.
    """
    n_groups = sums_RG.shape[1]
    generator = np.random.default_rng(seed)
    drawn = []
    chunk = max(1, _CHUNK // n_groups)
    for start in range(0, draws, chunk):
        # How often each group is drawn; equal to n_groups draws with replacement.
        often = generator.multinomial(
            n_groups, np.full(n_groups, 1 / n_groups), size=min(chunk, draws - start)
        )
        drawn.append(often @ sums_RG.T)
    return np.concatenate(drawn)


def group_means(
    errors_RN: np.ndarray, groups: np.ndarray, draws: int = DRAWS, seed: int = 0
) -> np.ndarray:
    """Means over materials when whole groups are drawn with replacement, (K, R).

    Args:
        errors_RN: Errors of each run and material.
        groups: What is drawn: the materials' formulas, (N,).
        draws: How many times, K.
        seed: The same seed draws the same groups: means of equal columns are paired.
    """
    _, group = np.unique(groups, return_inverse=True)
    n_groups = int(group.max()) + 1
    sums = [np.bincount(group, weights=row, minlength=n_groups) for row in errors_RN]
    sums.append(np.bincount(group, minlength=n_groups).astype(float))
    drawn = drawn_sums(np.stack(sums), draws, seed)
    means: np.ndarray = drawn[:, :-1] / drawn[:, -1:]
    return means
