"""The Amazon formats of 2014 and 2018 on small files in the raw layout, and how the files of all three are found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from streamrec_dist.data.events import BATCH_ROWS, Problems
from streamrec_dist.data.sources.amazon2014 import Amazon2014
from streamrec_dist.data.sources.amazon2018 import Amazon2018
from streamrec_dist.data.sources.amazon2023 import Amazon2023
from streamrec_dist.errors import DataError
from tests.raw_files import events_of, items_of, skipped, write_lines


def review(user: str = "A1", item: str = "B1", **changes: Any) -> dict[str, Any]:
    """A review of 2014 or 2018."""
    return {
        "reviewerID": user,
        "asin": item,
        "reviewerName": 'J. "Jo" Ü',
        "helpful": [0, 1],
        "reviewText": "Fine.",
        "overall": 5.0,
        "summary": "ok",
        "unixReviewTime": 1393545600,
        "reviewTime": "02 28, 2014",
        **changes,
    }


def without(record: dict[str, Any], field: str) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name != field}


def test_2014_events_and_items_in_json_and_as_python_literals(tmp_path: Path):
    write_lines(tmp_path / "reviews_Beauty_5.json.gz", [review(), review("A2", "B9", overall=3)])
    meta = {
        "asin": "B1",
        "title": "It's a &quot;Gel&quot; für \u00dcber",
        "brand": "L'Or\u00e9al",
        "price": 9.99,
        "salesRank": {"Beauty": 3},
        "categories": [["Beauty", "Hair Care"], ["Beauty", "Gifts & More"]],
        "description": "Long.\nText &amp; more",
    }
    write_lines(tmp_path / "meta_Beauty.json.gz", [repr(meta), {"asin": "B2"}, repr({"asin": "B1"})])
    source = Amazon2014(tmp_path)
    assert source.name == "Beauty"
    assert events_of(source) == [("A1", "B1", 1393545600000, 5.0), ("A2", "B9", 1393545600000, 3.0)]
    problems = Problems()
    assert items_of(source, problems) == [
        (
            "B1",
            'It\'s a "Gel" für Über',
            "L'Oréal",
            "Beauty, Hair Care, Gifts & More",
            "Long. Text & more",
        ),
        ("B2", "", "", "", ""),
        ("B1", "", "", "", ""),
    ]
    assert not problems.counts


def test_2014_plain_files_and_reviews_as_python_literals(tmp_path: Path):
    write_lines(tmp_path / "reviews_Toys_and_Games.json", [repr(review(reviewText="It's"))])
    write_lines(tmp_path / "meta_Toys_and_Games.json", [{"asin": "B1", "title": "T"}])
    source = Amazon2014(tmp_path)
    assert source.name == "Toys_and_Games"
    assert len(events_of(source)) == 1
    assert items_of(source) == [("B1", "T", "", "", "")]


BAD_REVIEWS = [
    (without(review(), "reviewerID"), "missing_field", "the field reviewerID is missing"),
    (without(review(), "asin"), "missing_field", "the field asin is missing"),
    (review(overall="five"), "bad_rating", "overall: expected a number as the rating, found str 'five'"),
    (without(review(), "overall"), "missing_field", "the field overall is missing"),
    (review(unixReviewTime="02 28, 2014"), "bad_time", "unixReviewTime: expected a whole number of seconds"),
    (without(review(), "unixReviewTime"), "missing_field", "the field unixReviewTime is missing"),
    (review(item=17), "bad_id", "asin: expected text as the id, found int 17"),  # type: ignore[arg-type]
    ('{"reviewerID": "A1", "asi', "broken_line", "expected"),
]


@pytest.mark.parametrize("source", [Amazon2014, Amazon2018])
@pytest.mark.parametrize(("record", "kind", "message"), BAD_REVIEWS)
def test_a_bad_review_stops_or_is_left_out(tmp_path: Path, source: Any, record: Any, kind: str, message: str):
    name = "reviews_X.json.gz" if source is Amazon2014 else "X.json.gz"
    path = write_lines(tmp_path / name, [review(), record, review("A3")])
    write_lines(tmp_path / "meta_X.json.gz", [])
    with pytest.raises(DataError) as caught:
        events_of(source(tmp_path))
    assert str(caught.value).startswith(f"{path}:2: {message}")
    events, problems = skipped(lambda problems: events_of(source(tmp_path), problems))
    assert [event[0] for event in events] == ["A1", "A3"]
    assert problems.counts == {kind: 1}


@pytest.mark.parametrize(
    "record",
    [
        {"title": "no id"},
        {"asin": "B1", "title": 3},
        {"asin": "B1", "categories": "Beauty"},
        {"asin": "B1", "categories": [["Beauty", 3]]},
        {"asin": "B1", "description": ["\ud800"]},
    ],
)
def test_a_bad_item_stops_or_is_left_out(tmp_path: Path, record: dict[str, Any]):
    write_lines(tmp_path / "reviews_X.json.gz", [])
    lines = [{"asin": "B0"}, ascii(record), {"asin": "B2"}]
    path = write_lines(tmp_path / "meta_X.json.gz", lines)
    with pytest.raises(DataError, match=rf"{path}:2: "):
        items_of(Amazon2014(tmp_path))
    items, problems = skipped(lambda problems: items_of(Amazon2014(tmp_path), problems))
    assert [item[0] for item in items] == ["B0", "B2"]
    assert problems.counts.total() == 1


def test_2018_items_lose_page_source_and_feature_lists(tmp_path: Path):
    write_lines(tmp_path / "Industrial_and_Scientific_5.json.gz", [review(vote="3", verified=True)])
    meta = [
        {
            "asin": "B1",
            "title": "Tape &amp; Glue",
            "brand": "3M",
            "category": ["Industrial &amp; Scientific", "Tapes", "</span></span></span>", "Sticks to it"],
            "description": ["First.", "<b>Second</b>."],
        },
        {"asin": "B2", "title": "var aPageStart = (new Date()).getTime(); var ue_t0=1;", "brand": "Acme"},
        {"asin": "B3", "title": "T", "category": [], "description": []},
    ]
    write_lines(tmp_path / "meta_Industrial_and_Scientific.json.gz", meta)
    source = Amazon2018(tmp_path)
    assert source.name == "Industrial_and_Scientific"
    assert events_of(source) == [("A1", "B1", 1393545600000, 5.0)]
    problems = Problems()
    assert items_of(source, problems) == [
        ("B1", "Tape & Glue", "3M", "Industrial & Scientific, Tapes", "First. Second ."),
        ("B2", "", "Acme", "", ""),
        ("B3", "T", "", "", ""),
    ]
    assert problems.counts == {"title_is_page_source": 1}


def test_2018_does_not_take_python_literals(tmp_path: Path):
    write_lines(tmp_path / "X.json", [repr(review())])
    write_lines(tmp_path / "meta_X.json", [])
    with pytest.raises(DataError, match=r"X\.json:1: expected a JSON object, found str"):
        events_of(Amazon2018(tmp_path))


@pytest.mark.parametrize(
    ("source", "files", "message"),
    [
        (Amazon2014, [], r"expected reviews_X\.json\.gz or reviews_X_5\.json\.gz, found no files"),
        (
            Amazon2014,
            ["reviews_A.json", "reviews_A_5.json"],
            "expected exactly one .* found reviews_A.json, ",
        ),
        (Amazon2014, ["reviews_A.json", "meta_B.json"], r"expected meta_A\.json\.gz, found meta_B\.json, "),
        (Amazon2014, ["reviews_A.json", "meta_A.json", "meta_A.json.gz"], "exactly one meta_A.json.gz"),
        (Amazon2014, ["reviews_A.json.gz.part", "meta_A.json"], "found meta_A.json, reviews_A.json.gz.part"),
        (
            Amazon2018,
            ["A.json.gz", "A_5.json.gz"],
            r"exactly one .* found A\.json\.gz, A_5\.json\.gz; keep one",
        ),
        (Amazon2018, ["meta_A.json.gz"], r"expected X\.json\.gz or X_5\.json\.gz, found meta_A\.json\.gz"),
        (Amazon2023, ["A.jsonl.gz", "A.csv.gz"], r"events of one category .* found A\.csv\.gz, A\.jsonl\.gz"),
        (Amazon2023, ["A.train.csv", "A.valid.csv"], r"found A\.train\.csv, A\.valid\.csv"),
        (Amazon2023, ["A.train.csv", "A.valid.csv", "B.test.csv"], "events of one category"),
        (Amazon2023, ["A.csv", "A.train.csv", "A.valid.csv", "A.test.csv"], "events of one category"),
        (Amazon2023, ["meta_A.jsonl"], r"events of one category .* found meta_A\.jsonl"),
        (Amazon2023, ["A.csv"], r"expected meta_A\.jsonl\.gz, found A\.csv"),
    ],
)
def test_missing_and_ambiguous_files_are_refused(tmp_path: Path, source: Any, files: list[str], message: str):
    for name in files:
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=message):
        source(tmp_path)


@pytest.mark.parametrize("source", [Amazon2014, Amazon2018, Amazon2023])
def test_a_path_that_is_no_folder_is_refused(tmp_path: Path, source: Any):
    (tmp_path / "x.json").touch()
    with pytest.raises(DataError, match=r"x\.json: expected a folder with .* found a file"):
        source(tmp_path / "x.json")
    with pytest.raises(DataError, match=r"none: expected a folder with .* found nothing"):
        source(tmp_path / "none")


def test_a_file_larger_than_a_batch_comes_in_batches(tmp_path: Path):
    line = '{{"reviewerID":"A{0}","asin":"B{0}","unixReviewTime":{0},"overall":4.0}}'
    rows = BATCH_ROWS + 3
    write_lines(tmp_path / "X_5.json", (line.format(number) for number in range(rows)))
    write_lines(tmp_path / "meta_X.json", [])
    batches = list(Amazon2018(tmp_path).events(Problems()))
    assert [batch.num_rows for batch in batches] == [BATCH_ROWS, 3]
    assert batches[1].to_pylist()[2] == {
        "user": f"A{rows - 1}",
        "item": f"B{rows - 1}",
        "time": (rows - 1) * 1000,
        "rating": 4.0,
    }
    # An empty set is no batch at all.
    assert list(Amazon2018(tmp_path).items(Problems())) == []
