"""Weighted scores against scikit-learn, resample by resample."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score

from ecgscan_ray.evaluation.scores import (
    average_precision_statistic,
    best_thresholds,
    calibration_error_statistic,
    f1_statistic,
)

RNG = np.random.default_rng(0)
SCORES = np.round(RNG.normal(size=200), 1)  # with ties
POSITIVE = RNG.random(200) < 1 / (1 + np.exp(-SCORES))
WEIGHTS = RNG.integers(0, 4, (5, 200)).astype(float)


def test_average_precision_and_f1_are_those_of_scikit_learn() -> None:
    expected = [average_precision_score(POSITIVE, SCORES, sample_weight=w) for w in WEIGHTS]
    np.testing.assert_allclose(average_precision_statistic(SCORES, POSITIVE, WEIGHTS), expected)
    expected = [f1_score(POSITIVE, SCORES > 0.2, sample_weight=w) for w in WEIGHTS]
    np.testing.assert_allclose(f1_statistic(SCORES > 0.2, POSITIVE, WEIGHTS), expected)


def test_a_threshold_is_the_one_with_the_best_f1() -> None:
    (threshold,) = best_thresholds(SCORES[:, None], POSITIVE[:, None])
    best = max(f1_score(POSITIVE, value <= SCORES) for value in np.unique(SCORES))
    assert f1_score(POSITIVE, threshold <= SCORES) == pytest.approx(best)
    assert best_thresholds(SCORES[:, None], np.zeros((200, 1), bool))[0] == np.inf


def test_a_class_that_is_as_frequent_as_predicted_is_calibrated() -> None:
    positive = np.arange(100) < 30
    once = np.ones((1, 100))
    assert calibration_error_statistic(np.full(100, 0.3), positive, once)[0] == pytest.approx(0)
    assert calibration_error_statistic(np.full(100, 0.8), positive, once)[0] == pytest.approx(0.5)
