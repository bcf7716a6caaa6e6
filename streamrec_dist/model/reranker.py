"""A second look at the retriever's best items: how each stands to the history's items and to one another.

A dot product of a state and a vector cannot say that an item is all but the same as one the user has, or that it
stands alone among the candidates; a small network over a few numbers of each item can:

    score'(j) = score(j) + MLP(x_j)        for the C best items j

x_j: log p(j), the logarithm of its rank, the largest similarity of its text to an item of the history, the similarity
to the last one, the similarity to the mean text of the C items weighted by p, log(1 + mass(j) / UNIT) of the counts,
its bias, and whether it is in the history. The network starts as nothing. It learns from the same likelihood as the
retriever; nothing is learnt through its inputs, so that scores stay what the retriever makes of a history.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

HIDDEN = 32
#: What brings each input to about the same range: log p, log rank, three similarities, the counts, bias, repeat.
SCALES = (0.2, 0.5, 3.0, 3.0, 3.0, 0.33, 1.0, 1.0)


class Reranker(nn.Module):
    """Corrects the scores of the `most` best items."""

    def __init__(self, most: int):
        super().__init__()
        self.most = most
        self.read = nn.Linear(len(SCALES), HIDDEN)
        self.write = nn.Linear(HIDDEN, 1, bias=False)
        nn.init.zeros_(self.write.weight)
        self.scales: Tensor
        self.register_buffer("scales", torch.tensor(SCALES), persistent=False)

    def forward(
        self, logits: Tensor, history: Tensor, texts: Tensor, told: Tensor, bias: Tensor, seen: Tensor
    ) -> Tensor:
        """Logits float32 [B, N] with those of the best items corrected.

        After histories int64 [B, L] of items, padded with -1 behind; texts [N, dim] of length 1; told, seen [B, N]
        and bias [N] as the retriever has them.
        """
        with torch.autocast(logits.device.type, enabled=False):
            best = logits.topk(min(self.most, logits.shape[1]), dim=1).indices
            found = self._features(best, logits, history, texts, told, bias, seen) * self.scales
            correction = self.write(torch.nn.functional.gelu(self.read(found))).squeeze(-1)
            return logits.scatter_add(1, best, correction)

    @torch.no_grad()
    def _features(
        self,
        best: Tensor,
        logits: Tensor,
        history: Tensor,
        texts: Tensor,
        told: Tensor,
        bias: Tensor,
        seen: Tensor,
    ) -> Tensor:
        """x_j of the items `best` int64 [B, C], best first: float32 [B, C, inputs]."""
        log_p = logits.log_softmax(dim=1).gather(1, best)
        rank = torch.arange(1, best.shape[1] + 1, device=best.device).float().log().expand_as(log_p)
        candidates, there = texts[best], (history >= 0).unsqueeze(1)
        similar = candidates @ texts[history.clamp_min(0)].transpose(1, 2)
        last = (there.sum(dim=-1, keepdim=True) - 1).clamp_min(0).expand(-1, best.shape[1], -1)
        to_last = similar.gather(2, last).squeeze(-1)
        to_any = similar.masked_fill(~there, -1.0).amax(dim=-1)
        mean = log_p.softmax(dim=1).unsqueeze(1) @ candidates
        to_others = (candidates @ mean.transpose(1, 2)).squeeze(-1)
        columns = (
            log_p,
            rank,
            to_any,
            to_last,
            to_others,
            told.gather(1, best),
            bias[best],
            seen.gather(1, best),
        )
        return torch.stack(columns, dim=-1)
