"""The policy's distribution over the next token, the same for sampling and for training.

Free: over all code tokens, or those that the guide leaves. Constrained: thoughts are free, and an item's codes
are renormalised over the children of its prefix in the catalogue's trie.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from streamrec_dist.items.catalogue import Catalogue
from streamrec_dist.model.backbone import StreamRec, thought_log_probs, token_log_probs
from streamrec_dist.model.guide import Guide
from streamrec_dist.tokens import FIRST_CODE


def restrict(logits: Tensor, catalogue: Catalogue, depth: int, nodes: Tensor) -> Tensor:
    """Log-probs [..., levels * codes], from logits or log-probs, over the children of trie `nodes` of `depth`."""
    before = depth * catalogue.codes_per_level
    level = logits.narrow(-1, before, catalogue.codes_per_level)
    inside = torch.log_softmax(level.masked_fill(~catalogue.following(depth, nodes), -torch.inf), dim=-1)
    after = logits.shape[-1] - before - catalogue.codes_per_level
    return F.pad(inside, (before, after), value=-torch.inf)


def sequence_log_probs(
    model: StreamRec,
    hidden: Tensor,
    tokens: Tensor,
    temperature: float,
    catalogue: Catalogue | None,
    guide: Guide | None = None,
) -> Tensor:
    """Log-probs [P, ..., l + m] of sampled tokens under the distribution that sampled them.

    hidden [P, ..., l + m, d] are the teacher-forced states that predict `tokens` int64 [P, ..., l + m]; `catalogue`
    is given when sampling was constrained by the trie, `guide` where the P prompts have one.
    """
    if catalogue is None:
        return token_log_probs(model, hidden, tokens, temperature, guide)
    thoughts = tokens.shape[-1] - catalogue.levels
    parts = [thought_log_probs(model, hidden[..., :thoughts, :], tokens[..., :thoughts], temperature, guide)]
    nodes = torch.zeros_like(tokens[..., 0])
    for depth in range(catalogue.levels):
        token = tokens[..., thoughts + depth]
        logits = model.logits(hidden[..., thoughts + depth, :]).float()
        if guide is not None:
            logits = guide.add(logits, depth, nodes)
        restricted = restrict(logits / temperature, catalogue, depth, nodes)
        parts.append(restricted.gather(-1, (token - FIRST_CODE).unsqueeze(-1)))
        nodes = catalogue.descend(depth, nodes, token)
    return torch.cat(parts, dim=-1)
