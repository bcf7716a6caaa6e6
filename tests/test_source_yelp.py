"""The Yelp open data set, unpacked and in its archive."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from streamrec_dist.data.sources.yelp import BUSINESSES, REVIEWS, Yelp
from streamrec_dist.errors import DataError
from tests.raw_files import events_of, items_of, skipped, write_lines

REVIEW = {
    "review_id": "r1",
    "user_id": "u1",
    "business_id": "b1",
    "stars": 4.0,
    "useful": 0,
    "text": "Très bon",
    "date": "2018-09-04 00:00:01",
}
BUSINESS = {
    "business_id": "b1",
    "name": "Joe&#39;s Café",
    "address": "1 Main",
    "city": "Santa Barbara",
    "state": "CA",
    "stars": 4.5,
    "attributes": None,
    "categories": "Doctors, Health & Medical",
    "hours": None,
}
EVENT = ("u1", "b1", 1536019201000, 4.0)
ITEM = ("b1", "Joe's Café", "", "Doctors, Health & Medical", "Santa Barbara, CA")


def archive(path: Path, mode: Any) -> Path:
    with tarfile.open(path, mode) as tar:
        for name, record in ((BUSINESSES, BUSINESS), ("Dataset_User_Agreement.pdf", {}), (REVIEWS, REVIEW)):
            content = json.dumps(record).encode() + b"\n"
            entry = tarfile.TarInfo(f"yelp/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def test_events_and_items_of_the_unpacked_files(tmp_path: Path):
    write_lines(
        tmp_path / REVIEWS, [REVIEW, {**REVIEW, "user_id": "u2", "business_id": "unknown", "stars": 1}]
    )
    bare = {"business_id": "b2", "name": "X", "city": "", "state": "PA", "categories": None}
    write_lines(tmp_path / f"{BUSINESSES}.gz", [BUSINESS, bare])
    source = Yelp(tmp_path)
    assert source.name == "yelp"
    assert events_of(source) == [EVENT, ("u2", "unknown", 1536019201000, 1.0)]
    assert items_of(source) == [ITEM, ("b2", "X", "", "", "PA")]


@pytest.mark.parametrize(("name", "mode"), [("yelp_dataset.tar", "w"), ("yelp_dataset.tgz", "w:gz")])
def test_events_and_items_of_the_archive(tmp_path: Path, name: str, mode: str):
    path = archive(tmp_path / name, mode)
    for source in (Yelp(path), Yelp(tmp_path)):
        assert events_of(source) == [EVENT]
        assert items_of(source) == [ITEM]


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"date": "yesterday"}, "bad_time"),
        ({"date": 1536019201}, "bad_time"),
        ({"date": "2018-09-04T00:00:01+02:00"}, "bad_time"),
        ({"date": None}, "missing_field"),
        ({"stars": None}, "missing_field"),
        ({"stars": "4"}, "bad_rating"),
        ({"user_id": ""}, "missing_field"),
    ],
)
def test_a_bad_review_stops_or_is_left_out(tmp_path: Path, changes: dict[str, Any], kind: str):
    path = write_lines(tmp_path / REVIEWS, [REVIEW, {**REVIEW, **changes}, REVIEW])
    write_lines(tmp_path / BUSINESSES, [])
    with pytest.raises(DataError, match=rf"{path}:2: "):
        events_of(Yelp(tmp_path))
    events, problems = skipped(lambda problems: events_of(Yelp(tmp_path), problems))
    assert events == [EVENT, EVENT]
    assert problems.counts == {kind: 1}


def test_missing_files_are_named(tmp_path: Path):
    with pytest.raises(DataError, match=rf"expected {REVIEWS} and {BUSINESSES}, or the .tar"):
        Yelp(tmp_path)
    write_lines(tmp_path / REVIEWS, [])
    with pytest.raises(DataError, match=rf"expected {BUSINESSES}, found {REVIEWS}"):
        Yelp(tmp_path)
    (tmp_path / "x.tar").write_text("<html>")
    with pytest.raises(DataError, match=r"x\.tar: expected a tar archive"):
        Yelp(tmp_path / "x.tar")
    packed = archive(tmp_path / "y.tgz", "w:gz")
    packed.write_bytes(packed.read_bytes()[:12])
    with pytest.raises(DataError, match=r"y\.tgz: expected a tar archive"):
        Yelp(packed)
