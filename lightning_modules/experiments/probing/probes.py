"""Simple models that find a label in a frozen vector: ridge, logistic regression, k neighbours.

Their strength (penalty, number of neighbours) is chosen on the validation split, their error
measured on the test split, with an interval of a bootstrap over formulas.

Shapes: N materials, D width of a vector.
"""

from typing import Any

import numpy as np
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.manifold import TSNE
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lightning_modules.metrics.bootstrap import group_means

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
    formulas: np.ndarray,
    classify: bool,
    draws: int = 2000,
) -> dict[str, dict[str, float]]:
    """What probes find.

    Args:
        train: Vectors (N, D) and labels (N,), NaN for missing.
        validation: The same, to choose how strong a probe is.
        test: The same, to measure.
        formulas: Formulas of the test materials, (N,): the bootstrap draws these.
        classify: Whether labels are classes; the error is then the share of wrong answers, else
            the mean absolute error.
        draws: Of the bootstrap.

    Returns:
        By probe (`linear`, `neighbours`, and `constant`: the median or the most frequent class):
        `error`, its 95 % interval `low`, `high`, the number of test labels `n`, and for numbers
        `rank`, Spearman's correlation of predictions and labels: where most labels are near 0 and
        a few far away, a constant has a small error and says nothing.
    """
    (x, y), (x_v, y_v), (x_t, y_t) = (_labelled(*split) for split in (train, validation, test))
    groups = formulas[np.isfinite(test[1])]

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
        if not classify and name != "constant":
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
