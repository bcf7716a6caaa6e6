"""Amazon reviews of 2018: X[_5].json[.gz] and meta_X.json[.gz], one JSON object a line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

import pyarrow as pa

from streamrec_dist.data.events import EVENTS, ITEMS, Problems, batches
from streamrec_dist.data.sources.amazon2014 import review_row
from streamrec_dist.data.sources.fields import clean_text, identifier, prose
from streamrec_dist.data.sources.lines import TextFile
from streamrec_dist.data.sources.locate import find_one
from streamrec_dist.data.sources.records import json_records, rows

#: Titles that are the script of a product page contain this call; the publisher's page filters by it too.
PAGE_SOURCE = "getTime"


class Amazon2018:
    """The reviews and the metadata of one category, in the folder `path`."""

    def __init__(self, path: Path) -> None:
        """Finds the files. Raises DataError where one is missing or several could be meant."""
        found = find_one(path, r"(?!meta_)(.+?)(_5)?\.json(\.gz)?", "X.json.gz or X_5.json.gz")
        self.name = found[1]
        meta = find_one(path, rf"meta_{re.escape(self.name)}\.json(\.gz)?", f"meta_{self.name}.json.gz")
        self._reviews = TextFile(path / found.string)
        self._meta = TextFile(path / meta.string)

    def events(self, problems: Problems) -> Iterator[pa.RecordBatch]:
        """Batches of schema EVENTS, in the order of the file."""
        records = json_records(self._reviews, problems)
        return batches(rows(records, self._reviews, problems, review_row), EVENTS)

    def items(self, problems: Problems) -> Iterator[pa.RecordBatch]:
        """Batches of schema ITEMS, in the order of the file. Titles that are page source count as absent."""

        def item_row(record: dict[str, Any]) -> tuple[Any, ...]:
            title = clean_text(record.get("title"), "title")
            if PAGE_SOURCE in title:
                problems.counts["title_is_page_source"] += 1
                title = ""
            return (
                identifier(record.get("asin"), "asin"),
                title,
                clean_text(record.get("brand"), "brand"),
                clean_text(_without_features(record.get("category")), "category"),
                prose(record.get("description"), "description"),
            )

        records = json_records(self._meta, problems)
        return batches(rows(records, self._meta, problems, item_row), ITEMS)


def _without_features(names: object) -> object:
    """The category names before the first one with markup, behind which a page's feature list follows."""
    if not isinstance(names, list):
        return names
    return list(takewhile(lambda name: not (isinstance(name, str) and "</" in name), names))
