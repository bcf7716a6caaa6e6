"""Raw data and ids from elsewhere, damaged or made to do harm: read or refused, never unpacked without bound."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrec_dist.data import csv_records, fast_table, packed
from streamrec_dist.data.checksums import check_recorded, record
from streamrec_dist.data.download import _validator
from streamrec_dist.data.events import Problems
from streamrec_dist.data.prepare import prepare
from streamrec_dist.data.readers import open_source
from streamrec_dist.data.sources import lines
from streamrec_dist.errors import DataError
from streamrec_dist.items.foreign_ids import read_ids
from tests.hostile import FUZZ, ODD, damaged, distorted, loads_or_refuses, replaced
from tests.raw_files import events_of, items_of

USERS = {f"u{user}": [0, 1, 2, 3] for user in range(3)}
ITEMS = {str(item): {"title": f"Item {item}", "categories": ["a", "b"]} for item in range(4)}
REVIEWS = [
    {"user_id": f"u{n}", "business_id": "b1", "date": "2018-01-02 03:04:05", "stars": 4.0} for n in range(3)
]
BUSINESSES = [{"business_id": "b1", "name": "One", "categories": "A, B", "city": "C", "state": "D"}]
RATINGS = "userId,movieId,rating,timestamp\n1,1,4.0,1000000000\n1,2,3.5,1000000001\n"
MOVIES = 'movieId,title,genres\n1,Toy,A|B\n2,"Heat, The",C\n'


def json_lines(records: list[Any]) -> bytes:
    return "".join(json.dumps(one) + "\n" for one in records).encode()


def zipped(members: dict[str, bytes], way: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", way) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred(members: dict[str, bytes], mode: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def parquet(columns: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


MOVIELENS = {"ml-x/ratings.csv": RATINGS.encode(), "ml-x/movies.csv": MOVIES.encode()}
YELP = {
    "yelp_academic_dataset_business.json": json_lines(BUSINESSES),
    "yelp_academic_dataset_review.json": json_lines(REVIEWS),
}
EVENTS = {"user": ["u", "u", "u"], "item": ["a", "b", "a"], "timestamp": [10**9, 10**9 + 1, 10**9 + 2]}
TITLES = {"item": ["a", "b"], "title": ["A", "B"]}
#: The files of a folder by format; the first is damaged.
SOURCES: dict[str, tuple[str, dict[str, bytes]]] = {
    "lcrec": ("lcrec", {
        "D.inter.json.gz": gzip.compress(json.dumps(USERS).encode()),
        "D.item.json": json.dumps(ITEMS).encode(),
    }),
    "lcrec items": ("lcrec", {"D.item.json": json.dumps(ITEMS).encode(), "D.inter.json": json.dumps(USERS).encode()}),
    "csv": ("csv", {
        "interactions.csv": b"user,item,timestamp\nu,a,1000000000\nu,b,1000000001\nu,\"a\",1000000002\n",
        "items.csv": b"item,title\na,A\nb,B\n",
    }),
    "csv.gz": ("csv", {
        "interactions.csv.gz": gzip.compress(b"user,item,rating\nu,a,1\nu,b,2\nu,a,3\n"),
        "items.csv": b"item,title\na,A\nb,B\n",
    }),
    "parquet": ("parquet", {"interactions.parquet": parquet(EVENTS), "items.parquet": parquet(TITLES)}),
    "parquet items": ("parquet", {"items.parquet": parquet(TITLES), "interactions.parquet": parquet(EVENTS)}),
    "movielens": ("movielens", {"ml-x.zip": zipped(MOVIELENS)}),
    "movielens, lzma": ("movielens", {"ml-x.zip": zipped(MOVIELENS, zipfile.ZIP_LZMA)}),
    "movielens, bzip2": ("movielens", {"ml-x.zip": zipped(MOVIELENS, zipfile.ZIP_BZIP2)}),
    "yelp": ("yelp", {"y.tar.gz": tarred(YELP, "w:gz")}),
    "yelp, plain": ("yelp", {"y.tar": tarred(YELP, "w")}),
    "amazon2023": ("amazon2023", {
        "X.jsonl.gz": gzip.compress(json_lines(
            [{"user_id": "u", "parent_asin": "a", "rating": 5.0, "timestamp": 1600000000000 + n} for n in range(3)]
        )),
        "meta_X.jsonl.gz": gzip.compress(json_lines([{"parent_asin": "a", "title": "A"}])),
    }),
    "amazon2014": ("amazon2014", {
        "meta_X.json.gz": gzip.compress(b"{'asin': 'a', 'title': 'A', 'categories': [['b']]}\n"),
        "reviews_X_5.json.gz": gzip.compress(json_lines(
            [{"reviewerID": "u", "asin": "a", "overall": 5.0, "unixReviewTime": 1400000000 + n} for n in range(3)]
        )),
    }),
}  # fmt: skip


def laid(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def read_source(folder: Path, fmt: str) -> None:
    """All events and items, with what cannot be used left out, and then with the first of these an error."""
    for way in ("skip", "stop"):
        source = open_source(folder, fmt)
        problems = Problems(way)  # type: ignore[arg-type]
        for batch in source.events(problems):
            batch.validate(full=True)
        items_of(source, problems)


@pytest.mark.parametrize("name", SOURCES)
@FUZZ
@given(data=st.data())
def test_damaged_raw_files_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: Any
) -> None:
    fmt, files = SOURCES[name]
    folder = laid(tmp_path_factory.mktemp("raw") / "set", files)
    before = sorted(folder.parent.rglob("*"))
    first, content = next(iter(files.items()))
    if content.startswith(b"\x1f\x8b") and data.draw(st.booleans()):
        content = gzip.compress(data.draw(damaged(gzip.decompress(content), [b"\x80\x04."])))
    else:
        content = data.draw(damaged(content, [next(iter(other.values())) for _, other in SOURCES.values()]))
    replaced(folder / first, content, lambda: read_source(folder, fmt))
    assert sorted(folder.parent.rglob("*")) == before


@FUZZ
@given(data=st.data())
def test_odd_histories_and_items_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: Any
) -> None:
    trees = [data.draw(distorted(tree, [*ODD, "\ud800", 10**5])) for tree in (USERS, ITEMS)]
    names = ("D.inter.json", "D.item.json")
    files = {name: json.dumps(tree).encode() for name, tree in zip(names, trees, strict=True)}
    folder = laid(tmp_path_factory.mktemp("raw") / "set", files)
    loads_or_refuses(lambda: read_source(folder, "lcrec"))


@FUZZ
@given(data=st.data())
def test_odd_cells_are_prepared_or_refused(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    """Through the whole preparation."""
    cell = st.sampled_from(
        ["", "nan", "-1", "9" * 30, "1e400", "9" * 5000, "../../x", "\x00", '"', "\x1b[2J", "1_0", "٣"]
    )
    rows = data.draw(st.lists(st.tuples(cell, cell, cell), min_size=1, max_size=4))
    text = "user,item,timestamp\nu,a,1000000000\nu,b,1000000001\nu,a,1000000002\n"
    text += "".join(",".join(row) + "\n" for row in rows)
    folder = laid(tmp_path_factory.mktemp("raw") / "set", {
        "interactions.csv": text.encode(), "items.csv": b"item,title\na,A\nb,B\n"
    })  # fmt: skip
    way = data.draw(st.sampled_from(["stop", "skip"]))
    loads_or_refuses(lambda: prepare(folder, "csv", folder.parent / "out", on_error=way))
    assert {path.name for path in folder.parent.iterdir()} <= {"set", "out"}


@pytest.mark.parametrize("name", ["X.index.json", "X.index.json.gz"])
@FUZZ
@given(data=st.data())
def test_damaged_ids_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: Any
) -> None:
    path = tmp_path_factory.mktemp("ids") / name
    tree = {str(item): ["<a_1>", f"<b_{item}>"] for item in range(3)}
    text = (
        json.dumps(data.draw(distorted(tree, [*ODD, "\ud800"])))
        if data.draw(st.booleans())
        else json.dumps(tree)
    )
    content = gzip.compress(text.encode()) if name.endswith("gz") else text.encode()
    path.write_bytes(data.draw(damaged(content, [b"PAR1"])) if data.draw(st.booleans()) else content)
    loads_or_refuses(lambda: read_ids(path))


def test_where_the_fast_reader_panics_the_careful_one_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Damaged Parquet can be a Rust panic, which is no Exception to Python."""

    def panic(table: object) -> None:
        raise pl.exceptions.PanicException("assertion failed: offset + length <= self.length")

    monkeypatch.setattr(fast_table, "_vet", panic)
    fmt, files = SOURCES["parquet"]
    source = open_source(laid(tmp_path / "set", files), fmt)
    assert sum(len(batch) for batch in source.events(Problems())) == 3


