"""Evidence: what the sequences of other users say of the next item, as mass along the trie of semantic ids.

Codes carry an item's content from one item to another, but not that those who take this very item often take that
one next; sparse as it is, a count says so exactly. A history's evidence is mass on some items (data/evidence.py).
At each level of an item, the logit z of a code becomes v z + w log(mass of the items behind it), with learned weights
v and w for each level: v says how far the decoder is trusted where evidence is at hand. On the trie, v = 0 and w = 1
give every item its own mass, so that the decoder learns what to change about the evidence; where codes compete with
all others, most of which lead nowhere, it is log(1 + UNIT mass). A thought may be any code of what is coming: to it
log(1 + UNIT mass) is added, with the mass of all items that have the code.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from streamrec_dist.model.guide import Guide

#: Where codes with no item behind compete, each counts as a twentieth of an item of which nothing is known.
UNIT = 20.0
#: What is behind a child of the trie has no less mass than this: shares and their sums are rounded, perhaps to 0.
LEAST = 1e-6


@dataclass(frozen=True, eq=False)
class Evidence(Guide):
    """Mass on the leaves of the trie for each of P prompts, and the weights of a decoder for it.

    K leaves have masses of their own, all others have mass 1.
    """

    places: Tensor  # int64 [P, K]  numbers of leaves, ascending
    below: Tensor  # float64 [P, K + 1]  mass beyond 1 of those before each, and of all
    weight: Tensor  # float32 [2, levels + 1], of the decoder's own logits and of evidence; the last ones for thoughts

    def part(self, some: Tensor) -> Evidence:
        """That of the prompts `some` int64 [n]."""
        return replace(self, places=self.places[some], below=self.below[some])

    def add_to_thoughts(self, logits: Tensor) -> Tensor:
        """Logits float32 [P, ..., levels * codes] of a thought, with the mass of all items that have a code."""
        own, told = self.weight[:, -1]
        said = self._by_code * told
        return logits * own + said.view(len(said), *[1] * (logits.ndim - 2), said.shape[-1])

    def trust(self, depth: Tensor) -> Tensor:
        """v of each depth int64 [...], float32 [...]."""
        return self.weight[0][depth]

    def add(self, logits: Tensor, depth: int, nodes: Tensor) -> Tensor:
        """`Guide.add`, with v and the mass behind each child; of a prefix that no item has there is none."""
        catalogue = self.catalogue
        codes, first, valid = catalogue.child_codes(depth, nodes.clamp_min(0))
        valid = valid & (nodes >= 0).unsqueeze(-1)
        own, told = self.weight[:, depth]
        mass = self._mass(depth, first, codes.shape[-1])
        said = (mass.clamp_min(LEAST).log() if self.on_trie else torch.log1p(UNIT * mass)) * told
        # Entries that are no child repeat some child's code, and add nothing to it.
        said = said.masked_fill(~valid, 0.0)
        added = (logits * own).scatter_add(-1, codes + depth * catalogue.codes_per_level, said)
        return self._following(added, depth, nodes)

    @cached_property
    def _by_code(self) -> Tensor:
        """log(1 + mass of the items with each code at its level), float32 [P, levels * codes]."""
        catalogue, more = self.catalogue, self.below.diff(dim=-1)
        codes = catalogue.codes_of_leaves(self.places)
        codes = codes + torch.arange(catalogue.levels, device=codes.device) * catalogue.codes_per_level
        total = catalogue.items_by_code.to(more.dtype).expand(len(more), -1)
        total = total.scatter_add(1, codes.flatten(1), more.repeat_interleave(catalogue.levels, dim=1))
        return torch.log1p(UNIT * total.clamp_min(0.0)).float()

    def _mass(self, depth: int, first: Tensor, children: int) -> Tensor:
        """Mass behind the nodes `first`, `first` + 1, .. of level `depth` + 1, float32 [P, ..., children]."""
        ends = first.unsqueeze(-1) + torch.arange(children + 1, device=first.device)
        leaves = self.catalogue.first_leaves(depth + 1, ends)
        before = torch.searchsorted(self.places, leaves.flatten(1))
        cumulated = leaves + self.below.gather(1, before).view(leaves.shape)
        # A sum of rounded numbers may come out below one of fewer of them.
        return (cumulated[..., 1:] - cumulated[..., :-1]).clamp_min(0.0).float()
