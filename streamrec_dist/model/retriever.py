"""The retriever: a model over item ids, texts and counts that names the likeliest items of a whole catalogue.

score(j) = state . v_j + b_j + g * log(1 + mass(j) / UNIT) + h * [j is in the history]

v_j is a learned vector of the item plus a projection of its text embedding; mass(j) is what the sequences of other
users say of j (data/row_counts.py); g and h are learned, so that the model puts on top what counts leave open, and
repeats items as often as the training data do. The best items are then looked at again (model/reranker.py).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamrec_dist.baselines.sasrec import SasRec
from streamrec_dist.config import Config
from streamrec_dist.model.reranker import Reranker

#: Mass is measured in this: one unit of it raises the score by g * log 2.
UNIT = 0.01
#: The weight of a repeat is learned so much faster than a vector: it starts at 0 and may have far to go.
PACE = 10.0


class Retriever(SasRec):
    """Needs the catalogue's text embeddings, which are features and no weights."""

    counted = True

    def __init__(self, config: Config, n_items: int, texts: np.ndarray):
        """`texts` float [n_items, dim]."""
        stage = config.stages.retrieve
        super().__init__(stage, n_items, config.data.max_history)
        self.texts: Tensor
        self.register_buffer("texts", F.normalize(torch.from_numpy(texts).float(), dim=-1), persistent=False)
        self.project = nn.Linear(texts.shape[1], stage.d_model, bias=False)
        nn.init.normal_(self.project.weight, std=0.02)
        self.count_weight = nn.Parameter(torch.ones(()))
        self.repeat_weight = nn.Parameter(torch.zeros(()))
        self.reranker = Reranker(stage.reranked) if stage.reranked else None

    def vectors(self) -> Tensor:
        return self.item.weight + self.project(self.texts)

    def forward(self, items: Tensor, *known: Tensor) -> Tensor:
        """Logits float32 [B, n_items] after histories int64 [B, L], padded with -1 behind.

        `known` are the items int64 [B, K] that the counts speak for, and their mass float32 [B, K], 0 where there
        are fewer than K.
        """
        counted, mass = known
        logits = super().forward(items)
        told = torch.zeros_like(logits).scatter_add(1, counted, torch.log1p(mass / UNIT))
        seen = (
            torch.zeros_like(logits).scatter_add(1, items.clamp_min(0), (items >= 0).float()).clamp_max(1.0)
        )
        logits = logits + self.count_weight * told + PACE * self.repeat_weight * seen
        if self.reranker is None:
            return logits
        return self.reranker(logits, items, self.texts, told, self.bias, seen)