def bomb(size: int) -> bytes:
    return gzip.compress(bytes(size), 9)


def test_what_a_packed_json_unpacks_to_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "ALWAYS_ALLOWED", 1 << 16)
    path = tmp_path / "x.index.json.gz"
    path.write_bytes(bomb(1 << 24))
    with pytest.raises(DataError, match=r"x.index.json.gz: its \d+ bytes unpack to more than \d+"):
        read_ids(path)
    whole = gzip.compress(b'{"1": ["<a_1>"]}' + b" " * (1 << 15))
    path.write_bytes(whole)
    assert len(read_ids(path).items) == 1, "below that there is no bound"


@pytest.mark.parametrize("fmt", ["csv", "amazon2023"])
def test_a_line_without_an_end_is_left_where_it_is_too_long(
    tmp_path: Path, fmt: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_records, "MOST_CHARACTERS", 1 << 12)
    monkeypatch.setattr(lines, "LONGEST_LINE", 1 << 12)
    name = "csv.gz" if fmt == "csv" else "amazon2023"
    _, files = SOURCES[name]
    first, content = next(iter(files.items()))
    folder = laid(tmp_path / "set", {**files, first: content + bomb(1 << 22)})
    with pytest.raises(DataError, match=r":5: .*4096 bytes|:4: .*4096 bytes"):
        events_of(open_source(folder, fmt))
    problems = Problems("skip")
    assert sum(len(batch) for batch in open_source(folder, fmt).events(problems)) == 3
    assert sum(problems.counts.values()) == 1


