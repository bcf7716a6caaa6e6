"""The DDP learner group: the ranks as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import ray

from learners.worker import LearnerWorker
from streamrec_dist.config import LearnersConfig
from streamrec_dist.errors import EnvironmentProblem, RunError, StreamRecError, WorkerLost, summary
from streamrec_dist.rl.ports import Payload, Task, Weights
from streamrec_dist.types import GroupCounts, PolicyVersion

START_DEADLINE_S = 180.0
CALL_DEADLINE_S = 900.0


class LearnerGroup:
    """Implements the Learners port."""

    def __init__(self, config: LearnersConfig, materials: Any):
        """`materials` is an object reference. Raises EnvironmentProblem when the ranks do not come up in time."""
        self.world_size = config.world_size
        # NCCL refuses two ranks on one device.
        own_gpu = config.gpus != "auto" and config.gpus >= 1
        backend = config.backend if config.backend != "auto" else ("nccl" if own_gpu else "gloo")
        options = {"num_cpus": config.cpus, "num_gpus": config.gpus}
        self.ranks: list[Any] = [
            ray.remote(LearnerWorker)
            .options(**options)
            .remote(materials, rank, self.world_size, backend, config.cpus)
            for rank in range(self.world_size)
        ]
        try:
            address = self._get(self.ranks[0].meeting_point.remote(), "starting", START_DEADLINE_S)
            self._get([rank.join.remote(address) for rank in self.ranks], "joining", START_DEADLINE_S)
        except StreamRecError:
            self.close()
            raise

    def begin(
        self,
        stage: str,
        total_steps: int,
        weights: Weights | None = None,
        checkpoint: Weights | None = None,
        step: int = 0,
    ) -> None:
        # Put once and handed out by reference: every rank reads the same copy.
        shared = [ray.put(value) if value is not None else None for value in (weights, checkpoint)]
        self._all("begin", stage, total_steps, *shared, step)

    def annotate(self, parts: Sequence[Payload]) -> None:
        self._all("annotate", *parts)

    def train_rows(self, epoch: int, first: int, last: int) -> Task:
        refs = [rank.train_rows.remote(epoch, first, last) for rank in self.ranks]
        return Task(refs, merge=lambda ranks: [average(list(step)) for step in zip(*ranks, strict=True)])

    def train_groups(
        self,
        shards: Sequence[Sequence[tuple[Payload, Payload, np.ndarray]]],
        groups: int,
        version: PolicyVersion,
    ) -> Task:
        padded = -(-groups // self.world_size)
        # A rank without a group of its own works on a copy of another's, with weight zero.
        spare = next((rollouts, rewards, chosen[:1]) for hand in shards for rollouts, rewards, chosen in hand)
        refs = []
        for rank, hand in zip(self.ranks, shards, strict=True):
            counts = GroupCounts(sum(len(groups_of) for _, _, groups_of in hand), padded, groups)
            hand = hand or [spare]
            columns = [column for rollouts, rewards, _ in hand for column in (rollouts, rewards)]
            chosen = [groups_of for _, _, groups_of in hand]
            refs.append(rank.train_groups.remote(chosen, counts, version, *columns))
        return Task(refs, merge=average)

    def vector(self, policy_only: bool = True) -> Payload:
        return self.ranks[0].vector.remote(policy_only)

    def weights(self) -> Weights:
        return self._first("weights")

    def checkpoint(self) -> Weights:
        return self._first("checkpoint")

    def close(self) -> None:
        for rank in self.ranks:
            ray.kill(rank)
        self.ranks = []

    def _all(self, method: str, *args: Any) -> list[Any]:
        return self._get([getattr(rank, method).remote(*args) for rank in self.ranks], method)

    def _first(self, method: str) -> Any:
        return self._get(getattr(self.ranks[0], method).remote(), method)

    def _get(self, refs: Any, method: str, timeout_s: float = CALL_DEADLINE_S) -> Any:
        try:
            return ray.get(refs, timeout=timeout_s)
        except ray.exceptions.GetTimeoutError:
            raise EnvironmentProblem(
                f"the {self.world_size} learner ranks did not finish {method} within {timeout_s:.0f} s; "
                "is the cluster busy with another run? see `streamrec-dist status`"
            ) from None
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, StreamRecError):
                raise error.cause from None
            lost = isinstance(error.cause, ray.exceptions.RayActorError)
            message = f"the learners failed in {method}: {summary(error)}"
            raise (WorkerLost if lost else RunError)(message) from None
        except ray.exceptions.RayActorError as error:
            raise WorkerLost(f"a learner rank died in {method}: {summary(error)}") from None


def average(receipts: list[dict[str, float]]) -> dict[str, float]:
    """Mean of each metric over the ranks that report it."""
    names = {name: None for receipt in receipts for name in receipt}
    return {
        name: float(np.mean([receipt[name] for receipt in receipts if name in receipt])) for name in names
    }
