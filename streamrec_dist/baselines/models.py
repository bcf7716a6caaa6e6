"""The models over item ids by name."""

from __future__ import annotations

from streamrec_dist.baselines.config import AttentionConfig, GruConfig
from streamrec_dist.baselines.gru4rec import Gru4Rec
from streamrec_dist.baselines.item_model import ItemModel
from streamrec_dist.baselines.sasrec import SasRec
from streamrec_dist.config import Config


def new_item_model(name: str, config: Config, n_items: int) -> ItemModel:
    """A baseline of `ITEM_MODELS` with its first weights, drawn from torch's generator."""
    section = config.baselines.of(name)
    if isinstance(section, GruConfig):
        return Gru4Rec(section, n_items)
    assert isinstance(section, AttentionConfig)
    return SasRec(section, n_items, config.data.max_history)
