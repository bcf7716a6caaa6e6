"""Semantic ids made elsewhere: our own Parquet files, and the index.json of LC-Rec and LETTER."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from pathlib import Path

import numpy as np

from streamrec_dist.errors import DataError
from streamrec_dist.items.semantic_ids import load_ids

_TOKEN = re.compile(r"<([a-z])_(\d+)>")


def read_ids(path: Path | str) -> np.ndarray:
    """Codes int32 [n, m] of a file in either format, told apart by the ending. Raises DataError."""
    return load_ids(path) if Path(path).suffix == ".parquet" else load_index(path)


def load_index(path: Path | str) -> np.ndarray:
    """Codes int32 [n, m] from {"0": ["<a_12>", "<b_7>", ..], ..}, plain or gzipped; items are numbered 0 .. n-1.

    They may repeat, as some of LETTER's published ones do (`collisions.separate` tells them apart). Raises
    DataError naming the file and the item for anything else.
    """
    path = Path(path)
    body = _read(path)
    rows = [_codes(path, str(item), body) for item in range(len(body))]
    if not rows:
        raise DataError(f"{path}: holds no items")
    longest = max(map(len, rows))
    short = next((item for item, row in enumerate(rows) if len(row) != longest), None)
    if short is not None:
        raise DataError(f"{path}: item {short} has {len(rows[short])} codes, others have {longest}")
    return np.array(rows, dtype=np.int32)


def _read(path: Path) -> dict[str, list[str]]:
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8")
        body = json.loads(text)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: damaged or truncated gzip ({error})") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(body, dict):
        raise DataError(f"{path}: expected an object of item numbers and their codes")
    return body


def _codes(path: Path, item: str, body: dict[str, list[str]]) -> list[int]:
    if item not in body:
        raise DataError(f"{path}: item {item} is missing; the {len(body)} items must be numbered from 0")
    tokens = body[item]
    codes = []
    for level, token in enumerate(tokens if isinstance(tokens, list) else []):
        found = _TOKEN.fullmatch(token) if isinstance(token, str) else None
        if found is None or found.group(1) != chr(ord("a") + level):
            raise DataError(
                f"{path}: item {item}: expected <{chr(ord('a') + level)}_CODE> as code {level + 1}, found {token!r}"
            )
        codes.append(int(found.group(2)))
    if not codes:
        raise DataError(f"{path}: item {item}: expected a list of codes, found {tokens!r:.60}")
    return codes
