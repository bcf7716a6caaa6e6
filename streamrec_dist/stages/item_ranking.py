"""A model over item ids as a recommender: ranks of targets in the whole catalogue, and the likeliest items."""

from __future__ import annotations

import numpy as np
import torch

from streamrec_dist.baselines.item_model import ItemModel
from streamrec_dist.baselines.ranking import BLOCK, rank_rows
from streamrec_dist.materials import Materials


@torch.no_grad()
def item_scores(model: ItemModel, inputs: list[np.ndarray]) -> torch.Tensor:
    """Logits float32 [n, n_items] of prompts (`Materials.item_prompts`)."""
    device = next(model.parameters()).device
    return model(*(torch.from_numpy(array).to(device) for array in inputs))


def item_model_ranks(model: ItemModel, materials: Materials, rows: np.ndarray, masked: bool) -> np.ndarray:
    """Ranks of the targets of rows int64 [n, 2]: int64 [n], 0 = not in the top 100; ties in random order."""

    def score(block: np.ndarray) -> np.ndarray:
        return item_scores(model, materials.item_prompts(block, model.counted)).cpu().numpy()

    return rank_rows(score, materials.corpus, rows, masked, materials.config.seed)


def likely_items(model: ItemModel, materials: Materials, rows: np.ndarray) -> dict[str, np.ndarray]:
    """A part of an EvidenceTable: the most likely items of rows int64 [n, 2], and their probabilities."""
    events = materials.corpus.offsets[rows[:, 0]] + rows[:, 1]
    found = [
        likeliest(model, materials, materials.item_prompts(rows[start : start + BLOCK]))
        for start in range(0, len(rows), BLOCK)
    ]
    items, share = (np.concatenate(column) for column in zip(*found, strict=True))
    return {"event": events, "items": items, "share": share}


def likeliest(
    model: ItemModel, materials: Materials, inputs: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Items int32 [n, K] and their probabilities float16 [n, K], K = min(model.evidence, items), best first."""
    most = min(materials.config.model.evidence, materials.corpus.n_items)
    share, items = torch.softmax(item_scores(model, inputs), dim=-1).topk(most, dim=-1)
    return items.int().cpu().numpy(), share.half().cpu().numpy()
