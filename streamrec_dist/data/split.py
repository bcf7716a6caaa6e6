"""Which events of a user train, validate and test: leave-one-out, or two moments for everybody.

Every user has two places in the own sequence: events [0, train_end) train, [train_end, valid_end) validate, the
rest test. A target needs a history, so the first event of a user is never one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

import numpy as np

from streamrec_dist.errors import ConfigError, DataError

SPLITS = ("valid", "test")
LEAVE_ONE_OUT = "leave-one-out"
#: Events looked at together, so that memory does not grow with the data.
BLOCK = 1 << 22


class Sequenced(Protocol):
    """What rows are made from: `items` [events], `offsets` [users + 1], `train_end` and `valid_end` [users]."""

    @property
    def items(self) -> np.ndarray: ...
    @property
    def offsets(self) -> np.ndarray: ...
    @property
    def train_end(self) -> np.ndarray: ...
    @property
    def valid_end(self) -> np.ndarray: ...


@dataclass(frozen=True)
class Split:
    """How sequences are cut. `times`: the first moments of validation and of test, in ms since 1970.

    Without `times` it is leave-one-out: the last event of a user tests, the one before it validates.
    """

    times: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.times is not None and self.times[0] > self.times[1]:
            raise ConfigError(f"split {self}: validation must begin before test")

    @classmethod
    def parse(cls, text: str) -> Split:
        """ "leave-one-out" or "T1,T2", each in ms since 1970 or ISO 8601 (UTC). Raises ConfigError."""
        if text == LEAVE_ONE_OUT:
            return cls()
        try:
            first, second = (_milliseconds(part.strip()) for part in text.split(","))
        except ValueError:
            raise ConfigError(
                f"split {text!r}: expected {LEAVE_ONE_OUT}, or the first moments of validation and test as "
                "T1,T2 in milliseconds since 1970 or as dates: 2018-09-04,2020-05-12"
            ) from None
        return cls((first, second))

    def __str__(self) -> str:
        return LEAVE_ONE_OUT if self.times is None else ",".join(str(time) for time in self.times)

    def text(self) -> str:
        """For people: days instead of milliseconds."""
        if self.times is None:
            return LEAVE_ONE_OUT
        return ", ".join(f"{datetime.fromtimestamp(time / 1000, UTC):%Y-%m-%d}" for time in self.times)

    @property
    def min_events(self) -> int:
        """Events that a user must have: leave-one-out takes two and needs a history."""
        return 3 if self.times is None else 1

    def ends(self, offsets: np.ndarray, times: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """`train_end` and `valid_end`, int64 [users], of sequences in order of `times` (ms, int64 [events]).

        Raises DataError when a split by time is wanted and there are no times.
        """
        if self.times is None:
            lengths = np.diff(offsets)
            return lengths - 2, lengths - 1
        if times is None:
            raise DataError(
                f"a split by time ({self}) needs the times of the events, and the source has none"
            )
        first, second = (_count_before(offsets, times, moment) for moment in self.times)
        return first, second


def blocks(offsets: np.ndarray) -> Iterator[tuple[int, int]]:
    """Ranges of whole users, (first, last + 1), of some BLOCK events each."""
    first, users = 0, len(offsets) - 1
    while first < users:
        last = max(int(np.searchsorted(offsets, offsets[first] + BLOCK, side="right")) - 1, first + 1)
        yield first, last
        first = last


def split_rows(ds: Sequenced, split: str) -> np.ndarray:
    """The evaluation rows of a split: int64 [rows, 2] of (user, position of the target in the sequence).

    `split` is "valid" or "test". The history of a row is everything before its position, so a test history
    includes the validation items. Under leave-one-out there is one row a user; under a split by time a user may
    have none or several. Raises ConfigError for another split.
    """
    if split not in SPLITS:
        raise ConfigError(f"split {split!r}: expected one of {', '.join(SPLITS)}")
    if split == "valid":
        return _rows(ds.train_end, ds.valid_end)
    return _rows(ds.valid_end, np.diff(ds.offsets))


def rows_of_some(rows: np.ndarray, users: int, rng: np.random.Generator) -> np.ndarray:
    """All `rows` of at most `users` of the users that have any, chosen by `rng`."""
    present = np.unique(rows[:, 0])
    chosen = present[rng.permutation(len(present))[:users]]
    return rows[np.isin(rows[:, 0], chosen)]


def training_rows(ds: Sequenced) -> np.ndarray:
    """Every target of each user's training part that has a history: int64 [rows, 2] of (user, position).

    Positions are 1 .. train_end - 1; a user with fewer than two training events has none.
    """
    return _rows(np.zeros_like(ds.train_end), ds.train_end)


def last_rows_behind(rows: np.ndarray) -> tuple[np.ndarray, int]:
    """Rows int64 [n, 2] in order of users, with the last row of each user who has several behind all others: the
    rows, and how many of them these are."""
    following = np.append(rows[1:, 0], -1) == rows[:, 0]
    before = np.append(-1, rows[:-1, 0]) == rows[:, 0]
    last = before & ~following
    return np.concatenate([rows[~last], rows[last]]), int(last.sum())


def training_part(ds: Sequenced) -> tuple[np.ndarray, np.ndarray]:
    """The sequences up to `train_end` of each user: items int32 [kept], offsets int64 [users + 1]."""
    lengths = np.diff(ds.offsets)
    place = np.arange(len(ds.items)) - np.repeat(ds.offsets[:-1], lengths)
    keep = place < np.repeat(ds.train_end, lengths)
    return ds.items[keep], np.concatenate([[0], np.cumsum(ds.train_end)]).astype(np.int64)


def _rows(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """(user, position) for every position max(start, 1) .. end - 1 of each user: int64 [rows, 2]."""
    start = np.maximum(start, 1)
    counts = np.maximum(end - start, 0)
    users = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
    first_row = np.cumsum(counts) - counts
    positions = np.arange(len(users), dtype=np.int64) - np.repeat(first_row - start, counts)
    return np.stack([users, positions], axis=1)


def _count_before(offsets: np.ndarray, times: np.ndarray, moment: int) -> np.ndarray:
    counts = np.zeros(len(offsets) - 1, dtype=np.int64)
    for first, last in blocks(offsets):
        base = offsets[first]
        before = np.concatenate([[0], np.cumsum(times[base : offsets[last]] < moment)])
        counts[first:last] = np.diff(before[offsets[first : last + 1] - base])
    return counts


def _milliseconds(text: str) -> int:
    if text.lstrip("-").isdigit():
        return int(text)
    moment = datetime.fromisoformat(text)
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1000)
