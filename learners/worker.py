"""One learner rank as an actor: a process group around `training.Learner`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import ray

from learners.keeper import Keeper
from learners.ranks import Rank
from streamrec_dist.materials import Materials
from streamrec_dist.model.kernels import compile_kernels
from streamrec_dist.rl.ports import Weights
from streamrec_dist.training.learner import Learner
from streamrec_dist.types import Annotation, GroupCounts, PolicyVersion, RewardBreakdown, RolloutBatch


class LearnerWorker(Keeper, Rank):
    """A rank that trains the recommender."""

    def __init__(self, materials: Materials):
        super().__init__(materials.config)
        self.materials = materials

    def join(self, meeting_point: tuple[str, int], rank: int, world_size: int, backend: str) -> None:
        super().join(meeting_point, rank, world_size, backend)
        compile_kernels(self.materials.config.learners.compile, self.device)
        self.learner = Learner(self.materials, self.rank, self.world_size, self.device)

    def begin(
        self,
        stage: str,
        total_steps: int,
        weights: Weights | None,
        checkpoint: Weights | None,
        step: int,
        fold: int,
    ) -> None:
        with self.together():
            self.learner.begin(stage, total_steps, weights, checkpoint, step, fold)

    def annotate(self, *parts: Annotation) -> None:
        self.learner.annotate(parts)

    def train_rows(self, epoch: int, first: int, last: int) -> tuple[list[dict[str, float]], dict[str, Any]]:
        """The metrics of each step, and the spans of all."""
        with self.together():
            steps = self.learner.train_rows(epoch, first, last)
        return steps, self.learner.spans.told()

    def train_groups(
        self,
        groups: Sequence[np.ndarray],
        counts: GroupCounts,
        version: PolicyVersion,
        *columns: RolloutBatch | RewardBreakdown,
    ) -> dict[str, Any]:
        """`columns` alternate rollouts and rewards, one pair for each entry of `groups`."""
        shards: Any = list(zip(columns[::2], columns[1::2], groups, strict=True))
        with self.together():
            metrics = self.learner.train_groups(shards, counts, version)
        return metrics | {"spans": self.learner.spans.told()}

    @ray.method(num_returns=2)
    def train_groups_and_publish(self, *arguments: Any) -> tuple[dict[str, Any], np.ndarray]:
        """`train_groups`, and the policy's weights after it."""
        metrics = self.train_groups(*arguments)
        with self.learner.spans.part("publish"):
            vector = self.vector(policy_only=True)
        return metrics | {"spans": self.learner.spans.told()}, vector

    def train_groups_and_keep(self, key: int, forget: Sequence[int], *arguments: Any) -> dict[str, Any]:
        """`train_groups`, and the policy's weights after it stay here under `key`."""
        self.forget(forget)
        metrics = self.train_groups(*arguments)
        with self.learner.spans.part("publish"):
            self.kept[key] = self.learner.policy()
        return metrics | {"spans": self.learner.spans.told()}

    def vector(self, policy_only: bool) -> np.ndarray:
        return self.learner.vector(policy_only)

    def weights(self) -> Weights:
        return self.learner.weights()

    def checkpoint(self) -> Weights:
        return self.learner.checkpoint()
