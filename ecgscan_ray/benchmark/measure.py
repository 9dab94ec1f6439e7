"""What is measured on frozen features: linear probe, nearest neighbours, zero-shot, retrieval.

Strengths, numbers of neighbours and thresholds are chosen on validation recordings.

Letters: N rows, C classes, F features, D aligned features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsRegressor
from sklearn.preprocessing import StandardScaler

from ecgscan_ray.benchmark.conditions import SEED
from ecgscan_ray.benchmark.figure import Resampled, Statistic, mean_of, resample
from ecgscan_ray.evaluation.bootstrap import class_auroc, macro_auroc_statistic, mean_over_classes, mean_statistic
from ecgscan_ray.evaluation.probe import Probe, fit_probe
from ecgscan_ray.evaluation.scores import (
    average_precision_statistic,
    best_thresholds,
    calibration_error_statistic,
    f1_statistic,
)
from ecgscan_ray.evaluation.zero_shot import zero_shot_scores

SHARES = {"probe": 1.0, "probe_10": 0.1, "probe_1": 0.01}
"""Measurement -> share of the training labels."""
NUM_SUBSETS = 5
NEIGHBOURS = (5, 20, 50)
RIDGE_STRENGTHS = tuple(float(s) for s in np.logspace(0, 5, 11))

Figures = dict[str, Resampled]
"""Metric -> figure."""


@dataclass(frozen=True)
class Split:
    """Features and targets of the rows that are fitted on.

    Attributes:
        train: (N, F).
        train_targets: (N, C) bool, or (N,).
        validation: (M, F).
        validation_targets: (M, C) bool, or (M,).
    """

    train: np.ndarray
    train_targets: np.ndarray
    validation: np.ndarray
    validation_targets: np.ndarray


def subset(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Rows of a random subset, with one positive row more of each class that would have none.

    Args:
        labels: (N, C) bool, or (N,) numbers.
        share: Of the rows.
        seed: Of the draw; the same rows for every encoder.
    """
    order = np.random.default_rng([SEED, seed]).permutation(len(labels))
    count = max(round(share * len(labels)), 2)
    rows = order[:count]
    if labels.ndim == 1:
        return np.sort(rows)
    missing = labels.any(0) & ~labels[rows].any(0)
    extra = [order[labels[order, index].argmax()] for index in np.flatnonzero(missing)]
    return np.unique(np.concatenate([rows, np.array(extra, int)]))


def fit_probes(split: Split) -> dict[str, list[Probe]]:
    """Measurement -> probes: one on all labels, and one on each subset."""
    probes = {}
    for name, share in SHARES.items():
        seeds = range(1 if share == 1 else NUM_SUBSETS)
        labels = split.train_targets
        rows = [np.arange(len(labels)) if share == 1 else subset(labels, share, seed) for seed in seeds]
        probes[name] = [
            fit_probe(split.train[part], labels[part], split.validation, split.validation_targets) for part in rows
        ]
    return probes


def auroc_figure(scores: Sequence[np.ndarray], labels: np.ndarray, weights: np.ndarray) -> Resampled:
    """Macro AUROC, the mean over score matrices (N, C) of several subsets."""
    return mean_of([resample(_macro_auroc(each, labels), weights) for each in scores])


def chance_figures(
    validation: np.ndarray,
    validation_labels: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray,
    classes: Sequence[str],
) -> Figures:
    """All metrics of one classifier.

    Args:
        validation: (M, C) log odds of the validation rows, which thresholds come from.
        validation_labels: (M, C) bool.
        scores: (N, C) log odds of the test rows.
        labels: (N, C) bool.
        weights: (B, N) resamples.
        classes: C names.
    """
    thresholds = best_thresholds(validation, validation_labels)
    chance = 1 / (1 + np.exp(-np.clip(scores, -50, 50)))
    figures = {"macro_auroc": auroc_figure([scores], labels, weights), **ranked_figures(scores, labels, weights)}
    figures["macro_f1"] = resample(
        lambda w: _macro(lambda c: f1_statistic(scores[:, c] >= thresholds[c], labels[:, c], w), labels), weights
    )
    figures["calibration_error"] = resample(
        lambda w: _macro(lambda c: calibration_error_statistic(chance[:, c], labels[:, c], w), labels), weights
    )
    brier = ((chance - labels) ** 2).mean(1)
    figures["brier"] = resample(_mean(brier), weights)
    for index in np.flatnonzero(labels.any(0) & ~labels.all(0)):  # the report names the others
        name = classes[int(index)]
        figures[f"{name}.auroc"] = resample(_class_auroc(scores[:, [index]], labels[:, [index]]), weights)
    return figures


