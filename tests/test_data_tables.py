"""The CSV and Parquet reader: equal results from both, order by time, every kind of damage."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from streamrec_dist.data.dataset import Dataset
from streamrec_dist.data.prepare import prepare
from streamrec_dist.data.recipes import Recipe
from streamrec_dist.errors import ConfigError, DataError

ITEMS = 'item,title,brand,categories,description\np1,Pen,Acme,Office,"Blue, fine"\np2,Ink,,,\np3,,Acme,,\np4,,,,\n'
INTERACTIONS = "user,item,timestamp\nbo,p1,30\nal,p2,5\nbo,p2,10\nal,p1,5\nbo,p4,20\nal,p3,4\n"


def write_csv(folder: Path, interactions: str = INTERACTIONS, items: str = ITEMS) -> Path:
    (folder / "interactions.csv").write_text(interactions)
    (folder / "items.csv").write_text(items)
    return folder


def write_parquet(folder: Path, interactions: dict, items: dict | None = None) -> Path:
    default = {"item": ["p1", "p2", "p3", "p4"], "title": ["Pen", "Ink", None, ""]}
    pq.write_table(pa.table(interactions), folder / "interactions.parquet")
    pq.write_table(pa.table(default if items is None else items), folder / "items.parquet")
    return folder


def read_table(path: Path, fmt: str) -> Dataset:
    return prepare(path, fmt, path / "prepared")


def test_rows_are_ordered_by_time_and_equal_times_by_the_file(tmp_path: Path):
    raw = read_table(write_csv(tmp_path), "csv")
    assert raw.user_ids == ["bo", "al"]
    assert raw.item_ids == ["p1", "p2", "p3", "p4"]
    assert raw.offsets.tolist() == [0, 3, 6]
    assert raw.items.tolist() == [1, 3, 0, 2, 1, 0]
    assert raw.texts == ["Pen. Brand: Acme. Categories: Office. Blue, fine", "Ink", "Brand: Acme", ""]
    assert raw.notes["items_without_text"] == 2
    assert raw.notes["items_without_any_field"] == 1
    assert raw.name == tmp_path.name


def test_without_a_timestamp_the_file_order_counts(tmp_path: Path):
    rows = "item,shop,user\np1,x,bo\np2,x,al\np3,x,bo\np1,x,al\np2,x,bo\np4,x,al\n"
    raw = read_table(write_csv(tmp_path, rows), "csv")
    assert raw.items.tolist() == [0, 2, 1, 1, 0, 3]


@pytest.mark.parametrize(
    "times",
    [
        pa.array([30, 5, 10, 5, 20, 4]),
        pa.array([3.0, 0.5, 1.0, 0.5, 2.0, 0.4]),
        pa.array(["2020-01-30", "2020-01-05", "2020-01-10", "2020-01-05T00:00:00Z", "2020-01-20", "2020-01-04"]),
        pa.array([date(2020, 1, day) for day in (30, 5, 10, 5, 20, 4)]),
        # Nanoseconds that neither a datetime nor a float of seconds could tell apart.
        pa.array([1_600_000_000_000_000_000 + n for n in (30, 5, 10, 5, 20, 4)], pa.timestamp("ns")),
        pa.array([datetime(2020, 1, day, tzinfo=UTC) for day in (30, 5, 10, 5, 20, 4)]),
    ],
)  # fmt: skip
def test_parquet_equals_csv_whatever_the_type_of_the_times(tmp_path: Path, times: pa.Array):
    interactions = {
        "user": ["bo", "al", "bo", "al", "bo", "al"],
        "item": ["p1", "p2", "p2", "p1", "p4", "p3"],
        "timestamp": times,
    }
    items = {
        "item": ["p1", "p2", "p3", "p4"],
        "title": ["Pen", "Ink", "", None],
        "brand": ["Acme", None, "Acme", ""],
        "categories": pa.array([["Office"], [], None, [""]], pa.list_(pa.string())),
        "description": ["Blue, fine", None, None, None],
    }
    table = read_table(write_parquet(tmp_path, interactions, items), "parquet")
    text = read_table(write_csv(tmp_path), "csv")
    assert table.items.tolist() == text.items.tolist()
    assert table.offsets.tolist() == text.offsets.tolist()
    assert (table.user_ids, table.item_ids) == (text.user_ids, text.item_ids)
    assert (table.titles, table.texts) == (text.titles, text.texts)


def test_integer_ids_become_text(tmp_path: Path):
    interactions = {"user": [7, 7, 7], "item": pa.array([1, 2, 3], pa.uint64())}
    items = {"item": [3, 2, 1], "title": ["c", "b", "a"]}
    raw = read_table(write_parquet(tmp_path, interactions, items), "parquet")
    assert (raw.user_ids, raw.item_ids) == (["7"], ["3", "2", "1"])
    assert raw.items.tolist() == [2, 1, 0]


@pytest.mark.parametrize(
    ("interactions", "items", "message"),
    [
        ("user,itemid\nbo,p1\n", ITEMS, r"csv: the column 'item' is missing, did you mean 'itemid'.*found user"),
        ("", ITEMS, r"interactions\.csv: the column 'user' is missing.*found an empty file"),
        (INTERACTIONS, "item\np1\n", r"items\.csv: the column 'title' is missing"),
        ("user,item,user\n", ITEMS, r"interactions\.csv: the column 'user' occurs twice"),
        ("user,item\nbo,p1\nbo,p2,9\n", ITEMS, r"interactions\.csv:3: expected 2 fields \(user, item\), found 3"),
        ("user,item\nbo,p1\n\nbo\n", ITEMS, r"interactions\.csv:4: expected 2 fields"),
        ('user,item\nbo,p1\nbo,"p2\n', ITEMS, r"interactions\.csv:3: malformed CSV"),
        ("user,item\n,p1\n", ITEMS, r"interactions\.csv:2: user: the id is missing"),
        ("user,item\nbo,\n", ITEMS, r"interactions\.csv:2: item: the id is missing"),
        ("user,item\nbo,p1\nbo,p9\n", ITEMS, r"interactions\.csv:3: item 'p9' is not in .*items\.csv"),
        (INTERACTIONS, "item,title\np1,a\np2,b\np1,c\n", r"items\.csv:4: item 'p1' was already described"),
        ("user,item,timestamp\nbo,p1,nan\n", ITEMS, r"interactions\.csv:2: timestamp: expected a finite number"),
        ("user,item,timestamp\nbo,p1,1\nbo,p1,-inf\n", ITEMS, r"interactions\.csv:3: timestamp: .*'-inf'"),
        ("user,item,timestamp\nbo,p1,last week\n", ITEMS, r"interactions\.csv:2: timestamp: .*'last week'"),
        ("user,item\n", ITEMS, r"interactions\.csv: there are no users"),
        ("user,item\n", "item,title\n", r"the catalogue is empty"),
        ("user,item\nbo,p1\nbo,p2\nbo,p3\nal,p1\n", ITEMS, r"user 'al' has 1 item\(s\), and 1 of 2 users"),
    ],
)  # fmt: skip
def test_bad_csv_is_named_and_nothing_is_written(tmp_path: Path, interactions: str, items: str, message: str):
    (tmp_path / "in").mkdir()
    write_csv(tmp_path / "in", interactions, items)
    with pytest.raises(DataError, match=message):
        prepare(tmp_path / "in", "csv", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_csv_that_is_not_utf8_or_has_a_byte_order_mark(tmp_path: Path):
    write_csv(tmp_path)
    (tmp_path / "items.csv").write_bytes(b"item,title\np1,caf\xe9\n")
    with pytest.raises(DataError, match=r"items\.csv:\d+: not UTF-8"):
        read_table(tmp_path, "csv")
    (tmp_path / "items.csv").write_bytes(b"\xef\xbb\xbf" + ITEMS.encode())
    assert len(read_table(tmp_path, "csv").item_ids) == 4


@pytest.mark.parametrize(
    ("interactions", "items", "message"),
    [
        ({"user": ["a", None], "item": ["p1", "p2"]}, None, r"interactions\.parquet: row 2: user: the id is missing"),
        ({"user": [1.0, 2.0], "item": ["p1", "p2"]}, None, r"row 1: user: expected an integer or a text"),
        ({"user": ["a"], "items": ["p1"]}, None, r"the column 'item' is missing, did you mean 'items'"),
        ({"user": ["a"], "item": ["p1"], "timestamp": [float("nan")]}, None, r"row 1: timestamp: expected a finite"),
        ({"user": ["a"], "item": ["p1"]}, {"item": ["p1"], "title": [3]}, r"items\.parquet: row 1: title: expected"),
    ],
)  # fmt: skip
def test_bad_parquet_is_named(tmp_path: Path, interactions: dict, items: dict | None, message: str):
    with pytest.raises(DataError, match=message):
        read_table(write_parquet(tmp_path, interactions, items), "parquet")


def test_damaged_parquet_is_named(tmp_path: Path):
    write_parquet(tmp_path, {"user": ["a"] * 3, "item": ["p1", "p2", "p3"]})
    file = tmp_path / "items.parquet"
    whole = file.read_bytes()
    for content in (b"", whole[: len(whole) // 2], b"\0" * 40 + whole[40:]):
        file.write_bytes(content)
        with pytest.raises(DataError, match=r"items\.parquet: damaged or truncated Parquet"):
            read_table(tmp_path, "parquet")
    file.unlink()
    with pytest.raises(
        DataError, match=r"items\.parquet is missing; the folder holds: interactions\.parquet"
    ):
        read_table(tmp_path, "parquet")


def test_the_format_and_the_path_are_checked(tmp_path: Path):
    with pytest.raises(ConfigError, match="did you mean 'csv'"):
        prepare(tmp_path, "cvs", tmp_path / "out")
    with pytest.raises(ConfigError, match="needs a path"):
        prepare(None, "lcrec", tmp_path / "out")
    with pytest.raises(ConfigError, match="demo reads no files"):
        prepare(tmp_path, "demo", tmp_path / "out")
    with pytest.raises(DataError, match="expected a folder"):
        prepare(tmp_path / "nowhere", "csv", tmp_path / "out")


def test_the_demo_is_prepared_from_its_seed(tmp_path: Path):
    ds = prepare(None, "demo", tmp_path / "demo", seed=3)
    assert (ds.users, ds.n_items, ds.synthetic) == (5000, 2000, True)
    assert prepare(None, "demo", tmp_path / "other", seed=4).content_hash != ds.content_hash
    core = prepare(None, "demo", tmp_path / "core", seed=3, recipe=Recipe("demo", item_core=20))
    assert np.bincount(core.items, minlength=core.n_items).min() >= 20
    assert core.n_items < ds.n_items
