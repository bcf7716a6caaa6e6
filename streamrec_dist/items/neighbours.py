"""Nearest neighbours of items by the cosine of their text embeddings: exact, or by a graph in large catalogues."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

# Bounds the block of similarities held at once: 2^24 int64 keys are 128 MiB.
_BLOCK_ENTRIES = 2**24
_TIE_SEED = 0
#: Above this many items the exact search, which grows with their square, takes longer than the rest of the stage.
EXACT_ITEMS = 200_000
RECALL_ITEMS = 1000

Search = Literal["auto", "exact", "hnsw"]


def nearest_neighbours(embeddings: np.ndarray | Tensor, k: int, search: Search = "auto") -> np.ndarray:
    """The `k` nearest other items of every item, nearest first: int32 [n, min(k, n - 1)].

    `embeddings` [n, dim], finite. `auto` is exact up to EXACT_ITEMS items and searches an HNSW graph above, which
    misses some (`neighbour_recall`).
    """
    vectors = torch.nn.functional.normalize(torch.as_tensor(embeddings, dtype=torch.float32), dim=1)
    if search == "exact" or (search == "auto" and len(vectors) <= EXACT_ITEMS):
        return _exact(vectors, k)
    return _by_graph(vectors.cpu().numpy(), k)


def neighbour_recall(embeddings: np.ndarray | Tensor, neighbours: np.ndarray) -> float:
    """Share of the true k nearest items that `neighbours` [n, k] has, over RECALL_ITEMS items drawn at random."""
    vectors = torch.nn.functional.normalize(torch.as_tensor(embeddings, dtype=torch.float32), dim=1)
    chosen = np.random.default_rng(_TIE_SEED).permutation(len(vectors))[:RECALL_ITEMS]
    found = 0
    for item in chosen:
        cosines = vectors @ vectors[item]
        cosines[item] = -torch.inf
        k = neighbours.shape[1]
        # Equally near items are as good as those that were drawn.
        last = cosines.topk(k).values[-1] if k else torch.tensor(0.0)
        distinct = torch.from_numpy(np.unique(neighbours[item]).astype(np.int64))
        found += int((cosines[distinct] >= last - 1e-6).sum())
    return found / max(neighbours.shape[1] * len(chosen), 1)


def _by_graph(vectors: np.ndarray, k: int) -> np.ndarray:
    """Neighbours of unit vectors [n, dim] by an HNSW graph over inner products."""
    # Imported here: only large catalogues need it.
    import faiss

    k = min(k, len(vectors) - 1)
    index = faiss.IndexHNSWFlat(vectors.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = 100
    index.hnsw.efSearch = max(64, 2 * (k + 1))
    index.add(vectors)
    _, found = index.search(vectors, k + 1)
    # The item itself, wherever it stands among its equals, or else the last one goes.
    own = found == np.arange(len(vectors))[:, None]
    own[:, -1] |= ~own.any(axis=1)
    kept = found[~own].reshape(len(vectors), k)
    # A graph may give up early: places it left empty (-1) repeat the nearest item found.
    return np.where(kept >= 0, kept, kept[:, :1]).astype(np.int32)


def _exact(vectors: Tensor, k: int) -> np.ndarray:
    """By blocks of the matrix of cosines, which are compared to six decimals.

    Equal ones are ordered by one fixed random permutation of the items, so that an item's number decides nothing.
    A zero vector has cosine 0 with everything.
    """
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
