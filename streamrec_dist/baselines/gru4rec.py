"""GRU4Rec: a recurrent network over the items of a history (Hidasi et al., 2016)."""

from __future__ import annotations

from torch import Tensor, nn

from streamrec_dist.baselines.config import GruConfig
from streamrec_dist.baselines.item_model import ItemModel, at_last


class Gru4Rec(ItemModel):
    """h_t = GRU(h_(t-1), v_t); the state is a projection of the last h."""

    def __init__(self, config: GruConfig, n_items: int):
        super().__init__(config, n_items)
        self.dropout = nn.Dropout(config.dropout)
        self.gru = nn.GRU(config.d_model, config.hidden, config.layers, batch_first=True)
        self.project = nn.Linear(config.hidden, config.d_model)

    def states(self, embedded: Tensor, lengths: Tensor) -> Tensor:
        # Padding stands behind the items, where no state that is read comes from.
        hidden, _ = self.gru(self.dropout(embedded))
        return self.project(at_last(hidden, lengths))
