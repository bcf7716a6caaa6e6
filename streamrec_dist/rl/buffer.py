"""The buffer between rollouts and learners: how much work may start, and which scored units make a batch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from streamrec_dist.errors import RunError
from streamrec_dist.rl.ports import Payload
from streamrec_dist.types import PolicyVersion

#: Prompts of a unit: at least, and where as many have to come out as before, whoever works.
SMALLEST_UNIT, FIXED_UNIT = 4, 16
#: Seconds of a worker that are worth the calls of a unit, which take some milliseconds; and for each worker there
#: is, for the loop that makes all of their calls spends 3 ms on a unit.
SHORTEST_S, SHORTEST_PER_WORKER_S = 0.05, 0.006


@dataclass(frozen=True)
class Unit:
    """Prompts `cursor` .. `cursor + count`, sampled and scored together."""

    cursor: int
    count: int


@dataclass(frozen=True)
class ScoredUnit:
    """A unit with its rollouts and rewards, by reference."""

    unit: Unit
    version: PolicyVersion
    signal: np.ndarray  # bool [count], groups that have something to learn from
    rollouts: Payload
    rewards: Payload
    report: Mapping[str, float] = field(default_factory=dict)


class Buffer:
    """Admission, not eviction: a unit is started only if it can still be consumed within `max_staleness`.

    Batch k is made of the prompts k * batch .. (k + 1) * batch, in units that do not straddle batches, so that
    every prompt is consumed exactly once and in order. The learners consume batch k to make version k + 1.
    """

    def __init__(self, batch: int, max_staleness: int, first_batch: int = 0):
        self.batch, self.max_staleness = batch, max_staleness
        self.unit = min(batch, FIXED_UNIT)
        self.cursor = self.consumed = first_batch * batch
        self.next_batch = first_batch
        self._scored: dict[int, ScoredUnit] = {}

    def share_among(self, workers: int, prompt_s: float = math.inf) -> None:
        """Size the units to come so that so many workers share a batch; but for work of some length at least.

        A worker takes `prompt_s` seconds for a prompt.
        """
        worth = max(SHORTEST_S, SHORTEST_PER_WORKER_S * workers)
        shortest = worth / prompt_s if prompt_s > 0 else self.batch
        share = max(SMALLEST_UNIT, -(-self.batch // max(workers, 1)), math.ceil(shortest))
        self.unit = min(self.batch, share)

    @property
    def started(self) -> int:
        """Prompts started or done that no learner has consumed."""
        return self.cursor - self.consumed

    @property
    def buffered(self) -> int:
        """Prompts scored and waiting."""
        return sum(unit.unit.count for unit in self._scored.values())

    def start_unit(self, version: PolicyVersion) -> Unit | None:
        """The next unit if there is room for it at this version, else None.

        Room, in prompts: (max_staleness + version + 1) * batch less all that was ever started.
        """
        limit = (self.max_staleness + version + 1) * self.batch
        batch_end = (self.cursor // self.batch + 1) * self.batch
        count = min(self.unit, batch_end - self.cursor)
        if self.cursor + count > limit:
            return None
        unit = Unit(self.cursor, count)
        self.cursor += count
        return unit

    def add(self, scored: ScoredUnit) -> None:
        """Take a scored unit. Raises RunError when it was taken before."""
        if scored.unit.cursor in self._scored or scored.unit.cursor < self.consumed:
            raise RunError(f"prompts from {scored.unit.cursor} on were scored twice")
        self._scored[scored.unit.cursor] = scored

    def take_batch(self, version: PolicyVersion) -> list[ScoredUnit] | None:
        """The units of the next batch when all are there, else None. Raises RunError when one is too stale."""
        start, end = self.next_batch * self.batch, (self.next_batch + 1) * self.batch
        units = [self._scored[cursor] for cursor in sorted(self._scored) if start <= cursor < end]
        if sum(unit.unit.count for unit in units) < self.batch:
            return None
        for unit in units:
            if version - unit.version > self.max_staleness:
                raise RunError(
                    f"prompts from {unit.unit.cursor} on were sampled by version {unit.version}, "
                    f"more than {self.max_staleness} before version {version}"
                )
            del self._scored[unit.unit.cursor]
        self.next_batch += 1
        self.consumed = end
        return units


def deal(units: list[ScoredUnit], ranks: int) -> list[list[tuple[ScoredUnit, np.ndarray]]]:
    """The groups with signal, dealt evenly: by rank, (unit, numbers of its groups int64)."""
    cards = [(index, group) for index, unit in enumerate(units) for group in np.flatnonzero(unit.signal)]
    hands = []
    for rank in range(ranks):
        hand: dict[int, list[int]] = {}
        for index, group in cards[rank::ranks]:
            hand.setdefault(index, []).append(int(group))
        hands.append([(units[index], np.array(groups)) for index, groups in hand.items()])
    return hands
