"""Simple models that find a label in a frozen vector: ridge, logistic regression, k neighbours.

Their strength (penalty, number of neighbours) is chosen on the validation split, their error
measured on the test split, with an interval of a bootstrap over formulas.

Shapes: N materials, D width of a vector.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.manifold import TSNE
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lightning_modules.metrics.bootstrap import group_means
from lightning_modules.metrics.within import figures

#: First space group of each crystal system; source: International Tables for Crystallography A.
CRYSTAL_SYSTEMS = {
    "triclinic": 1,
    "monoclinic": 3,
    "orthorhombic": 16,
    "tetragonal": 75,
    "trigonal": 143,
    "hexagonal": 168,
    "cubic": 195,
}
_PENALTIES = (0.1, 10.0, 1000.0)
_INVERSE_PENALTIES = (0.01, 0.3)
_NEIGHBOURS = (3, 10, 30)

Split = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Judged:
    """What is known of the test materials beside their vectors.

    Attributes:
        formula_key: Hashes of their formulas, (N,).
        new_system: Whether no material of their chemical system is in the training split, (N,).
        index: Their rows in the stores, (N,).
    """

    formula_key: np.ndarray
    new_system: np.ndarray
    index: np.ndarray


def crystal_system(space_group: np.ndarray) -> np.ndarray:
    """Number of the crystal system, 0 to 6, as float; NaN where the space group is unknown.

    Args:
        space_group: International numbers, NaN for unknown, (N,).
    """
    number = np.asarray(space_group, float)
    system = np.searchsorted(list(CRYSTAL_SYSTEMS.values()), number, side="right") - 1.0
    return np.where(np.isfinite(number) & (number > 0), system, np.nan)


def _models(classify: bool) -> dict[str, list[Any]]:
    if classify:
        linear = [LogisticRegression(C=c, max_iter=300) for c in _INVERSE_PENALTIES]
        near = [KNeighborsClassifier(k, weights="distance") for k in _NEIGHBOURS]
    else:
        linear = [Ridge(alpha) for alpha in _PENALTIES]
        near = [KNeighborsRegressor(k, weights="distance") for k in _NEIGHBOURS]
    return {"linear": linear, "neighbours": near}


def judge(
    train: Split,
    validation: Split,
    test: Split,
    judged: Judged,
    tolerance: float | None,
    draws: int = 2000,
) -> dict[str, dict[str, float]]:
    """What probes find.

    Args:
        train: Vectors (N, D) and labels (N,), NaN for missing.
        validation: The same, to choose how strong a probe is.
        test: The same, to measure.
        judged: The test materials; the bootstrap draws their formulas.
        tolerance: Labels of one formula must be further apart for their order to count. None:
            labels are classes, and the error is the share of wrong answers, else the mean absolute
            error.
        draws: Of the bootstrap.

    Returns:
        By probe (`linear`, `neighbours`, and `constant`: the median or the most frequent class):
        `error`, its 95 % interval `low`, `high`, the number of test labels `n`; `known_system` and
        `new_system`, the errors of the materials whose chemical system is in the training split
        and of the others (left out if there are none); and for numbers `rank`, Spearman's
        correlation of predictions and labels (where most labels are near 0 and a few far away, a
        constant has a small error and says nothing), and `pairs`, the share of the pairs of
        structures of one formula that are ranked rightly (see `metrics.within`; left out if there
        is none).
    """
    (x, y), (x_v, y_v), (x_t, y_t) = (_labelled(*split) for split in (train, validation, test))
    there = np.isfinite(test[1])
    groups, new = judged.formula_key[there], judged.new_system[there]
    classify = tolerance is None

    def errors(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
        return (predicted != truth).astype(float) if classify else np.abs(predicted - truth)

    values, counts = np.unique(y, return_counts=True)
    constant = values[counts.argmax()] if classify else np.median(y)
    predicted = {"constant": np.full(len(y_t), constant)}
    for name, candidates in _models(classify).items():
        fitted = [
            make_pipeline(StandardScaler(), model).fit(x, y)
            for model in candidates
            if len(y) >= getattr(model, "n_neighbors", 1)
        ]
        best = min(fitted, key=lambda m: errors(m.predict(x_v), y_v).mean())
        predicted[name] = best.predict(x_t)
    found = {}
    for name, values_t in predicted.items():
        error = errors(values_t, y_t)
        means = group_means(error[None], groups, draws)[:, 0]
        low, high = np.quantile(means, [0.025, 0.975])
        found[name] = {"error": float(error.mean()), "low": float(low), "high": float(high)}
        found[name]["n"] = len(y_t)
        for which, part in (("known_system", ~new), ("new_system", new)):
            if part.any():
                found[name][which] = float(error[part].mean())
        if tolerance is None:
            continue
        within = figures(values_t[:, None], y_t, groups, judged.index[there], tolerance)[0]
        if "pairs" in within:
            found[name]["pairs"] = within["pairs"]
        if name != "constant":
            found[name]["rank"] = float(np.nan_to_num(spearmanr(values_t, y_t).statistic))
    return found


def _labelled(x: np.ndarray, y: np.ndarray) -> Split:
    there = np.isfinite(y)
    return x[there], y[there]


def linear_map(train: Split, test: Split) -> tuple[np.ndarray, np.ndarray]:
    """Map one modality's vectors linearly to the other's, fitted on the training split.

    Returns:
        Of the test materials the mapped and the true vectors, standardised and of unit length.
    """
    (source, target), (source_t, target_t) = train, test
    scaler = StandardScaler().fit(target)
    model = make_pipeline(StandardScaler(), Ridge(10.0)).fit(source, scaler.transform(target))
    return _unit(model.predict(source_t)), _unit(scaler.transform(target_t))


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def map_2d(vectors: np.ndarray, seed: int = 0) -> np.ndarray:
    """Neighbours on a plane, by t-SNE on standardised vectors, (N, 2).

    Source: van der Maaten & Hinton, J. Mach. Learn. Res. 9 (2008) 2579.
    """
    perplexity = min(30.0, (len(vectors) - 1) / 3)
    tsne = TSNE(perplexity=perplexity, init="pca", random_state=seed, max_iter=500)
    placed: np.ndarray = tsne.fit_transform(StandardScaler().fit_transform(vectors))
    return placed
