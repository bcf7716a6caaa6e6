"""The LC-Rec layout: {user: [item, ...]} in D.inter.json[.gz], {item: {title, ...}} in D.item.json[.gz]."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from glob import escape
from pathlib import Path
from typing import Any

import numpy as np

from streamrec_dist.data.raw import ItemFields, RawData, field_text, shown, text_notes
from streamrec_dist.errors import DataError

ITEM_NUMBER = re.compile("0|[1-9][0-9]*")


def read_lcrec(path: Path) -> RawData:
    """Reads the folder `path`, which holds D.inter.json[.gz] and D.item.json[.gz] for a single D.

    Items keep their numbers, which must be 0 .. n-1; sequences are taken as chronological. Raises DataError
    naming the file and the line or record that is malformed.
    """
    path = Path(path)
    if not path.is_dir():
        raise DataError(f"{path}: expected a folder with D.inter.json[.gz] and D.item.json[.gz]")
    inter, name = _find(path, "inter", "*")
    item, _ = _find(path, "item", escape(name))
    records = _read_object(item)
    _check_numbers(item, records)
    fields = [_item_fields(item, str(number), records[str(number)]) for number in range(len(records))]
    histories = _read_object(inter)
    for user, history in histories.items():
        _check_history(inter, user, history, len(fields))
    lengths = [len(history) for history in histories.values()]
    return RawData(
        name=name,
        source=str(inter),
        items=np.array([i for history in histories.values() for i in history], dtype=np.int32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        user_ids=list(histories),
        item_ids=[str(number) for number in range(len(fields))],
        titles=[f.title for f in fields],
        texts=[f.text() for f in fields],
        notes=text_notes(fields),
    )


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
            keys = [key for key, _ in pairs]
            double = next(key for key in keys if keys.count(key) > 1)
            raise DataError(f"{path}: the key {double!r} occurs twice in one object; keep one record of each")
        return record

    raw = path.read_bytes()
    try:
        raw = gzip.decompress(raw) if path.suffix == ".gz" else raw
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: damaged or truncated gzip ({error}); copy the file again") from error
    try:
        content = json.loads(raw.decode("utf-8"), object_pairs_hook=unique)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8; convert the file to UTF-8") from error
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}:{error.lineno}: malformed or truncated JSON at column {error.colno}: {error.msg}"
        ) from error
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
    if not isinstance(history, list):
        raise DataError(f"{where}: expected a list of item numbers, found {shown(history)}")
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
