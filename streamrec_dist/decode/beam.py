"""Beam search over the items of a catalogue: exact, batched, without Python per beam or copies of caches."""

from __future__ import annotations

import torch
from torch import Tensor

from streamrec_dist.decode.branches import Branches
from streamrec_dist.items.catalogue import Catalogue
from streamrec_dist.tokens import FIRST_CODE


@torch.no_grad()
def beam_search(
    start: Branches, catalogue: Catalogue, beam: int, banned: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The `beam` most likely items after each row of `start`: ids int64 [P, R, W], log-probs float32 [P, R, W].

    Best first. Probabilities are over all code tokens; the trie only decides which may follow. `banned` int64
    [P, X] (-1 = none) are items not to return. W = min(beam, items); places that no item is left for hold -1 and
    -inf.
    """
    engine, rows = start.engine, start.rows
    count, device = len(start.prompts), start.hidden.device
    branches = start
    nodes = torch.zeros((count, rows, 1), dtype=torch.long, device=device)
    scores = torch.zeros((count, rows, 1), device=device)
    for depth in range(catalogue.levels):
        width = nodes.shape[-1]
        codes, children, valid = catalogue.children(depth, nodes)
        indices = codes + depth * catalogue.codes_per_level
        # A node's normaliser is taken once; its children's logits are gathered.
        logits = engine.logits(branches.hidden).view(count, rows, width, engine.levels * engine.codes)
        step = logits.gather(-1, indices) - logits.logsumexp(dim=-1, keepdim=True)
        grown = (scores.unsqueeze(-1) + step).masked_fill(~valid, -torch.inf).flatten(2)
        if depth == catalogue.levels - 1 and banned is not None:
            items = catalogue.leaf_items(children).flatten(2)
            known = (items.unsqueeze(-1) == banned[:, None, None, :]).any(-1)
            grown = grown.masked_fill(known, -torch.inf)
        kept = min(beam, grown.shape[-1])
        scores, places = grown.topk(kept, dim=-1)
        nodes = children.flatten(2).gather(2, places)
        if depth < catalogue.levels - 1:
            tokens = indices.flatten(2).gather(2, places) + FIRST_CODE
            parents = places // codes.shape[-1] + torch.arange(rows, device=device)[:, None] * width
            branches = branches.pick(parents.flatten(1)).advance(tokens.flatten(1))
    items = catalogue.leaf_items(nodes).masked_fill(scores == -torch.inf, -1)
    return items[..., : catalogue.n_items], scores[..., : catalogue.n_items]


@torch.no_grad()
def free_beam_search(start: Branches, length: int, beam: int) -> tuple[Tensor, Tensor]:
    """The `beam` most likely sequences of `length` code tokens after `start`, of one row a prompt.

    Tokens int64 [P, W, length] and log-probs [P, W]. What share of them names no item tells how well the model has
    learnt the catalogue.
    """
    engine, device = start.engine, start.hidden.device
    branches = start
    scores = torch.zeros((len(start.prompts), 1), device=device)
    tokens = torch.zeros((len(start.prompts), 1, 0), dtype=torch.long, device=device)
    for depth in range(length):
        log_probs = engine.log_probs(branches.hidden)
        grown = (scores.unsqueeze(-1) + log_probs).flatten(1)
        scores, places = grown.topk(min(beam, grown.shape[1]), dim=-1)
        parents, chosen = places // log_probs.shape[-1], places % log_probs.shape[-1] + FIRST_CODE
        history = tokens.gather(1, parents.unsqueeze(-1).expand(-1, -1, depth))
        tokens = torch.cat([history, chosen.unsqueeze(-1)], dim=-1)
        if depth < length - 1:
            branches = branches.pick(parents).advance(chosen)
    return tokens, scores
