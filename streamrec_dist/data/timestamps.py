"""Times of interactions: numbers or ISO 8601, used only to order the rows of a user."""

from __future__ import annotations

from datetime import UTC, date, datetime

from streamrec_dist.data.raw import shown
from streamrec_dist.errors import DataError


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


def _from_text(text: str) -> int | float | datetime | None:
    for read in (int, float, datetime.fromisoformat):
        try:
            return read(text)
        except ValueError:
            continue
    return None
