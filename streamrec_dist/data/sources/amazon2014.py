"""Amazon reviews of 2014: reviews_X[_5].json[.gz] and meta_X.json[.gz], JSON or Python dicts by line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from streamrec_dist.data.events import EVENTS, ITEMS, Problems, batches
from streamrec_dist.data.sources.fields import BadField, clean_text, identifier, milliseconds, prose, rating
from streamrec_dist.data.sources.lines import TextFile
from streamrec_dist.data.sources.locate import find_one
from streamrec_dist.data.sources.records import json_records, rows


class Amazon2014:
    """The reviews and the metadata of one category, in the folder `path`."""

    def __init__(self, path: Path) -> None:
        """Finds the files. Raises DataError where one is missing or several could be meant."""
        found = find_one(path, r"reviews_(.+?)(_5)?\.json(\.gz)?", "reviews_X.json.gz or reviews_X_5.json.gz")
        self.name = found[1]
        meta = find_one(path, rf"meta_{re.escape(self.name)}\.json(\.gz)?", f"meta_{self.name}.json.gz")
        self._reviews = TextFile(path / found.string)
        self._meta = TextFile(path / meta.string)

    def events(self, problems: Problems) -> Iterator[pa.RecordBatch]:
        """Batches of schema EVENTS, in the order of the file."""
        records = json_records(self._reviews, problems, literals=True)
        return batches(rows(records, self._reviews, problems, review_row), EVENTS)

    def items(self, problems: Problems) -> Iterator[pa.RecordBatch]:
        """Batches of schema ITEMS, in the order of the file."""
        records = json_records(self._meta, problems, literals=True)
        return batches(rows(records, self._meta, problems, _item_row), ITEMS)


def review_row(record: dict[str, Any]) -> tuple[Any, ...]:
    """A row of EVENTS from a review of 2014 or 2018. Raises BadField."""
    return (
        identifier(record.get("reviewerID"), "reviewerID"),
        identifier(record.get("asin"), "asin"),
        milliseconds(record.get("unixReviewTime"), "unixReviewTime", unit=1000),
        rating(record.get("overall"), "overall"),
    )


def _item_row(record: dict[str, Any]) -> tuple[Any, ...]:
    return (
        identifier(record.get("asin"), "asin"),
        clean_text(record.get("title"), "title"),
        clean_text(record.get("brand"), "brand"),
        clean_text(_flat(record.get("categories")), "categories"),
        prose(record.get("description"), "description"),
    )


def _flat(paths: object) -> list[Any]:
    """The names in a list of category paths, each once: the paths of an item share their beginnings."""
    if paths is None:
        return []
    if not isinstance(paths, list) or not all(isinstance(path, list) for path in paths):
        raise BadField("bad_text", "categories: expected a list of lists of names")
    names = [name for path in paths for name in path]
    return [name for place, name in enumerate(names) if name not in names[:place]]
