"""What a dataset looks like in numbers: lengths, splits, repeats, ties in time."""

from __future__ import annotations

from typing import Any

import numpy as np

from streamrec_dist.data.dataset import Dataset
from streamrec_dist.data.split import SPLITS, blocks, split_rows
from streamrec_dist.data.strings import Strings

QUANTILES = (5, 25, 50, 75, 95, 99)


def figures(ds: Dataset) -> dict[str, Any]:
    """Counts, lengths, sizes of the splits, and shares that say how far a plain rule would get.

    `repeat_share` counts events whose item the user had before, `target_repeat_share` the same among the
    targets of validation and test; `target_tie_share` counts targets that share their time with the event
    before them, None where there are no times; `title_coverage` and `text_coverage` are shares of the items.
    """
    lengths = np.diff(ds.offsets)
    targets = np.concatenate([split_rows(ds, split) for split in SPLITS])
    at = ds.offsets[targets[:, 0]] + targets[:, 1]
    repeated = repeats(ds.items, ds.offsets, ds.n_items)
    quantiles = np.percentile(lengths, QUANTILES, method="inverted_cdf") if len(lengths) else lengths
    return {
        "users": len(lengths),
        "items": ds.n_items,
        "interactions": len(ds.items),
        "length_min": int(lengths.min()) if len(lengths) else 0,
        "length_median": float(np.median(lengths)) if len(lengths) else 0.0,
        "length_mean": float(lengths.mean()) if len(lengths) else 0.0,
        "length_max": int(lengths.max(initial=0)),
        "length_quantiles": {str(q): int(value) for q, value in zip(QUANTILES, quantiles, strict=False)},
        "train_targets": int(np.maximum(ds.train_end - 1, 0).sum()),
        **{f"{split}_targets": len(split_rows(ds, split)) for split in SPLITS},
        "title_coverage": Strings.of(ds.titles).filled(),
        "text_coverage": Strings.of(ds.texts).filled(),
        "users_without_training": int((ds.train_end < 1).sum()),
        "repeat_share": share(repeated),
        "target_repeat_share": share(repeated[at]),
        "target_tie_share": None if ds.times is None else share(ds.times[at] == ds.times[at - 1]),
    }


def repeats(items: np.ndarray, offsets: np.ndarray, n_items: int) -> np.ndarray:
    """Whether the user had the item before: bool [events]."""
    repeated = np.zeros(len(items), dtype=bool)
    for first, last in blocks(offsets):
        lengths = np.diff(offsets[first : last + 1])
        inside = slice(offsets[first], offsets[last])
        key = np.repeat(np.arange(last - first, dtype=np.int64), lengths) * n_items + items[inside]
        order = np.argsort(key, kind="stable")
        again = np.flatnonzero(key[order][1:] == key[order][:-1]) + 1
        repeated[inside][order[again]] = True
    return repeated


def share(found: np.ndarray) -> float:
    """The share of True in bool [n], 0 for none at all."""
    return float(found.mean()) if len(found) else 0.0
