"""Tables read in bulk and tables read with care: the same events, and the fast way only where nothing is odd."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from streamrec_dist.data import reader_table
from streamrec_dist.data.events import Problems
from streamrec_dist.data.fast_table import fast_table
from streamrec_dist.data.prepare import prepare
from streamrec_dist.data.reader_table import TableSource
from streamrec_dist.data.tables import open_csv, open_parquet
from streamrec_dist.errors import DataError

COLUMNS = (("user", "item"), ("timestamp", "rating"))


def events(source: TableSource, problems: Problems | None = None) -> list[tuple]:
    """(user, item, time, rating, rest) of every event."""
    found = []
    for batch in source.events(problems or Problems()):
        columns = batch.to_pydict()
        rest = columns.get("rest", [0.0] * len(batch))
        found += zip(*(columns[name] for name in ("user", "item", "time", "rating")), rest, strict=True)
    return found


def csv_folder(tmp_path: Path, interactions: str | bytes, name: str = "interactions.csv") -> Path:
    content = interactions.encode() if isinstance(interactions, str) else interactions
    (tmp_path / name).write_bytes(content)
    (tmp_path / "items.csv").write_text("item,title\n" + "".join(f"p{n},t\n" for n in range(9)))
    return tmp_path


@pytest.mark.parametrize(
    ("text", "fast"),
    [
        ("user,item\nbo,p1\nal,p2\n", True),
        ("user,item\nbo,p1\nal,p2", True),
        ("user,item\r\nbo,p1\r\nal,p2\r\n", True),
        ("\ufeffuser,item\nbo,p1\n", True),
        (" user ,item,other\nbo,p1,\nal,p2,x\n", True),
        ("user,item,timestamp,rating\nbo,p1,3,4.5\nal,p2,2,\n", True),
        ("user,item,timestamp\nbo,p1,1.5\nal,p2,2\n", True),
        ("user,item,timestamp\nbo,p1,1600000000123\nal,p2,2\n", True),
        ("user,item,timestamp\nbo,p1,1600000000123456789\nal,p2,2\n", True),
        ("user,item,timestamp\nbo,p1,2020-01-05\nal,p2,2020-01-05T10:00:00Z\nal,p2,2020-01-05 10:00:00.5\n", True),
        ("user,item,timestamp\nbo,p1,2020-01-05T10:00:00.123456+02:00\n", True),
        ("user,item,timestamp\nbo,p1,\nal,p2,1600000000\n", True),
        ("user,item,timestamp\nbo,p1,\nal,p2,2020-01-05\nal,p2,\n", True),
        ("user,item,timestamp\nbo,p1,\nal,p2, \n", True),
        ('user,item\nbo,"p1"\n"a,l",p2\n', False),
        ("user,item\nbo,p1\n\nal,p2\n", False),
        ("user,item,timestamp\nbo,p1, 3\nal,p2,1_000\n", False),
        ("user,item,timestamp\nbo,p1,20200105\nal,p2,20200106\n", True),
        ("user,item,timestamp\nbo,p1,2020-W01-1\n", False),
    ],
)  # fmt: skip
def test_both_ways_give_the_same_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, fast: bool
):
    source = TableSource(csv_folder(tmp_path, text), "csv")
    assert (fast_table(open_csv(tmp_path / "interactions.csv", *COLUMNS)) is not None) == fast
    quick = events(source)
    monkeypatch.setattr(reader_table, "fast_table", lambda table: None)
    assert quick == events(source)
    assert len(quick) == len([line for line in text.splitlines() if line.strip()]) - 1


@pytest.mark.parametrize(
    "text",
    [
        "user,item,other\nbo,p1\n",
        "user,item\nbo,p1,3\n",
        "user,item\n,p1\n",
        "user,item,timestamp\nbo,p1,2020-1-5\n",
        "user,item,timestamp\nbo,p1,1969-12-31\n",
        "user,item,timestamp\nbo,p1,-1\n",
        "user,item,timestamp\nbo,p1,3\nbo,p1,2020-01-05\n",
        "user,item,timestamp\nbo,p1,inf\n",
        "user,item,timestamp\nbo,p1,1e300\n",
        "user,item,rating\nbo,p1,good\n",
        b"user,item\nbo,p\xff\n",
    ],
)  # fmt: skip
def test_what_is_odd_is_not_read_in_bulk(tmp_path: Path, text: str | bytes):
    csv_folder(tmp_path, text)
    assert fast_table(open_csv(tmp_path / "interactions.csv", *COLUMNS)) is None
    with pytest.raises(DataError, match=r"interactions\.csv:[23]: "):
        events(TableSource(tmp_path, "csv"))


@pytest.mark.parametrize(
    "times",
    [
        pa.array([3, 1, 2]),
        pa.array([3.5, 1.25, 2.0]),
        pa.array([3, 1, 2], pa.uint16()),
        pa.array([1_600_000_000_000_000_001, 1_600_000_000_000_000_003, 5], pa.timestamp("ns")),
        pa.array([1_600_000_000, 3, 5], pa.timestamp("s")),
        pa.array([18_000, 3, 5], pa.date32()),
        pa.array(["2020-01-05", "2020-01-04", "2020-01-03"]),
        pa.array(["1", "3", "2"]),
    ],
)
def test_parquet_both_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: pa.Array):
    users = pa.array(["a", "b", "a"]).dictionary_encode()
    ratings = pa.array([1, None, 5], pa.int8())
    table = {"user": users, "item": pa.array([1, 2, 3], pa.uint8()), "timestamp": times, "rating": ratings}
    pq.write_table(pa.table(table), tmp_path / "interactions.parquet")
    pq.write_table(pa.table({"item": [1, 2, 3], "title": ["a", "b", "c"]}), tmp_path / "items.parquet")
    assert fast_table(open_parquet(tmp_path / "interactions.parquet", *COLUMNS)) is not None
    source = TableSource(tmp_path, "parquet")
    quick = events(source)
    monkeypatch.setattr(reader_table, "fast_table", lambda table: None)
    assert quick == events(source)
    if pa.types.is_timestamp(times.type) and times.type.unit == "ns":
        assert [event[2] for event in quick] == [1_600_000_000_000, 1_600_000_000_000, 0]
        assert [event[4] for event in quick] == [1, 3, 5]


def test_broken_records_are_skipped_and_counted(tmp_path: Path):
    good = "".join(f"u{n % 5},p{n % 7},{n}\n" for n in range(40))
    bad = 'u1,p1\nu1,,3\nu1,p1,soon\nu1,"p1\nu1",p9x,5\nu1,p77,6\n'
    folder = csv_folder(tmp_path, f"user,item,timestamp\n{good}{bad}".encode() + b"u1,p\xff,9\nu4,p8,100\n")
    (folder / "items.csv").write_bytes((folder / "items.csv").read_bytes() + b"p1,again\n,none\n")
    with pytest.raises(DataError, match=r"interactions\.csv:42: expected 3 fields"):
        prepare(folder, "csv", tmp_path / "out")
    ds = prepare(folder, "csv", tmp_path / "out", on_error="skip")
    assert ds.problems == {
        "broken_line": 2,
        "not_utf8": 1,
        "broken_event": 2,
        "broken_item": 2,
        "event_of_unknown_item": 1,
    }
    assert ds.n_interactions == 41
    assert ds.item_ids[ds.history(4)[-1]] == "p8", "reading goes on behind the broken lines"
    assert len(ds.examples) == 5


def test_gzipped_csv_whole_and_truncated(tmp_path: Path):
    rng = np.random.default_rng(0)
    text = "user,item\n" + "".join(f"u{n % 5},p{rng.integers(9)}\n" for n in range(3000))
    packed = gzip.compress(text.encode())
    (tmp_path / "whole").mkdir()
    whole = csv_folder(tmp_path / "whole", packed, "interactions.csv.gz")
    assert prepare(whole, "csv", tmp_path / "a").n_interactions == 3000
    (tmp_path / "cut").mkdir()
    cut = csv_folder(tmp_path / "cut", packed[: len(packed) // 2], "interactions.csv.gz")
    with pytest.raises(DataError, match=r"interactions\.csv\.gz:\d+: damaged or truncated gzip"):
        prepare(cut, "csv", tmp_path / "b")
    ds = prepare(cut, "csv", tmp_path / "b", on_error="skip")
    assert 500 < ds.n_interactions < 3000
    assert ds.problems["damaged_file"] == 1


def test_an_unknown_item_is_named_with_its_line(tmp_path: Path):
    text = "user,item\n" + "".join(f"u{n},p{n % 9}\n" for n in range(50)) + "u1,p9\nu2,p9\n"
    csv_folder(tmp_path, text)
    with pytest.raises(DataError, match=r"interactions\.csv:52: item 'p9' is not in .*items\.csv"):
        prepare(tmp_path, "csv", tmp_path / "out")
    table = {"user": ["a", "a"], "item": ["p1", "x"]}
    pq.write_table(pa.table(table), tmp_path / "interactions.parquet")
    pq.write_table(pa.table({"item": ["p1"], "title": ["t"]}), tmp_path / "items.parquet")
    with pytest.raises(DataError, match=r"interactions\.parquet: row 2: item 'x' is not in"):
        prepare(tmp_path, "parquet", tmp_path / "out")
