"""Interactions and items as two tables, in CSV or Parquet."""

from __future__ import annotations

from array import array
from pathlib import Path
from typing import Literal

import numpy as np

from streamrec_dist.data.raw import ItemFields, RawData, field_text, shown, text_notes
from streamrec_dist.data.tables import Table, open_csv, open_parquet
from streamrec_dist.data.timestamps import parse_time
from streamrec_dist.errors import ConfigError, DataError

OPTIONAL = ("text", "description", "brand", "categories")
FORMATS = {"csv": open_csv, "parquet": open_parquet}


def read_table(path: Path, fmt: Literal["csv", "parquet"]) -> RawData:
    """Reads interactions.{fmt} (user, item[, timestamp]) and items.{fmt} (item, title and OPTIONAL).

    Other columns are ignored. The rows of a user are ordered by timestamp where there is one; equal times,
    and files without a timestamp, by their place in the file. Users are numbered by first appearance, items
    by their place in the item file. Raises DataError naming the file and the line or row.
    """
    if fmt not in FORMATS:
        raise ConfigError(f"table format {fmt!r}: expected csv or parquet")
    path = Path(path)
    if not path.is_dir():
        raise DataError(f"{path}: expected a folder with interactions.{fmt} and items.{fmt}")
    items = FORMATS[fmt](path / f"items.{fmt}", ("item", "title"), OPTIONAL)
    number, fields = _read_items(items)
    interactions = FORMATS[fmt](path / f"interactions.{fmt}", ("user", "item"), ("timestamp",))
    users, owner, chosen, times = _read_interactions(interactions, items, number)
    # The last key is the primary one; a stable sort keeps the file's order among equal times.
    order = np.lexsort((times, owner) if times is not None else (owner,))
    return RawData(
        name=path.resolve().name,
        source=str(interactions.path),
        items=chosen[order],
        offsets=np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=len(users)))]).astype(np.int64),
        user_ids=list(users),
        item_ids=list(number),
        titles=[f.title for f in fields],
        texts=[f.text() for f in fields],
        notes=text_notes(fields),
    )


def _read_items(table: Table) -> tuple[dict[str, int], list[ItemFields]]:
    number: dict[str, int] = {}
    fields = []
    for place, row in table.rows():
        item = _identifier(row["item"], f"{place}: item")
        if item in number:
            raise DataError(f"{place}: item {item!r} was already described; keep one row an item")
        number[item] = len(number)
        text = {name: field_text(row.get(name), f"{place}: {name}") for name in ("title", *OPTIONAL)}
        description = " ".join(part for part in (text["text"], text["description"]) if part)
        fields.append(ItemFields(text["title"], text["brand"], text["categories"], description))
    return number, fields


def _read_interactions(
    table: Table, items: Table, number: dict[str, int]
) -> tuple[dict[str, int], np.ndarray, np.ndarray, np.ndarray | None]:
    """User numbers by id, then for each row the user's and the item's number (int32) and the time, if any."""
    users: dict[str, int] = {}
    owner, chosen, times = array("i"), array("i"), []
    timed = "timestamp" in table.columns
    for place, row in table.rows():
        user = _identifier(row["user"], f"{place}: user")
        item = _identifier(row["item"], f"{place}: item")
        if item not in number:
            raise DataError(
                f"{place}: item {item!r} is not in {items.path}; add it there or remove the interaction"
            )
        owner.append(users.setdefault(user, len(users)))
        chosen.append(number[item])
        if timed:
            times.append(parse_time(row["timestamp"], f"{place}: timestamp"))
    return users, _int32(owner), _int32(chosen), np.array(times) if timed else None


def _int32(values: array) -> np.ndarray:
    return np.frombuffer(values, dtype=np.int32) if values else np.zeros(0, dtype=np.int32)


def _identifier(value: object, where: str) -> str:
    """An id as text. Floats are refused: a column of integers becomes floats only when values are missing."""
    if value is None or value == "":
        raise DataError(f"{where}: the id is missing; remove the row or fill it in")
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise DataError(f"{where}: expected an integer or a text as the id, found {shown(value)}")
    return str(value)
