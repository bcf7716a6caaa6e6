"""Ranking measures of targets, and their ranks with ties broken at random so that item numbers never decide."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from streamrec_dist.errors import RunError

CUTS = (5, 10, 20)
#: The measures look at this many items, of every model: wide beams and full rankings compare with narrow ones.
MEASURED_DEPTH = max(CUTS)
MEASURES = (*(f"{name}@{k}" for name in ("recall", "ndcg") for k in CUTS), f"mrr@{MEASURED_DEPTH}")


def recall(ranks: np.ndarray, k: int) -> np.ndarray:
    """1.0 where the target is among the first k, else 0.0: float64 [n]. `ranks` count from 1; 0 is a miss."""
    return ((ranks >= 1) & (ranks <= k)).astype(np.float64)


def ndcg(ranks: np.ndarray, k: int) -> np.ndarray:
    """1 / log2(1 + rank) where the one relevant item is among the first k, else 0: float64 [n]."""
    return recall(ranks, k) / np.log2(1.0 + np.maximum(ranks, 1))


def reciprocal_rank(ranks: np.ndarray, k: int) -> np.ndarray:
    """1 / rank where the target is among the first k, else 0: float64 [n]."""
    return recall(ranks, k) / np.maximum(ranks, 1)


def measure(name: str, ranks: np.ndarray) -> np.ndarray:
    """One of MEASURES for each target: float64 [n]."""
    kind, _, k = name.partition("@")
    return {"recall": recall, "ndcg": ndcg, "mrr": reciprocal_rank}[kind](ranks, int(k))


def measured(names: Sequence[str], ranks: np.ndarray) -> np.ndarray:
    """Several measures of each target, side by side: float64 [n, len(names)]."""
    return np.stack([measure(name, ranks) for name in names], axis=1)


def ranking_metrics(ranks: np.ndarray, ks: Sequence[int] = (5, 10)) -> dict[str, float]:
    """Means over targets: {"recall@k", "ndcg@k"} for each k. `ranks` int [n] count from 1; 0 is a miss."""
    if len(ranks) == 0:
        raise RunError("there are no ranks to average: the split has no users")
    names = [f"{name}@{k}" for name in ("recall", "ndcg") for k in ks]
    return dict(zip(names, measured(names, ranks).mean(axis=0).tolist(), strict=True))


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


def beam_ranks(
    items: np.ndarray, scores: np.ndarray, targets: np.ndarray, uniforms: np.ndarray
) -> np.ndarray:
    """Rank of each row's target among the items of its beam, from 1; 0 where it is not there: int64 [n].

    `items` [n, W] (-1 = none) with `scores` [n, W], targets [n]. Among equal scores, which bf16 gives often, the
    place is drawn by `uniforms` [n] in [0, 1), whatever order the beam has them in.
    """
    hits = items == targets[:, None]
    own = np.where(hits, scores, -np.inf).max(axis=1, initial=-np.inf)[:, None]
    better = (scores > own).sum(axis=1)
    ties = ((scores == own) & (items >= 0)).sum(axis=1)
    drawn = (uniforms.astype(np.float64) * ties).astype(np.int64)
    return np.where(hits.any(axis=1), 1 + better + drawn, 0)
