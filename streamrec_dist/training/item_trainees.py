"""The retriever as a trainee: a softmax over the whole catalogue."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamrec_dist.config import RetrieveConfig
from streamrec_dist.data.batches import targets
from streamrec_dist.materials import Materials
from streamrec_dist.training.trainee import Trainee
from streamrec_dist.transfer import to_device


@dataclass(frozen=True)
class ItemBatch:
    """Training rows as items."""

    share: float  # of these rows among a rank's of the optimizer step
    inputs: tuple[Tensor, ...]  # what the model scores: histories int64 [B, L] first
    target: Tensor  # int64 [B]


class SoftmaxLoss(nn.Module):
    """Mean negative log-likelihood of the target among all items."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, batch: ItemBatch) -> tuple[Tensor, dict[str, Tensor]]:
        loss = F.cross_entropy(self.model(*batch.inputs), batch.target) * batch.share
        return loss, {"nll": loss}


class RetrieverTrainee(Trainee):
    """On all training rows, or on those of the users outside of one fold."""

    def __init__(self, materials: Materials, device: torch.device):
        super().__init__(materials, device)
        self.model = materials.new_retriever().to(device)
        self.chosen = materials.rows

    def leave_out(self, fold: int) -> None:
        """Train on the rows of all other folds (`Materials.folds`); -1 leaves none out."""
        self.chosen = self.materials.rows[self.materials.folds != fold]

    @property
    def config(self) -> RetrieveConfig:
        return self.whole_config.stages.retrieve

    @property
    def rows(self) -> np.ndarray:
        return self.chosen

    def started(self) -> nn.Module:
        return SoftmaxLoss(self.model).train()

    def parts(self, mine: np.ndarray, step: np.ndarray) -> list[ItemBatch]:
        rows = self.rows[mine]
        return [
            ItemBatch(
                len(part) / len(mine),
                tuple(to_device(array, self.device) for array in self.materials.item_prompts(rows[part])),
                to_device(targets(self.materials.corpus, rows[part]), self.device),
            )
            for part in self.micro_batches(rows)
        ]
