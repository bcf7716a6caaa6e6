"""The DDP learner group: the ranks as one."""

from __future__ import annotations

import itertools
import time
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import ray

from learners.ranks import RankGroup
from learners.worker import LearnerWorker
from streamrec_dist.config import LearnersConfig
from streamrec_dist.rl.broadcast import CONCURRENCY, Kept
from streamrec_dist.rl.ports import Payload, Task, Weights
from streamrec_dist.types import GroupCounts, PolicyVersion


class LearnerGroup(RankGroup):
    """Implements the Learners port."""

    def __init__(self, config: LearnersConfig, materials: Any, **options: Any):
        """`materials` is an object reference; `options` are those of a RankGroup."""
        self.kept = KeptVectors()
        threads = CONCURRENCY if config.transport == "collective" else None
        super().__init__(LearnerWorker, config, [materials], threads=threads, **options)

    def begin(
        self,
        stage: str,
        total_steps: int,
        weights: Weights | None = None,
        checkpoint: Weights | None = None,
        step: int = 0,
        fold: int = -1,
    ) -> None:
        # Put once and handed out by reference: every rank reads the same copy.
        shared = [ray.put(value) if value is not None else None for value in (weights, checkpoint)]
        self.all("begin", stage, total_steps, *shared, step, fold)

    def annotate(self, parts: Sequence[Payload]) -> None:
        self.all("annotate", *parts)

    def train_rows(self, epoch: int, first: int, last: int) -> Task:
        refs = [rank.train_rows.remote(epoch, first, last) for rank in self.ranks]
        count = last - first

        def merge(ranks: list[tuple[list[dict[str, float]], dict[str, Any]]]) -> list[dict[str, Any]]:
            steps = [average(list(step)) for step in zip(*(metrics for metrics, _ in ranks), strict=True)]
            self.pace.took("train_rows", sum(step["seconds"] for step in steps), count)
            self._hear([spans for _, spans in ranks])
            return [*steps[:-1], {**steps[-1], "spans": self.told}]

        return Task(refs, merge=merge, limit=time.monotonic() + self.pace.limit("train_rows", count))

    def train_groups(
        self,
        shards: Sequence[Sequence[tuple[Payload, Payload, np.ndarray]]],
        groups: int,
        version: PolicyVersion,
    ) -> Task:
        padded = -(-groups // self.world_size)
        # A rank without a group of its own works on a copy of another's, with weight zero.
        spare = next((rollouts, rewards, chosen[:1]) for hand in shards for rollouts, rewards, chosen in hand)
        refs: list[Any] = []
        vector: Payload = None
        for rank, hand in zip(self.ranks, shards, strict=True):
            counts = GroupCounts(sum(len(groups_of) for _, _, groups_of in hand), padded, groups)
            hand = hand or [spare]
            columns = [column for rollouts, rewards, _ in hand for column in (rollouts, rewards)]
            chosen = [groups_of for _, _, groups_of in hand]
            if vector is None and self.config.transport == "collective":
                vector = self.kept.new(rank)
                forget = self.kept.forgotten()
                ref = rank.train_groups_and_keep.remote(vector.key, forget, chosen, counts, version, *columns)
            elif vector is None:
                ref, vector = rank.train_groups_and_publish.remote(chosen, counts, version, *columns)
            else:
                ref = rank.train_groups.remote(chosen, counts, version, *columns)
            refs.append(ref)

        def merge(ranks: list[dict[str, Any]]) -> dict[str, Any]:
            spans = [metrics.pop("spans") for metrics in ranks if "spans" in metrics]
            metrics = average(ranks)
            self.pace.took("train_groups", metrics["seconds"])
            self._hear(spans)
            return metrics | {"spans": spans}

        return Task(refs, vector, merge, limit=time.monotonic() + self.pace.limit("train_groups"))

    def _hear(self, spans: list[dict[str, Any]]) -> None:
        self.told = spans
        self.finished += 1

    def vector(self, policy_only: bool = True) -> Payload:
        return self.ranks[0].vector.remote(policy_only)

    def weights(self) -> Weights:
        return self.first("weights")

    def checkpoint(self) -> Weights:
        return self.first("checkpoint")


class KeptVectors:
    """The vectors that rank 0 keeps for as long as somebody here can still name them."""

    def __init__(self) -> None:
        self._keys = itertools.count()
        self._forgotten: list[int] = []

    def new(self, owner: Any) -> Kept:
        kept = Kept(next(self._keys), owner)
        weakref.finalize(kept, self._forgotten.append, kept.key)
        return kept

    def forgotten(self) -> list[int]:
        """Keys that nobody can ask for any more, each told once."""
        return [self._forgotten.pop() for _ in range(len(self._forgotten))]


def average(receipts: list[dict[str, float]]) -> dict[str, float]:
    """Mean of each metric over the ranks that report it."""
    names = {name: None for receipt in receipts for name in receipt}
    return {
        name: float(np.mean([receipt[name] for receipt in receipts if name in receipt])) for name in names
    }
