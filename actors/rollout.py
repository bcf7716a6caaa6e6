"""Rollout actors: sample groups with the weights they are told to use."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import ray

from actors.inbox import Inbox
from actors.model_slot import ModelSlot
from actors.placement import start_worker
from actors.pool import Pool
from actors.worker import Worker
from streamrec_dist.config import ActorConfig
from streamrec_dist.materials import Materials
from streamrec_dist.model.weights import policy_parameters
from streamrec_dist.rl.broadcast import CONCURRENCY, DEADLINE_S, Kept, Plan
from streamrec_dist.rl.ports import Published, Task
from streamrec_dist.rl.rollout import Sampler
from streamrec_dist.spans import Spans
from streamrec_dist.types import PolicyVersion, RolloutBatch


class RolloutActor(Worker):
    """Stateless but for the weights of one version."""

    def __init__(self, materials: Materials, cpus: float):
        self.slot = ModelSlot(materials, start_worker(cpus, materials.config.deterministic))
        self.sampler = Sampler(materials, self.slot.engine)
        size = sum(value.numel() for _, value in policy_parameters(self.slot.model))
        self.inbox = Inbox(size, materials.config.stages.rl.max_staleness + 1)
        self.spans = Spans()

    def receive(self, plan: Plan, rank: int) -> None:
        """Take part in a broadcast of weights, in a thread of its own."""
        self.inbox.receive(plan, rank)

    @ray.method(num_returns=2)
    def rollout(
        self, cursor: int, count: int, version: PolicyVersion, vector: np.ndarray | Kept
    ) -> tuple[dict[str, Any], RolloutBatch]:
        started = time.perf_counter()
        self.spans.begin()
        if version != self.slot.version:
            with self.spans.part("adopt"):
                self.slot.adopt(version, self.inbox.take(vector) if isinstance(vector, Kept) else vector)
        with self.spans.part("generate"):
            batch = self.sampler.rollout(version, cursor, count)
        seconds = time.perf_counter() - started
        receipt = {"version": version, "tokens": batch.tokens.size, "seconds": seconds}
        return receipt | {"spans": self.spans.told()}, batch


class RolloutPool:
    """Implements the Rollouts port."""

    def __init__(self, config: ActorConfig, materials: Any, broadcast: bool = False, **options: Any):
        """With `broadcast`, replicas can take part in broadcasts of weights; `options` are those of a Pool."""
        threads = CONCURRENCY if broadcast else None
        self.pool = Pool(
            "rollout",
            RolloutActor,
            config,
            [materials, config.cpus],
            threads=threads,
            slack_s=DEADLINE_S if broadcast else 0.0,
            **options,
        )

    @property
    def replicas(self) -> int:
        return self.pool.target

    def submit(self, cursor: int, count: int, weights: Published) -> Task:
        return self.pool.call("rollout", cursor, count, weights.version, weights.vector, units=count)
