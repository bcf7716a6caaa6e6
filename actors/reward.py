"""Reward workers: turn the columns of a RolloutBatch into the five rewards."""

from __future__ import annotations

from typing import Any

import ray

from actors.model_slot import frozen
from actors.placement import start_worker
from actors.pool import Pool
from actors.worker import Worker
from streamrec_dist.config import ActorConfig
from streamrec_dist.materials import Materials
from streamrec_dist.rl.advantage import has_signal
from streamrec_dist.rl.ports import Payload, Task, Weights
from streamrec_dist.rl.rewards import reward_report
from streamrec_dist.rl.scoring import Scorer
from streamrec_dist.spans import Spans
from streamrec_dist.types import RewardBreakdown, RolloutBatch


class RewardActor(Worker):
    """Holds the frozen direct decoder, and no policy."""

    def __init__(self, materials: Materials, reference: Weights, cpus: float):
        device = start_worker(cpus, materials.config.deterministic)
        self.config = materials.config.stages.rl
        self.scorer = Scorer(materials, frozen(materials, reference, device))
        self.spans = Spans()

    @ray.method(num_returns=2)
    def score(self, batch: RolloutBatch) -> tuple[dict[str, Any], RewardBreakdown]:
        self.spans.begin()
        with self.spans.part("score"):
            rewards = self.scorer.score(batch)
            signal = has_signal(rewards.total, self.config.signal)
            report = reward_report(rewards, self.config)
        return {"signal": signal, "report": report, "spans": self.spans.told()}, rewards


class RewardPool:
    """Implements the Rewards port."""

    def __init__(self, config: ActorConfig, materials: Any, reference: Any, **options: Any):
        """`options` are those of a Pool."""
        args = [materials, reference, config.cpus]
        self.pool = Pool("reward", RewardActor, config, args, **options)

    def submit(self, rollouts: Payload) -> Task:
        return self.pool.call("score", rollouts)
