"""Ranking measures against hand-computed values and an implementation by loops and sorting."""

from __future__ import annotations

import math

import numpy as np
import pytest

from streamrec_dist.errors import RunError
from streamrec_dist.metrics import (
    MEASURES,
    beam_ranks,
    measured,
    ndcg,
    ranking_metrics,
    ranks_of_targets,
    recall,
    reciprocal_rank,
)


def test_metrics_by_hand():
    ranks = np.array([1, 3, 6, 11, 0])
    result = ranking_metrics(ranks)
    assert result["recall@5"] == 2 / 5
    assert result["recall@10"] == 3 / 5
    assert result["ndcg@5"] == pytest.approx((1 + 1 / 2) / 5, abs=1e-15)
    assert result["ndcg@10"] == pytest.approx((1 + 1 / 2 + 1 / math.log2(7)) / 5, abs=1e-15)


def test_values_miss_on_rank_zero_and_beyond_k():
    ranks = np.array([0, 1, 5, 6])
    assert recall(ranks, 5).tolist() == [0, 1, 1, 0]
    assert ndcg(ranks, 5).tolist() == [0, 1, pytest.approx(1 / math.log2(6)), 0]
    assert reciprocal_rank(ranks, 5).tolist() == [0, 1, 1 / 5, 0]


def test_no_users_is_an_error():
    with pytest.raises(RunError, match="no users"):
        ranking_metrics(np.zeros(0, dtype=int))


def loops(scores: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """The measures from sorted lists of items: a general DCG over a list of relevances, and loops over users."""
    sums = dict.fromkeys(MEASURES, 0.0)
    for row, target in zip(scores, targets, strict=True):
        ranking = sorted(range(len(row)), key=lambda item: -row[item])
        relevant = [1 if item == target else 0 for item in ranking]
        for k in (5, 10, 20):
            sums[f"recall@{k}"] += sum(relevant[:k]) / sum(relevant)
            gains = sum(gain / math.log(place + 2, 2) for place, gain in enumerate(relevant[:k]))
            sums[f"ndcg@{k}"] += gains / (1 / math.log(2, 2))
        found = [1 / (place + 1) for place, gain in enumerate(relevant[:20]) if gain]
        sums["mrr@20"] += found[0] if found else 0.0
    return {name: total / len(targets) for name, total in sums.items()}


def test_all_measures_agree_with_loops_over_users():
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 50, 300)
    scores = rng.normal(size=(300, 50))
    scores[np.arange(300), targets] += 1
    ranks = ranks_of_targets(scores, targets, rng)
    assert {0 < rank <= 5 for rank in ranks} == {True, False}, "the problem has near and far targets"
    found = dict(zip(MEASURES, measured(MEASURES, ranks).mean(axis=0), strict=True))
    assert found == pytest.approx(loops(scores, targets), abs=1e-12)
    assert ranking_metrics(ranks, (5, 10, 20)) == pytest.approx(
        {name: value for name, value in found.items() if name != "mrr@20"}
    )


def test_rank_without_ties():
    scores = np.tile([0.1, 0.9, 0.5, 0.7], (4, 1))
    assert ranks_of_targets(scores, np.arange(4), np.random.default_rng(0)).tolist() == [4, 1, 3, 2]


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


def test_the_place_among_equal_scores_of_a_beam_is_drawn_whatever_its_order():
    items, scores = np.array([[4, 7, 2, 9, -1]]), np.array([[-1.0, -2.0, -2.0, -2.0, -np.inf]])
    draws = (np.arange(3000) + 0.5) / 3000
    for target in (7, 2, 9):
        found = [beam_ranks(items, scores, np.array([target]), np.array([draw]))[0] for draw in draws]
        assert np.bincount(found, minlength=6).tolist() == [0, 0, 1000, 1000, 1000, 0]
    shuffled = [0, 3, 1, 2, 4]
    for target, draw in ((7, 0.1), (9, 0.5), (4, 0.99), (5, 0.5)):
        wanted, number = np.array([target]), np.array([draw])
        expected = beam_ranks(items, scores, wanted, number)
        assert np.array_equal(beam_ranks(items[:, shuffled], scores[:, shuffled], wanted, number), expected)
    last = np.array([np.nextafter(1.0, 0)])
    assert beam_ranks(items, scores, np.array([4]), last).tolist() == [1]
    assert beam_ranks(items, scores, np.array([5]), last).tolist() == [0]


def test_beams_without_items_miss():
    nothing = np.full((2, 3), -1)
    scores = np.full((2, 3), -np.inf)
    assert beam_ranks(nothing, scores, np.array([0, 1]), np.zeros(2)).tolist() == [0, 0]
    assert beam_ranks(nothing[:0], scores[:0], np.zeros(0, int), np.zeros(0)).tolist() == []
