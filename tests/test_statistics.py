"""Intervals and paired tests against loops over resampled users, closed forms, all sign flips, and scipy."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from streamrec_dist.errors import RunError
from streamrec_dist.statistics import bootstrap_intervals, holm, paired, sign_flip_p, user_sums

RNG = np.random.default_rng


def one(values: np.ndarray, users: np.ndarray | None = None, **options) -> list[float]:
    """The interval of one measure, of users with one target each unless `users` are given."""
    users = np.arange(len(values)) if users is None else users
    return bootstrap_intervals(values[:, None], users, **options)[0].tolist()


def clustered(users: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Two measures of users with 1 to 6 targets each that resemble one another, in shuffled order."""
    rng = RNG(5)
    owners = np.repeat(np.arange(users) * 3, rng.integers(1, 7, users))
    level = rng.normal(size=3 * users)[owners]
    values = np.stack([level + 0.3 * rng.normal(size=len(owners)), (level > 0).astype(float)], axis=1)
    order = rng.permutation(len(owners))
    return values[order], owners[order]


def test_sums_of_users_in_any_numbers():
    values = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    sums, targets = user_sums(values, np.array([7, 2, 7]))
    assert sums.tolist() == [[3, 4], [6, 8]] and targets.tolist() == [1, 2]


def test_no_users_is_an_error():
    with pytest.raises(RunError, match="no users"):
        bootstrap_intervals(np.zeros((0, 1)), np.zeros(0))


def test_the_bootstrap_agrees_with_a_loop_that_draws_whole_users():
    values, owners = clustered()
    rng, means = RNG(1), []
    people = np.unique(owners)
    for _ in range(4000):
        drawn = [values[owners == user] for user in rng.choice(people, len(people))]
        means.append(np.concatenate(drawn).mean(axis=0))
    expected = np.quantile(means, [0.025, 0.975], axis=0).T
    found = bootstrap_intervals(values, owners, samples=4000)
    assert found == pytest.approx(expected, abs=0.08 * np.ptp(expected, axis=1).min())
    # Rows drawn one by one would give intervals that are much too narrow.
    rows = bootstrap_intervals(values, np.arange(len(values)), samples=4000)
    assert (np.ptp(found, axis=1) > 1.3 * np.ptp(rows, axis=1)).all()


def test_equal_targets_of_a_user_make_nothing_surer():
    values = RNG(0).random(50)
    assert one(np.repeat(values, 4), np.repeat(np.arange(50), 4)) == pytest.approx(one(values))


def test_two_users_have_three_samples():
    # The mean of two users with 0 and 1 is 0, .5 or 1 with probability 1/4, 1/2, 1/4.
    values = np.array([0.0, 1.0])
    assert one(values, level=0.4) == [0.5, 0.5]
    assert one(values, level=0.6) == [0.0, 1.0]


def test_the_interval_agrees_with_the_normal_approximation():
    values = (np.arange(4000) % 4 == 0).astype(float)
    low, high = one(values, samples=2000)
    half = 1.96 * math.sqrt(0.25 * 0.75 / 4000)
    assert low == pytest.approx(0.25 - half, abs=0.1 * half)
    assert high == pytest.approx(0.25 + half, abs=0.1 * half)
    assert [low, high] == one(values, samples=2000)
    narrow = one(values, samples=2000, level=0.5)
    assert low < narrow[0] < 0.25 < narrow[1] < high


def test_intervals_cover_the_truth_as_often_as_they_say():
    rng = RNG(2)
    worlds = (rng.random((400, 200)) < 0.3).astype(float)
    covered = sum(low <= 0.3 <= high for low, high in map(one, worlds))
    assert covered / 400 == pytest.approx(0.95, abs=0.035)


def test_a_constant_has_no_spread_and_measures_do_not_disturb_one_another():
    assert one(np.full(7, 0.5)) == [0.5, 0.5]
    values, owners = clustered()
    both = bootstrap_intervals(values, owners)
    assert both[0] == pytest.approx(bootstrap_intervals(values[:, :1], owners)[0], abs=0.1)


