"""Interactions and items as two tables, in CSV or Parquet."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from streamrec_dist.data.events import BATCH_ROWS, EVENTS, ITEMS, Problems, batches
from streamrec_dist.data.fast_table import fast_table
from streamrec_dist.data.raw import field_text, shown
from streamrec_dist.data.tables import Table, open_csv, open_parquet
from streamrec_dist.data.timestamps import Clock, Tally, parse_time
from streamrec_dist.errors import ConfigError, DataError

OPTIONAL = ("text", "description", "brand", "categories")
FORMATS = {"csv": open_csv, "parquet": open_parquet}
#: Events of a table carry what is left of their time beyond milliseconds.
FINE_EVENTS = EVENTS.append(pa.field("rest", pa.float64()))

#: User, item, time, rating.
Event = tuple[str, str, int | float | None, float | None]


class TableSource:
    """interactions.{fmt} (user, item[, timestamp, rating]) and items.{fmt} (item, title and OPTIONAL).

    Other columns are ignored. Every item of the interactions must be in the item file.
    """

    def __init__(self, path: Path, fmt: Literal["csv", "parquet"]):
        """Raises DataError where a file is missing, damaged or lacks a column."""
        if fmt not in FORMATS:
            raise ConfigError(f"table format {fmt!r}: expected csv or parquet")
        path = Path(path)
        if not path.is_dir():
            raise DataError(f"{path}: expected a folder with interactions.{fmt} and items.{fmt}")
        self.name = path.resolve().name
        self._items = FORMATS[fmt](path / f"items.{fmt}", ("item", "title"), OPTIONAL)
        self._events = FORMATS[fmt](path / f"interactions.{fmt}", ("user", "item"), ("timestamp", "rating"))
        self.place = str(self._events.path)

    def events(self, problems: Problems) -> Iterator[pa.RecordBatch]:
        """Batches of EVENTS, perhaps with `rest`, in the order of the file.

        Raises DataError naming the line or row that is bad, or counts it in `problems`.
        """
        fast = fast_table(self._events)
        return fast.batches() if fast else self._careful_batches(problems)

    def items(self, problems: Problems) -> Iterator[pa.RecordBatch]:
        return batches(_items(self._items, problems), ITEMS)

    def place_of(self, row: int) -> str:
        """The place of an event; the file is read again up to it."""
        place, _ = next(islice(self._read(Problems("skip")), row, None))
        return place

    def unknown_item(self, row: int, item: str) -> tuple[str, str]:
        """Place and message for an event whose item is not described; the file is read again up to it."""
        return (
            self.place_of(row),
            f"item {item!r} is not in {self._items.path}; add it there or remove the interaction",
        )

    def _careful_batches(self, problems: Problems) -> Iterator[pa.RecordBatch]:
        events = (event for _, event in self._read(problems))
        while chunk := list(islice(events, BATCH_ROWS)):
            users, items, times, ratings = zip(*chunk, strict=True)
            missing = np.array([time is None for time in times])
            kind = np.float64 if self._times.real and not self._clock.dated else np.int64
            values = np.array([0 if time is None else time for time in times], dtype=kind)
            whole, rest = self._clock.split(values)
            columns = [
                pa.array(users, pa.large_string()),
                pa.array(items, pa.large_string()),
                pa.array(whole, mask=missing),
                pa.array(ratings, pa.float32()),
                pa.array(np.zeros(len(chunk)) if rest is None else rest),
            ]
            yield pa.record_batch(columns, schema=FINE_EVENTS)

    def _read(self, problems: Problems) -> Iterator[tuple[str, Event]]:
        clock = self._clock
        for place, row in self._events.rows(problems):
            try:
                event = _event(place, row, clock)
            except DataError as error:
                problems.caught("broken_event", error)
                continue
            yield place, event

    @cached_property
    def _clock(self) -> Clock:
        unit = self._events.units.get("timestamp")
        return Clock(unit) if unit else self._times.clock()

    @cached_property
    def _times(self) -> Tally:
        """The column of times as a whole, for which the file is read once; empty where the column has a unit."""
        tally = Tally()
        if "timestamp" not in self._events.columns or "timestamp" in self._events.units:
            return tally
        rows = self._events.rows(Problems("skip"))
        while chunk := list(islice(rows, BATCH_ROWS)):
            numbers = []
            for place, row in chunk:
                try:
                    time, dated = parse_time(row["timestamp"], place)
                except DataError:
                    # It is reported by the reading that follows.
                    continue
                if dated:
                    tally.dates += 1
                elif time is not None:
                    numbers.append(time)
            if numbers:
                tally.add(np.array(numbers))
        return tally


def _event(place: str, row: dict[str, Any], clock: Clock) -> Event:
    user = _identifier(row["user"], f"{place}: user")
    item = _identifier(row["item"], f"{place}: item")
    where = f"{place}: timestamp"
    time, dated = parse_time(row.get("timestamp"), where)
    if time is not None:
        if dated != clock.dated:
            raise DataError(
                f"{where}: expected a {'date' if clock.dated else 'number'} as in most rows, "
                f"found {shown(row['timestamp'])}"
            )
        clock.check(time, where)
    return user, item, time, _rating(row.get("rating"), f"{place}: rating")


def _items(table: Table, problems: Problems) -> Iterator[tuple[str, ...]]:
    seen: set[str] = set()
    for place, row in table.rows(problems):
        try:
            item = _identifier(row["item"], f"{place}: item")
            if item in seen:
                raise DataError(f"{place}: item {item!r} was already described; keep one row an item")
            text = {name: field_text(row.get(name), f"{place}: {name}") for name in ("title", *OPTIONAL)}
        except DataError as error:
            problems.caught("broken_item", error)
            continue
        seen.add(item)
        description = " ".join(part for part in (text["text"], text["description"]) if part)
        yield item, text["title"], text["brand"], text["categories"], description


def _identifier(value: object, where: str) -> str:
    """An id as text. Floats are refused: a column of integers becomes floats only when values are missing."""
    if value is None or value == "":
        raise DataError(f"{where}: the id is missing; remove the row or fill it in")
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise DataError(f"{where}: expected an integer or a text as the id, found {shown(value)}")
    return str(value)


def _rating(value: object, where: str) -> float | None:
    if value is None or value == "":
        return None
    try:
        rating = float(value) if isinstance(value, str | int | float) else float("nan")
    except ValueError:
        rating = float("nan")
    if not np.isfinite(rating):
        raise DataError(f"{where}: expected a number or nothing, found {shown(value)}")
    return rating
