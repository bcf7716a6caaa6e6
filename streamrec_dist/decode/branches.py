"""Branches: the rows of each prompt that are decoded together, and which decoded tokens each of them sees.

A row is one sequence that may go on: a sample, a beam, a given item. Rows never own a cache: every decoded token is
a column of its prompt, and a row is a mask over columns. To fan out, to drop or to reorder rows is to copy masks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from streamrec_dist.decode.columns import Columns
from streamrec_dist.decode.engine import Engine, Prompts
from streamrec_dist.model.layers import MASKED, relative_buckets
from streamrec_dist.tokens import BOS


@dataclass(frozen=True)
class Branches:
    """R rows a prompt, all of them `position` tokens long."""

    engine: Engine
    prompts: Prompts
    columns: Columns
    places: Tensor  # int64 [C]  position of the token in each column this value knows of
    sees: Tensor  # bool [1 or P, R, C]
    hidden: Tensor  # float32 [P, R, d]  the state that predicts each row's next token
    position: int

    @classmethod
    @torch.no_grad()
    def start(cls, engine: Engine, prompts: Prompts, capacity: int) -> Branches:
        """One row a prompt that has read the start token; room for `capacity` columns more."""
        device = engine.device
        columns = engine.columns(prompts.stack, len(prompts), 1 + capacity)
        empty = cls(
            engine,
            prompts,
            columns,
            torch.zeros(0, dtype=torch.long, device=device),
            torch.zeros((1, 1, 0), dtype=torch.bool, device=device),
            torch.zeros((len(prompts), 1, 0), device=device),
            0,
        )
        return empty.advance(torch.full((len(prompts), 1), BOS, device=device))

    @property
    def rows(self) -> int:
        return self.sees.shape[1]

    def thought_logits(self) -> Tensor:
        """Logits float32 [P, R, levels * codes] of a thought, guided as the prompts are."""
        logits, guide = self.engine.logits(self.hidden), self.prompts.guide
        return logits if guide is None else guide.add_to_thoughts(logits)

    def item_logits(self, depth: int, nodes: Tensor) -> Tensor:
        """Logits float32 [P, R, levels * codes] of an item's code after trie `nodes` int64 [P, R] of `depth`.

        Guided as the prompts are; a node of -1 is a prefix that no item has.
        """
        logits, guide = self.engine.logits(self.hidden), self.prompts.guide
        return logits if guide is None else guide.add(logits, depth, nodes)

    def descend(self, depth: int, nodes: Tensor, tokens: Tensor) -> Tensor:
        """The trie nodes of the rows' items after `tokens` int64 [P, R]; without a guide they stay as they are."""
        guide = self.prompts.guide
        return nodes if guide is None else guide.catalogue.descend(depth, nodes, tokens)

    def fan(self, count: int) -> Branches:
        """Every row `count` times over."""
        return self._with(
            self.sees.repeat_interleave(count, dim=1), self.hidden.repeat_interleave(count, dim=1)
        )

    def pick(self, parents: Tensor) -> Branches:
        """The rows int64 [P, W], in that order."""
        sees = self.sees.expand(len(parents), -1, -1)
        chosen = sees.gather(1, parents.unsqueeze(-1).expand(-1, -1, sees.shape[-1]))
        hidden = self.hidden.gather(1, parents.unsqueeze(-1).expand(-1, -1, self.hidden.shape[-1]))
        return self._with(chosen, hidden)

    @torch.no_grad()
    def advance(self, tokens: Tensor) -> Branches:
        """Append tokens int64 [P, R], one to each row."""
        rows, before = tokens.shape[1], self.columns.used
        device = tokens.device
        # Columns that another continuation of the same rows has added since are not seen.
        unseen = before - self.sees.shape[-1]
        own = torch.eye(rows, dtype=torch.bool, device=device).expand(len(self.sees), -1, -1)
        sees = torch.cat([F.pad(self.sees, (0, unseen)), own], dim=-1)
        here = torch.full((unseen + rows,), self.position, device=device)
        places = torch.cat([self.places, here])
        bias = visible_bias(self.engine, self.prompts, here[:1], places, sees)
        hidden = self.engine.step(tokens.unsqueeze(1), self.prompts, self.columns, bias)[:, 0]
        return Branches(self.engine, self.prompts, self.columns, places, sees, hidden, self.position + 1)

    def _with(self, sees: Tensor, hidden: Tensor) -> Branches:
        return Branches(self.engine, self.prompts, self.columns, self.places, sees, hidden, self.position)


def visible_bias(engine: Engine, prompts: Prompts, queries: Tensor, places: Tensor, sees: Tensor) -> Tensor:
    """Self-attention bias [1 or P, heads, R, C]: of distance where a row sees a column, MASKED elsewhere.

    `queries` int64 [1 or R] and `places` int64 [C] are positions, or [P, R] and [P, C]; `sees` bool [1 or P, R, C].
    """
    relative = engine.stack(prompts.stack).bias[relative_buckets(queries, places, bidirectional=False)]
    return torch.where(sees.unsqueeze(1), relative.movedim(-1, -3), MASKED)
