"""Retrieval against a slow reference, ties, and equal reports."""

import numpy as np
import pytest

from ecgscan_ray.evaluation.retrieval import rank_matches


def slow_rank(query, items, own):
    """Mean position of the match over all orders of equal scores."""
    scores = [float(np.dot(query, item)) for item in items]
    above = sum(score > scores[own] for score in scores)
    level = sum(score == scores[own] for score in scores)
    return above + sum(range(1, level + 1)) / level


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_ranks_equal_the_slow_reference():
    rng = np.random.default_rng(0)
    pages = unit(rng.normal(size=(40, 5)))
    signals = unit(pages + 0.5 * rng.normal(size=(40, 5)))
    keys = rng.permutation(1000)[:40]
    ranking = rank_matches(pages, signals, keys, keys)
    expected = [slow_rank(pages[i], signals, i) for i in range(40)]
    np.testing.assert_allclose(ranking.rank, expected)
    assert 0.1 < ranking.hits(1).mean() < 1


def test_worked_case():
    """Page 0 finds itself first; page 1 finds signal 2 before its own; page 2 has its own last."""
    gallery = np.eye(3)
    queries = np.array([[0.9, 0.1, 0.0], [0.0, 0.5, 0.6], [0.5, 0.4, 0.1]])
    ranking = rank_matches(queries, gallery, np.arange(3), np.arange(3))
    assert ranking.rank.tolist() == [1, 2, 3]
    assert [ranking.hits(k).mean() for k in (1, 2, 3)] == pytest.approx([1 / 3, 2 / 3, 1])
    assert ranking.reciprocal.mean() == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    assert ranking.chance(1) == pytest.approx(1 / 3)
    assert ranking.chance(10) == 1
    assert ranking.chance_mrr == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)


def test_one_point_for_everything_is_not_a_hit():
    same = np.ones((50, 4)) / 2
    ranking = rank_matches(same, same, np.arange(50), np.arange(50))
    assert (ranking.rank == 25.5).all()
    assert ranking.hits(10).sum() == 0


def test_equal_reports_are_one_item():
    """Ten rows say the same; whoever meets the text has found it, and it takes one place for the others."""
    texts = np.repeat(np.eye(3), [10, 1, 1], axis=0)
    keys = np.repeat([7, 8, 9], [10, 1, 1])
    page_of_8 = np.array([[0.9, 0.8, 0.1]])
    ranking = rank_matches(page_of_8, texts, np.array([8]), keys)
    assert ranking.rank.tolist() == [2]
    assert ranking.gallery_size == 3
    own = rank_matches(texts, texts, keys, keys)
    assert (own.rank == 1).all()


def test_rows_without_text_neither_ask_nor_answer():
    features = unit(np.random.default_rng(1).normal(size=(6, 3)))
    has = np.array([True, True, False, True, False, True])
    ranking = rank_matches(features, features, np.arange(6), np.arange(6), has_query=has, has_gallery=has)
    assert ranking.rows.tolist() == [0, 1, 3, 5]
    assert ranking.gallery_size == 4


def test_empty_gallery_gives_no_ranks():
    features, nobody = np.ones((3, 2)), np.zeros(3, bool)
    ranking = rank_matches(features, features, np.arange(3), np.arange(3), has_gallery=nobody)
    assert len(ranking.rank) == 0
    assert np.isnan(ranking.chance(1))


def test_hub_share_sees_one_item_that_comes_first_everywhere():
    gallery = unit(np.array([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]]) * [1, 1])
    queries = np.array([[0.7, 0.7], [0.8, 0.6], [0.6, 0.8]])
    assert rank_matches(queries, gallery, np.arange(3), np.arange(3)).hub_share == 1
