"""TIGER as a trainee: the encoder and the direct decoder of the recommender, alone (Rajput et al., 2023)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from streamrec_dist.baselines.config import TigerConfig
from streamrec_dist.data.batches import history_tokens, targets
from streamrec_dist.items.catalogue import Catalogue
from streamrec_dist.model.backbone import StreamRec, shift_right
from streamrec_dist.model.guide import Guide
from streamrec_dist.tokens import FIRST_CODE
from streamrec_dist.training.history_dropout import HistoryDropout
from streamrec_dist.training.trainee import RecommenderTrainee
from streamrec_dist.transfer import to_device


@dataclass(frozen=True)
class TigerBatch:
    """Training rows as tokens."""

    share: float  # of these rows among a rank's of the optimizer step
    history: Tensor  # int64 [B, S]
    target: Tensor  # int64 [B, m]


class TigerLoss(nn.Module):
    """Mean negative log-likelihood of the target's tokens, (1 - e) * nll + e * (mean over what they compete with)."""

    def __init__(self, model: StreamRec, config: TigerConfig, catalogue: Catalogue):
        super().__init__()
        self.model, self.config, self.catalogue = model, config, catalogue
        self.history_dropout = HistoryDropout(config.history_dropout, model.levels)

    def forward(self, batch: TigerBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss in nats a token, times the batch's share: float32 []. The metrics have `nll` without smoothing."""
        memory = self.model.read(self.history_dropout(batch.history), "direct")
        hidden, _ = self.model.decode(shift_right(batch.target)[:, None], memory, stack="direct")
        logits = self.model.logits(hidden[:, 0]).float()
        if self.model.on_trie:
            logits = Guide(self.catalogue, on_trie=True).along(logits, batch.target)
        log_probs = torch.log_softmax(logits, dim=-1)
        nll = -log_probs.gather(-1, (batch.target - FIRST_CODE).unsqueeze(-1)).mean() * batch.share
        competing = log_probs > -torch.inf
        spread = log_probs.masked_fill(~competing, 0.0).sum(-1) / competing.sum(-1)
        smoothing = self.config.label_smoothing
        return (1 - smoothing) * nll - smoothing * spread.mean() * batch.share, {"nll": nll}


class TigerTrainee(RecommenderTrainee):
    """What thinks is left as it was made."""

    frozen = ("heads.", "decoder.")

    @property
    def config(self) -> TigerConfig:
        return self.whole_config.baselines.tiger

    def started(self) -> nn.Module:
        return TigerLoss(self.model, self.config, self.catalogue).train()

    def batch(self, rows: np.ndarray, share: float) -> TigerBatch:
        corpus = self.materials.corpus
        history, _ = history_tokens(corpus, rows)
        target = corpus.item_tokens(targets(corpus, rows))
        return TigerBatch(share, to_device(history, self.device), to_device(target, self.device))
