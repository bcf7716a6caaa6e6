"""Rollout actors: sample groups with the weights they are told to use."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import ray

from actors.model_slot import ModelSlot
from actors.placement import start_worker
from actors.pool import Pool
from actors.worker import Worker
from streamrec_dist.config import ActorConfig
from streamrec_dist.materials import Materials
from streamrec_dist.rl.ports import Published, Task
from streamrec_dist.rl.rollout import Sampler
from streamrec_dist.types import PolicyVersion, RolloutBatch


class RolloutActor(Worker):
    """Stateless but for the weights of one version."""

    def __init__(self, materials: Materials, cpus: float):
        self.slot = ModelSlot(materials, start_worker(cpus, materials.config.deterministic))
        self.sampler = Sampler(materials, self.slot.engine)

    @ray.method(num_returns=2)
    def rollout(
        self, cursor: int, count: int, version: PolicyVersion, vector: np.ndarray
    ) -> tuple[dict[str, Any], RolloutBatch]:
        started = time.perf_counter()
        self.slot.adopt(version, vector)
        batch = self.sampler.rollout(version, cursor, count)
        seconds = time.perf_counter() - started
        return {"version": version, "tokens": batch.tokens.size, "seconds": seconds}, batch


class RolloutPool:
    """Implements the Rollouts port."""

    def __init__(self, config: ActorConfig, materials: Any, **options: Any):
        """`options` are those of a Pool."""
        self.pool = Pool("rollout", RolloutActor, config, [materials, config.cpus], **options)

    @property
    def replicas(self) -> int:
        return self.pool.target

    def submit(self, cursor: int, count: int, weights: Published) -> Task:
        return self.pool.call("rollout", cursor, count, weights.version, weights.vector)
