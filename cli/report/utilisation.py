"""Who was at what over stage 3: processes of each role at each part of their work, by the minute."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from streamrec_dist.course import Course

PART, WAIT = "time/", "wait_"
#: Role -> what it is called, and the parts of its work, in their order.
ROLES = {
    "rollout": ("rollout actors", ("adopt", "generate")),
    "reward": ("reward workers", ("score",)),
    "learner": ("learner ranks", ("prepare", "forward", "backward", "optimise", "publish")),
}
OTHERS = "others"
WAITING = "waiting"
#: What the controller waits for: no work of a process, and told of when it is over.
WAITED = {"evaluate", "train"}
#: Ranges over the whole stage, and steps of each at least: what a step is told of may have been done in one before.
RANGES, STEPS = 240, 4


@dataclass(frozen=True, eq=False)
class Role:
    """Processes at each part, on average over the time between two `minutes`: part -> float64 [n]; waiting last."""

    name: str
    parts: dict[str, np.ndarray]

    def share(self, part: str, lengths: np.ndarray) -> float:
        """Of all time that is accounted for, the part's; `lengths` [n] are those of the ranges."""
        whole = sum(float((values * lengths).sum()) for values in self.parts.values())
        return float((self.parts[part] * lengths).sum()) / whole if whole else 0.0


@dataclass(frozen=True, eq=False)
class Utilisation:
    """`minutes` of work since the stage began, without pauses, float64 [n + 1]; `idle` shares between them, [n]."""

    minutes: np.ndarray
    idle: dict[str, np.ndarray]
    roles: list[Role]

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.minutes)


def utilisation(courses: Mapping[str, Course]) -> Utilisation | None:
    """Of the courses of stage 3; None where no time of steps was measured."""
    clock = courses.get("seconds")
    if clock is None or not clock.buckets:
        return None
    first, last = clock.buckets[0].first, clock.buckets[-1].last + 1
    ranges = max(1, min(RANGES, (last - first) // STEPS))
    steps = np.unique(np.linspace(first, last, ranges + 1).astype(int))
    seconds = clock.total_before(steps)
    # Steps that are lost to a resume may leave ranges in which nothing was measured.
    kept = np.concatenate([[True], np.diff(seconds) > 0])
    steps, seconds = steps[kept], seconds[kept]
    if len(steps) < 2:
        return None
    width = np.diff(seconds)

    def over_time(name: str) -> np.ndarray:
        return np.diff(courses[name].total_before(steps)) / width

    idle = {
        label: np.diff(courses[name].total_before(steps)) / np.diff(steps)
        for label, name in (("learner ranks", "learner_idle"), ("rollout actors", "rollout_idle"))
        if name in courses
    }
    known = {part for _, parts in ROLES.values() for part in parts}
    told = {name.removeprefix(PART) for name in courses if name.startswith(PART)}
    roles = []
    for role, (label, parts) in ROLES.items():
        made = {part: over_time(PART + part) for part in parts if part in told}
        if WAIT + role in told:
            made[WAITING] = over_time(PART + WAIT + role)
        if made:
            roles.append(Role(label, made))
    rest = sorted(part for part in told - known - WAITED if not part.startswith(WAIT))
    if rest:
        roles.append(Role(OTHERS, {part: over_time(PART + part) for part in rest}))
    return Utilisation((seconds - seconds[0]) / 60, idle, roles)
