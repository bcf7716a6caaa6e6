"""Amazon reviews of 2023: raw X.jsonl[.gz], or the official X.csv and X.{train,valid,test}.csv [.gz]."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from streamrec_dist.data.events import EVENTS, ITEMS, Problems, batches
from streamrec_dist.data.sources.fields import clean_text, identifier, milliseconds, parsed, prose, rating
from streamrec_dist.data.sources.lines import TextFile
from streamrec_dist.data.sources.locate import find_one, names_in
from streamrec_dist.data.sources.records import csv_records, json_records, rows
from streamrec_dist.errors import DataError

COLUMNS = ("user_id", "parent_asin", "rating", "timestamp")
SPLITS = ("train", "valid", "test")
EXPECTED = "X.jsonl.gz, X.csv.gz, or X.train.csv.gz, X.valid.csv.gz and X.test.csv.gz"


class Amazon2023:
    """The reviews and the metadata of one category, in the folder `path`.

    The history column of the official split files is not read: it repeats the events of the user before.
    """

    def __init__(self, path: Path) -> None:
        """Finds the files. Raises DataError where one is missing or several could be meant."""
        self.name, events = _event_files(path)
        meta = find_one(path, rf"meta_{re.escape(self.name)}\.jsonl(\.gz)?", f"meta_{self.name}.jsonl.gz")
        self._events = [TextFile(path / name) for name in events]
        self._meta = TextFile(path / meta.string)

    def events(self, problems: Problems) -> Iterator[pa.RecordBatch]:
        """Batches of schema EVENTS, in the order of the files: train, valid, test."""
        return batches((row for file in self._events for row in _event_rows(file, problems)), EVENTS)

    def items(self, problems: Problems) -> Iterator[pa.RecordBatch]:
        """Batches of schema ITEMS, in the order of the file."""
        records = json_records(self._meta, problems)
        return batches(rows(records, self._meta, problems, _item_row), ITEMS)


def _event_files(folder: Path) -> tuple[str, list[str]]:
    """The category and the names of its event files."""
    names = names_in(folder, EXPECTED)
    whole = [m for n in names if (m := re.fullmatch(r"(?!meta_)([^.]+)\.(jsonl|csv)(\.gz)?", n))]
    parts = [m for n in names if (m := re.fullmatch(r"([^.]+)\.(train|valid|test)\.csv(\.gz)?", n))]
    if len(whole) == 1 and not parts:
        return whole[0][1], [whole[0].string]
    by_split = {match[2]: match.string for match in parts}
    if not whole and len(parts) == len(by_split) == len(SPLITS) and len({match[1] for match in parts}) == 1:
        return parts[0][1], [by_split[split] for split in SPLITS]
    found = ", ".join(match.string for match in whole + parts) or ", ".join(names) or "no files"
    raise DataError(f"{folder}: expected the events of one category ({EXPECTED}), found {found}")


def _event_rows(file: TextFile, problems: Problems) -> Iterator[tuple[Any, ...]]:
    if ".jsonl" in file.path.suffixes:
        return rows(json_records(file, problems), file, problems, _review_row)
    return rows(csv_records(file, problems, COLUMNS), file, problems, _csv_row)


def _review_row(record: dict[str, Any]) -> tuple[Any, ...]:
    return (
        identifier(record.get("user_id"), "user_id"),
        identifier(record.get("parent_asin"), "parent_asin"),
        milliseconds(record.get("timestamp"), "timestamp"),
        rating(record.get("rating"), "rating"),
    )


def _csv_row(cells: Sequence[str]) -> tuple[Any, ...]:
    user, item, stars, time = cells
    return (
        identifier(user, "user_id"),
        identifier(item, "parent_asin"),
        milliseconds(parsed(time, int), "timestamp"),
        rating(parsed(stars, float), "rating"),
    )


def _item_row(record: dict[str, Any]) -> tuple[Any, ...]:
    paragraphs = (prose(record.get(name), name) for name in ("description", "features"))
    return (
        identifier(record.get("parent_asin"), "parent_asin"),
        clean_text(record.get("title"), "title"),
        clean_text(record.get("store"), "store"),
        clean_text(record.get("categories"), "categories"),
        " ".join(filter(None, paragraphs)),
    )
