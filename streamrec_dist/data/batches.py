"""From rows of (user, position) to padded token arrays, and the order in which an epoch visits the rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from streamrec_dist.data.split import Sequenced
from streamrec_dist.errors import ConfigError, DataError
from streamrec_dist.tokens import FIRST_CODE, PAD

WINDOW = 32


@dataclass(frozen=True, eq=False)
class Corpus:
    """The interactions and the items' codes, plain arrays only, so that processes share it without a copy.

    `items` int32 [interactions], `offsets` int64 [users + 1], `train_end` and `valid_end` int64 [users] as in
    Dataset; `codes` int32 [n_items, m] holds the code of each level, 0 .. codes_per_level - 1; of a history the
    last `max_history` items count.
    """

    items: np.ndarray
    offsets: np.ndarray
    train_end: np.ndarray
    valid_end: np.ndarray
    codes: np.ndarray
    codes_per_level: int
    max_history: int

    @classmethod
    def of(cls, ds: Sequenced, codes: np.ndarray, codes_per_level: int, max_history: int) -> Corpus:
        """The corpus of a dataset. Copies: a dataset's memory maps are read-only, and torch takes no such arrays."""
        items, offsets = ds.items.copy(), ds.offsets.copy()
        return cls(
            items, offsets, ds.train_end.copy(), ds.valid_end.copy(), codes, codes_per_level, max_history
        )

    @property
    def levels(self) -> int:
        return self.codes.shape[1]

    @property
    def n_items(self) -> int:
        return self.codes.shape[0]

    def item_tokens(self, ids: np.ndarray) -> np.ndarray:
        """Tokens of items: int64 [..., m], token = 2 + level * codes_per_level + code (0 pad, 1 bos)."""
        return self.codes[ids].astype(np.int64) + FIRST_CODE + np.arange(self.levels) * self.codes_per_level


def targets(corpus: Corpus, rows: np.ndarray) -> np.ndarray:
    """The target item of each row: int64 [n]."""
    return corpus.items[corpus.offsets[rows[:, 0]] + rows[:, 1]].astype(np.int64)


def history_lengths(corpus: Corpus, rows: np.ndarray) -> np.ndarray:
    """How many items the history of each row has: int64 [n], at most max_history."""
    return np.minimum(rows[:, 1], corpus.max_history)


def history_items(
    items: np.ndarray, offsets: np.ndarray, rows: np.ndarray, max_history: int
) -> tuple[np.ndarray, np.ndarray]:
    """The last `max_history` items before each row's position, oldest first, and how many there are.

    int64 [n, L] right-padded with -1, where L is the longest of these rows, and int64 [n].
    """
    lengths = np.minimum(rows[:, 1], max_history)
    place = np.arange(lengths.max(initial=0))
    inside = place < lengths[:, None]
    start = offsets[rows[:, 0]] + rows[:, 1] - lengths
    where = np.where(inside, start[:, None] + place, 0)
    return np.where(inside, items[where].astype(np.int64), -1), lengths


def history_tokens(corpus: Corpus, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The history of each row in tokens: int64 [n, S] right-padded with 0, and the lengths, int64 [n].

    Lengths count tokens; S is the longest of this batch: m times the items, at most max_history of them.
    """
    items, lengths = history_items(corpus.items, corpus.offsets, rows, corpus.max_history)
    tokens = np.where(items[..., None] >= 0, corpus.item_tokens(items), PAD)
    return tokens.reshape(len(rows), items.shape[1] * corpus.levels), lengths * corpus.levels


def length_batches(lengths: np.ndarray, batch: int) -> list[np.ndarray]:
    """Row numbers in batches of rows of similar length, which are padded little: int64 arrays of up to `batch`."""
    order = np.argsort(lengths, kind="stable")
    return [order[start : start + batch] for start in range(0, len(order), batch)]


def in_length_batches(
    lengths: np.ndarray,
    batch: int,
    work: Callable[[np.ndarray], Mapping[str, np.ndarray]],
    wait: Callable[[], None] = lambda: None,
) -> dict[str, np.ndarray]:
    """`work` on the rows of `lengths` int64 [n], up to `batch` of similar length at a time; columns [n, ...].

    It is given row numbers int64 and returns columns with an entry a row; they come back in the order of the rows.
    Columns that are still being computed are read after `wait`.
    """
    # No rows have columns too.
    batches = length_batches(lengths, batch) or [np.zeros(0, dtype=np.int64)]
    parts = [work(numbers) for numbers in batches]
    wait()
    place = np.argsort(np.concatenate(batches))
    return {name: np.concatenate([part[name] for part in parts])[place] for name in parts[0]}


def epoch_order(lengths: np.ndarray, batch: int, seed: int, epoch: int, world_size: int = 1) -> np.ndarray:
    """The batches of an epoch: row numbers int64 [batches, batch], of which rank r takes `[:, r::world_size]`.

    The order is a function of (seed, epoch) alone. Rows of similar length share a batch (sorted inside
    windows of 32 batches, then the batches are shuffled). Rows that fill no whole batch sit this epoch out, unless
    there is no whole batch: then one smaller batch is made of as many rows as divide evenly. Raises ConfigError where
    `batch` does not divide by `world_size`, DataError where there are fewer rows than ranks.
    """
    if batch < 1 or batch % world_size:
        raise ConfigError(f"a batch of {batch} rows cannot be split evenly over {world_size} learner ranks")
    batch = min(batch, len(lengths) // world_size * world_size)
    if batch == 0:
        raise DataError(f"{len(lengths)} training rows are too few for {world_size} learner ranks")
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(lengths))[: len(lengths) // batch * batch]
    windows = [order[start : start + WINDOW * batch] for start in range(0, len(order), WINDOW * batch)]
    by_length = np.concatenate([window[np.argsort(lengths[window], kind="stable")] for window in windows])
    return by_length.reshape(-1, batch)[rng.permutation(len(by_length) // batch)]


def rank_rows(batch: np.ndarray, rank: int, world_size: int) -> np.ndarray:
    """A rank's rows of a batch int64 [n].

    Strides, not blocks: each rank gets the same mix of lengths and so the same amount of work.
    """
    return batch[rank::world_size]


def micro_batches(lengths: np.ndarray, budget: int | None) -> list[np.ndarray]:
    """Places int64 in `lengths` (tokens of each row), in parts of at most `budget` tokens with their padding.

    Rows of similar length share a part; one row alone may exceed the budget. Without one there is one part.
    """
    if budget is None or len(lengths) * lengths.max() <= budget:
        return [np.arange(len(lengths))]
    order = np.argsort(-lengths, kind="stable")
    parts, start = [], 0
    while start < len(order):
        # The first row is the longest of its part.
        end = start + max(1, budget // max(int(lengths[order[start]]), 1))
        parts.append(order[start:end])
        start = end
    return parts
