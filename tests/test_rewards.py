"""The five rewards against cases worked out by hand, edges of eq. 24 and 27 included."""

from __future__ import annotations

import numpy as np
import pytest

from streamrec_dist.config import RlConfig
from streamrec_dist.rl.advantage import advantage_shares, group_advantages, has_signal
from streamrec_dist.rl.rewards import (
    exact_match_reward,
    format_reward,
    likelihood_reward,
    ranking_reward,
    reward_report,
    score_rollouts,
    similarity_reward,
    similarity_share,
    target_rank,
)
from streamrec_dist.types import REWARDS, PolicyVersion, RolloutBatch


def test_format_is_zero_or_minus_one():
    assert format_reward(np.array([[True, False]])).tolist() == [[0.0, -1.0]]


def test_exact_match_counts_the_longest_prefix_only():
    target = np.array([[2, 10, 20, 30]])
    rollouts = np.array([[[2, 10, 20, 30], [2, 10, 21, 30], [3, 10, 20, 30], [2, 11, 20, 30]]])
    assert exact_match_reward(rollouts, target).tolist() == [[4, 2, 0, 1]]


def test_similarity_share_counts_itself_once():
    pooled = np.array([[[1.0, 0.0]]])
    own = np.array([[1.0, 1.0]])  # cosine .707
    others = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [1.0, 1.0]])  # 1, 0, -1, .707
    # The fourth is another item that ties: it counts as not above.
    share = similarity_share(pooled, own, others, np.array([9]), np.array([0, 1, 2, 3]))
    assert share[0, 0] == pytest.approx((3 + 1) / (4 + 1))
    # When the fourth is the target itself it is not counted twice.
    share = similarity_share(pooled, own, others, np.array([3]), np.array([0, 1, 2, 3]))
    assert share[0, 0] == pytest.approx((2 + 1) / (3 + 1))


def test_similarity_is_by_cosine_not_length():
    pooled = np.array([[[1.0, 0.1]]])
    share = similarity_share(
        pooled, np.array([[0.1, 0.01]]), np.array([[50.0, 50.0]]), np.array([0]), np.array([1])
    )
    assert share[0, 0] == 1.0


@pytest.mark.parametrize(
    ("share", "reward"),
    [
        (1.0, 0.5),
        (0.99, 0.5),
        (0.9899, 0.1),
        (0.95, 0.1),
        (0.9499, 0.05),
        (0.5, 0.05),
        (0.4999, -0.1),
        (0, -0.1),
    ],
)
def test_similarity_thresholds(share, reward):
    assert similarity_reward(np.array([[share]]))[0, 0] == pytest.approx(reward)


@pytest.mark.parametrize(
    ("rank", "reward"),
    [
        (1, 0.2),
        (2, 0.1),
        (4, 0.1),
        (5, 0.05),
        (9, 0.05),
        (10, 0.0),
        (24, 0.0),
        (25, -0.1),
        (26, -0.1),
        (51, -0.1),
    ],
)
def test_ranking_thresholds_of_fifty_negatives(rank, reward):
    assert ranking_reward(np.array([[rank]]), 50)[0, 0] == pytest.approx(reward)


def test_ranking_in_a_small_catalogue():
    # N = 3: only the first place is below .5 N.
    ranks = ranking_reward(np.array([[1, 2, 3, 4]]), 3)
    np.testing.assert_allclose(ranks, [[0.2, -0.1, -0.1, -0.1]], rtol=1e-6)


def test_rank_counts_ties_against_the_target():
    scores = np.array([[[0.0, -1.0, 1.0, 0.0, -2.0]]])
    assert target_rank(scores)[0, 0] == 3


def test_likelihood_is_squashed_around_the_group_mean():
    delta = np.array([[1.0, 3.0, -4.0]])
    squashed = likelihood_reward(delta, 4, "squashed")
    np.testing.assert_allclose(squashed, np.tanh(np.array([[1.0, 3.0, -4.0]]) / 4), rtol=1e-6)
    shifted = likelihood_reward(delta + 100, 4, "squashed")
    np.testing.assert_allclose(shifted, squashed, atol=1e-6)
    assert likelihood_reward(delta, 4, "raw").tolist() == delta.tolist()


