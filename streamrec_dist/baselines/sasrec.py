"""SASRec: causal self-attention over the items of a history (Kang and McAuley, 2018)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from streamrec_dist.baselines.config import AttentionConfig
from streamrec_dist.baselines.item_model import ItemModel, at_last


class SasRec(ItemModel):
    """Learned positions, counted from the end of the history, and post-norm blocks."""

    def __init__(self, config: AttentionConfig, n_items: int, max_history: int):
        super().__init__(config, n_items)
        self.position = nn.Embedding(max_history, config.d_model)
        nn.init.normal_(self.position.weight, std=0.02)
        self.norm = nn.LayerNorm(config.d_model)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                config.d_model,
                config.heads,
                4 * config.d_model,
                config.dropout,
                activation="gelu",
                batch_first=True,
            )
            for _ in range(config.layers)
        )

    def states(self, embedded: Tensor, lengths: Tensor) -> Tensor:
        length = embedded.shape[1]
        places = torch.arange(length, device=embedded.device)
        back = (lengths[:, None] - 1 - places).clamp_min(0)
        x = self.dropout(self.norm(embedded + self.position(back)))
        # Padding stands behind the items, so that what may not see the future does not see it.
        future = torch.ones((length, length), dtype=torch.bool, device=embedded.device).triu(1)
        for layer in self.layers:
            x = layer(x, src_mask=future)
        return at_last(x, lengths)
