"""The losses of models over item ids: a softmax over the catalogue, or one sampled negative a row."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamrec_dist.baselines.item_model import ItemModel
from streamrec_dist.errors import DataError


@dataclass(frozen=True)
class ItemBatch:
    """Training rows as items."""

    share: float  # of these rows among a rank's of the optimizer step
    inputs: tuple[Tensor, ...]  # what the model scores: histories int64 [B, L] first
    target: Tensor  # int64 [B]


class SoftmaxLoss(nn.Module):
    """Mean negative log-likelihood of the target among all items."""

    def __init__(self, model: ItemModel):
        super().__init__()
        self.model = model

    def forward(self, batch: ItemBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean of -log softmax(x)_target in nats, x float32 [B, n_items], times the batch's share: float32 [].

        The metrics have the same as `nll`.
        """
        loss = F.cross_entropy(self.model(*batch.inputs), batch.target) * batch.share
        return loss, {"nll": loss}


class NegativeLoss(nn.Module):
    """Binary cross-entropy of the target and one uniform negative: -log s(x_target) - log(1 - s(x_negative)).

    Negatives come from torch's generator, which a learner seeds anew for each step. In a process group each rank
    draws its own.
    """

    def __init__(self, model: ItemModel):
        super().__init__()
        self.model = model

    def forward(self, batch: ItemBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean in nats a row, times the batch's share: float32 []. The metrics have the same as `bce`.

        Raises DataError where a row leaves no item to be its negative.
        """
        history = batch.inputs[0]
        negative = draw_negatives(history, batch.target, self.model.n_items)
        scores = self.model.scores(history, torch.stack([batch.target, negative], dim=1))
        loss = -(F.logsigmoid(scores[:, 0]) + F.logsigmoid(-scores[:, 1])).mean() * batch.share
        return loss, {"bce": loss}


def draw_negatives(history: Tensor, target: Tensor, n_items: int) -> Tensor:
    """An item int64 [B] for each row, uniform among those that are neither in its history nor its target.

    `history` int64 [B, L] is padded with -1, `target` int64 [B]. Raises DataError where a row leaves no item.
    """
    taken = torch.cat([history, target[:, None]], dim=1)
    taken = torch.where(taken < 0, n_items, taken).sort(dim=1).values
    repeated = F.pad(taken[:, 1:] == taken[:, :-1], (1, 0))
    taken = taken.masked_fill(repeated, n_items).sort(dim=1).values
    left = n_items - (taken < n_items).sum(dim=1)
    if not bool((left > 0).all()):
        raise DataError(
            f"a history has all of the {n_items} items, so that there is no negative to train sasrec-bce on; "
            "train sasrec, or set a smaller data.max_history"
        )
    number = (torch.rand(len(left), dtype=torch.float64, device=left.device) * left).long()
    # Of the items left in order, the `number`-th stands behind every taken item that has at most so many before it.
    before = taken - torch.arange(taken.shape[1], device=taken.device)
    return number + ((before <= number[:, None]) & (taken < n_items)).sum(dim=1)
