"""Counts for rows: which items other users took next, as far as it was known before each row's target.

mass(j) = sum over the history items i of .7^e * w(i, j) / sqrt(pop(i) * pop(j)), as in baselines/counting.py: e is
the distance of i from the end of the history, w(i, j) the pair weights of the training part. A training row's own
future is in those counts too, and would give its target away; so it is counted out: the events of the row's user from
the target on count in neither w nor pop, of j and of i alike: were they left in pop(i), all that i says would be less
than it should, which tells that i comes again. What is left is what a held-out row, whose target nobody has counted,
will have.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import sparse

from streamrec_dist.data.batches import Corpus, history_items
from streamrec_dist.data.cooccurrence import BACKWARD, MAX_DISTANCE, decayed, pair_weights
from streamrec_dist.data.split import training_part

#: Partners kept of an item, which bounds the counts' memory.
PARTNERS = 1024
#: Mass below this is what rounding leaves of a count that was counted out.
TINY = 1e-6


@dataclass(frozen=True, eq=False)
class Cooccurrence:
    """How often items of the training part stand near one another: plain arrays, shared by processes.

    `indptr` int64 [n_items + 1], `indices` int32 and `weights` float32 [pairs] are w(i, j) by rows i;
    `popularity` float32 [n_items], at least 1.
    """

    indptr: np.ndarray
    indices: np.ndarray
    weights: np.ndarray
    popularity: np.ndarray

    @classmethod
    def of(cls, corpus: Corpus) -> Cooccurrence:
        """Of the events before `train_end` of each user."""
        items, offsets = training_part(corpus)
        pairs = strongest(pair_weights(items, offsets, corpus.n_items), PARTNERS)
        popularity = np.maximum(np.bincount(items, minlength=corpus.n_items), 1)
        return cls(
            pairs.indptr.astype(np.int64),
            pairs.indices.astype(np.int32),
            pairs.data.astype(np.float32),
            popularity.astype(np.float32),
        )

    @cached_property
    def matrix(self) -> sparse.csr_array:
        size = len(self.popularity)
        return sparse.csr_array((self.weights, self.indices, self.indptr), shape=(size, size))

    def has(self, item: np.ndarray, partner: np.ndarray) -> np.ndarray:
        """Whether each `partner` int64 [n] is among those kept of its `item` int64 [n]: bool [n]."""
        if np.diff(self.indptr).max(initial=0) < PARTNERS:
            return np.ones(len(item), dtype=bool)
        return _look_up(self._keys, item * len(self.popularity) + partner)[1]

    @cached_property
    def _keys(self) -> np.ndarray:
        size = len(self.popularity)
        return np.sort(np.repeat(np.arange(size), np.diff(self.indptr)) * size + self.indices)


def counts_of_rows(counts: Cooccurrence, corpus: Corpus, rows: np.ndarray, most: int) -> sparse.csr_array:
    """The `most` items with most mass for each of `rows` int64 [n, 2] (user, position): float32 [n, n_items].

    Training rows have their own future counted out; for held-out rows there is none in the counts.
    """
    history, _ = history_items(corpus.items, corpus.offsets, rows, corpus.max_history)
    future = _Future.of(corpus, rows)
    entries = _Entries.of(counts, history, future)
    found = _mass(counts, entries)
    own = _own_future(counts, corpus, rows, future, entries, found)
    return strongest(sparse.csr_array(found + own), most)


def counts_of_histories(counts: Cooccurrence, history: np.ndarray, most: int) -> sparse.csr_array:
    """The same for histories int64 [n, L] of items, oldest first, padded with -1 behind."""
    return strongest(_mass(counts, _Entries.of(counts, history)), most)


@dataclass(frozen=True)
class _Future:
    """The training events of each row's user from the row's target on."""

    row: np.ndarray  # int64 [k], number of the row
    place: np.ndarray  # int64 [k], in the user's sequence
    item: np.ndarray  # int64 [k]

    @classmethod
    def of(cls, corpus: Corpus, rows: np.ndarray) -> _Future:
        counts = np.maximum(corpus.train_end[rows[:, 0]] - rows[:, 1], 0)
        row = np.repeat(np.arange(len(rows)), counts)
        within = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
        place = rows[row, 1] + within
        return cls(row, place, corpus.items[corpus.offsets[rows[row, 0]] + place].astype(np.int64))


@dataclass(frozen=True)
class _Entries:
    """The entries of histories: row int64 [k], item int64 [k], .7^e float64 [k], and pop(i) float32 [k]."""

    shape: tuple[int, int]
    row: np.ndarray
    item: np.ndarray
    decay: np.ndarray
    popularity: np.ndarray

    @classmethod
    def of(cls, counts: Cooccurrence, history: np.ndarray, future: _Future | None = None) -> _Entries:
        """Of histories int64 [n, L]; pop without what comes in a row's own future."""
        row, item, decay = decayed(history)
        n_items = len(counts.popularity)
        popularity = counts.popularity[item]
        if future is not None:
            later, key = np.sort(future.row * n_items + future.item), row * n_items + item
            times = np.searchsorted(later, key, side="right") - np.searchsorted(later, key)
            popularity -= times.astype(np.float32)
        return cls((len(history), n_items), row, item, decay, popularity)


