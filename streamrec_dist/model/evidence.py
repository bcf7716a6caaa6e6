"""Evidence: what the sequences of other users say of the next item, as mass along the trie of semantic ids.

Codes carry an item's content from one item to another, but not that those who take this very item often take that
one next; sparse as it is, a count says so exactly. A history's evidence is mass on some items (data/evidence.py).
At each level of an item, the logit z of a code becomes v z + w log(1 + mass of the items behind it), with learned
weights v and w for each level: v says how far the decoder is trusted where evidence is at hand. A thought may be any
code of what is coming: with it counts the mass of all items that have the code.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from streamrec_dist.items.catalogue import Catalogue

#: Mass is measured in this: what no item is behind counts as a twentieth of an item of which nothing is known.
UNIT = 20.0


@dataclass(frozen=True, eq=False)
class Evidence:
    """Mass on the leaves of the trie for each of P prompts, and the weights of a decoder for it.

    K leaves have masses of their own, all others have mass 1.
    """

    catalogue: Catalogue
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

    def add(self, logits: Tensor, depth: int, nodes: Tensor) -> Tensor:
        """Logits float32 [P, ..., levels * codes] of the code after trie `nodes` int64 [P, ...] of `depth`, with the
        evidence. A node of -1 is none: a prefix that no item has."""
        catalogue = self.catalogue
        codes, first, valid = catalogue.child_codes(depth, nodes.clamp_min(0))
        valid = valid & (nodes >= 0).unsqueeze(-1)
        own, told = self.weight[:, depth]
        said = torch.log1p(UNIT * self._mass(depth, first, codes.shape[-1])) * told
        # Entries that are no child repeat some child's code, and add nothing to it.
        said = said.masked_fill(~valid, 0.0)
        return (logits * own).scatter_add(-1, codes + depth * catalogue.codes_per_level, said)

    def along(self, logits: Tensor, tokens: Tensor) -> Tensor:
        """Logits [P, ..., m, levels * codes] that predict item `tokens` int64 [P, ..., m], with the evidence."""
        nodes, added = torch.zeros_like(tokens[..., 0]), []
        for depth in range(self.catalogue.levels):
            added.append(self.add(logits[..., depth, :], depth, nodes))
            nodes = self.catalogue.descend(depth, nodes, tokens[..., depth])
        return torch.stack(added, dim=-2)

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
