"""Histories with items left out: what follows an item should not hang on one other item being there."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from streamrec_dist.tokens import PAD


class HistoryDropout(nn.Module):
    """Leaves a `share` of the items out of history tokens int64 [B, S] in training, none otherwise."""

    def __init__(self, share: float, levels: int):
        super().__init__()
        self.share, self.levels = share, levels

    def forward(self, history: Tensor) -> Tensor:
        return leave_out_items(history, self.levels, self.share) if self.training else history


def leave_out_items(history: Tensor, levels: int, share: float) -> Tensor:
    """History tokens int64 [B, S] in which a random `share` of the items is padding; never a history's last."""
    if share == 0:
        return history
    items = history.unflatten(1, (-1, levels))
    there = items[..., 0] != PAD
    last = there.sum(dim=1, keepdim=True) - 1
    dropped = torch.rand(there.shape, device=history.device) < share
    dropped = dropped.scatter(1, last.clamp_min(0), False)
    return items.masked_fill(dropped.unsqueeze(-1), PAD).flatten(1)
