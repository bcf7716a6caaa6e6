"""The Yelp open data set: yelp_academic_dataset_{review,business}.json, in a folder or the .tar as published."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from streamrec_dist.data.events import EVENTS, ITEMS, Problems, batches
from streamrec_dist.data.raw import shown
from streamrec_dist.data.sources.fields import BadField, clean_text, identifier, rating
from streamrec_dist.data.sources.lines import DAMAGE, TextFile
from streamrec_dist.data.sources.locate import find_one, names_in
from streamrec_dist.data.sources.records import json_records, rows
from streamrec_dist.errors import DataError

REVIEWS = "yelp_academic_dataset_review.json"
BUSINESSES = "yelp_academic_dataset_business.json"
ARCHIVE = r".+\.(tar|tgz|tar\.gz)"
EXPECTED = f"{REVIEWS} and {BUSINESSES}, or the .tar that holds them"
EPOCH = datetime(1970, 1, 1)
MILLISECOND = timedelta(milliseconds=1)


class Yelp:
    """Reviews of businesses: `path` is the folder with the two files or with the archive, or the archive."""

    name = "yelp"

    def __init__(self, path: Path) -> None:
        """Finds the files. Raises DataError where one is missing or several could be meant."""
        if path.is_file():
            archive = path
        else:
            names = names_in(path, EXPECTED)
            if any(name in (REVIEWS, BUSINESSES, f"{REVIEWS}.gz", f"{BUSINESSES}.gz") for name in names):
                self._reviews, self._businesses = (
                    TextFile(path / find_one(path, rf"{name}(\.gz)?", name).string)
                    for name in (REVIEWS, BUSINESSES)
                )
                return
            archive = path / find_one(path, ARCHIVE, EXPECTED).string
        _check_tar(archive)
        self._reviews, self._businesses = TextFile(archive, REVIEWS), TextFile(archive, BUSINESSES)

    def events(self, problems: Problems) -> Iterator[pa.RecordBatch]:
        """Batches of schema EVENTS, in the order of the file. The dates have no zone and are taken as UTC."""
        records = json_records(self._reviews, problems)
        return batches(rows(records, self._reviews, problems, _review_row), EVENTS)

    def items(self, problems: Problems) -> Iterator[pa.RecordBatch]:
        """Batches of schema ITEMS, in the order of the file; the place of a business is its description."""
        records = json_records(self._businesses, problems)
        return batches(rows(records, self._businesses, problems, _item_row), ITEMS)


def _check_tar(path: Path) -> None:
    try:
        tarfile.open(path, "r|*").close()
    except (*DAMAGE, OSError) as error:
        raise DataError(
            f"{path}: expected a tar archive with {REVIEWS} and {BUSINESSES}, found a damaged file or none ({error})"
        ) from error


def _review_row(record: dict[str, Any]) -> tuple[Any, ...]:
    return (
        identifier(record.get("user_id"), "user_id"),
        identifier(record.get("business_id"), "business_id"),
        _time(record.get("date")),
        rating(record.get("stars"), "stars"),
    )


def _item_row(record: dict[str, Any]) -> tuple[Any, ...]:
    place = (clean_text(record.get(name), name) for name in ("city", "state"))
    return (
        identifier(record.get("business_id"), "business_id"),
        clean_text(record.get("name"), "name"),
        "",
        clean_text(record.get("categories"), "categories"),
        ", ".join(filter(None, place)),
    )


def _time(value: object) -> int:
    """Milliseconds since 1970 of YYYY-MM-DD HH:MM:SS."""
    if value is None:
        raise BadField("missing_field", "the field date is missing")
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is not None:
        raise BadField("bad_time", f"date: expected YYYY-MM-DD HH:MM:SS, found {shown(value)}")
    return (moment - EPOCH) // MILLISECOND
