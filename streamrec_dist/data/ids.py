"""Ids of users and items as integers, numbered as they first appear."""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa

from streamrec_dist.data.strings import Strings


class Numbering:
    """Integers 0, 1, ... for distinct strings, in the order in which they are first seen.

    The strings live once, in a polars dictionary; millions of them are looked up at a time.
    """

    def __init__(self) -> None:
        self._categories = pl.Categories.random(physical=pl.UInt32)
        self._dtype = pl.Categorical(self._categories)
        # polars forgets a dictionary that no series uses; this empty one keeps it from one batch to the next.
        self._keeper = pl.Series([], dtype=self._dtype)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def numbers(self, ids: pa.Array) -> np.ndarray:
        """The number of each of `ids` (large_string [n]): uint32 [n]. New ones get the next numbers."""
        numbers = pl.Series(ids, dtype=pl.String).cast(self._dtype).to_physical().to_numpy()
        self._count = max(self._count, int(numbers.max(initial=0)) + 1 if len(numbers) else 0)
        return numbers

    def strings(self) -> Strings:
        """The strings by number."""
        return Strings(self._categories.to_series().to_arrow().cast(pa.large_string()))
