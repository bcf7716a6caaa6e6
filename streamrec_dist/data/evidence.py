"""Evidence for rows: the likeliest next items that the retriever found for each, as decoders take them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from streamrec_dist.data.batches import Corpus
from streamrec_dist.errors import DataError

#: Probability that all items not named have together, at least.
LEFT = 1e-3


def along_leaves(items: np.ndarray, share: np.ndarray, place_of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities float [n, K] of distinct `items` int [n, K] as `StreamRec.guide` takes them.

    `place_of` int64 [n_items] is the leaf of each item. What they leave of 1 is spread evenly over all other items,
    each of which then has mass 1. Leaves int64 [n, K], ascending, and how much more mass than 1 lies on those before
    each and on all, float64 [n, K + 1]: of a small mass among large ones float32 would leave little.
    """
    leaves, share = place_of[items], share.astype(np.float64)
    order = np.argsort(leaves, axis=1, kind="stable")
    left = np.maximum(1.0 - share.sum(axis=1, keepdims=True), LEFT)
    others = max(len(place_of) - items.shape[1], 1)
    amounts = np.take_along_axis(share / (left / others) - 1.0, order, axis=1)
    below = np.zeros((len(items), items.shape[1] + 1))
    np.cumsum(amounts, axis=1, out=below[:, 1:])
    return np.take_along_axis(leaves, order, axis=1), below


@dataclass(frozen=True, eq=False)
class EvidenceTable:
    """The likeliest next items at every event that is a target, by the retriever.

    `items` int32 [events, K], distinct, and `share` float16 [events, K], their probabilities; 0 for events that are
    no targets.
    """

    items: np.ndarray
    share: np.ndarray

    @staticmethod
    def check_parts(parts: Sequence[Mapping[str, np.ndarray]], events: int, n_items: int) -> None:
        """Raise DataError unless `joined` can take `parts`, which come from files."""
        most = None
        for part in parts:
            event, items, share = (part.get(name, np.zeros(0)) for name in ("event", "items", "share"))
            most = items.shape[-1:] if most is None else most
            if (
                event.ndim != 1
                or items.ndim != 2
                or items.shape != event.shape + most
                or share.shape != items.shape
                or (event.dtype.kind, items.dtype.kind, share.dtype.kind) != ("i", "i", "f")
                or not _within(event, events)
                or not _within(items, n_items)
                or not 0 <= share.min(initial=0) <= share.max(initial=0) <= 1
            ):
                raise DataError(
                    f"evidence is not of these {events} events and {n_items} items; run stage retrieve again"
                )

    @classmethod
    def joined(cls, events: int, parts: Sequence[Mapping[str, np.ndarray]]) -> EvidenceTable:
        """Of parts with the `event` int64 [n] of each row, its `items` [n, K] and `share` [n, K]."""
        most = parts[0]["items"].shape[1]
        items = np.tile(np.arange(most, dtype=np.int32), (events, 1))
        share = np.zeros((events, most), dtype=np.float16)
        for part in parts:
            items[part["event"]], share[part["event"]] = part["items"], part["share"]
        return cls(items, share)

    def of(self, corpus: Corpus, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Items and their probabilities [n, K] of rows int64 [n, 2] (user, position)."""
        events = corpus.offsets[rows[:, 0]] + rows[:, 1]
        return self.items[events], self.share[events]


def _within(numbers: np.ndarray, end: int) -> bool:
    return numbers.min(initial=0) >= 0 and numbers.max(initial=0) < max(end, 1)


def no_evidence(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Items and probabilities [rows, 0]."""
    return np.zeros((rows, 0), dtype=np.int32), np.zeros((rows, 0), dtype=np.float16)
