"""Lloyd's k-means, which places codewords."""

from __future__ import annotations

import torch
from torch import Tensor

from streamrec_dist.items.sinkhorn import balanced_codes


def kmeans(
    points: Tensor, k: int, generator: torch.Generator, iterations: int = 10, balance: float = 0.0
) -> Tensor:
    """Centroids [k, dim] of `points` [n, dim], by k-means++ seeding and Lloyd iterations.

    A cluster that loses all its points moves to the point farthest from its centroid. With fewer than `k` points,
    some are repeated. With `balance` above 0 the clusters are held to equal sizes (`balanced_codes`). `generator`
    is a CPU generator; equal seeds give equal centroids on one device.
    """
    # Seeded on the CPU: a running sum of floats is not deterministic on a GPU.
    centroids = _plus_plus(points.cpu(), k, generator).to(points.device)
    for _ in range(iterations):
        gaps = squared_distances(points, centroids)
        nearest = balanced_codes(gaps, balance) if balance > 0 else gaps.argmin(dim=1)
        distances = gaps.gather(1, nearest.unsqueeze(1)).squeeze(1)
        counts = torch.bincount(nearest, minlength=k)
        # Sums over a sorted order instead of index_add: scattered float sums are not deterministic on a GPU.
        sums = torch.segment_reduce(points[nearest.argsort(stable=True)], "sum", lengths=counts, axis=0)
        means = sums / counts.clamp_min(1).unsqueeze(1)
        centroids = torch.where(counts.unsqueeze(1) > 0, means, centroids)
        empty = (counts == 0).nonzero().flatten()
        farthest = distances.topk(min(len(empty), len(points))).indices
        centroids[empty[: len(farthest)]] = points[farthest]
    return centroids


def squared_distances(points: Tensor, centres: Tensor) -> Tensor:
    """Squared Euclidean distances [n, k] between `points` [n, dim] and `centres` [k, dim]."""
    return torch.addmm(
        points.pow(2).sum(1, keepdim=True) + centres.pow(2).sum(1), points, centres.T, alpha=-2
    )


def _plus_plus(points: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """Starting centroids [k, dim]: each a point drawn in proportion to its squared distance to those before."""
    n = len(points)
    draws = torch.rand(k, generator=generator)
    chosen = torch.zeros(k, dtype=torch.long)
    gap = torch.ones(n)
    for place in range(k):
        cumulative = gap.double().cumsum(0)
        total = cumulative[-1].item()
        # No gap left: every distinct point is already a centroid, so any repetition will do.
        index = (
            int(torch.searchsorted(cumulative, draws[place].item() * total, right=True))
            if total > 0
            else int(draws[place] * n)
        )
        chosen[place] = min(index, n - 1)
        distance = (points - points[chosen[place]]).pow(2).sum(1)
        gap = distance if place == 0 else torch.minimum(gap, distance)
    return points[chosen]
