"""Log-probabilities of given items: after given thoughts, or by the direct decoder."""

from __future__ import annotations

import torch
from torch import Tensor

from streamrec_dist.decode.beam import begin
from streamrec_dist.decode.sampler import Thinking
from streamrec_dist.model.backbone import StreamRec, token_log_probs
from streamrec_dist.model.decoder import Memory


@torch.no_grad()
def item_log_probs(model: StreamRec, memory: Memory, thinking: Thinking, items: Tensor) -> Tensor:
    """log P(item | history, thoughts), float32 [P, R]; items int64 [P, R, m], after R sequences of thoughts."""
    tail, _ = model.decode(items[..., :-1], memory, thinking.cache)
    hidden = torch.cat([thinking.last.unsqueeze(2), tail], dim=2)
    return token_log_probs(model, hidden, items).sum(dim=-1)


@torch.no_grad()
def direct_log_probs(model: StreamRec, history: Tensor, items: Tensor) -> Tensor:
    """log pi_ref(item | history) of the direct decoder, float32 [P, R]; items int64 [P, R, m] (eq. 16, 17, 26)."""
    memory = model.read(history, "direct")
    last, cache = begin(model, memory, "direct")
    group = items.shape[1]
    cache = cache.select(torch.arange(len(history), device=history.device).repeat_interleave(group))
    tail, _ = model.decode(items[..., :-1], memory, cache, stack="direct")
    first = last.unsqueeze(2).expand(-1, group, -1, -1)
    return token_log_probs(model, torch.cat([first, tail], dim=2), items).sum(dim=-1)