@pytest.mark.parametrize("make", [zipped, lambda members: tarred(members, "w")])
@pytest.mark.parametrize("evil", ["../evil", "/evil", "a/../../evil", "ml-x/../evil"])
def test_nothing_is_unpacked_under_the_names_of_an_archive(tmp_path: Path, make: Callable, evil: str) -> None:
    """Members are read where they are; that one has a path for a name does not matter."""
    if make is zipped:
        members, fmt, name = MOVIELENS, "movielens", "ml-x.zip"
    else:
        members, fmt, name = YELP, "yelp", "y.tar"
    folder = laid(tmp_path / "set", {name: make({evil: b"x", **members})})
    assert len(events_of(open_source(folder, fmt))) >= 2
    assert {path.name for path in tmp_path.rglob("*")} == {"set", name}


@pytest.mark.parametrize(
    ("fmt", "name", "content"),
    [
        ("movielens", "ml-x.zip", zipped(MOVIELENS, zipfile.ZIP_LZMA)),
        ("movielens", "ml-x.zip", zipped(MOVIELENS, zipfile.ZIP_BZIP2)),
        ("yelp", "y.tar", tarred(YELP, "w:bz2")),
        ("yelp", "y.tar", tarred(YELP, "w:xz")),
    ],
)
def test_damage_inside_other_compressions_is_named_too(
    tmp_path: Path, fmt: str, name: str, content: bytes
) -> None:
    at = content.index(b"ratings.csv") + 30 if fmt == "movielens" else 60
    broken = content[:at] + b"\xff" * 24 + content[at + 24 :]
    with pytest.raises(DataError, match=r"damaged"):
        events_of(open_source(laid(tmp_path / "set", {name: broken}), fmt))


def test_a_link_in_an_archive_leads_nowhere(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(json_lines(REVIEWS))
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in YELP:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, str(secret)
            archive.addfile(entry)
    folder = laid(tmp_path / "set", {"y.tar": buffer.getvalue()})
    with pytest.raises(DataError, match=r"expected a file yelp_academic_dataset_review.json in the archive"):
        events_of(open_source(folder, "yelp"))


@pytest.mark.parametrize(
    "state",
    [
        b"[]",
        b"{",
        b"\xff",
        b"[" * 5000,
        b'{"url": "U", "validator": ["x"]}',
        b'{"url": "U", "validator": "a\\nb"}',
        b'{"url": "V", "validator": "W"}',
    ],
)
def test_what_a_broken_download_noted_is_taken_only_as_it_was_written(tmp_path: Path, state: bytes) -> None:
    (tmp_path / "x.part.json").write_bytes(state)
    assert _validator(tmp_path / "x.part", "U") is None
    (tmp_path / "x.part.json").write_text('{"url": "U", "validator": "W"}')
    assert _validator(tmp_path / "x.part", "U") == "W"


def test_a_damaged_record_of_a_checksum_is_one_that_does_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"content")
    assert record(path) == check_recorded(path)
    (tmp_path / "x.sha256").write_bytes(b"\xff\xfe")
    assert not loads_or_refuses(lambda: check_recorded(path))
