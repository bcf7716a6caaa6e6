"""Beam search over the items of a catalogue: exact, batched, without Python per beam or copies of caches."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from streamrec_dist.decode.branches import Branches
from streamrec_dist.items.catalogue import Catalogue
from streamrec_dist.tokens import FIRST_CODE


@dataclass(frozen=True)
class Growth:
    """Every way to go on from W beams of each of R rows: one code further down the trie.

    Only scores are held for all of them; what they lead to is looked up for those that are kept.
    """

    catalogue: Catalogue
    depth: int
    first: Tensor  # int64 [P, R, W]  the first child of each beam's node
    scores: Tensor  # float32 [P, R, W, C], -inf where there is no child

    def items(self) -> Tensor:
        """The items int64 [P, R, W, C] of children that are leaves; some item where there is no child."""
        slots = torch.arange(self.scores.shape[-1], device=self.scores.device)
        leaves = (self.first.unsqueeze(-1) + slots).clamp_max(self.catalogue.n_items - 1)
        return self.catalogue.leaf_items(leaves)

    def take(self, places: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Parents, child nodes and tokens, int64 [P, R, K], of the ways on with `scores` [P, R, K].

        `places` int64 [P, R, K] count a row's W * C ways on; one of score -inf leads to node 0.
        """
        parents = places // self.scores.shape[-1]
        nodes = self.first.gather(-1, parents) + places % self.scores.shape[-1]
        nodes = nodes.masked_fill(scores == -torch.inf, 0)
        codes = self.catalogue.child_code[self.depth][nodes].long()
        return parents, nodes, codes + self.depth * self.catalogue.codes_per_level + FIRST_CODE


def grow(branches: Branches, catalogue: Catalogue, depth: int, nodes: Tensor, scores: Tensor) -> Growth:
    """The children of trie nodes int64 [P, R, W] of `depth`, which `branches` [P, R * W] have reached.

    `scores` float32 [P, R, W] are the log-probs so far. Probabilities are over what the prompts' guide leaves, all
    code tokens without one; the trie decides which may follow.
    """
    codes, first, valid = catalogue.child_codes(depth, nodes)
    # A node's normaliser is taken once; its children's logits are gathered.
    logits = branches.item_logits(depth, nodes.flatten(1)).unflatten(1, nodes.shape[1:])
    normaliser = logits.logsumexp(dim=-1, keepdim=True)
    level = logits.narrow(-1, depth * catalogue.codes_per_level, catalogue.codes_per_level)
    grown = (scores.unsqueeze(-1) + (level.gather(-1, codes) - normaliser)).masked_fill_(~valid, -torch.inf)
    return Growth(catalogue, depth, first, grown)


def without(growth: Growth, banned: Tensor | None) -> Tensor:
    """The scores of a growth into leaves, -inf for the items `banned` int64 [P, X] (-1 = none)."""
    if banned is None:
        return growth.scores
    # Looked up in a sorted list: comparing all pairs takes X times the memory of the beam.
    ordered = F.pad(banned, (0, 1), value=-1).sort(dim=-1).values
    items = growth.items().flatten(1)
    places = torch.searchsorted(ordered, items).clamp_max(ordered.shape[-1] - 1)
    known = (ordered.gather(-1, places) == items).view_as(growth.scores)
    return growth.scores.masked_fill(known, -torch.inf)


@torch.no_grad()
def beam_search(
    start: Branches, catalogue: Catalogue, beam: int, banned: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The `beam` most likely items after each row of `start`: ids int64 [P, R, W], log-probs float32 [P, R, W].

    Best first. Probabilities are over what the prompts' guide leaves, all code tokens without one; the trie decides
    which may follow. `banned` int64 [P, X] (-1 = none) are items not to return. W = min(beam, items); places that no
    item is left for hold -1 and -inf.
    """
    rows, device = start.rows, start.hidden.device
    branches, last = start, catalogue.levels - 1
    nodes = torch.zeros((len(start.prompts), rows, 1), dtype=torch.long, device=device)
    scores = torch.zeros((len(start.prompts), rows, 1), device=device)
    for depth in range(catalogue.levels):
        width = nodes.shape[-1]
        growth = grow(branches, catalogue, depth, nodes, scores)
        grown = growth.scores if depth < last else without(growth, banned)
        kept = min(beam, width * grown.shape[-1])
        scores, places = grown.flatten(2).topk(kept, dim=-1)
        parents, nodes, tokens = growth.take(places, scores)
        if depth < last:
            parents = parents + torch.arange(rows, device=device)[:, None] * width
            branches = branches.pick(parents.flatten(1)).advance(tokens.flatten(1))
    items = catalogue.leaf_items(nodes).masked_fill(scores == -torch.inf, -1)
    return items[..., : catalogue.n_items], scores[..., : catalogue.n_items]


@dataclass(frozen=True)
class FreeBeams:
    """The W most likely sequences of code tokens after one row a prompt, best first."""

    tokens: Tensor  # int64 [P, W, length]
    scores: Tensor  # float32 [P, W], log-probs
    branches: Branches  # W rows a prompt, which have read all tokens but the last


@torch.no_grad()
def free_beams(start: Branches, length: int, beam: int, item: bool = False) -> FreeBeams:
    """Beam search over `length` >= 1 code tokens of any level, W = min(beam, sequences there are).

    Where a guide leaves fewer, the tokens of the last ones mean nothing and their scores are -inf.

    They are thoughts, or the codes of an `item`, which prompts may have a guide to.
    """
    device = start.hidden.device
    branches = start
    scores = torch.zeros((len(start.prompts), 1), device=device)
    tokens = torch.zeros((len(start.prompts), 1, 0), dtype=torch.long, device=device)
    nodes = torch.zeros((len(start.prompts), 1), dtype=torch.long, device=device)
    for depth in range(length):
        if depth > 0:
            branches = branches.advance(tokens[..., -1])
        logits = branches.item_logits(depth, nodes) if item else branches.thought_logits()
        log_probs = torch.log_softmax(logits, dim=-1)
        grown = (scores.unsqueeze(-1) + log_probs).flatten(1)
        scores, places = grown.topk(min(beam, grown.shape[1]), dim=-1)
        parents, chosen = places // log_probs.shape[-1], places % log_probs.shape[-1] + FIRST_CODE
        history = tokens.gather(1, parents.unsqueeze(-1).expand(-1, -1, depth))
        tokens = torch.cat([history, chosen.unsqueeze(-1)], dim=-1)
        branches = branches.pick(parents)
        if item:
            nodes = branches.descend(depth, nodes.gather(1, parents), chosen)
    return FreeBeams(tokens, scores, branches)


def free_beam_search(start: Branches, length: int, beam: int) -> tuple[Tensor, Tensor]:
    """The `beam` most likely sequences of `length` code tokens after `start`, of one row a prompt.

    Tokens int64 [P, W, length] and log-probs [P, W], -inf where there are no more. Where codes compete with all
    others, the share of them that names no item tells how well the model has learnt the catalogue.
    """
    found = free_beams(start, length, beam, item=True)
    return found.tokens, found.scores
