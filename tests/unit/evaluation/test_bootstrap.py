"""Weighted statistics against references that copy rows, and intervals that cover."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from ecgscan_ray.evaluation.bootstrap import (
    Estimate,
    PatientBootstrap,
    auroc_statistic,
    macro_auroc_statistic,
    row_weights,
)


@given(st.integers(0, 10_000), st.integers(4, 40))
def test_weighted_auroc_equals_sklearn_on_copied_rows(seed, n):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 6, n).astype(float)  # many ties
    positive = rng.random(n) < 0.4
    weights = rng.integers(0, 4, n)
    copied = np.repeat(np.arange(n), weights)
    area = auroc_statistic(scores, positive, weights[None].astype(float))[0]
    if 0 < positive[copied].sum() < len(copied):
        assert area == pytest.approx(roc_auc_score(positive[copied], scores[copied]))
    else:
        assert np.isnan(area)


def test_macro_auroc_skips_classes_without_both_kinds():
    scores = np.array([[0.1, 0.5], [0.9, 0.5], [0.4, 0.2]])
    labels = np.array([[False, True], [True, True], [False, True]])
    assert macro_auroc_statistic(scores, labels, np.ones((1, 3)))[0] == 1.0


def test_rows_of_a_patient_are_drawn_together():
    patients = np.array([3, 3, 5, -1, -1, 9])
    weights = row_weights(patients, 500, seed=1)
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, 3] != weights[:, 4]).any(), "unknown patients are not one patient"
    units = weights[:, [0, 2, 3, 4, 5]].sum(1)
    assert (units == 5).all()


def test_patients_widen_the_interval():
    """Ten equal rows a patient carry the information of one."""
    rng = np.random.default_rng(0)
    value = np.repeat(rng.normal(size=40), 10)
    grouped = PatientBootstrap(np.repeat(np.arange(40), 10), 2000).mean(value)
    loose = PatientBootstrap(np.arange(400), 2000).mean(value)
    ratio = (grouped.high - grouped.low) / (loose.high - loose.low)
    assert 2.6 < ratio < 3.8  # sqrt(10) = 3.2


def test_interval_covers_the_truth_in_95_of_100():
    rng = np.random.default_rng(3)
    covered = 0
    for trial in range(200):
        estimate = PatientBootstrap(np.arange(60), 300, seed=trial).mean(rng.normal(0.3, 1, 60))
        covered += estimate.low <= 0.3 <= estimate.high
    assert 180 <= covered <= 198


def test_paired_difference_is_narrower_than_unpaired():
    rng = np.random.default_rng(5)
    labels = rng.random((300, 1)) < 0.4
    base = labels + rng.normal(size=(300, 1))
    other = base + 0.05 * rng.normal(size=(300, 1))
    bootstrap = PatientBootstrap(np.arange(300), 1000)
    difference = bootstrap.macro_auroc_difference(base, other, labels)
    alone = bootstrap.macro_auroc(base, labels)
    assert difference.high - difference.low < 0.3 * (alone.high - alone.low)
    assert bootstrap.macro_auroc_difference(base, base, labels) == Estimate(0.0, 0.0, 0.0, 300)


def test_mean_leaves_out_what_is_not_finite_and_maps_rows():
    bootstrap = PatientBootstrap(np.arange(5), 50)
    assert bootstrap.mean(np.array([1.0, np.nan, 3.0, np.nan, 5.0])).value == 3.0
    assert bootstrap.mean(np.array([1.0, np.nan, 3.0, np.nan, 5.0])).n == 3
    assert bootstrap.mean(np.array([2.0, 4.0]), np.array([1, 4])).value == 3.0
    values, rows = np.array([2.0, 4.0]), np.array([1, 4])
    assert bootstrap.of(rows).mean(values) == bootstrap.mean(values, rows)


def test_median():
    bootstrap = PatientBootstrap(np.arange(5), 100)
    estimate = bootstrap.median(np.array([9.0, 1.0, 5.0, 3.0, 7.0]))
    assert estimate.value == 5.0
    assert 1 <= estimate.low <= 5 <= estimate.high <= 9


def test_what_is_not_finite_becomes_null():
    assert Estimate(float("nan"), 0.1, float("inf"), 3).as_dict() == {"value": None, "low": 0.1, "high": None, "n": 3}
