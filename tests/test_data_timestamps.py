"""The unit of a column of times: decided over the whole column, by many and not by one, alike in both readers."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from streamrec_dist.data import reader_table
from streamrec_dist.data.dataset import Dataset
from streamrec_dist.data.events import OnError, Problems
from streamrec_dist.data.fast_table import fast_table
from streamrec_dist.data.prepare import prepare
from streamrec_dist.data.reader_table import TableSource
from streamrec_dist.data.tables import open_csv
from streamrec_dist.data.timestamps import LATEST, PER_SECOND, Clock, Tally, parse_time
from streamrec_dist.errors import DataError

#: The middle of 2020, in seconds.
NOW = 1_592_000_000


def shop(folder: Path, times: list, packed: bool = False) -> Path:
    """Users of five events each; the times are those given."""
    folder.mkdir()
    rows = [f"u{n // 5},p{n % 5},{time}\n" for n, time in enumerate(times)]
    content = "".join(["user,item,timestamp\n", *rows]).encode()
    name = "interactions.csv.gz" if packed else "interactions.csv"
    (folder / name).write_bytes(gzip.compress(content) if packed else content)
    (folder / "items.csv").write_text("item,title\n" + "".join(f"p{n},t\n" for n in range(5)))
    return folder


def prepared(tmp_path: Path, times: list, packed: bool, on_error: OnError = "stop") -> Dataset:
    return prepare(shop(tmp_path / "in", times, packed), "csv", tmp_path / "out", on_error=on_error)


def clock_of(*numbers: float) -> Clock:
    tally = Tally()
    tally.add(np.array(numbers))
    return tally.clock()


@pytest.mark.parametrize("unit", PER_SECOND)
def test_times_of_our_days_tell_their_unit(unit: str):
    for moment in (NOW, 700_000_000, LATEST - 1):
        assert clock_of(moment * PER_SECOND[unit]) == Clock(unit, recent=True)


def test_a_few_numbers_of_another_unit_do_not_decide():
    seconds, large = [NOW] * 97, [NOW * 1000, NOW * 10**6, 9 * 10**18]
    assert clock_of(*seconds, *large).unit == "s"
    assert clock_of(*(time * 1000 for time in seconds), 1, NOW, *large).unit == "ms"
    assert clock_of(*[NOW * 1000] * 2, *[NOW] * 3).unit == "s"


def test_numbers_that_are_no_times_are_there_for_their_order():
    assert clock_of(0, 1, 2).unit == "s"
    assert clock_of(*range(10**7, 10**7 + 100), 10**14).unit == "s"
    assert clock_of(20_200_105_123_000).unit == "us", "2020-01-05 12:30 written as one number"
    assert clock_of(9.1e18).unit == "ns"
    assert Tally().clock().unit == "s"


def test_the_check_of_a_time_names_its_place():
    seconds, plain = Clock("s", recent=True), Clock("s")
    for good in (0, 1, NOW, LATEST - 0.5):
        seconds.check(good, "here")
        plain.check(good, "here")
    for bad in (-1, LATEST, NOW * 1000):
        with pytest.raises(
            DataError, match=r"here: .* does not fit to the other times, most of which count s"
        ):
            seconds.check(bad, "here")
        with pytest.raises(DataError, match="here: expected a time from 1970 to 2099"):
            plain.check(bad, "here")
    with pytest.raises(DataError, match="count us since 1970"):
        Clock("us", recent=True).check(NOW, "here")
    Clock("us", recent=True).check(1, "here")
    Clock("us").check(NOW, "here")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("factor", [1, 1000])
def test_a_time_in_another_unit_is_a_broken_event(tmp_path: Path, packed: bool, factor: int):
    times = [(NOW + n) * factor for n in range(100)]
    times[42] = (NOW + 42) * (1000 if factor == 1 else 1)
    with pytest.raises(
        DataError, match=rf"csv(\.gz)?:44: timestamp: {times[42]} does not fit to the other times, most"
    ):
        prepared(tmp_path, times, packed)
    ds = prepare(tmp_path / "in", "csv", tmp_path / "out", on_error="skip")
    assert (ds.n_interactions, ds.problems) == (99, {"broken_event": 1})
    assert ds.times is not None
    assert ds.times.tolist() == [(NOW + n) * 1000 for n in range(100) if n != 42]


def test_it_does_not_matter_where_in_the_file_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # As many as go into a batch, and more: the unit is not that of the first batch.
    monkeypatch.setattr(reader_table, "BATCH_ROWS", 10)
    times = [(NOW + n) * 1000 for n in range(10)] + [NOW + n for n in range(10, 50)]
    for packed in (False, True):
        (tmp_path / str(packed)).mkdir()
        ds = prepared(tmp_path / str(packed), times, packed, "skip")
        assert ds.problems == {"broken_event": 10}
        assert ds.times is not None
        assert ds.times.tolist() == [(NOW + n) * 1000 for n in range(10, 50)]


@pytest.mark.parametrize(
    ("times", "problems"),
    [
        (["2020-01-05", "2020-01-06", "1969-12-31", "2020-01-07", "2020-01-08"], 1),
        (["2020-01-05", "2020-01-06", "2100-01-01", "2020-01-07", "2020-01-08"], 1),
        (["17", "2020-01-06", "2020-01-07", "2020-01-08", "2020-01-09"], 1),
        (["2020-01-05", "3", "4", "5", "6"], 1),
        (["2020-01-05", "2020-1-6", "2020-01-07", "2020-01-08", "2020-01-09"], 1),
        (["2020-01-05", "2020-01-06 24:00:00", "2020-01-07", "2020-01-08", "2020-01-09"], 1),
        (["-5", "3", "4", "5", "6"], 1),
        (["0", "1", "2", "3", "4"], 0),
        (["0.5", "1.5", "2.25", "3", "4e1"], 0),
    ],
)
def test_both_readers_judge_alike(tmp_path: Path, times: list[str], problems: int):
    found = []
    for packed in (False, True):
        (tmp_path / str(packed)).mkdir()
        found.append(prepared(tmp_path / str(packed), times, packed, "skip"))
    assert found[0].content_hash == found[1].content_hash
    assert [ds.problems.get("broken_event", 0) for ds in found] == [problems, problems]


@pytest.mark.parametrize("packed", [False, True])
def test_where_no_event_has_a_time_the_order_of_the_file_counts(tmp_path: Path, packed: bool):
    ds = prepared(tmp_path, ["", " ", "", "", ""], packed)
    assert ds.times is None
    assert [ds.item_ids[item] for item in ds.history(0)] == ["p0", "p1", "p2", "p3", "p4"]


@pytest.mark.parametrize("packed", [False, True])
def test_where_some_events_have_a_time_the_others_are_a_problem(tmp_path: Path, packed: bool):
    times = [5, "", 3, 2, 1, ""]
    with pytest.raises(
        DataError, match=r"csv(\.gz)?:3 \(user 'u0'\): the time is missing, as it is for 2 of 6"
    ):
        prepared(tmp_path, times, packed)
    ds = prepare(tmp_path / "in", "csv", tmp_path / "out", on_error="skip")
    assert [ds.item_ids[item] for item in ds.history(0)] == ["p4", "p3", "p2", "p0"]
    assert ds.problems == {"event_without_time": 2, "user_too_short": 1}


@pytest.mark.parametrize(
    "kind", [pa.null(), pa.int64(), pa.float64(), pa.string(), pa.timestamp("us"), pa.date32()]
)
def test_a_parquet_column_without_times(tmp_path: Path, kind: pa.DataType):
    table = {"user": ["u"] * 3, "item": ["a", "b", "c"], "timestamp": pa.nulls(3, kind)}
    pq.write_table(pa.table(table), tmp_path / "interactions.parquet")
    pq.write_table(pa.table({"item": ["c", "b", "a"], "title": ["", "", ""]}), tmp_path / "items.parquet")
    ds = prepare(tmp_path, "parquet", tmp_path / "out")
    assert ds.times is None
    assert [ds.item_ids[item] for item in ds.items] == ["a", "b", "c"]


def test_a_parquet_column_of_a_type_that_is_no_time_is_refused(tmp_path: Path):
    table = {"user": ["u"] * 3, "item": ["a", "b", "c"], "timestamp": [True, False, True]}
    pq.write_table(pa.table(table), tmp_path / "interactions.parquet")
    pq.write_table(pa.table({"item": ["c", "b", "a"], "title": ["", "", ""]}), tmp_path / "items.parquet")
    with pytest.raises(DataError, match=r"row 1: timestamp: expected a finite number"):
        prepare(tmp_path, "parquet", tmp_path / "out")


def test_times_in_dictionary_encoding_count(tmp_path: Path):
    days = pa.array(["2020-01-03", "2020-01-02", "2020-01-01"]).dictionary_encode()
    table = {"user": ["u"] * 3, "item": ["a", "b", "c"], "timestamp": days}
    pq.write_table(pa.table(table), tmp_path / "interactions.parquet")
    pq.write_table(pa.table({"item": ["c", "b", "a"], "title": ["", "", ""]}), tmp_path / "items.parquet")
    ds = prepare(tmp_path, "parquet", tmp_path / "out")
    assert ds.times is not None
    assert [ds.item_ids[item] for item in ds.items] == ["c", "b", "a"]


def test_a_clean_column_is_read_in_bulk(tmp_path: Path):
    columns = (("user", "item"), ("timestamp",))
    clean = shop(tmp_path / "clean", [(NOW + n) * 1000 for n in range(10)])
    fast = fast_table(open_csv(clean / "interactions.csv", *columns))
    assert fast is not None and fast.clock == Clock("ms", recent=True)
    mixed = shop(tmp_path / "mixed", [(NOW + n) * 1000 for n in range(10)] + [NOW])
    assert fast_table(open_csv(mixed / "interactions.csv", *columns)) is None
    assert TableSource(mixed, "csv").place_of(9).endswith("interactions.csv:11")
    assert sum(len(batch) for batch in TableSource(mixed, "csv").events(Problems("skip"))) == 10


def test_times_in_any_form():
    assert parse_time("12", "here") == (12, False)
    assert parse_time(" 1.5 ", "here") == (1.5, False)
    assert parse_time("1970-01-02", "here") == (86_400_000_000, True)
    assert parse_time("1970-01-01T01:00:00+01:00", "here") == (0, True)
    assert parse_time(2**62 + 1, "here") == (2**62 + 1, False)
    for missing in (None, "", "  "):
        assert parse_time(missing, "here") == (None, False)
    for bad in (True, "1e400", "soon", float("nan"), 2**63, [1]):
        with pytest.raises(DataError, match="here: expected a finite number"):
            parse_time(bad, "here")
