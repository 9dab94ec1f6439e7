"""Percentile intervals by resampling patients: the rows of one patient are resampled together.

A resample is a weight for every row, so that one draw serves all figures, and differences are paired.

Letters: B resamples, N rows, C classes, P patients.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval and the number of rows it was measured on; bounds are None where unknown.

    ``reason`` states why it was not measured; the value then is NaN.
    """

    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None
    reason: str | None = None

    def as_dict(self) -> dict[str, float | int | str | None]:
        """The entry of ``report.json``; a value that is not finite becomes null. ``reason`` only where it is set."""
        fields = {"value": self.value, "low": self.low, "high": self.high}
        finite = {key: float(v) if v is not None and np.isfinite(v) else None for key, v in fields.items()}
        return {**finite, "n": self.n, **({"reason": self.reason} if self.reason else {})}


def row_weights(patients: np.ndarray, resamples: int, seed: int = 0) -> np.ndarray:
    """How often each row occurs in resamples of the patients, drawn with replacement.

    Args:
        patients: (N,) patient keys; each negative key (unknown) counts as a separate patient.
        resamples: B.
        seed: Of the draw; the same seed and patients give the same resamples, which pairs differences.

    Returns:
        (B, N) float64 counts.
    """
    keys = np.array(patients, dtype=np.int64)
    unknown = keys < 0
    _, index = np.unique(keys, return_inverse=True)
    index[unknown] = len(keys) + np.arange(int(unknown.sum()))
    _, index = np.unique(index, return_inverse=True)
    count = int(index.max()) + 1 if len(index) else 0
    if not count:
        return np.zeros((resamples, 0))
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)
    return draws[:, index].astype(np.float64)


def mean_statistic(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(B,) weighted means of (N,) values; rows that are not finite are left out."""
    known = np.isfinite(values)
    total = weights[:, known].sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return weights[:, known] @ values[known] / total


def _weighted_median(ordered: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(B,) the first of (N,) ascending values at which half of the weight is reached."""
    reached = np.cumsum(weights, axis=1)
    return ordered[(reached >= reached[:, -1:] / 2).argmax(axis=1)]


def auroc_statistic(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Area under the ROC curve of weighted rows, ties count one half.

    Args:
        scores: (N,) higher = more likely positive.
        positive: (N,) bool.
        weights: (B, N).

    Returns:
        (B,) areas, NaN where a resample has no positive or no negative row.
    """
    order = np.argsort(scores, kind="stable")
    weights, positive, ordered = weights[:, order], positive[order], scores[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(ordered) else np.zeros(0, int)
    if not len(starts):
        return np.full(len(weights), np.nan)
    up = np.add.reduceat(weights * positive, starts, axis=1)
    down = np.add.reduceat(weights * ~positive, starts, axis=1)
    below = np.cumsum(down, axis=1) - down
    won = (up * (below + down / 2)).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return won / (up.sum(axis=1) * down.sum(axis=1))


def class_auroc(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(B, C) areas of (N, C) scores against (N, C) bool labels."""
    return np.stack([auroc_statistic(scores[:, c], labels[:, c], weights) for c in range(labels.shape[1])], axis=1)


def mean_over_classes(values: np.ndarray) -> np.ndarray:
    """(B,) mean of (B, C) over the classes that are defined in the resample."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(known, values, 0).sum(1) / known.sum(1)


def macro_auroc_statistic(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(B,) mean area over the classes that have both positive and negative rows in the resample."""
    return mean_over_classes(class_auroc(scores, labels, weights))


def interval(point: float, resampled: np.ndarray, n: int) -> Estimate:
    """``point`` with the 2.5 and 97.5 percentiles of its (B,) resampled values."""
    known = resampled[np.isfinite(resampled)]
    if not len(known):
        return Estimate(point, n=n)
    low, high = np.percentile(known, [2.5, 97.5])
    return Estimate(point, float(low), float(high), n)


class PatientBootstrap:
    """One draw of patients for every figure of a split.

    Args:
        patients: (N,) patient keys of the rows.
        resamples: B.
        seed: Of the draw.
    """

    def __init__(self, patients: np.ndarray, resamples: int = 1000, seed: int = 0) -> None:
        self.weights = row_weights(patients, resamples, seed)
        self._once = np.ones((1, len(patients)))

    def of(self, rows: np.ndarray) -> PatientBootstrap:
        """The same draw, restricted to some rows."""
        part = object.__new__(PatientBootstrap)
        part.weights, part._once = self.weights[:, rows], self._once[:, rows]
        return part

    def mean(self, values: np.ndarray, rows: np.ndarray | None = None) -> Estimate:
        """Mean of ``values``; ``rows`` are the rows they belong to, all by default."""
        rows = np.arange(self.weights.shape[1]) if rows is None else rows
        known = int(np.isfinite(values).sum())
        point = mean_statistic(values, self._once[:, rows])[0]
        return interval(float(point), mean_statistic(values, self.weights[:, rows]), known)

    def median(self, values: np.ndarray, rows: np.ndarray | None = None) -> Estimate:
        """Median (the lower one of two) of finite ``values``; ``rows`` as in ``mean``."""
        rows = np.arange(self.weights.shape[1]) if rows is None else rows
        order = np.argsort(values, kind="stable")
        point, resampled = (_weighted_median(values[order], w[:, rows][:, order]) for w in (self._once, self.weights))
        return interval(float(point[0]), resampled, len(values))

    def macro_auroc(self, scores: np.ndarray, labels: np.ndarray) -> Estimate:
        """Macro AUROC of (N, C) scores."""
        point = macro_auroc_statistic(scores, labels, self._once)[0]
        return interval(float(point), macro_auroc_statistic(scores, labels, self.weights), len(labels))

    def per_class_auroc(self, scores: np.ndarray, labels: np.ndarray) -> list[Estimate]:
        """AUROC of each class."""
        points, resampled = (class_auroc(scores, labels, w) for w in (self._once, self.weights))
        return [interval(float(points[0, c]), resampled[:, c], len(labels)) for c in range(labels.shape[1])]

    def macro_auroc_difference(self, scores: np.ndarray, other: np.ndarray, labels: np.ndarray) -> Estimate:
        """Macro AUROC of ``scores`` minus that of ``other`` on the same rows, resampled in pairs."""
        point, resampled = (
            macro_auroc_statistic(scores, labels, w) - macro_auroc_statistic(other, labels, w)
            for w in (self._once, self.weights)
        )
        return interval(float(point[0]), resampled, len(labels))

    def mean_difference(self, values: np.ndarray, other: np.ndarray, rows: np.ndarray | None = None) -> Estimate:
        """Mean of ``values - other`` over rows, resampled in pairs."""
        return self.mean(values - other, rows)
