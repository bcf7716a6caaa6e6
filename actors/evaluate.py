"""Evaluate actors: decode for held-out rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from actors.model_slot import ItemSlot, ModelSlot, Vector
from actors.placement import start_worker
from actors.pool import Pool
from actors.worker import Worker
from streamrec_dist.baselines.config import SCORES_ITEMS
from streamrec_dist.baselines.item_model import ItemModel
from streamrec_dist.config import ActorConfig
from streamrec_dist.materials import Materials
from streamrec_dist.rl.ports import Published, Task
from streamrec_dist.stages.annotate import ThinkingMeter
from streamrec_dist.stages.decoding import Recommender
from streamrec_dist.stages.item_ranking import item_model_ranks, likely_items
from streamrec_dist.types import PolicyVersion


class EvaluateActor(Worker):
    """Stateless but for the weights of one version."""

    def __init__(self, materials: Materials, cpus: float):
        self.materials = materials
        self.device = start_worker(cpus, materials.config.deterministic)
        self.slot = ModelSlot(materials, self.device)
        self.item_slots: dict[str, ItemSlot] = {}
        self.meter = ThinkingMeter(materials, self.slot.engine)

    def _recommender(self, name: str, version: PolicyVersion, vector: Vector) -> Recommender:
        self.slot.adopt(version, vector)
        return Recommender(self.materials, self.slot.model, name, self.device, self.slot.engine)

    def _item_model(self, name: str, version: PolicyVersion, vector: Vector) -> ItemModel:
        if name not in self.item_slots:
            self.item_slots[name] = ItemSlot(self.materials, name, self.device)
        self.item_slots[name].adopt(version, vector)
        return self.item_slots[name].model

    def ranks(
        self,
        model: str,
        rows: np.ndarray,
        mask_history: bool,
        version: PolicyVersion,
        vector: Vector,
    ) -> np.ndarray:
        if model in SCORES_ITEMS:
            item_model = self._item_model(model, version, vector)
            return item_model_ranks(item_model, self.materials, rows, mask_history)
        return self._recommender(model, version, vector).target_ranks(rows, mask_history)

    def invalid_share(self, model: str, rows: np.ndarray, version: PolicyVersion, vector: Vector) -> float:
        return self._recommender(model, version, vector).invalid_beam_share(rows)

    def likely_items(self, rows: np.ndarray, version: PolicyVersion, vector: Vector) -> dict[str, np.ndarray]:
        return likely_items(self._item_model("retrieve", version, vector), self.materials, rows)

    def thinking(self, rows: np.ndarray, version: PolicyVersion, vector: Vector) -> dict[str, np.ndarray]:
        self.slot.adopt(version, vector)
        return self.meter.measure(rows)


class EvaluatePool:
    """Implements the Evaluators port."""

    def __init__(self, config: ActorConfig, materials: Any, **options: Any):
        """`options` are those of a Pool."""
        self.pool = Pool("evaluate", EvaluateActor, config, [materials, config.cpus], **options)

    @property
    def replicas(self) -> int:
        return self.pool.target

    def ranks(self, model: str, rows: np.ndarray, mask_history: bool, weights: Published) -> Task:
        return self.pool.call(
            "ranks", model, rows, mask_history, weights.version, weights.vector, units=len(rows)
        )

    def invalid_share(self, model: str, rows: np.ndarray, weights: Published) -> Task:
        return self.pool.call("invalid_share", model, rows, weights.version, weights.vector, units=len(rows))

    def likely_items(self, rows: np.ndarray, weights: Published) -> Task:
        return self.pool.call("likely_items", rows, weights.version, weights.vector, units=len(rows))

    def thinking(self, rows: np.ndarray, weights: Published) -> Task:
        return self.pool.call("thinking", rows, weights.version, weights.vector, units=len(rows))
