"""The reward ledger: ends of courses, and what is to be noticed of a term."""

from __future__ import annotations

import pytest

from streamrec_dist.config import RewardWeights
from streamrec_dist.course import Course
from streamrec_dist.rl.ledger import Entry, Mark, ledger


def courses(**values: float) -> dict[str, Course]:
    """Ten steps of each metric, from half of its value to that; `_` stands for `/`."""
    made = {}
    for name, value in values.items():
        course = made[name.replace("_", "/", 1)] = Course()
        for step in range(10):
            course.add(step, value * (0.5 + step / 18))
    return made


def marks(weights: RewardWeights | None = None, **values: float) -> dict[str, Mark]:
    found = ledger(courses(reward_total=0.3, spread_total=0.4, **values), weights or RewardWeights())
    return {entry.name: entry.mark for entry in found}


def test_an_entry_has_the_first_and_the_last_fifth() -> None:
    found = ledger(
        courses(
            reward_total=0.36, spread_total=0.18, reward_ranking=0.18, spread_ranking=0.09, share_ranking=0.9
        ),
        RewardWeights(ranking=2.0),
    )
    ranking, total = found
    assert (ranking.name, ranking.weight, total.name, total.weight) == ("ranking", 2.0, "total", None)
    assert total.reward == pytest.approx((0.19, 0.35)) and ranking.spread == pytest.approx((0.0475, 0.0875))
    assert ranking.share == pytest.approx((0.475, 0.875)) and total.share is None


def test_terms_without_courses_are_left_out_and_without_a_total_all() -> None:
    assert ledger({}, RewardWeights()) == []
    assert ledger(courses(reward_ranking=0.2, spread_ranking=0.1), RewardWeights()) == []
    assert [entry.name for entry in ledger(courses(reward_total=0.2, spread_total=0.1), RewardWeights())] == [
        "total"
    ]


def test_what_is_noticed_of_a_term() -> None:
    one = {"reward_likelihood": 0.2, "spread_likelihood": 0.2}
    assert marks(**one, share_likelihood=0.3)["likelihood"] is Mark.ok
    assert marks(**one, share_likelihood=0.95)["likelihood"] is Mark.dominates
    assert marks(**one, share_likelihood=-0.2)["likelihood"] is Mark.against
    off = RewardWeights(likelihood=0.0)
    assert marks(off, **one, share_likelihood=0.0)["likelihood"] is Mark.off
    assert marks(reward_likelihood=0.2, spread_likelihood=0.001)["likelihood"] is Mark.dead
    # A weight makes up for a small spread.
    heavy = RewardWeights(likelihood=100.0)
    assert marks(heavy, reward_likelihood=0.2, spread_likelihood=0.001)["likelihood"] is Mark.ok


def test_a_format_that_all_rollouts_have_is_no_dead_term_and_one_that_none_has_is() -> None:
    assert marks(reward_format=0.0, spread_format=0.0)["format"] is Mark.met
    assert marks(reward_format=-1.0, spread_format=0.0)["format"] is Mark.dead


def test_rewards_that_are_all_alike_leave_nothing_to_learn() -> None:
    found = ledger(courses(reward_total=0.3, spread_total=0.0), RewardWeights())
    assert [(type(entry), entry.mark) for entry in found] == [(Entry, Mark.dead)]
