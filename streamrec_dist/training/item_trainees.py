"""Models over item ids as trainees: the retriever and the baselines."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from streamrec_dist.baselines.config import ItemModelConfig
from streamrec_dist.baselines.item_model import ItemModel
from streamrec_dist.data.batches import targets
from streamrec_dist.materials import Materials
from streamrec_dist.training.item_losses import ItemBatch, NegativeLoss, SoftmaxLoss
from streamrec_dist.training.trainee import Trainee
from streamrec_dist.transfer import to_device


class ItemTrainee(Trainee):
    """A model over item ids by name: a softmax over the catalogue, or for sasrec-bce one sampled negative a row."""

    model: ItemModel

    def __init__(self, name: str, materials: Materials, device: torch.device):
        super().__init__(materials, device)
        self.name = name
        self.model = materials.new_item_model(name).to(device)

    @property
    def config(self) -> ItemModelConfig:
        section = self.whole_config.trained(self.name)
        assert isinstance(section, ItemModelConfig)
        return section

    def started(self) -> nn.Module:
        loss = NegativeLoss if self.name == "sasrec-bce" else SoftmaxLoss
        return loss(self.model).train()

    def batch(self, rows: np.ndarray, share: float) -> ItemBatch:
        inputs = self.materials.item_prompts(rows, self.model.counted)
        target = targets(self.materials.corpus, rows)
        return ItemBatch(
            share, tuple(to_device(array, self.device) for array in inputs), to_device(target, self.device)
        )


class RetrieverTrainee(ItemTrainee):
    """On all training rows, or on those of the users outside of one fold."""

    def __init__(self, materials: Materials, device: torch.device):
        super().__init__("retrieve", materials, device)
        self.chosen = materials.rows

    def leave_out(self, fold: int) -> None:
        """Train on the rows of all other folds (`Materials.folds`); -1 leaves none out."""
        self.chosen = self.materials.rows[self.materials.folds != fold]

    @property
    def rows(self) -> np.ndarray:
        return self.chosen
