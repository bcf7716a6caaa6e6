"""Whether the numbers of a dataset fit one another, so that nothing made from them reaches outside an array."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from streamrec_dist.data.dataset import Dataset


def unsound(ds: Dataset) -> str | None:
    """What is wrong with the arrays of a dataset that was read from files; None where nothing is."""
    lengths = np.diff(ds.offsets)
    if len(ds.offsets) == 0 or ds.offsets[0] != 0 or (lengths < 0).any() or ds.offsets[-1] != len(ds.items):
        return "the sequences do not follow one another"
    if len(ds.items) and not 0 <= ds.items.min() <= ds.items.max() < ds.n_items:
        return f"an item is not one of 0 .. {ds.n_items - 1}"
    if len(ds.train_end) != ds.users or len(ds.user_ids) != ds.users:
        return f"there are {ds.users} sequences and {len(ds.user_ids)} users"
    ends = (np.zeros_like(lengths), ds.train_end, ds.valid_end, lengths)
    if any((later < earlier).any() for earlier, later in pairwise(ends)):
        return "the ends of a user's training and validation parts lie outside the sequence"
    if ds.times is not None and len(ds.times) != len(ds.items):
        return f"there are {len(ds.items)} interactions and {len(ds.times)} times"
    return None
