"""Zero-shot scores: a class against the others of its task."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import roc_auc_score

from ecgscan_ray.evaluation.zero_shot import zero_shot_scores


def test_what_the_words_of_all_classes_share_does_not_rank_recordings() -> None:
    rng = np.random.default_rng(0)
    labels = np.eye(3)[rng.integers(0, 3, 400)]
    features = np.hstack([labels + 0.3 * rng.normal(size=(400, 3)), 3 * rng.normal(size=(400, 1))])
    vectors = np.hstack([np.eye(3), np.ones((3, 1))])  # the last direction is shared
    scores = zero_shot_scores(features, vectors)
    assert min(roc_auc_score(labels[:, c], scores[:, c]) for c in range(3)) > 0.95
    assert max(roc_auc_score(labels[:, c], (features @ vectors.T)[:, c]) for c in range(3)) < 0.75, "cosines alone"
    np.testing.assert_allclose(scores.sum(1), 0, atol=1e-12)


def test_a_single_class_has_its_cosine() -> None:
    features, vectors = np.eye(2), np.array([[0.6, 0.8]])
    np.testing.assert_array_equal(zero_shot_scores(features, vectors), [[0.6], [0.8]])