def batch() -> RolloutBatch:
    return RolloutBatch(
        rows=np.array([0]),
        tokens=np.array([[[50, 2, 10], [51, 2, 11]]], dtype=np.int32),
        logprobs=np.zeros((1, 2, 3), np.float32),
        pooled=np.array([[[1.0, 0.0], [0.0, 1.0]]], np.float32),
        target_states=np.array([[1.0, 0.0]], np.float32),
        other_items=np.array([1, 2]),
        other_states=np.array([[0.0, 1.0], [0.5, 0.5]], np.float32),
        candidate_logprobs=np.array([[[-1.0, -2.0, -3.0], [-5.0, -2.0, -3.0]]], np.float32),
        version=PolicyVersion(0),
        seed=0,
        cursor=0,
    )


def test_total_is_the_weighted_sum_of_five_columns():
    config = RlConfig(rewards={"format": 2.0, "ranking": 0.5})  # type: ignore[arg-type]
    rewards = score_rollouts(
        batch(),
        config,
        valid=np.array([[True, False]]),
        target_items=np.array([0]),
        target_tokens=np.array([[2, 10]]),
        reference=np.array([-2.0], np.float32),
    )
    assert rewards.format.tolist() == [[0, -1]]
    assert rewards.exact_match.tolist() == [[2, 1]]
    np.testing.assert_allclose(rewards.similarity, [[0.5, -0.1]], rtol=1e-6)
    np.testing.assert_allclose(rewards.raw_likelihood, [[1.0, -3.0]])
    np.testing.assert_allclose(rewards.likelihood, np.tanh([[1.0, -1.0]]), rtol=1e-6)
    np.testing.assert_allclose(rewards.ranking, [[0.2, -0.1]], rtol=1e-6)
    by_hand = np.array([[0 + 2 + 0.5 + np.tanh(1) + 0.1, -2 + 1 - 0.1 + np.tanh(-1) - 0.05]])
    np.testing.assert_allclose(rewards.total, by_hand, rtol=1e-6)
    report = reward_report(rewards, config)
    assert report["reward/total"] == pytest.approx(by_hand.mean(), rel=1e-6)
    assert sum(report[f"share/{name}"] for name in REWARDS) == pytest.approx(1.0, rel=1e-5)
    assert report["spread/format"] == pytest.approx(0.5)


def test_advantages_are_centred_and_divided_as_asked():
    rewards = np.array([[1.0, 3.0], [0.01, 0.03]])
    np.testing.assert_allclose(group_advantages(rewards, "floored_std"), [[-1, 1], [-0.1, 0.1]], rtol=1e-5)
    np.testing.assert_allclose(group_advantages(rewards, "std"), [[-1, 1], [-1, 1]], rtol=1e-5)
    np.testing.assert_allclose(group_advantages(rewards, "centred"), [[-1, 1], [-0.01, 0.01]], rtol=1e-5)
    random = np.random.default_rng(0).normal(size=(50, 16))
    for kind in ("floored_std", "std", "centred"):
        np.testing.assert_allclose(group_advantages(random, kind).sum(axis=1), 0, atol=1e-5)
    assert group_advantages(np.ones((1, 4)), "std").tolist() == [[0, 0, 0, 0]]


def test_groups_without_signal_are_those_of_a_small_range():
    rewards = np.array([[0.0, 0.019], [0.0, 0.02], [5.0, 5.0]])
    assert has_signal(rewards, 0.02).tolist() == [False, True, False]


def test_shares_of_the_advantage_follow_the_covariance():
    a = np.array([[1.0, -1.0]])
    b = np.array([[3.0, -3.0]])
    shares = advantage_shares({"a": a, "b": b, "dead": np.ones((1, 2))}, a + b + 1)
    assert shares == pytest.approx({"a": 0.25, "b": 0.75, "dead": 0.0})
    assert advantage_shares({"a": np.ones((1, 2))}, np.ones((1, 2))) == {"a": 0.0}
