"""Leave-one-out: the last item of a user is the test target, the one before it the validation target."""

from __future__ import annotations

import numpy as np

from streamrec_dist.data.batches import Corpus
from streamrec_dist.data.dataset import Dataset
from streamrec_dist.errors import ConfigError

HELD_OUT = {"valid": 2, "test": 1}


def split_rows(ds: Dataset | Corpus, split: str) -> np.ndarray:
    """The evaluation rows of a split: int64 [users, 2] of (user, position of the target in the sequence).

    `split` is "valid" or "test". The history of a row is everything before its position, so the test history
    includes the validation item. Raises ConfigError for another split.
    """
    if split not in HELD_OUT:
        raise ConfigError(f"split {split!r}: expected one of {', '.join(HELD_OUT)}")
    lengths = np.diff(ds.offsets)
    return np.stack([np.arange(len(lengths), dtype=np.int64), lengths - HELD_OUT[split]], axis=1)


def training_rows(ds: Dataset) -> np.ndarray:
    """Every prefix of each user's training part, which is all but the last two items.

    int64 [rows, 2] of (user, position): targets stand at 1 .. length - 3; a user of three items has none.
    """
    rows_per_user = np.diff(ds.offsets) - 3
    users = np.repeat(np.arange(ds.users, dtype=np.int64), rows_per_user)
    first_row = np.cumsum(rows_per_user) - rows_per_user
    positions = np.arange(len(users), dtype=np.int64) - np.repeat(first_row, rows_per_user) + 1
    return np.stack([users, positions], axis=1)


def training_part(ds: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """The sequences without the last two items of each user: items int32, offsets int64 [users + 1]."""
    lengths = np.diff(ds.offsets)
    keep = np.ones(ds.n_interactions, dtype=bool)
    keep[ds.offsets[1:] - 1] = False
    keep[ds.offsets[1:] - 2] = False
    return ds.items[keep], np.concatenate([[0], np.cumsum(lengths - 2)]).astype(np.int64)
