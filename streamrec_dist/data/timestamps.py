"""Times of interactions: numbers or ISO 8601, and milliseconds since 1970 from either."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import cached_property

import numpy as np

from streamrec_dist.data.raw import shown
from streamrec_dist.errors import DataError

#: How many of each unit a second has.
PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
#: Seconds since 1970 of the years between which times of our days lie, and of the year that no time reaches.
#: In these two spans no number is a time of our days in two units.
RECENT, LATEST = 631_152_000, 4_102_444_800
#: Which share of numbers that are no times of our days has to lie before LATEST.
MOST = 0.9


@dataclass(frozen=True)
class Clock:
    """How one column of times is meant: `unit` is s, ms, us or ns since 1970.

    `dated`: the column holds dates, which are counted in `unit` here. `recent`: it holds numbers, most of which are
    times of our days; else they may be there for their order only.
    """

    unit: str
    dated: bool = False
    recent: bool = False

    @cached_property
    def end(self) -> int:
        """The first number that is too large: the year 2100."""
        return LATEST * PER_SECOND[self.unit]

    @cached_property
    def foreign(self) -> list[tuple[int, int]]:
        """Ranges of numbers below `end`, each [from, to), that are times of our days in another unit."""
        if not self.recent:
            return []
        return [span(unit) for unit in PER_SECOND if PER_SECOND[unit] < PER_SECOND[self.unit]]

    def check(self, value: float, where: str) -> None:
        """Raises DataError, naming `where`, for a number that is no time between 1970 and 2100 in this unit."""
        if 0 <= value < self.end and not any(low <= value < high for low, high in self.foreign):
            return
        if self.dated or not self.recent:
            raise DataError(
                f"{where}: expected a time from 1970 to 2099, found {value} in {self.unit} since 1970"
            )
        raise DataError(
            f"{where}: {value} does not fit to the other times, most of which count {self.unit} since 1970; give all "
            "times the same unit"
        )

    def split(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Whole milliseconds, int64 [n], and what is left of each beyond them, float64 [n] or None for nothing.

        `values` int64 or float64 [n] have passed `check`. Their order is that of the two together.
        """
        if values.dtype.kind == "f":
            scaled = values * 1000.0 if self.unit == "s" else values / (PER_SECOND[self.unit] // 1000)
            whole = np.floor(scaled)
            return whole.astype(np.int64), scaled - whole
        if self.unit in ("us", "ns"):
            whole, rest = np.divmod(values, PER_SECOND[self.unit] // 1000)
            return whole, rest.astype(np.float64)
        return values * (1000 if self.unit == "s" else 1), None


@dataclass
class Tally:
    """What is known of a whole column of times: how many are dates, how many are numbers, and how large these are.

    `real`: some number is no integer. `recent` and `within` count by unit the numbers that are times of our days in
    it, and those between 1970 and 2100. It is by counts that the unit is chosen, so that a few broken records
    cannot change it.
    """

    dates: int = 0
    numbers: int = 0
    real: bool = False
    recent: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PER_SECOND, 0))
    within: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PER_SECOND, 0))

    def add(self, values: np.ndarray) -> None:
        """Counts numbers, int64 or float64 [n]."""
        self.numbers += len(values)
        self.real |= values.dtype.kind == "f"
        for unit in PER_SECOND:
            low, high = span(unit)
            below = values < high
            self.within[unit] += int((below & (values >= 0)).sum())
            self.recent[unit] += int((below & (values >= low)).sum())

    def all_fit(self, clock: Clock) -> bool:
        """Whether all of the numbers pass `clock.check`."""
        foreign = (
            sum(count for unit, count in self.recent.items() if unit != clock.unit) if clock.recent else 0
        )
        return self.within[clock.unit] == self.numbers and not foreign

    @property
    def dated(self) -> bool:
        """Whether the column is one of dates."""
        return self.dates > self.numbers

    def clock(self) -> Clock:
        """The unit of the column, which is microseconds for dates.

        Where at least half of the numbers are times of our days in some unit, it is the unit of most of these.
        Else, for numbers that may only be there for their order, it is the coarsest unit in which nine in ten lie
        between 1970 and 2100, or nanoseconds.
        """
        if self.dated:
            return Clock("us", dated=True)
        if 2 * sum(self.recent.values()) >= self.numbers > 0:
            return Clock(max(PER_SECOND, key=lambda unit: self.recent[unit]), recent=True)
        return Clock(next((unit for unit in PER_SECOND if self.within[unit] >= MOST * self.numbers), "ns"))


def span(unit: str) -> tuple[int, int]:
    """The numbers, [from, to), that are times of our days in a unit."""
    return RECENT * PER_SECOND[unit], LATEST * PER_SECOND[unit]


def parse_time(value: object, where: str) -> tuple[int | float | None, bool]:
    """A number that orders times, and whether it was a date.

    The number itself, or microseconds since 1970 of an ISO 8601 date or time; None where there is no time. Times
    without a zone count as UTC. Raises DataError naming `where` for non-finite or unreadable times.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return None, False
    parsed = _from_text(value.strip()) if isinstance(value, str) else value
    if isinstance(parsed, date) and not isinstance(parsed, datetime):
        parsed = datetime(parsed.year, parsed.month, parsed.day)
    if isinstance(parsed, datetime):
        zoned = parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
        elapsed = zoned - datetime(1970, 1, 1, tzinfo=UTC)
        # In integers: float seconds would merge times that differ by a fraction of a microsecond.
        return (elapsed.days * 86_400 + elapsed.seconds) * 1_000_000 + elapsed.microseconds, True
    if isinstance(parsed, int | float) and not isinstance(parsed, bool) and abs(parsed) < 2**63:
        return parsed, False
    raise DataError(f"{where}: expected a finite number or an ISO 8601 time, found {shown(value)}")


def _from_text(text: str) -> int | float | datetime | None:
    for read in (int, float, datetime.fromisoformat):
        try:
            return read(text)
        except ValueError:
            continue
    return None
