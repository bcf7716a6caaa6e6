"""Models over item ids: a history of items -> the user's state -> a score for every item."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from streamrec_dist.baselines.config import ItemModelConfig


class ItemModel(nn.Module):
    """score(j) = state . v_j + b_j, with item vectors shared between histories and scores.

    A subclass turns embedded histories into states. Item numbers are no features: the vectors are initialised alike
    and at random.
    """

    #: Whether it is told what counts say of a history, besides the history (`Materials.item_prompts`).
    counted = False

    def __init__(self, config: ItemModelConfig, n_items: int):
        super().__init__()
        self.n_items = n_items
        self.item = nn.Embedding(n_items, config.d_model)
        nn.init.normal_(self.item.weight, std=0.02)
        self.bias = nn.Parameter(torch.zeros(n_items))

    def vectors(self) -> Tensor:
        """Item vectors [n_items, d]."""
        return self.item.weight

    def states(self, embedded: Tensor, lengths: Tensor) -> Tensor:
        """Embedded histories [B, L, d] of `lengths` int64 [B] items, padded behind -> states [B, d]."""
        raise NotImplementedError

    def forward(self, items: Tensor, *known: Tensor) -> Tensor:
        """Histories int64 [B, L], oldest first, padded with -1 behind -> logits float32 [B, n_items].

        `known` is what else a subclass is told of them.
        """
        vectors = self.vectors()
        return (self._read(vectors, items) @ vectors.T).float() + self.bias

    def scores(self, items: Tensor, candidates: Tensor) -> Tensor:
        """The logits float32 [B, C] of the candidates int64 [B, C] alone, after histories int64 [B, L]."""
        vectors = self.vectors()
        states = self._read(vectors, items)
        return (states.unsqueeze(1) * vectors[candidates]).sum(-1).float() + self.bias[candidates]

    def _read(self, vectors: Tensor, items: Tensor) -> Tensor:
        return self.states(vectors[items.clamp_min(0)], (items >= 0).sum(dim=1))


def at_last(states: Tensor, lengths: Tensor) -> Tensor:
    """The state of each history's last item: [B, L, d] and int64 [B] -> [B, d]."""
    last = (lengths - 1).clamp_min(0)
    return states.gather(1, last[:, None, None].expand(-1, 1, states.shape[-1]))[:, 0]
