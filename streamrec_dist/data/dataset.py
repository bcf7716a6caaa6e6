"""The prepared dataset: arrays of interactions, the users' splits, and the texts of the items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from streamrec_dist.data.content import array_hash, combined_hash, strings_hash


@dataclass(frozen=True, eq=False)
class Dataset:
    """Users, their item sequences, and the items.

    `items` int32 [interactions]: item numbers, all users one after the other, oldest first; `offsets` int64
    [users + 1]. Of the events of a user, those before `train_end` train, those before `valid_end` validate, the
    rest test (int64 [users] both). `times` int64 [interactions] in ms since 1970, None where the source has none.
    `texts` is what is embedded ("" where an item has none). `recipe` says how the set was made, `figures` what
    it looks like, `notes` counts what was found on the way. `problems` counts by kind what was wrong with the
    source, and `examples` are some of the places.
    """

    name: str
    synthetic: bool
    items: np.ndarray
    offsets: np.ndarray
    train_end: np.ndarray
    valid_end: np.ndarray
    times: np.ndarray | None
    user_ids: Sequence[str]
    item_ids: Sequence[str]
    titles: Sequence[str]
    texts: Sequence[str]
    recipe: Mapping[str, Any]
    figures: Mapping[str, Any]
    notes: Mapping[str, int]
    problems: Mapping[str, int] = field(default_factory=dict)
    examples: Sequence[str] = ()

    @property
    def users(self) -> int:
        return len(self.offsets) - 1

    @property
    def n_items(self) -> int:
        return len(self.item_ids)

    @property
    def n_interactions(self) -> int:
        return len(self.items)

    def history(self, user: int) -> np.ndarray:
        """All items of a user, int32 [length], oldest first (a view)."""
        return self.items[self.offsets[user] : self.offsets[user + 1]]

    @cached_property
    def hashes(self) -> dict[str, str]:
        """SHA-256 of the content of each part."""
        hashes = {
            "interactions": array_hash(self.offsets, self.items),
            "items": strings_hash(self.item_ids, self.titles, self.texts),
            "users": combined_hash(
                {"ids": strings_hash(self.user_ids), "ends": array_hash(self.train_end, self.valid_end)}
            ),
        }
        return hashes if self.times is None else {**hashes, "times": array_hash(self.times)}

    @property
    def content_hash(self) -> str:
        """One SHA-256 over ids, sequences, splits, times, titles and texts, whatever the file layout."""
        return combined_hash(self.hashes)

    def describe(self) -> dict[str, Any]:
        """Name, figures, notes and problems, ready for a table or JSON."""
        about = {"name": self.name, "synthetic": self.synthetic, **self.figures, **self.notes}
        return {**about, "problems": dict(self.problems)}
