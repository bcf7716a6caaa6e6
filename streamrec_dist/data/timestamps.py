"""Times of interactions: numbers or ISO 8601, and milliseconds since 1970 from either."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime

import numpy as np

from streamrec_dist.data.raw import shown
from streamrec_dist.errors import DataError

#: Units of numbers by their size: present-day times in seconds have 10 digits, each finer unit has 3 more.
UNITS = (("s", 1e11), ("ms", 1e14), ("us", 1e17), ("ns", np.inf))
PER_MS = {"us": 1_000, "ns": 1_000_000}
LARGEST = {"s": 9e15, "ms": 9.2e18, "us": 2.0**63, "ns": 2.0**63}


@dataclass(frozen=True)
class Clock:
    """How the numbers of one column of times are meant: `unit` is s, ms, us or ns since 1970."""

    unit: str

    @classmethod
    def guess(cls, largest: float) -> Clock:
        """The unit in which the largest absolute number lies in our days, or near them."""
        return cls(next(unit for unit, limit in UNITS if largest < limit))

    def split(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Whole milliseconds, int64 [n], and what is left of each beyond them, float64 [n] or None for nothing.

        The order of `values` (int64 or float64 [n]) is that of the two together. Raises DataError for a value
        that this unit puts outside of 64 bits.
        """
        if len(values) and np.abs(values.astype(np.float64)).max() >= LARGEST[self.unit]:
            raise DataError(
                f"a time of {values[np.abs(values.astype(np.float64)).argmax()]} does not fit to the others, which "
                f"count {self.unit} since 1970; give all times the same unit"
            )
        if values.dtype.kind == "f":
            scaled = values * 1000.0 if self.unit == "s" else values / PER_MS.get(self.unit, 1)
            whole = np.floor(scaled)
            return whole.astype(np.int64), scaled - whole
        if self.unit in PER_MS:
            whole, rest = np.divmod(values, PER_MS[self.unit])
            return whole, rest.astype(np.float64)
        return values * (1000 if self.unit == "s" else 1), None


def parse_time(value: object, where: str) -> int | float:
    """A number that orders times: the number itself, or microseconds since 1970 of an ISO 8601 date or time.

    Times without a zone count as UTC. Raises DataError naming `where` for missing, non-finite or unreadable
    times.
    """
    parsed = _from_text(value.strip()) if isinstance(value, str) else value
    if isinstance(parsed, date) and not isinstance(parsed, datetime):
        parsed = datetime(parsed.year, parsed.month, parsed.day)
    if isinstance(parsed, datetime):
        zoned = parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
        elapsed = zoned - datetime(1970, 1, 1, tzinfo=UTC)
        # In integers: float seconds would merge times that differ by a fraction of a microsecond.
        parsed = (elapsed.days * 86_400 + elapsed.seconds) * 1_000_000 + elapsed.microseconds
    if isinstance(parsed, int | float) and not isinstance(parsed, bool) and abs(parsed) < 2**63:
        return parsed
    raise DataError(f"{where}: expected a finite number or an ISO 8601 time, found {shown(value)}")


def is_date(value: object) -> bool:
    """Whether `parse_time` reads `value` as a date or time, and not as a number."""
    return isinstance(_from_text(value.strip()) if isinstance(value, str) else value, date)


def _from_text(text: str) -> int | float | datetime | None:
    for read in (int, float, datetime.fromisoformat):
        try:
            return read(text)
        except ValueError:
            continue
    return None
