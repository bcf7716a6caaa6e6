"""What is to become a dataset: the events that stay, their users and items, before the final numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from streamrec_dist.data.columns import new_column
from streamrec_dist.data.dataset import Dataset
from streamrec_dist.data.events import Problems
from streamrec_dist.data.figures import figures
from streamrec_dist.data.item_list import ItemList
from streamrec_dist.data.recipes import Recipe
from streamrec_dist.data.sequences import Sequences
from streamrec_dist.data.split import BLOCK
from streamrec_dist.data.strings import Strings
from streamrec_dist.errors import DataError


@dataclass(frozen=True, eq=False)
class Draft:
    """`keep` bool [events] says which of `sequences` stay; `users` are the ids of all its users.

    `place` names the interactions in error messages.
    """

    name: str
    place: str
    sequences: Sequences
    keep: np.ndarray
    users: Strings
    listed: ItemList
    notes: Mapping[str, int]
    synthetic: bool = False

    @property
    def had_events(self) -> bool:
        """Whether the source has events, even if a filter left none of them."""
        return bool(self.notes.get("events_read", len(self.keep)))


def finish(draft: Draft, recipe: Recipe, problems: Problems, folder: Path | None = None) -> Dataset:
    """The dataset of a draft: short users are left out, items get their final numbers, sequences are split.

    Big arrays become memory maps of files in `folder`, where one is given. Raises DataError for no items, for no
    users, and under `stop` for users too short to split where the recipe filters nothing.
    """
    if not len(draft.listed) and not (recipe.filters and draft.had_events):
        raise DataError(f"{draft.place}: the catalogue is empty; there must be at least one item")
    chosen = _leave_short_users(draft, recipe, problems)
    items, offsets, times = _numbered(draft, chosen, folder)
    train_end, valid_end = recipe.split.ends(offsets, times)
    never_used = len(draft.listed) - int((np.bincount(items, minlength=len(draft.listed)) > 0).sum())
    dataset = Dataset(
        name=draft.name,
        synthetic=draft.synthetic,
        items=items,
        offsets=offsets,
        train_end=train_end,
        valid_end=valid_end,
        times=times,
        user_ids=draft.users if len(chosen) == len(draft.users) else draft.users.take(chosen),
        item_ids=draft.listed.ids,
        titles=draft.listed.titles,
        texts=draft.listed.texts,
        recipe=recipe.record(),
        figures={},
        notes={**draft.notes, "items_never_used": never_used},
        problems=dict(problems.counts),
        examples=tuple(problems.examples),
    )
    return replace(dataset, figures=figures(dataset))


def _leave_short_users(draft: Draft, recipe: Recipe, problems: Problems) -> np.ndarray:
    """The users that stay, int64 [m]; events of those who are too short to split are cleared from `keep`.

    Raises DataError for the first of them under `stop` where no filter is asked for, and when nobody is left.
    """
    sequences, keep, users = draft.sequences, draft.keep, draft.users
    minimum = recipe.split.min_events
    counts = sequences.counts(keep)
    short = np.flatnonzero(counts < minimum)
    if len(short) and not recipe.filters:
        first = short[0]
        problems.bad(
            "user_too_short",
            draft.place,
            f"user {users[first]!r} has {counts[first]} item(s), and {len(short)} of {len(counts)} users have "
            f"fewer than {minimum}; the split needs an item each for training, validation and test: remove "
            "these users, or leave them out with --on-error skip",
        )
        problems.counts["user_too_short"] += len(short) - 1
        for block, events in sequences.blocks():
            keep[events] &= (counts[block] >= minimum)[sequences.owners(block)]
    chosen = np.flatnonzero(counts >= minimum)
    if not len(chosen):
        left = f"after the filter ({recipe.filter_text()}) " if recipe.filters and draft.had_events else ""
        raise DataError(
            f"{draft.place}: {left}there are no users; expected at least one with {minimum} items"
        )
    return chosen


def _numbered(
    draft: Draft, chosen: np.ndarray, folder: Path | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """The kept events with final item numbers: items int32 [kept], offsets int64 [chosen + 1], times."""
    sequences, keep, listed = draft.sequences, draft.keep, draft.listed
    number = np.full(int(listed.codes.max(initial=-1)) + 1, -1, dtype=np.int32)
    number[listed.codes] = np.arange(len(listed), dtype=np.int32)
    offsets = np.concatenate([[0], np.cumsum(sequences.counts(keep)[chosen])]).astype(np.int64)
    total = int(offsets[-1])
    items = new_column(folder and folder / "items.final", np.int32, total)
    times = (
        None if sequences.times is None else new_column(folder and folder / "times.final", np.int64, total)
    )
    written = 0
    for start in range(0, len(keep), BLOCK):
        kept = keep[start : start + BLOCK]
        block = number[sequences.items[start : start + BLOCK][kept]]
        items[written : written + len(block)] = block
        if times is not None and sequences.times is not None:
            times[written : written + len(block)] = sequences.times[start : start + BLOCK][kept]
        written += len(block)
    return items, offsets, times
