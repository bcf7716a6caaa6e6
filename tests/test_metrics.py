"""Ranking metrics against hand-computed values and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest

from streamrec_dist.errors import RunError
from streamrec_dist.metrics import (
    bootstrap_interval,
    per_user_ndcg,
    per_user_recall,
    rank_of_target,
    ranking_metrics,
    ranks_of_targets,
)


def test_metrics_by_hand():
    ranks = np.array([1, 3, 6, 11, 0])
    result = ranking_metrics(ranks)
    assert result["recall@5"] == 2 / 5
    assert result["recall@10"] == 3 / 5
    assert result["ndcg@5"] == pytest.approx((1 + 1 / 2) / 5, abs=1e-15)
    assert result["ndcg@10"] == pytest.approx((1 + 1 / 2 + 1 / math.log2(7)) / 5, abs=1e-15)


def test_per_user_values_miss_on_rank_zero_and_beyond_k():
    ranks = np.array([0, 1, 5, 6])
    assert per_user_recall(ranks, 5).tolist() == [0, 1, 1, 0]
    assert per_user_ndcg(ranks, 5).tolist() == [0, 1, pytest.approx(1 / math.log2(6)), 0]


def test_no_users_is_an_error():
    with pytest.raises(RunError, match="no users"):
        ranking_metrics(np.zeros(0, dtype=int))
    with pytest.raises(RunError, match="no users"):
        bootstrap_interval(np.zeros(0))


def test_bootstrap_interval_agrees_with_the_normal_approximation():
    values = (np.arange(4000) % 4 == 0).astype(float)
    low, high = bootstrap_interval(values, samples=2000)
    half = 1.96 * math.sqrt(0.25 * 0.75 / 4000)
    assert low == pytest.approx(0.25 - half, abs=0.1 * half)
    assert high == pytest.approx(0.25 + half, abs=0.1 * half)
    assert (low, high) == bootstrap_interval(values, samples=2000)
    narrow = bootstrap_interval(values, samples=2000, level=0.5)
    assert low < narrow[0] < 0.25 < narrow[1] < high


def test_bootstrap_of_a_constant_is_that_constant():
    assert bootstrap_interval(np.full(7, 0.5)) == (0.5, 0.5)


def test_rank_without_ties():
    scores = np.array([0.1, 0.9, 0.5, 0.7])
    assert [rank_of_target(scores, item, np.random.default_rng(0)) for item in range(4)] == [4, 1, 3, 2]


def test_ties_are_uniform_whatever_the_item_number():
    scores = np.tile(np.array([5.0, 1.0, 1.0, 1.0, 0.0]), (30_000, 1))
    for target in (1, 3):
        ranks = ranks_of_targets(scores, np.full(30_000, target), np.random.default_rng(target))
        shares = np.bincount(ranks, minlength=6) / 30_000
        assert shares[[0, 1, 5]].sum() == 0
        assert shares[2:5] == pytest.approx(np.full(3, 1 / 3), abs=0.015)


def test_minus_infinity_is_no_candidate():
    scores = np.array([[-np.inf, 1.0, 2.0], [-np.inf, 1.0, 2.0]])
    assert ranks_of_targets(scores, np.array([0, 1]), np.random.default_rng(0)).tolist() == [0, 2]


def test_nan_scores_are_refused():
    with pytest.raises(RunError, match="row 1 hold NaN"):
        ranks_of_targets(np.array([[1.0, 2.0], [np.nan, 1.0]]), np.array([0, 1]), np.random.default_rng(0))
