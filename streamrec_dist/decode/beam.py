"""Beam search over the items of a catalogue: exact, batched, without Python per beam."""

from __future__ import annotations

import torch
from torch import Tensor

from streamrec_dist.decode.sampler import Thinking
from streamrec_dist.items.catalogue import Catalogue
from streamrec_dist.model.backbone import Stack, StreamRec
from streamrec_dist.model.decoder import DecoderCache, Memory
from streamrec_dist.tokens import BOS, FIRST_CODE


@torch.no_grad()
def beam_search(
    model: StreamRec,
    memory: Memory,
    catalogue: Catalogue,
    beam: int,
    start: Thinking | None = None,
    banned: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The `beam` most likely items: ids int64 [P, W] and log-probs float32 [P, W], best first.

    After the thoughts in `start` (one sequence a prompt) with the thinking decoder, or, without them, with the
    direct decoder. Probabilities are over all code tokens; the trie only decides which may follow.
    `banned` int64 [P, X] (-1 = none) are items not to return. W = min(beam, items); places that no item is left
    for hold -1 and -inf.
    """
    stack: Stack = "thinking" if start else "direct"
    hidden, cache = (start.last, start.cache) if start else begin(model, memory, stack)
    prompts, device = memory.prompts, memory.states.device
    nodes = torch.zeros((prompts, 1), dtype=torch.long, device=device)
    scores = torch.zeros((prompts, 1), device=device)
    for depth in range(catalogue.levels):
        codes, children, valid = catalogue.children(depth, nodes)
        indices = codes + depth * catalogue.codes_per_level
        grown = scores.unsqueeze(-1) + model.log_probs(hidden).gather(-1, indices)
        grown = grown.masked_fill(~valid, -torch.inf).flatten(1)
        if depth == catalogue.levels - 1 and banned is not None:
            items = catalogue.leaf_items(children).flatten(1)
            grown = grown.masked_fill((items.unsqueeze(-1) == banned.unsqueeze(1)).any(-1), -torch.inf)
        width = min(beam, grown.shape[1])
        scores, places = grown.topk(width, dim=-1)
        nodes = children.flatten(1).gather(1, places)
        if depth < catalogue.levels - 1:
            tokens = indices.flatten(1).gather(1, places) + FIRST_CODE
            parents = places // codes.shape[-1]
            hidden, cache = _advance(model, memory, cache, parents, tokens, stack)
    items = catalogue.leaf_items(nodes).masked_fill(scores == -torch.inf, -1)
    return items[:, : catalogue.n_items], scores[:, : catalogue.n_items]


@torch.no_grad()
def free_beam_search(
    model: StreamRec, memory: Memory, levels: int, beam: int, start: Thinking | None = None
) -> tuple[Tensor, Tensor]:
    """The `beam` most likely sequences of `levels` code tokens, whether they name an item or not.

    Tokens int64 [P, beam, levels] and log-probs [P, beam]; what share of them is invalid tells how well the
    model has learnt the catalogue.
    """
    stack: Stack = "thinking" if start else "direct"
    hidden, cache = (start.last, start.cache) if start else begin(model, memory, stack)
    scores = torch.zeros((memory.prompts, 1), device=memory.states.device)
    tokens = torch.zeros((memory.prompts, 1, 0), dtype=torch.long, device=memory.states.device)
    for depth in range(levels):
        log_probs = model.log_probs(hidden)
        grown = (scores.unsqueeze(-1) + log_probs).flatten(1)
        scores, places = grown.topk(min(beam, grown.shape[1]), dim=-1)
        parents, chosen = places // log_probs.shape[-1], places % log_probs.shape[-1] + FIRST_CODE
        history = tokens.gather(1, parents.unsqueeze(-1).expand(-1, -1, depth))
        tokens = torch.cat([history, chosen.unsqueeze(-1)], dim=-1)
        if depth < levels - 1:
            hidden, cache = _advance(model, memory, cache, parents, chosen, stack)
    return tokens, scores


def begin(model: StreamRec, memory: Memory, stack: Stack) -> tuple[Tensor, DecoderCache]:
    """Decode the start token, one row a prompt: its state [P, 1, d] and the cache."""
    start = torch.full((memory.prompts, 1, 1), BOS, device=memory.states.device)
    hidden, cache = model.decode(start, memory, stack=stack)
    return hidden[:, :, 0], cache


def _advance(
    model: StreamRec, memory: Memory, cache: DecoderCache, parents: Tensor, tokens: Tensor, stack: Stack
) -> tuple[Tensor, DecoderCache]:
    """Append `tokens` [P, W] to the sequences `parents` [P, W]: states [P, W, d] and the grown cache."""
    group = cache.layers[0][0].shape[0] // memory.prompts
    offsets = torch.arange(memory.prompts, device=parents.device).unsqueeze(-1) * group
    hidden, cache = model.decode(
        tokens.unsqueeze(-1), memory, cache.select((parents + offsets).flatten()), stack
    )
    return hidden[:, :, 0], cache