def _mass(counts: Cooccurrence, entries: _Entries) -> sparse.csr_array:
    scale = 1.0 / np.sqrt(counts.popularity)
    weight = entries.decay.astype(np.float32) * (1.0 / np.sqrt(entries.popularity))
    said = sparse.csr_array((weight, (entries.row, entries.item)), shape=entries.shape)
    return sparse.csr_array((said @ counts.matrix).multiply(scale[None]))


def _own_future(
    counts: Cooccurrence,
    corpus: Corpus,
    rows: np.ndarray,
    future: _Future,
    entries: _Entries,
    mass: sparse.csr_array,
) -> sparse.csr_array:
    """What `mass` changes by when the pairs and the items of each row's own future are counted out of it."""
    shape = mass.shape
    row, later, earlier, weight = _future_pairs(corpus, rows, future)
    weights = _HistoryWeights(entries)
    # Pairs that the future has a part in: forward they speak for the later item, backward for the earlier one.
    speaking, spoken_for = np.concatenate([earlier, later]), np.concatenate([later, earlier])
    said = np.concatenate([weights.of(row, earlier) * weight, weights.of(row, later) * (BACKWARD * weight)])
    said *= counts.has(speaking, spoken_for)
    own = sparse.csr_array((said, (np.concatenate([row, row]), spoken_for)), shape=shape)
    times = sparse.coo_array(
        sparse.csr_array((np.ones(len(future.item), np.float32), (future.row, future.item)), shape=shape)
    )
    popularity = counts.popularity[times.col]
    left = np.maximum(popularity - times.data, 1.0)
    rarer = sparse.csr_array((np.sqrt(popularity / left) - 1.0, (times.row, times.col)), shape=shape)
    # new = (old * sqrt(pop) - own) / sqrt(left), entry by entry.
    scale = sparse.csr_array((1.0 / np.sqrt(left), (times.row, times.col)), shape=shape)
    elsewhere = 1.0 / np.sqrt(counts.popularity)
    unchanged = own - own.multiply(scale != 0)
    return sparse.csr_array(mass.multiply(rarer) - own.multiply(scale) - unchanged.multiply(elsewhere[None]))


class _HistoryWeights:
    """sum of .7^e / sqrt(pop(i)) over the entries of a row's history that are item i."""

    def __init__(self, entries: _Entries):
        self.n_items = entries.shape[1]
        self.keys, inverse = np.unique(entries.row * self.n_items + entries.item, return_inverse=True)
        weights = entries.decay / np.sqrt(entries.popularity)
        self.values = np.bincount(inverse, weights=weights, minlength=len(self.keys))

    def of(self, row: np.ndarray, item: np.ndarray) -> np.ndarray:
        """Of rows int64 [k] and items int64 [k], 0 for items that the history does not have: float64 [k]."""
        if not len(self.keys):
            return np.zeros(len(row))
        place, there = _look_up(self.keys, row * self.n_items + item)
        return np.where(there, self.values[place], 0.0)


def _look_up(keys: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places int64 [k] of `wanted` int64 [k] in ascending `keys`, which has some, and whether each is there."""
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return place, keys[place] == wanted


def _future_pairs(
    corpus: Corpus, rows: np.ndarray, future: _Future
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of events at distance d <= 5 of which the later is in the row's future: row, later and earlier item, and
    1/d."""
    distance = np.arange(1, MAX_DISTANCE + 1)
    before = future.place[:, None] - distance
    which, kind = np.nonzero(before >= 0)
    row = future.row[which]
    earlier = corpus.items[corpus.offsets[rows[row, 0]] + before[which, kind]].astype(np.int64)
    return row, future.item[which], earlier, 1.0 / distance[kind]


def strongest(mass: sparse.csr_array, most: int) -> sparse.csr_array:
    """The `most` largest positive entries of each row of a float [n, items], float32."""
    lengths = np.diff(mass.indptr)
    least = np.full(len(lengths), TINY)
    for number in np.flatnonzero(lengths > most):
        found = mass.data[mass.indptr[number] : mass.indptr[number + 1]]
        least[number] = max(np.partition(found, -most)[-most], TINY)
    row = np.repeat(np.arange(len(lengths)), lengths)
    # To sort them all takes several times as long.
    near = np.flatnonzero((mass.data >= least[row]) & (mass.data > TINY))
    # Item numbers say something about items: equals at the edge are chosen between by chance.
    chance = np.random.default_rng(0).permutation(mass.shape[1])[mass.indices[near]]
    order = near[np.lexsort((chance, -mass.data[near], row[near]))]
    counts = np.bincount(row[near], minlength=len(lengths))
    rank = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    chosen = order[rank < most]
    entries = mass.data[chosen].astype(np.float32), (row[chosen], mass.indices[chosen])
    return sparse.csr_array(entries, shape=mass.shape)


def padded(mass: sparse.csr_array, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of at most `most` entries as columns: items int64 [n, most] and mass float32 [n, most], 0 where fewer."""
    lengths = np.diff(mass.indptr)
    row = np.repeat(np.arange(len(lengths)), lengths)
    place = np.arange(len(row)) - np.repeat(mass.indptr[:-1], lengths)
    items = np.zeros((len(lengths), most), dtype=np.int64)
    amounts = np.zeros((len(lengths), most), dtype=np.float32)
    items[row, place], amounts[row, place] = mass.indices, mass.data
    return items, amounts
