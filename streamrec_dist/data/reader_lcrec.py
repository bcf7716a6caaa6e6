"""The LC-Rec layout: {user: [item, ...]} in D.inter.json[.gz], {item: {title, ...}} in D.item.json[.gz]."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from glob import escape
from pathlib import Path
from typing import Any

import pyarrow as pa

from streamrec_dist.data.events import EVENTS, ITEMS, Problems, batches
from streamrec_dist.data.packed import read_text
from streamrec_dist.data.raw import ItemFields, field_text, is_unicode, shown
from streamrec_dist.errors import DataError
from streamrec_dist.json_file import parse_json

ITEM_NUMBER = re.compile("0|[1-9][0-9]*")


class LcrecSource:
    """The folder `path`, which holds D.inter.json[.gz] and D.item.json[.gz] for a single D.

    Items keep their numbers, which must be 0 .. n-1; sequences are taken as chronological and have no times.
    """

    def __init__(self, path: Path):
        """Raises DataError unless `path` has exactly these two files."""
        path = Path(path)
        if not path.is_dir():
            raise DataError(f"{path}: expected a folder with D.inter.json[.gz] and D.item.json[.gz]")
        self._inter, self.name = _find(path, "inter", "*")
        self._item, _ = _find(path, "item", escape(self.name))
        self.place = str(self._inter)

    def events(self, problems: Problems) -> Iterator[pa.RecordBatch]:
        """Batches of EVENTS; a history with a broken entry is left out as a whole, since its order is unsure.

        Raises DataError naming the file and the line or record that is malformed. Damage to the file as a whole
        is an error under `skip` too: a JSON object cannot be read on behind a broken place.
        """
        records = self._records()
        if problems.on_error == "stop":
            # A broken item explains histories that seem broken, so it is named first.
            for key, record in records.items():
                _item_fields(self._item, key, record)
        return batches(self._rows(len(records), problems), EVENTS)

    def items(self, problems: Problems) -> Iterator[pa.RecordBatch]:
        return batches(self._described(problems), ITEMS)

    def _rows(self, n_items: int, problems: Problems) -> Iterator[tuple[str, str, None, None]]:
        for user, history in _read_object(self._inter).items():
            try:
                _check_history(self._inter, user, history, n_items)
            except DataError as error:
                problems.caught("broken_history", error)
                continue
            for item in history:
                yield user, str(item), None, None

    def _records(self) -> dict[str, Any]:
        records = _read_object(self._item)
        _check_numbers(self._item, records)
        return records

    def _described(self, problems: Problems) -> Iterator[tuple[str, ...]]:
        records = self._records()
        for number in range(len(records)):
            key = str(number)
            try:
                fields = _item_fields(self._item, key, records[key])
            except DataError as error:
                # The item keeps its number and loses its text.
                problems.caught("broken_item", error)
                fields = ItemFields()
            yield key, fields.title, fields.brand, fields.categories, fields.description


def _find(folder: Path, kind: str, stem: str) -> tuple[Path, str]:
    """The single file stem.kind.json[.gz] of the folder and its stem."""
    found = sorted(p for ending in ("json", "json.gz") for p in folder.glob(f"{stem}.{kind}.{ending}"))
    if len(found) != 1:
        present = ", ".join(p.name for p in found) or "none"
        raise DataError(
            f"{folder}: expected exactly one file {stem}.{kind}.json or .json.gz, found {present}"
        )
    return found[0], found[0].name.partition(f".{kind}.json")[0]


def _read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; keys that occur twice are refused, since one record would silently win."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        record = dict(pairs)
        if len(record) < len(pairs):
            double = Counter(key for key, _ in pairs).most_common(1)[0][0]
            raise DataError(f"{path}: the key {double!r} occurs twice in one object; keep one record of each")
        return record

    text = read_text(path)
    try:
        content = parse_json(text, unique)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}:{error.lineno}: malformed or truncated JSON at column {error.colno}: {error.msg}"
        ) from error
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected a JSON object at the top, found {shown(content)}")
    return content


def _check_numbers(path: Path, records: dict[str, Any]) -> None:
    for key in records:
        if not ITEM_NUMBER.fullmatch(key):
            raise DataError(f"{path}: record {key!r}: expected an item number (0, 1, 2, ...) as the key")
    missing = next((number for number in range(len(records)) if str(number) not in records), None)
    if missing is not None:
        last = len(records) - 1
        raise DataError(
            f"{path}: {last + 1} items must be numbered 0 .. {last}, but item {missing} is missing"
        )


def _item_fields(path: Path, key: str, record: Any) -> ItemFields:
    if not isinstance(record, dict):
        raise DataError(f"{path}: record {key!r}: expected an object with a title, found {shown(record)}")

    def text(name: str) -> str:
        return field_text(record.get(name), f"{path}: record {key!r}, field {name!r}")

    # brand_categories is one list that begins with the brand where the brand is known. lexical_id is left
    # out: it comes from another model's item index.
    categories = text("categories") or text("brand_categories")
    return ItemFields(text("title"), text("brand"), categories, text("description"))


def _check_history(path: Path, user: str, history: Any, n_items: int) -> None:
    where = f"{path}: user {user!r}"
    if not is_unicode(user):
        raise DataError(f"{where}: half of a surrogate pair, which is not valid Unicode")
    if not isinstance(history, list):
        raise DataError(f"{where}: expected a list of item numbers, found {shown(history)}")
    if not history:
        raise DataError(f"{where}: has 0 items; remove this user")
    for place, item in enumerate(history):
        if type(item) is not int or item < 0:
            raise DataError(
                f"{where}, entry {place}: expected an item number (0, 1, ...), found {shown(item)}"
            )
        if item >= n_items:
            raise DataError(
                f"{where}, entry {place}: item {item} is not in the item file, which has the items 0 .. "
                f"{n_items - 1}; add it there or remove the interaction"
            )
