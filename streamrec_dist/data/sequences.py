"""Every user's events, oldest first: cleaned of duplicates and cut down to a core."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from streamrec_dist.data.split import blocks


@dataclass(frozen=True, eq=False)
class Sequences:
    """`items` integers [events] and `offsets` int64 [users + 1] as in Dataset; one value an event in the others.

    `times` int64 in ms since 1970, None where unknown. The arrays may be memory maps larger than memory: everything
    here works through blocks of users.
    """

    items: np.ndarray
    offsets: np.ndarray
    times: np.ndarray | None = None

    @property
    def users(self) -> int:
        return len(self.offsets) - 1

    def blocks(self) -> Iterator[tuple[slice, slice]]:
        """Slices of users and of their events."""
        for first, last in blocks(self.offsets):
            yield slice(first, last), slice(int(self.offsets[first]), int(self.offsets[last]))

    def counts(self, keep: np.ndarray) -> np.ndarray:
        """How many of each user's events are in `keep` (bool [events]): int64 [users]."""
        counts = np.zeros(self.users, dtype=np.int64)
        for users, events in self.blocks():
            counts[users] = _segment_sums(keep[events], self.inner_offsets(users))
        return counts

    def owners(self, users: slice) -> np.ndarray:
        """The user of each event of a block, counted from the block's first: int64 [events]."""
        return np.repeat(np.arange(users.stop - users.start), np.diff(self.inner_offsets(users)))

    def inner_offsets(self, users: slice) -> np.ndarray:
        """The offsets of a block's users, counted from the block's first event: int64 [users + 1]."""
        return self.offsets[users.start : users.stop + 1] - self.offsets[users.start]


def core(sequences: Sequences, keep: np.ndarray, user_min: int, item_min: int, n_items: int) -> None:
    """Clears events from `keep` (bool [events]) until every user and item that has any left has its minimum.

    The result does not depend on the order of removal. A minimum of 1 asks for nothing.
    """
    user_ok, item_ok = np.ones(sequences.users, dtype=bool), np.ones(n_items, dtype=bool)
    while True:
        user_counts, item_counts = (
            np.zeros(sequences.users, dtype=np.int64),
            np.zeros(n_items, dtype=np.int64),
        )
        for users, events in sequences.blocks():
            offsets, items = sequences.inner_offsets(users), sequences.items[events]
            alive = keep[events] & item_ok[items] & np.repeat(user_ok[users], np.diff(offsets))
            keep[events] = alive
            user_counts[users] = _segment_sums(alive, offsets)
            item_counts += np.bincount(items[alive], minlength=n_items)
        short = ((user_counts > 0) & (user_counts < user_min)).any()
        if not short and not ((item_counts > 0) & (item_counts < item_min)).any():
            return
        user_ok, item_ok = user_counts >= user_min, item_counts >= item_min


def duplicates(owners: np.ndarray, items: np.ndarray, *times: np.ndarray) -> np.ndarray:
    """Events that repeat an earlier one of the same user, item and time: bool [events].

    The events are in order of (owner, *times). The first of equal ones is not marked.
    """
    same = owners[1:] == owners[:-1]
    for key in times:
        same &= key[1:] == key[:-1]
    repeated = np.zeros(len(items), dtype=bool)
    if not same.any():
        return repeated
    # Only events that share a moment with a neighbour can be equal; mostly these are few.
    tied = np.flatnonzero(np.concatenate([[False], same]) | np.concatenate([same, [False]]))
    moment = np.cumsum(np.concatenate([[True], ~same]))[tied]
    order = np.lexsort((items[tied], moment))
    again = (np.diff(moment[order]) == 0) & (np.diff(items[tied][order].astype(np.int64)) == 0)
    repeated[tied[order[1:][again]]] = True
    return repeated


def _segment_sums(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    sums = np.concatenate([[0], np.cumsum(values)])
    return np.diff(sums[offsets])
