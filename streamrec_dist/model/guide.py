"""Guide: what is known of an item's codes beside the decoder's logits, to begin with which of them can follow.

Four codes of 256 make four thousand million sequences, and a catalogue is a few thousand of them. A decoder whose
codes compete with all others learns for the greater part which sequences exist; one whose codes compete on the trie
of all ids learns from the first step which item follows. Then eq. 11 is a softmax over the children of a prefix, the
product over an item's codes is a distribution over the catalogue, and training, sampling and beams share it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from streamrec_dist.items.catalogue import Catalogue


@dataclass(frozen=True, eq=False)
class Guide:
    """What the codes of items are drawn from after P prompts.

    `on_trie`: a code competes with those that go on along some item's id, and else with all code tokens.
    """

    catalogue: Catalogue
    on_trie: bool

    def part(self, some: Tensor) -> Guide:
        """That of the prompts `some` int64 [n]."""
        return self

    def add_to_thoughts(self, logits: Tensor) -> Tensor:
        """Logits float32 [P, ..., levels * codes] of a thought, which may be any code."""
        return logits

    def trust(self, depth: Tensor) -> Tensor:
        """What logits of codes after prefixes of length `depth` int64 [...] are multiplied with, float32 [...]."""
        return torch.ones_like(depth, dtype=torch.float32)

    def add(self, logits: Tensor, depth: int, nodes: Tensor) -> Tensor:
        """Logits float32 [P, ..., levels * codes] of the code after trie `nodes` int64 [P, ...] of `depth`, guided.

        On the trie they are -inf for a code that goes on along no id. A node of -1 is a prefix that no item has:
        after it any code may come.
        """
        return self._following(logits, depth, nodes)

    def along(self, logits: Tensor, tokens: Tensor) -> Tensor:
        """Logits [P, ..., m, levels * codes] that predict item `tokens` int64 [P, ..., m], guided."""
        nodes, added = torch.zeros_like(tokens[..., 0]), []
        for depth in range(self.catalogue.levels):
            added.append(self.add(logits[..., depth, :], depth, nodes))
            nodes = self.catalogue.descend(depth, nodes, tokens[..., depth])
        return torch.stack(added, dim=-2)

    def _following(self, logits: Tensor, depth: int, nodes: Tensor) -> Tensor:
        if not self.on_trie:
            return logits
        width = self.catalogue.codes_per_level
        before = depth * width
        allowed = self.catalogue.following(depth, nodes.clamp_min(0))
        allowed = F.pad(allowed, (before, logits.shape[-1] - before - width)) | (nodes < 0).unsqueeze(-1)
        return logits.masked_fill(~allowed, -torch.inf)
