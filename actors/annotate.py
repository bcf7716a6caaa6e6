"""Annotate actors: iterative inference over ranges of training rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import ray

from actors.model_slot import ModelSlot, frozen
from actors.placement import start_worker
from actors.pool import Pool
from actors.worker import Worker
from streamrec_dist.config import ActorConfig
from streamrec_dist.decode.engine import Engine
from streamrec_dist.materials import Materials, arithmetic
from streamrec_dist.rl.ports import Published, Task, Weights
from streamrec_dist.stages.annotate import Annotator
from streamrec_dist.types import Annotation, PolicyVersion


class AnnotateActor(Worker):
    """Stateless but for the weights of one version; pi_ref is frozen."""

    def __init__(self, materials: Materials, reference: Weights, cpus: float):
        device = start_worker(cpus, materials.config.deterministic)
        self.slot = ModelSlot(materials, device)
        direct = Engine(frozen(materials, reference, device), arithmetic(materials.config))
        self.annotator = Annotator(materials, self.slot.engine, direct)

    @ray.method(num_returns=2)
    def annotate(
        self, first: int, last: int, round_number: int, version: PolicyVersion, vector: np.ndarray
    ) -> tuple[int, Annotation]:
        self.slot.adopt(version, vector)
        return last - first, self.annotator.annotate(first, last, round_number)


class AnnotatePool:
    """Implements the Annotators port."""

    def __init__(self, config: ActorConfig, materials: Any, reference: Any, **options: Any):
        """`options` are those of a Pool."""
        args = [materials, reference, config.cpus]
        self.pool = Pool("annotate", AnnotateActor, config, args, **options)

    def submit(self, first: int, last: int, round_number: int, weights: Published) -> Task:
        return self.pool.call(
            "annotate", first, last, round_number, weights.version, weights.vector, units=last - first
        )
