"""Ranks every row's target among all items, block by block, for any model that scores a block of rows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from streamrec_dist.data.split import Sequenced
from streamrec_dist.metrics import ranks_of_targets

#: Rows scored at a time: a score for every item each.
BLOCK = 256
#: A target behind this many items counts as missed.
RANKED_DEPTH = 100


def rank_rows(
    score: Callable[[np.ndarray], np.ndarray], ds: Sequenced, rows: np.ndarray, masked: bool, seed: int
) -> np.ndarray:
    """Ranks of the targets of `rows` [n, 2]: int64 [n], 0 = not in the top 100 or without a score.

    `score` maps rows [b, 2] to an array [b, n_items], compared in single precision; -inf is no candidate.
    With `masked` the items of the history are no candidates; a target that repeats one of them is then a miss.
    """
    rng = np.random.default_rng(seed)
    ranks = [_rank_block(score(block), ds, block, masked, rng) for block in _blocks(rows)]
    return np.concatenate(ranks) if ranks else np.zeros(0, dtype=np.int64)


def _blocks(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK)]


def _rank_block(
    scores: np.ndarray, ds: Sequenced, rows: np.ndarray, masked: bool, rng: np.random.Generator
) -> np.ndarray:
    # In double precision equal sums differ in their last bits by the order of the items that they are made of.
    scores = scores.astype(np.float32)
    if masked:
        for row, (user, position) in enumerate(rows):
            start = ds.offsets[user]
            scores[row, ds.items[start : start + position]] = -np.inf
    targets = ds.items[ds.offsets[rows[:, 0]] + rows[:, 1]]
    ranks = ranks_of_targets(scores, targets, rng)
    return np.where(ranks <= RANKED_DEPTH, ranks, 0)


def where_counted(scores: np.ndarray) -> np.ndarray:
    """Scores that are counts, or made of them: 0 says that nothing speaks for an item, which is no candidate then."""
    return np.where(scores > 0, scores, -np.inf)
