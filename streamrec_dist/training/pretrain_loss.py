"""Stage 1: long targets for the thinking decoder, one item for the direct decoder (eq. 9-11)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from streamrec_dist.config import PretrainConfig
from streamrec_dist.data.batches import targets
from streamrec_dist.items.catalogue import Catalogue
from streamrec_dist.materials import Materials
from streamrec_dist.model.backbone import Stack, StreamRec, shift_right, token_log_probs
from streamrec_dist.training.history_dropout import HistoryDropout
from streamrec_dist.transfer import to_device


@dataclass(frozen=True)
class PretrainBatch:
    """Training rows as tokens."""

    share: float  # of these rows among a rank's of the optimizer step
    history: Tensor  # int64 [B, S]
    target: Tensor  # int64 [B, m]
    retrieved: Tensor  # int64 [B, q], the text neighbours' tokens, nearest last
    places: Tensor  # int64 [B, K]  the evidence (model/evidence.py)
    below: Tensor  # float64 [B, K + 1]


def pretrain_batch(
    materials: Materials, rows: np.ndarray, device: torch.device, share: float = 1.0
) -> PretrainBatch:
    """Rows int64 [B, 2] -> a batch. Y of eq. 9 is `retrieved` followed by `target`."""
    corpus = materials.corpus
    history, *evidence = materials.prompts(rows)
    items = targets(corpus, rows)
    nearest = materials.neighbours[items, : materials.config.stages.pretrain.retrieved]
    retrieved = corpus.item_tokens(nearest[:, ::-1]).reshape(len(rows), -1)
    arrays = (history, corpus.item_tokens(items), retrieved, *evidence)
    return PretrainBatch(share, *(to_device(array, device) for array in arrays))


class PretrainLoss(nn.Module):
    """Mean negative log-likelihood a token of both decoders, added (eq. 10; the mean is over tokens too).

    Loss and metrics are the batch's share of those of the optimizer step: what is accumulated adds up.
    """

    def __init__(self, model: StreamRec, config: PretrainConfig, catalogue: Catalogue):
        super().__init__()
        self.model = model
        self.catalogue = catalogue
        self.config = config
        self.history_dropout = HistoryDropout(config.history_dropout, model.levels)

    def forward(self, batch: PretrainBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss in nats a token, float32 []; the metrics are those of either decoder, `thinking` and `direct`."""
        states, mask = self.model.encode(self.history_dropout(batch.history))
        long = torch.cat([batch.retrieved, batch.target], dim=-1)
        thinking = self._nll(batch, states, mask, long, "thinking") * batch.share
        direct = self._nll(batch, states, mask, batch.target, "direct") * batch.share
        return thinking + direct, {"thinking": thinking, "direct": direct}

    def _nll(
        self, batch: PretrainBatch, states: Tensor, mask: Tensor, labels: Tensor, stack: Stack
    ) -> Tensor:
        memory = self.model.memory(states, mask, stack)
        hidden, _ = self.model.decode(shift_right(labels)[:, None], memory, stack=stack)
        guide = self.model.guide(self.catalogue, batch.places, batch.below, stack)
        return -token_log_probs(self.model, hidden[:, 0], labels, self.config.temperature, guide).mean()
