"""Log-probabilities of given items: after given thoughts, or by the direct decoder."""

from __future__ import annotations

import torch
from torch import Tensor

from streamrec_dist.decode.branches import Branches
from streamrec_dist.decode.engine import Engine
from streamrec_dist.model.backbone import log_probs_of
from streamrec_dist.model.guide import Guide


@torch.no_grad()
def item_log_probs(start: Branches, items: Tensor) -> Tensor:
    """log P(item | history, what has been decoded), float32 [P, R]; an item int64 [P, R, m] for each of R rows."""
    branches, total = start, torch.zeros(items.shape[:2], device=items.device)
    nodes = torch.zeros(items.shape[:2], dtype=torch.long, device=items.device)
    for depth in range(items.shape[-1]):
        tokens = items[..., depth]
        total = total + log_probs_of(branches.item_logits(depth, nodes), tokens)
        if depth < items.shape[-1] - 1:
            nodes = branches.descend(depth, nodes, tokens)
            branches = branches.advance(tokens)
    return total


def direct_log_probs(engine: Engine, history: Tensor, items: Tensor, guide: Guide | None = None) -> Tensor:
    """log pi_ref(item | history) of the direct decoder, float32 [P, R]; items int64 [P, R, m] (eq. 16, 17, 26)."""
    rows, levels = items.shape[1:]
    start = Branches.start(engine, engine.read(history, "direct", guide), rows * (levels - 1))
    return item_log_probs(start.fan(rows), items)