def _class_auroc(scores: np.ndarray, labels: np.ndarray) -> Statistic:
    return lambda weights: class_auroc(scores, labels, weights)[:, 0]


def _macro_auroc(scores: np.ndarray, labels: np.ndarray) -> Statistic:
    return lambda weights: macro_auroc_statistic(scores, labels, weights)


def _mean(values: np.ndarray) -> Statistic:
    return lambda weights: mean_statistic(values, weights)


def ranked_figures(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> Figures:
    """Macro average precision of scores (N, C)."""
    figure = resample(
        lambda w: _macro(lambda c: average_precision_statistic(scores[:, c], labels[:, c], w), labels), weights
    )
    return {"macro_auprc": figure}


def _macro(of_class: Callable[[int], np.ndarray], labels: np.ndarray) -> np.ndarray:
    """Mean over the classes that have a positive and a negative test row."""
    used = np.flatnonzero(labels.any(0) & ~labels.all(0))
    return mean_over_classes(np.stack([of_class(int(index)) for index in used], axis=1))


def knn_scores(split: Split, test: np.ndarray) -> np.ndarray:
    """(N, C) share of the nearest training rows in each class, weighted by nearness; their number is chosen on validation."""
    scaler = StandardScaler().fit(split.train)
    train, validation = scaler.transform(split.train), scaler.transform(split.validation)
    once = np.ones((1, len(validation)))
    best, best_auroc = None, -np.inf
    for count in NEIGHBOURS:
        if count > len(train) and best is not None:
            continue
        model = KNeighborsRegressor(min(count, len(train)), weights="distance", metric="cosine")
        model.fit(train, split.train_targets.astype(float))
        scores = model.predict(validation).reshape(len(validation), -1)
        auroc = float(macro_auroc_statistic(scores, split.validation_targets, once)[0])
        if best is None or auroc > best_auroc:
            best, best_auroc = model, auroc
    assert best is not None
    return best.predict(scaler.transform(test)).reshape(len(test), -1)


def regression_figures(split: Split, test: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> dict[str, Figures]:
    """Measurement -> mean absolute error of a ridge regression, and of always the training's mean."""
    scaler = StandardScaler().fit(split.train)
    x, x_validation, x_test = (scaler.transform(part) for part in (split.train, split.validation, test))
    measured = {}
    for name, share in SHARES.items():
        errors = []
        for seed in range(1 if share == 1 else NUM_SUBSETS):
            rows = np.arange(len(x)) if share == 1 else subset(split.train_targets, share, seed)
            models = [Ridge(strength).fit(x[rows], split.train_targets[rows]) for strength in RIDGE_STRENGTHS]
            model = min(models, key=lambda m: np.abs(m.predict(x_validation) - split.validation_targets).mean())
            error = np.abs(model.predict(x_test) - targets)
            errors.append(resample(lambda w, e=error: mean_statistic(e, w), weights))  # type: ignore[misc]
        measured[name] = {"mean_absolute_error": mean_of(errors)}
    constant = np.abs(split.train_targets.mean() - targets)
    measured["constant"] = {"mean_absolute_error": resample(_mean(constant), weights)}
    return measured


def zero_shot_figures(
    aligned: np.ndarray, vectors: Mapping[int, np.ndarray], labels: np.ndarray, weights: np.ndarray
) -> Figures:
    """Metrics of zero-shot scores.

    Args:
        aligned: Of the test rows.
        vectors: Index of a class -> unit vector (D,); classes without prompts are left out.
        labels: (N, C) bool.
        weights: (B, N).
    """
    used = sorted(vectors)
    scores = zero_shot_scores(aligned, np.stack([vectors[index] for index in used]))
    labels = labels[:, used]
    return {"macro_auroc": auroc_figure([scores], labels, weights), **ranked_figures(scores, labels, weights)}
