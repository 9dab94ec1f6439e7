"""The probability follows what a page's own wrong recordings say, not the correlation alone."""

from __future__ import annotations

import numpy as np
import pytest

from ecgscan_ray.evaluation.match_probability import LEAST_PROBABILITY, Evidence, fisher_z, match_probability


def probability(first: float, second: float, others: int = 1000, mean: float = 0.05, spread: float = 0.05) -> float:
    """For correlations ``first`` and ``second``, and the others' scores."""
    squares = others * (spread**2 + mean**2)
    return match_probability(Evidence.of([first, second], others, others * mean, squares))


def test_evidence_is_in_the_others_spread() -> None:
    z = np.random.default_rng(0).normal(0.1, 0.04, 5000)
    evidence = Evidence.of([0.8, 0.3], len(z), z.sum(), (z**2).sum())
    assert (evidence.mean, evidence.spread) == (pytest.approx(z.mean()), pytest.approx(z.std()))
    assert evidence.gap == pytest.approx((np.arctanh(0.8) - np.arctanh(0.3)) / 0.04, rel=0.03)
    assert evidence.excess == pytest.approx((np.arctanh(0.8) - 0.1) / 0.04 - np.sqrt(2 * np.log(5000)), rel=0.03)


def test_the_best_of_wrong_ones_is_not_probable_whatever_its_correlation() -> None:
    assert probability(0.9, 0.3) > 0.95
    assert probability(0.22, 0.20) < 0.1 < LEAST_PROBABILITY
    assert probability(0.6, 0.58, mean=0.2, spread=0.15) < 0.1, "pages of a rhythm that many recordings resemble"
    assert probability(0.5, 0.2, spread=0.03) > 0.9, "a noisy page that stands out nevertheless"


def test_more_of_each_makes_it_more_probable() -> None:
    assert probability(0.5, 0.3) > probability(0.45, 0.3) > probability(0.4, 0.3)
    assert probability(0.5, 0.3) > probability(0.5, 0.4)
    assert probability(0.5, 0.3, others=1000) > probability(0.5, 0.3, others=100_000)
    assert probability(0.5, 0.3, spread=0.05) > probability(0.5, 0.3, spread=0.1)


def test_one_recording_alone_is_compared_with_what_is_usual() -> None:
    assert match_probability(Evidence.of([0.9], 0, 0.0, 0.0)) > 0.9
    assert match_probability(Evidence.of([0.2], 0, 0.0, 0.0)) < 0.1


def test_exact_copies_and_equal_scores_have_a_probability() -> None:
    assert np.isfinite(fisher_z(1.0)) and fisher_z(-1.0) == -fisher_z(1.0)
    assert 0 < match_probability(Evidence.of([1.0, 1.0], 5, 5.0, 5.0)) < 1
    assert 0 < match_probability(Evidence.of([0.0, 0.0], 100, 0.0, 0.0)) < LEAST_PROBABILITY
