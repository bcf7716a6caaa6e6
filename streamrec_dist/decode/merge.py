"""Sums of probabilities that stand for the same thing: an item reached by several sequences of thoughts."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def sum_runs(keys: Tensor, scores: Tensor, longest: int) -> Tensor:
    """Log-sum-exp over each run of equal keys, at its last place; -inf at its other places.

    keys int64 [P, N], equal ones side by side; scores float32 [P, N, ...]; no run is longer than `longest`.
    A scan by doubling: unlike a scatter its order of summation is fixed, and nothing is read off the device.
    """
    keys = keys.view(*keys.shape, *[1] * (scores.ndim - 2))
    step = 1
    while step < min(longest, keys.shape[1]):
        same = keys[:, step:] == keys[:, :-step]
        earlier = scores[:, :-step].masked_fill(~same, -torch.inf)
        scores = torch.cat([scores[:, :step], torch.logaddexp(scores[:, step:], earlier)], dim=1)
        step *= 2
    goes_on = (keys[:, 1:] == keys[:, :-1]).movedim(1, -1)
    return scores.masked_fill(F.pad(goes_on, (0, 1)).movedim(-1, 1), -torch.inf)


def best_items(items: Tensor, scores: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The `width` best of items int64 [P, N] with log-probs [P, N]; -1 and -inf where none is left."""
    missing = max(width - items.shape[1], 0)
    items, scores = F.pad(items, (0, missing), value=-1), F.pad(scores, (0, missing), value=-torch.inf)
    scores, places = scores.topk(width, dim=-1)
    return items.gather(1, places).masked_fill(scores == -torch.inf, -1), scores


def merge_rows(items: Tensor, scores: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The `width` best items of R rows together, each once: the probabilities of an item's rows are added.

    items int64 [P, R, W] (-1 = none), distinct in a row; scores float32 [P, R, W].
    """
    # What stands first may decide between equal sums, and item numbers must not.
    keys, order = mixed(items.flatten(1)).sort(dim=-1, stable=True)
    items, rows = items.flatten(1).gather(1, order), items.shape[1]
    summed = sum_runs(keys, scores.flatten(1).gather(1, order), longest=rows)
    return best_items(items, summed.masked_fill(items < 0, -torch.inf), width)


def mixed(numbers: Tensor) -> Tensor:
    """Distinct numbers for distinct numbers int64, in an order that has nothing to do with theirs."""
    for factor, shift in ((-0x61C8864680B583EB, 30), (-0x40A7B892E31B1A47, 27)):
        numbers = numbers * factor
        numbers = numbers ^ ((numbers >> shift) & ((1 << (64 - shift)) - 1))
    return numbers
