"""Nearest neighbours of items by the cosine of their text embeddings."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

# Bounds the block of similarities held at once: 2^24 int64 keys are 128 MiB.
_BLOCK_ENTRIES = 2**24
_TIE_SEED = 0


def nearest_neighbours(embeddings: np.ndarray | Tensor, k: int) -> np.ndarray:
    """The `k` nearest other items of every item, nearest first: int32 [n, min(k, n - 1)].

    `embeddings` [n, dim], finite. Cosines are compared to six decimals; equal ones are ordered by one fixed random
    permutation of the items, so that an item's number decides nothing. A zero vector has cosine 0 with everything.
    """
    vectors = torch.nn.functional.normalize(torch.as_tensor(embeddings, dtype=torch.float32), dim=1)
    n = len(vectors)
    k = min(k, n - 1)
    neighbours = np.empty((n, max(k, 0)), dtype=np.int32)
    if k <= 0:
        return neighbours
    tie_break = torch.randperm(n, generator=torch.Generator().manual_seed(_TIE_SEED)).to(vectors.device)
    block = max(1, _BLOCK_ENTRIES // n)
    for start in range(0, n, block):
        cosines = vectors[start : start + block] @ vectors.T
        # One integer key holds cosine and tie-break: topk alone promises no order among equals.
        keys = (cosines * 1e6).round().long() * 2**32 + tie_break
        rows = torch.arange(len(keys), device=keys.device)
        keys[rows, start + rows] = torch.iinfo(torch.int64).min
        neighbours[start : start + block] = keys.topk(k, dim=1).indices.cpu().numpy()
    return neighbours
