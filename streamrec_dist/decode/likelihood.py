"""Log-probabilities of given items: after given thoughts, or by the direct decoder."""

from __future__ import annotations

import torch
from torch import Tensor

from streamrec_dist.decode.branches import Branches
from streamrec_dist.decode.engine import Engine
from streamrec_dist.tokens import FIRST_CODE


@torch.no_grad()
def item_log_probs(start: Branches, items: Tensor) -> Tensor:
    """log P(item | history, what has been decoded), float32 [P, R]; an item int64 [P, R, m] for each of R rows."""
    branches, total = start, torch.zeros(items.shape[:2], device=items.device)
    for depth in range(items.shape[-1]):
        tokens = items[..., depth]
        log_probs = start.engine.log_probs(branches.hidden)
        total = total + log_probs.gather(-1, (tokens - FIRST_CODE).unsqueeze(-1)).squeeze(-1)
        if depth < items.shape[-1] - 1:
            branches = branches.advance(tokens)
    return total


def direct_log_probs(engine: Engine, history: Tensor, items: Tensor) -> Tensor:
    """log pi_ref(item | history) of the direct decoder, float32 [P, R]; items int64 [P, R, m] (eq. 16, 17, 26)."""
    rows, levels = items.shape[1:]
    start = Branches.start(engine, engine.read(history, "direct"), rows * (levels - 1))
    return item_log_probs(start.fan(rows), items)