def all_flips(differences: np.ndarray) -> float:
    """The exact p-value: the share of all sign patterns whose sum is at least as far from 0."""
    sums = [
        abs(sum(sign * value for sign, value in zip(signs, differences, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    return sum(total >= abs(sum(differences)) - 1e-9 for total in sums) / len(sums)


@pytest.mark.parametrize(
    "differences",
    [
        [1, 1, 1, 1, 1, 1, -1, 0, 0],
        [0.5, 0.25, -0.125, 0.7, 0.1, 0.3, 0.2, 0.9],
        [0.25, 0.5, -0.75, 0.25, -0.125],
        [1.0, 0.0],
    ],
)
def test_p_agrees_with_all_sign_flips_and_with_scipy(differences: list[float]):
    values = np.array(differences, dtype=float)
    exact = all_flips(values)
    reference = stats.permutation_test((values,), np.sum, permutation_type="samples", n_resamples=np.inf)
    assert exact == pytest.approx(reference.pvalue)
    (p,) = sign_flip_p(values[:, None], flips=40_000)
    assert p == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 40_000) + 1e-4)


def test_p_of_many_users_agrees_with_the_sign_test():
    # With differences of one size it is the sign test (McNemar's of recall): a closed form.
    values = np.array([1.0] * 70 + [-1.0] * 45 + [0.0] * 800)
    (p,) = sign_flip_p(values[:, None], flips=40_000)
    assert p == pytest.approx(stats.binomtest(70, 115).pvalue, abs=0.004)


def test_p_is_small_as_often_as_it_should_be_between_equal_models():
    rng = RNG(3)
    # Numbers without ties: equal sums would heap p-values up at 1.
    worlds = rng.normal(size=(120, 400))
    p = sign_flip_p(worlds, flips=2000)
    assert np.mean(p <= 0.2) == pytest.approx(0.2, abs=0.06)
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_a_model_against_itself():
    values, owners = clustered()
    for result in paired(values, values, owners):
        assert (result.difference, result.interval, result.p, result.relative) == (0, (0, 0), 1, 0)
        assert (result.wins, result.losses, result.ties) == (0, 0, 60)


def test_paired_figures_against_loops():
    first, owners = clustered()
    second = first + RNG(9).choice([-0.5, 0.0, 0.0, 0.75], size=first.shape)
    results = paired(first, second, owners)
    for column, result in enumerate(results):
        by_user = [
            sum(second[row, column] - first[row, column] for row in np.flatnonzero(owners == user))
            for user in np.unique(owners)
        ]
        assert result.wins == sum(value > 1e-9 for value in by_user)
        assert result.losses == sum(value < -1e-9 for value in by_user)
        assert result.wins + result.losses + result.ties == 60 and result.ties > 0
        assert result.first == pytest.approx(np.mean(first[:, column]))
        assert result.difference == pytest.approx(result.second - result.first)
        assert result.relative == pytest.approx(result.second / result.first - 1)
        assert result.interval[0] < result.difference < result.interval[1]
    other_way = paired(second, first, owners)
    for result, back in zip(results, other_way, strict=True):
        assert (back.difference, back.wins, back.losses) == (-result.difference, result.losses, result.wins)
        assert back.p == pytest.approx(result.p, abs=0.03)


def test_gains_and_losses_that_cancel_are_a_tie():
    first, second = np.array([[0.1], [0.2], [0.3]]), np.array([[0.2], [0.3], [0.1]])
    (result,) = paired(first, second, np.zeros(3))
    assert (result.wins, result.losses, result.ties) == (0, 0, 1) and result.p == 1


def test_a_first_model_that_finds_nothing_has_no_relative_difference():
    (result,) = paired(np.zeros((4, 1)), np.ones((4, 1)), np.arange(4))
    assert result.relative is None and result.difference == 1


def test_holm_is_the_closed_test_of_all_sets_of_hypotheses():
    """A hypothesis is rejected where Bonferroni rejects every set that it is in."""
    for seed in range(20):
        p = RNG(seed).random(5) ** 3
        p[1] = p[3]
        sets = [chosen for size in range(1, 6) for chosen in itertools.combinations(range(5), size)]
        expected = [
            max(min(1.0, len(chosen) * min(p[place] for place in chosen)) for chosen in sets if one in chosen)
            for one in range(5)
        ]
        assert holm(p) == pytest.approx(expected)
    assert holm(np.array([0.03])).tolist() == [0.03] and holm(np.array([])).tolist() == []
