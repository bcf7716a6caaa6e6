"""Interactions and items as two tables, in CSV or Parquet."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from streamrec_dist.data.events import BATCH_ROWS, EVENTS, ITEMS, Problems, batches
from streamrec_dist.data.fast_table import fast_table
from streamrec_dist.data.raw import field_text, shown
from streamrec_dist.data.tables import Table, open_csv, open_parquet
from streamrec_dist.data.timestamps import Clock, is_date, parse_time
from streamrec_dist.errors import ConfigError, DataError

OPTIONAL = ("text", "description", "brand", "categories")
FORMATS = {"csv": open_csv, "parquet": open_parquet}
#: Events of a table carry what is left of their time beyond milliseconds.
FINE_EVENTS = EVENTS.append(pa.field("rest", pa.float64()))

#: User, item, time, rating, and whether the time was a date and not a number.
Event = tuple[str, str, int | float | None, float | None, bool]


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

    def unknown_item(self, row: int, item: str) -> tuple[str, str]:
        """Place and message for an event whose item is not described; the file is read again up to it."""
        place, _ = next(islice(_events(self._events, Problems("skip")), row, None))
        return place, f"item {item!r} is not in {self._items.path}; add it there or remove the interaction"

    def _careful_batches(self, problems: Problems) -> Iterator[pa.RecordBatch]:
        events = (event for _, event in _events(self._events, problems))
        clock: Clock | None = None
        while chunk := list(islice(events, BATCH_ROWS)):
            users, items, times, ratings, dated = zip(*chunk, strict=True)
            columns: list[Any] = [pa.array(users, pa.large_string()), pa.array(items, pa.large_string())]
            rest: Any = None
            if "timestamp" in self._events.columns:
                values = np.array(times)
                clock = clock or self._clock(values, dated[0])
                whole, rest = clock.split(values)
                columns.append(pa.array(whole))
            else:
                columns.append(pa.nulls(len(chunk), pa.int64()))
            columns.append(pa.array(ratings, pa.float32()))
            columns.append(pa.array(np.zeros(len(chunk)) if rest is None else rest))
            yield pa.record_batch(columns, schema=FINE_EVENTS)

    def _clock(self, values: np.ndarray, dated: bool) -> Clock:
        unit = "us" if dated else self._events.units.get("timestamp")
        return Clock(unit) if unit else Clock.guess(float(np.abs(values.astype(np.float64)).max()))


def _events(table: Table, problems: Problems) -> Iterator[tuple[str, Event]]:
    dated: bool | None = None
    for place, row in table.rows(problems):
        try:
            event = _event(place, row)
            dated = event[-1] if dated is None else dated
            if event[-1] != dated:
                raise DataError(
                    f"{place}: timestamp: expected a {'date' if dated else 'number'} as in the rows before, "
                    f"found {shown(row['timestamp'])}"
                )
        except DataError as error:
            problems.caught("broken_event", error)
            continue
        yield place, event


def _event(place: str, row: dict[str, Any]) -> Event:
    timed = "timestamp" in row
    return (
        _identifier(row["user"], f"{place}: user"),
        _identifier(row["item"], f"{place}: item"),
        parse_time(row["timestamp"], f"{place}: timestamp") if timed else None,
        _rating(row.get("rating"), f"{place}: rating"),
        timed and is_date(row["timestamp"]),
    )


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
