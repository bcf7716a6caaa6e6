"""From a source's stream of events to sequences: ids become integers, events are put in order of user and time.

    source --batches--> columns on disk --scatter by user--> columns on disk --sort each user by time--> Sequences

Strings never wait in memory: a batch's ids are numbered at once, and only the dictionary of distinct ids is kept.
From there on it is integers in memory maps, gone through block by block, so that memory is bounded by the users
and items and not by the events.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from streamrec_dist.data.columns import Column, new_column
from streamrec_dist.data.events import DescribedSource, Problems, Source
from streamrec_dist.data.ids import Numbering
from streamrec_dist.data.sequences import Sequences, duplicates
from streamrec_dist.data.split import BLOCK
from streamrec_dist.errors import DataError

#: Stands for a time that is missing.
NO_TIME = np.iinfo(np.int64).min
TYPES = {"user": np.uint32, "item": np.uint32, "time": np.int64, "rest": np.float64, "rating": np.float32}


@dataclass
class Intake:
    """The events of a source. `rows` keeps the items in the order of the source, uint32 [events]."""

    sequences: Sequences
    users: Numbering
    items: Numbering
    rows: np.ndarray
    notes: dict[str, int] = field(default_factory=dict)


def take_in(
    source: Source, problems: Problems, folder: Path, min_rating: float | None, say: Callable[[str], None]
) -> Intake:
    """The events of `source` rated above `min_rating` (None: all of them), working in `folder`.

    Of these, exact duplicates are dropped; what is dropped is counted. Users and items are numbered as they first
    appear, whatever the rating. Events without a time are a problem unless none has one: then the order of the
    source counts. Raises DataError where ratings are asked for and no event has one.
    """
    say("reading events")
    users, items = Numbering(), Numbering()
    columns = _stage(source, problems, folder, users, items, min_rating is not None)
    timed = _check_times(columns, source, problems, users)
    rows = columns["item"]
    say("sorting")
    notes = {"events_read": len(rows)}
    kept = np.ones(len(rows), dtype=bool)
    if timed:
        _leave_untimed(columns["time"], kept)
    if min_rating is not None:
        # Before duplicates are: of two equal events the one with the lower rating must not stand for both.
        notes["events_low_rating"] = _leave_low_ratings(columns["rating"], kept, min_rating, source)
    sequences, rest = _group(columns, kept, len(users), folder, timed)
    if timed:
        sequences, notes["duplicate_events"] = _sort(sequences, rest)
    return Intake(sequences, users, items, rows, notes)


def _stage(
    source: Source, problems: Problems, folder: Path, users: Numbering, items: Numbering, with_ratings: bool
) -> dict[str, np.ndarray]:
    wanted = {name for name in TYPES if name != "rest" and (name != "rating" or with_ratings)}
    columns = {name: Column(folder / f"{name}.staged", TYPES[name]) for name in wanted}
    for batch in source.events(problems):
        if "rest" in batch.schema.names and "rest" not in columns:
            columns["rest"] = Column(folder / "rest.staged", TYPES["rest"])
        for name, column in columns.items():
            values = batch.column(name)
            if name in ("user", "item"):
                column.append((users if name == "user" else items).numbers(values))
            else:
                missing = NO_TIME if name == "time" else np.nan
                column.append(values.fill_null(missing).to_numpy(zero_copy_only=False))
    return {name: column.finish() for name, column in columns.items()}


def _check_times(
    columns: dict[str, np.ndarray], source: Source, problems: Problems, users: Numbering
) -> bool:
    """Whether the events have times. Some with and some without are a problem of those without."""
    times = columns["time"]
    missing, first = 0, None
    for start in range(0, len(times), BLOCK):
        without = np.flatnonzero(times[start : start + BLOCK] == NO_TIME)
        missing += len(without)
        if first is None and len(without):
            first = start + int(without[0])
    if first is None:
        return len(times) > 0
    if missing == len(times):
        return False
    user = users.strings()[int(columns["user"][first])]
    place = f"{source.name}: event {first + 1}"
    if isinstance(source, DescribedSource):
        place = source.place_of(first)
    problems.bad(
        "event_without_time",
        f"{place} (user {user!r})",
        f"the time is missing, as it is for {missing} of {len(times)} events; give all of them a time, or none",
    )
    problems.counts["event_without_time"] += missing - 1
    return True


def _leave_untimed(times: np.ndarray, kept: np.ndarray) -> None:
    """Clears events without a time from `kept` (bool [events])."""
    for start in range(0, len(kept), BLOCK):
        kept[start : start + BLOCK] &= times[start : start + BLOCK] != NO_TIME


def _leave_low_ratings(ratings: np.ndarray, kept: np.ndarray, above: float, source: Source) -> int:
    """Clears events that are not rated above `above` from `kept` (bool [events]); says how many these are."""
    rated, before = 0, int(kept.sum())
    for start in range(0, len(kept), BLOCK):
        block = ratings[start : start + BLOCK]
        rated += int((~np.isnan(block)).sum())
        kept[start : start + BLOCK] &= block > above
    if len(kept) and not rated:
        raise DataError(f"{source.name}: a rating above {above:g} is asked for, and no event has a rating")
    return before - int(kept.sum())


def _group(
    columns: dict[str, np.ndarray], kept: np.ndarray, n_users: int, folder: Path, timed: bool
) -> tuple[Sequences, np.ndarray | None]:
    """The events of each user that are `kept` (bool [events]) together, in the order of the source.

    It is a counting sort.
    """
    owner = columns["user"]
    counts = np.zeros(n_users, dtype=np.int64)
    for start in range(0, len(owner), BLOCK):
        counts += np.bincount(owner[start : start + BLOCK][kept[start : start + BLOCK]], minlength=n_users)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    names = ["item", *(name for name in ("time", "rest") if timed and name in columns)]
    grouped = {name: new_column(folder / f"{name}.grouped", TYPES[name], int(offsets[-1])) for name in names}
    cursor = offsets[:-1].copy()
    for start in range(0, len(owner), BLOCK):
        stays = kept[start : start + BLOCK]
        block = owner[start : start + BLOCK][stays]
        order = np.argsort(block, kind="stable")
        block = block[order]
        begins = np.flatnonzero(np.concatenate([[True], block[1:] != block[:-1]])) if len(block) else block
        lengths = np.diff(np.append(begins, len(block)))
        place = cursor[block] + np.arange(len(block)) - np.repeat(begins, lengths)
        cursor[block[begins]] += lengths
        for name, column in grouped.items():
            column[place] = columns[name][start : start + BLOCK][stays][order]
    return Sequences(grouped["item"], offsets, grouped.get("time")), grouped.get("rest")


def _sort(sequences: Sequences, rest: np.ndarray | None) -> tuple[Sequences, int]:
    """Sorts each user's events by time in place, stable; drops exact duplicates and counts them."""
    items, times = sequences.items, sequences.times
    assert times is not None
    lengths = np.zeros(sequences.users, dtype=np.int64)
    written = 0
    for users, events in sequences.blocks():
        owners = sequences.owners(users)
        keys = [times[events]] if rest is None else [times[events], rest[events]]
        order = _order(owners, keys)
        ordered = [key[order] for key in keys]
        again = duplicates(owners, items[events][order], *ordered)
        order, kept = order[~again], owners[~again]
        lengths[users] = np.bincount(kept, minlength=users.stop - users.start)
        # What is written never overtakes what is still to be read.
        for column in (items, times):
            column[written : written + len(order)] = column[events][order]
        written += len(order)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Sequences(items[:written], offsets, times[:written]), len(items) - written


def _order(owners: np.ndarray, keys: list[np.ndarray]) -> np.ndarray:
    """The stable order by (owner, *keys) of events that are in order of owner already."""
    key = keys[0]
    if len(keys) == 1 and not ((owners[1:] == owners[:-1]) & (key[1:] < key[:-1])).any():
        return np.arange(len(owners))
    # The last key given is the primary one.
    return np.lexsort((*reversed(keys), owners))
