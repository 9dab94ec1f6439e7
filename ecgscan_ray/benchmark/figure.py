"""A figure together with its resamples, so that differences between encoders are paired.

Letters: B resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ecgscan_ray.evaluation.bootstrap import Estimate, interval

Statistic = Callable[[np.ndarray], np.ndarray]
"""Weights (B, N) of the rows -> (B,) values."""


@dataclass(frozen=True)
class Resampled:
    """A value and what it is in each resample of the patients.

    Attributes:
        value: On all rows once.
        resamples: (B,).
        n: Rows.
    """

    value: float
    resamples: np.ndarray
    n: int

    @property
    def estimate(self) -> Estimate:
        """With its 95 % interval."""
        return interval(self.value, self.resamples, self.n)

    def minus(self, other: Resampled) -> Estimate:
        """The difference, paired by resample."""
        return interval(self.value - other.value, self.resamples - other.resamples, self.n)


def resample(statistic: Statistic, weights: np.ndarray) -> Resampled:
    """Compute a statistic on all rows once, and on resamples given as weights (B, N)."""
    value = statistic(np.ones((1, weights.shape[1])))[0]
    return Resampled(float(value), statistic(weights), weights.shape[1])


def mean_of(figures: Sequence[Resampled]) -> Resampled:
    """The mean, e.g. over subsets of the labels."""
    resamples = np.mean([figure.resamples for figure in figures], axis=0)
    return Resampled(float(np.mean([figure.value for figure in figures])), resamples, figures[0].n)
