"""How often items stand near one another in the sequences of users: what counts and item vectors are made of."""

from __future__ import annotations

import numpy as np
from scipy import sparse

MAX_DISTANCE = 5
BACKWARD = 0.3
DECAY = 0.7


def pair_weights(
    items: np.ndarray, offsets: np.ndarray, n_items: int, backward: float = BACKWARD
) -> sparse.csr_array:
    """Sum over the pairs of a sequence at distance d <= 5 of 1/d forward and backward/d backward.

    `items` int [interactions], all sequences one after the other, `offsets` int64 [sequences + 1] -> float64
    [n_items, n_items]; entry (i, j) speaks for j after i.
    """
    owner = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    forward = sparse.csr_array((n_items, n_items), dtype=np.float64)
    for distance in range(1, MAX_DISTANCE + 1):
        (first,) = np.nonzero(owner[:-distance] == owner[distance:])
        value = np.full(len(first), 1.0 / distance)
        pairs = (items[first], items[first + distance])
        forward = forward + sparse.csr_array((value, pairs), shape=(n_items, n_items))
    return sparse.csr_array(forward + backward * forward.T)


def decayed(history: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, item and .7^e of every entry of histories int64 [n, L], oldest first and padded with -1 behind.

    e is the distance of the entry from the end of its history, 0 for the last item.
    """
    row, place = np.nonzero(history >= 0)
    lengths = (history >= 0).sum(axis=1)
    return row, history[row, place], DECAY ** (lengths[row] - 1.0 - place)
