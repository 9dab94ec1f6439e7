"""Figures of scored classes for weighted rows: average precision, F1 at given thresholds, calibration.

As in ``bootstrap``, a resample is a weight for every row: all resamples are computed at once.

Letters: B resamples, N rows, C classes.
"""

from __future__ import annotations

import numpy as np

CALIBRATION_BINS = 15


def average_precision_statistic(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Average precision of weighted rows; rows of equal score have one threshold.

    Args:
        scores: (N,) higher = more likely positive.
        positive: (N,) bool.
        weights: (B, N).

    Returns:
        (B,) values, NaN where a resample has no positive row.
    """
    order = np.argsort(-scores, kind="stable")
    weights, positive, ordered = weights[:, order], positive[order], scores[order]
    if not len(ordered):
        return np.full(len(weights), np.nan)
    last = np.flatnonzero(np.r_[ordered[1:] != ordered[:-1], True])
    hits = np.cumsum(weights * positive, axis=1)[:, last]
    count = np.cumsum(weights, axis=1)[:, last]
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(count > 0, hits / count, 0.0)
        return (np.diff(hits, axis=1, prepend=0.0) * precision).sum(1) / hits[:, -1]


def f1_statistic(predicted: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(B,) F1 of (N,) bool predictions; NaN where a resample has neither a positive nor a predicted row."""
    hits = weights @ (predicted & positive)
    total = weights @ predicted.astype(float) + weights @ positive.astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        return 2 * hits / total


def best_thresholds(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(C,) thresholds with the best F1 of each class; infinite for a class without a positive row.

    Args:
        scores: (N, C), of validation recordings.
        labels: (N, C) bool.
    """
    thresholds = np.full(labels.shape[1], np.inf)
    for index in np.flatnonzero(labels.any(0)):
        order = np.argsort(-scores[:, index], kind="stable")
        ordered, positive = scores[order, index], labels[order, index]
        last = np.flatnonzero(np.r_[ordered[1:] != ordered[:-1], True])
        f1 = 2 * np.cumsum(positive)[last] / (last + 1 + positive.sum())
        thresholds[index] = ordered[last[f1.argmax()]]
    return thresholds


def calibration_error_statistic(chance: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Expected calibration error: mean distance of chance and share of positives, over bins of equal width.

    Args:
        chance: (N,) in 0..1.
        positive: (N,) bool.
        weights: (B, N).

    Returns:
        (B,) in 0..1.
    """
    bins = np.minimum((chance * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    member = np.eye(CALIBRATION_BINS)[bins]
    distance = np.abs(weights @ (member * (chance - positive)[:, None])).sum(1)
    return distance / weights.sum(1)
