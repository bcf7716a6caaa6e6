"""One beam over thoughts and item: whole sequences compete, and those that end in one item are added up."""

from __future__ import annotations

import torch
from torch import Tensor

from streamrec_dist.decode.beam import Growth, free_beams, grow, without
from streamrec_dist.decode.branches import Branches
from streamrec_dist.decode.merge import best_items, sum_runs
from streamrec_dist.items.catalogue import Catalogue


@torch.no_grad()
def joint_beam_search(
    start: Branches, catalogue: Catalogue, steps: int, beam: int, banned: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The best items after `steps` >= 1 thoughts of any code token, over one row a prompt.

    Returns items int64 [P, W], their log-probs float32 [P, W] and the likeliest thoughts before the first item,
    int64 [P, steps]; W = min(beam, items). An item's log-prob is the log-sum-exp over the sequences of the beam
    that end in it: a lower bound of its own, which a beam that holds all thoughts attains. `banned` int64 [P, X]
    (-1 = none) are items not to return; places that no item is left for hold -1 and -inf.
    """
    found = free_beams(start, steps, beam)
    thoughts, scores = found.tokens, found.scores
    branches = found.branches.advance(thoughts[..., -1])
    nodes = torch.zeros_like(thoughts[..., 0])
    for depth in range(catalogue.levels - 1):
        growth = grow(branches, catalogue, depth, nodes[:, None], scores[:, None])
        scores, places = _kept(growth, nodes, beam, catalogue.nodes(depth + 1))
        parents, nodes, tokens = (part[:, 0] for part in growth.take(places[:, None], scores[:, None]))
        thoughts = _rows(thoughts, parents)
        branches = branches.pick(parents).advance(tokens)
    growth = grow(branches, catalogue, catalogue.levels - 1, nodes[:, None], scores[:, None])
    # Beams at one node have the same children in the same order: side by side, their scores add up.
    nodes, order = nodes.sort(dim=-1, stable=True)
    ended, thoughts = _rows(without(growth, banned)[:, 0], order), _rows(thoughts, order)
    summed = sum_runs(nodes, ended, longest=nodes.shape[1])
    ends = _rows(growth.items()[:, 0], order).flatten(1)
    items, best = best_items(ends, summed.flatten(1), min(beam, catalogue.n_items))
    first = ended.flatten(1).masked_fill(ends != items[:, :1], -torch.inf).argmax(dim=-1, keepdim=True)
    return items, best, _rows(thoughts, first // ended.shape[-1])[:, 0]


def _kept(growth: Growth, nodes: Tensor, beam: int, distinct: int) -> tuple[Tensor, Tensor]:
    """The beams to go on with, fewer than 2 * `beam`: log-probs float32 [P, B] and places in the growth int64 [P, B].

    The `beam` likeliest, and the likeliest of each of up to `beam` - 1 more trie nodes. Without these, the thoughts
    that lead to one favourite would crowd other items out, and fewer than `beam` items would be found. `nodes`
    int64 [P, W] are those that grew, `distinct` is how many there are a level further down.
    """
    scores = growth.scores.flatten(1)
    children = growth.scores.shape[-1]
    top, places = scores.topk(min(beam, scores.shape[1]), dim=-1)
    more = min(beam - 1, distinct - 1, scores.shape[1] - top.shape[1])
    if more <= 0:
        return top, places
    # Numbers that are equal where the trie node is: the first beam at the parent, and the place among its children.
    leader = (nodes.unsqueeze(2) == nodes.unsqueeze(1)).byte().argmax(dim=-1, keepdim=True)
    node = (leader * children + torch.arange(children, device=nodes.device)).flatten(1)
    best = torch.full_like(scores, -torch.inf).scatter_reduce(1, node, scores, "amax").gather(1, node)
    reached = torch.zeros_like(scores, dtype=torch.bool).scatter(1, node.gather(1, places), True)
    fresh = scores.masked_fill((scores < best) | reached.gather(1, node), -torch.inf)
    others, elsewhere = fresh.topk(more, dim=-1)
    return torch.cat([top, others], dim=-1), torch.cat([places, elsewhere], dim=-1)


def _rows(values: Tensor, chosen: Tensor) -> Tensor:
    """The rows `chosen` int64 [P, B] of values [P, W, ...]: [P, B, ...]."""
    index = chosen.view(*chosen.shape, *[1] * (values.ndim - 2))
    return values.gather(1, index.expand(-1, -1, *values.shape[2:]))
