"""A model and its engine in a worker, and the version of the weights it holds."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from actors.inbox import fetch
from streamrec_dist.baselines.item_model import ItemModel
from streamrec_dist.decode.engine import Engine
from streamrec_dist.materials import Materials, arithmetic
from streamrec_dist.model.backbone import StreamRec
from streamrec_dist.model.weights import import_weights, load_vector
from streamrec_dist.rl.broadcast import Kept
from streamrec_dist.rl.ports import Weights
from streamrec_dist.types import PolicyVersion

Vector = np.ndarray | Tensor | Kept


class ModelSlot:
    """Adopts published weights between calls: only when the version asked for is not the one it has.

    Model and engine stay for as long as the worker lives; a new version is written into their memory.
    """

    def __init__(self, materials: Materials, device: str):
        self.model: StreamRec = materials.new_model().to(device).eval()
        self.engine = Engine(self.model, arithmetic(materials.config))
        self.version: PolicyVersion | None = None

    def adopt(self, version: PolicyVersion, vector: Vector) -> None:
        if version != self.version:
            load_vector(self.model, _at_hand(vector))
            self.engine.refresh()
            self.version = version


class ItemSlot:
    """A model over item ids in a worker (`Materials.new_item_model`), likewise."""

    def __init__(self, materials: Materials, name: str, device: str):
        self.model: ItemModel = materials.new_item_model(name).to(device).eval()
        self.version: PolicyVersion | None = None

    def adopt(self, version: PolicyVersion, vector: Vector) -> None:
        if version != self.version:
            load_vector(self.model, _at_hand(vector))
            self.version = version


def _at_hand(vector: Vector) -> np.ndarray | Tensor:
    return fetch(vector) if isinstance(vector, Kept) else vector


def frozen(materials: Materials, weights: Weights, device: str) -> StreamRec:
    """pi_ref: the direct decoder with its encoder, as stage 1 left them."""
    model = materials.new_model().to(device).eval()
    import_weights(model, weights)
    return model.requires_grad_(False)
