"""The reward ledger of stage 3: what each term was worth, and whether it tells the rollouts of a group apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from streamrec_dist.config import RewardWeights
from streamrec_dist.course import Course
from streamrec_dist.types import REWARDS

TOTAL = "total"
#: A term whose weighted spread is less than this part of the total's has no say.
DEAD = 0.01
#: Rewards that differ by less are equal.
ROUNDING = 1e-6
#: Shares of the advantage above which a term decides alone, and below which it pulls against the others.
DOMINATES, AGAINST = 0.8, -0.05


class Mark(StrEnum):
    """What is to be noticed of a term."""

    ok = "ok"
    off = "off"
    met = "met by all"
    dead = "dead"
    dominates = "dominates"
    against = "works against the others"


@dataclass(frozen=True)
class Entry:
    """One term, or the total: means over the first and the last fifth of the steps.

    `spread` is the standard deviation within groups; `share` the part of the total's variance within groups, None
    for the total, whose `weight` is None too.
    """

    name: str
    weight: float | None
    reward: tuple[float, float]
    spread: tuple[float, float]
    share: tuple[float, float] | None
    mark: Mark


def ledger(courses: Mapping[str, Course], weights: RewardWeights) -> list[Entry]:
    """The entries of all terms of which there are courses, the total last; none without one of the total."""
    total = _ends(courses, f"spread/{TOTAL}")
    entries = []
    for name in (*REWARDS, TOTAL):
        reward, spread = _ends(courses, f"reward/{name}"), _ends(courses, f"spread/{name}")
        if total is None or reward is None or spread is None:
            continue
        weight = None if name == TOTAL else float(getattr(weights, name))
        share = _ends(courses, f"share/{name}") if weight is not None else None
        mark = mark_of(name, weight, reward[1], spread[1], share[1] if share else 0.0, total[1])
        entries.append(Entry(name, weight, reward, spread, share, mark))
    return entries


def _ends(courses: Mapping[str, Course], name: str) -> tuple[float, float] | None:
    course = courses.get(name)
    return course.ends() if course and course.buckets else None


def mark_of(
    name: str, weight: float | None, reward: float, spread: float, share: float, total: float
) -> Mark:
    """Of a term, or of the total, whose `weight` is None; `total` is the spread of the total."""
    if weight is None:
        return Mark.ok if total > ROUNDING else Mark.dead
    if weight == 0:
        return Mark.off
    if abs(weight) * spread <= max(DEAD * total, ROUNDING):
        # 0 is its highest value: every rollout names an item, as on the trie all do.
        return Mark.met if name == "format" and reward == 0 else Mark.dead
    if share > DOMINATES:
        return Mark.dominates
    return Mark.against if share < AGAINST else Mark.ok
