"""Recommends what was bought most often in the training part: the weakest baseline worth a row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from streamrec_dist.baselines.ranking import rank_rows, where_counted
from streamrec_dist.data.dataset import Dataset
from streamrec_dist.data.split import training_part


@dataclass(frozen=True, eq=False)
class PopularityModel:
    """`counts` float64 [n_items]: how often each item occurs in the training part."""

    counts: np.ndarray

    @classmethod
    def fit(cls, ds: Dataset) -> PopularityModel:
        """Counts the training part (the events before `train_end` of each user), whichever split is ranked."""
        items, _ = training_part(ds)
        return cls(np.bincount(items, minlength=ds.n_items).astype(np.float64))

    def ranks(self, ds: Dataset, rows: np.ndarray, masked: bool, seed: int = 0) -> np.ndarray:
        """Ranks of the targets of `rows` [n, 2]: int64 [n], 0 = not in the top 100 or unseen in training."""
        scores = where_counted(self.counts)
        return rank_rows(lambda block: np.tile(scores, (len(block), 1)), ds, rows, masked, seed)
