"""Ranking metrics over users, with ties broken at random so that item numbers never decide."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from streamrec_dist.errors import RunError

# Bootstrap samples drawn at a time: bounds the memory to this many copies of the users.
CHUNK = 50


def per_user_recall(ranks: np.ndarray, k: int) -> np.ndarray:
    """1.0 where the target is among the first k, else 0.0: float64 [n]. `ranks` count from 1; 0 is a miss."""
    return ((ranks >= 1) & (ranks <= k)).astype(np.float64)


def per_user_ndcg(ranks: np.ndarray, k: int) -> np.ndarray:
    """1 / log2(1 + rank) where the one relevant item is among the first k, else 0: float64 [n]."""
    return per_user_recall(ranks, k) / np.log2(1.0 + np.maximum(ranks, 1))


def ranking_metrics(ranks: np.ndarray, ks: Sequence[int] = (5, 10)) -> dict[str, float]:
    """Means over users: {"recall@k", "ndcg@k"} for each k. `ranks` int [n] count from 1; 0 is a miss."""
    if len(ranks) == 0:
        raise RunError("there are no ranks to average: the split has no users")
    recall = {f"recall@{k}": float(per_user_recall(ranks, k).mean()) for k in ks}
    return recall | {f"ndcg@{k}": float(per_user_ndcg(ranks, k).mean()) for k in ks}


def bootstrap_interval(
    values: np.ndarray, seed: int = 0, samples: int = 1000, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean over users; `values` float [n] holds one number a user."""
    if len(values) == 0:
        raise RunError("there are no values to resample: the split has no users")
    rng = np.random.default_rng(seed)
    means = np.concatenate(
        [
            values[rng.integers(0, len(values), size=(min(CHUNK, samples - start), len(values)))].mean(axis=1)
            for start in range(0, samples, CHUNK)
        ]
    )
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def ranks_of_targets(scores: np.ndarray, targets: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rank of each row's target among all items, from 1: int64 [n], for scores [n, n_items] and targets [n].

    Among equal scores the order is drawn at random. An item scored -inf is no candidate: as a target it is a
    miss, rank 0. Raises RunError on NaN, to which nothing compares as better: it would rank first.
    """
    bad = np.flatnonzero(np.isnan(scores).any(axis=1))
    if len(bad):
        raise RunError(f"the scores of row {bad[0]} hold NaN (and those of {len(bad) - 1} more rows)")
    own = scores[np.arange(len(targets)), targets][:, None]
    better = (scores > own).sum(axis=1)
    ties = (scores == own).sum(axis=1)
    return np.where(np.isneginf(own[:, 0]), 0, 1 + better + rng.integers(0, ties))


def rank_of_target(scores: np.ndarray, target: int, rng: np.random.Generator) -> int:
    """Rank of one target among scores [n_items]; see ranks_of_targets."""
    return int(ranks_of_targets(scores[None], np.array([target]), rng)[0])
