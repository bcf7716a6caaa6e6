"""Semantic ids made elsewhere: our own Parquet files, and the index.json of LC-Rec and LETTER."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from streamrec_dist.data.packed import read_text
from streamrec_dist.data.raw import is_unicode
from streamrec_dist.data.strings import Strings
from streamrec_dist.errors import DataError
from streamrec_dist.items.id_file import ItemIds, load_ids
from streamrec_dist.json_file import Pairs, parse_json

#: A code has up to six digits: no level has more than a million.
_TOKEN = re.compile(r"<([a-z])_(\d{1,6})>")


def read_ids(path: Path | str) -> ItemIds:
    """The ids of a file in either format, told apart by the ending. Raises DataError."""
    return load_ids(path) if Path(path).suffix == ".parquet" else load_index(path)


def load_index(path: Path | str) -> ItemIds:
    """Ids from {"ITEM": ["<a_12>", "<b_7>", ..], ..}, plain or gzipped, by the items' original ids.

    Codes may repeat, as some of LETTER's published ones do (`collisions.separate` tells them apart). Raises
    DataError naming the file and the item for anything else.
    """
    path = Path(path)
    body = _read(path)
    rows = [_codes(path, item, tokens) for item, tokens in body.items()]
    if not rows:
        raise DataError(f"{path}: holds no items")
    for item, row in zip(body, rows, strict=True):
        if len(row) != len(rows[0]):
            raise DataError(f"{path}: item {item} has {len(row)} codes, others have {len(rows[0])}")
    return ItemIds(Strings.of(body), np.array(rows, dtype=np.int32), str(path))


def _read(path: Path) -> dict[str, list[str]]:
    text = read_text(path)
    try:
        body = parse_json(text, _distinct)
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(body, dict):
        raise DataError(f"{path}: expected an object of item numbers and their codes")
    return body


def _distinct(pairs: Pairs) -> dict[str, Any]:
    body: dict[str, Any] = {}
    for key, value in pairs:
        if key in body:
            raise ValueError(f"item {key} is given more than once")
        body[key] = value
    return body


def _codes(path: Path, item: str, tokens: Any) -> list[int]:
    if not is_unicode(item):
        raise DataError(f"{path}: item {item!r}: half of a surrogate pair, which is not valid Unicode")
    codes = []
    for level, token in enumerate(tokens if isinstance(tokens, list) else []):
        found = _TOKEN.fullmatch(token) if isinstance(token, str) else None
        if found is None or found.group(1) != chr(ord("a") + level):
            wanted = f"<{chr(ord('a') + level)}_CODE>"
            raise DataError(
                f"{path}: item {item}: expected {wanted} as code {level + 1}, found {token!r:.60}"
            )
        codes.append(int(found.group(2)))
    if not codes:
        raise DataError(f"{path}: item {item}: expected a list of codes, found {tokens!r:.60}")
    return codes
