"""Amazon reviews of 2023: the raw files and the official csv files, small but in the true layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from streamrec_dist.data.recipes import AMAZON_2023
from streamrec_dist.data.sources.amazon2023 import Amazon2023
from streamrec_dist.errors import DataError
from tests.raw_files import events_of, items_of, skipped, write_lines


def raw_2023(user: str = "AE1", **changes: Any) -> dict[str, Any]:
    return {
        "rating": 4.0,
        "title": "Gut",
        "text": "sehr gut",
        "images": [],
        "asin": "B0VARIANT",
        "parent_asin": "B0PARENT",
        "user_id": user,
        "timestamp": 1588687728923,
        "helpful_vote": 0,
        "verified_purchase": True,
        **changes,
    }


META_2023 = {
    "main_category": "Musical Instruments",
    "title": "Saite&#39;n",
    "average_rating": 4.5,
    "features": ["Nickel.", "Light"],
    "description": ["A string."],
    "price": None,
    "store": "D'Addario",
    "categories": ["Musical Instruments", "Strings"],
    "details": {"Color": "Silver"},
    "parent_asin": "B0PARENT",
    "bought_together": None,
}


def test_2023_raw(tmp_path: Path):
    lines = [raw_2023(), raw_2023("AE2", rating=1), raw_2023("AE3", timestamp=-62135596800000)]
    path = write_lines(tmp_path / "Musical_Instruments.jsonl.gz", lines)
    bare = {"parent_asin": "B2", "title": None, "store": None, "categories": []}
    write_lines(tmp_path / "meta_Musical_Instruments.jsonl.gz", [META_2023, bare])
    source = Amazon2023(tmp_path)
    assert source.name == "Musical_Instruments"
    events, problems = skipped(lambda problems: events_of(source, problems))
    assert events == [("AE1", "B0PARENT", 1588687728923, 4.0), ("AE2", "B0PARENT", 1588687728923, 1.0)]
    assert problems.counts == {"bad_time": 1}
    with pytest.raises(DataError, match=rf"{path}:3: timestamp: expected a whole number of milliseconds"):
        events_of(source)
    assert items_of(source) == [
        (
            "B0PARENT",
            "Saite'n",
            "D'Addario",
            "Musical Instruments, Strings",
            "A string. Nickel. Light",
        ),
        ("B2", "", "", "", ""),
    ]


def test_2023_ratings_only(tmp_path: Path):
    header = "user_id,parent_asin,rating,timestamp"
    lines = [header, "U1,B1,5.0,1628643414041", "U1,B2,x,1628643414042", "U2,,3.0,1", "U2,B1,3.0"]
    path = write_lines(tmp_path / "Software.csv.gz", [*lines, "U2,B1,3.0,soon", "U2,B1,3.0,1"])
    write_lines(tmp_path / "meta_Software.jsonl.gz", [])
    events, problems = skipped(lambda problems: events_of(Amazon2023(tmp_path), problems))
    assert events == [("U1", "B1", 1628643414041, 5.0), ("U2", "B1", 1, 3.0)]
    assert problems.counts == {"bad_rating": 1, "missing_field": 1, "broken_line": 1, "bad_time": 1}
    assert [example.partition(": ")[0] for example in problems.examples] == [
        f"{path}:{n}" for n in (3, 4, 5, 6)
    ]


def test_2023_official_split_files_give_the_split_of_the_two_times(tmp_path: Path):
    header = "user_id,parent_asin,rating,timestamp,history"
    assert AMAZON_2023.times == (1628643414042, 1658002729837)
    valid_from, test_from = AMAZON_2023.times
    times = {"train": valid_from - 1, "valid": valid_from, "test": test_from}
    for place, (split, time) in enumerate(times.items()):
        history = " ".join(f"B{n}" for n in range(place))
        write_lines(tmp_path / f"Baby_Products.{split}.csv", [header, f"U1,B{place},5.0,{time},{history}"])
    write_lines(tmp_path / "meta_Baby_Products.jsonl", [])
    source = Amazon2023(tmp_path)
    assert source.name == "Baby_Products"
    assert events_of(source) == [("U1", f"B{n}", time, 5.0) for n, time in enumerate(times.values())]
