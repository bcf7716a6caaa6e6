"""Leave-one-out and splits by time against cases worked out by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from streamrec_dist.baselines.counting import CountingModel
from streamrec_dist.baselines.popularity import PopularityModel
from streamrec_dist.data.split import (
    Split,
    last_rows_behind,
    rows_of_some,
    split_rows,
    training_part,
    training_rows,
)
from streamrec_dist.errors import ConfigError, DataError

#: Users of 5, 1, 3, 2 and 4 events; the third has none before the first moment, the fourth none after it.
TIMES = [[1, 2, 10, 20, 30], [25], [10, 11, 40], [3, 3], [5, 9, 10, 19]]
MOMENTS = (10, 20)


def cut(split: Split) -> SimpleNamespace:
    lengths = [len(own) for own in TIMES]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    times = np.concatenate(TIMES)
    train_end, valid_end = split.ends(offsets, times)
    items = np.arange(len(times)) % 6
    ds = SimpleNamespace(items=items, offsets=offsets, train_end=train_end, valid_end=valid_end, n_items=6)
    ds.history = lambda user: items[offsets[user] : offsets[user + 1]]
    return ds


def test_a_split_by_time_by_hand():
    ds = cut(Split(MOMENTS))
    assert ds.train_end.tolist() == [2, 0, 0, 2, 2]
    assert ds.valid_end.tolist() == [3, 0, 2, 2, 4]
    assert split_rows(ds, "valid").tolist() == [[0, 2], [2, 1], [4, 2], [4, 3]]
    assert split_rows(ds, "test").tolist() == [[0, 3], [0, 4], [2, 2]]
    assert training_rows(ds).tolist() == [[0, 1], [3, 1], [4, 1]]
    items, offsets = training_part(ds)
    assert items.tolist() == [0, 1, 3, 4, 5, 0]
    assert offsets.tolist() == [0, 2, 2, 2, 4, 6]


def test_leave_one_out_by_hand():
    ds = cut(Split())
    assert ds.train_end.tolist() == [3, -1, 1, 0, 2]
    assert split_rows(ds, "test").tolist() == [[0, 4], [2, 2], [3, 1], [4, 3]]
    assert training_rows(ds).tolist() == [[0, 1], [0, 2], [4, 1]]


def test_an_event_at_the_moment_belongs_to_what_begins_there():
    ends = Split((10, 20)).ends(np.array([0, 3]), np.array([9, 10, 20]))
    assert [end.tolist() for end in ends] == [[1], [2]]


def test_a_split_by_time_needs_times():
    with pytest.raises(DataError, match="needs the times"):
        Split(MOMENTS).ends(np.array([0, 1]), None)


def test_splits_are_read_from_text():
    assert Split.parse("leave-one-out") == Split()
    assert Split.parse("1628643414042,1658002729837") == Split((1628643414042, 1658002729837))
    assert Split.parse("2018-09-04, 2020-05-12") == Split((1536019200000, 1589241600000))
    assert Split.parse(str(Split((5, 7)))) == Split((5, 7))
    assert Split((1536019200000, 1589241600000)).text() == "2018-09-04, 2020-05-12"
    for wrong in ("last", "1", "1,2,3", "", "yesterday,today"):
        with pytest.raises(ConfigError, match="expected leave-one-out, or"):
            Split.parse(wrong)
    with pytest.raises(ConfigError, match="validation must begin before test"):
        Split.parse("2,1")


def test_some_users_keep_all_their_rows():
    rows = split_rows(cut(Split(MOMENTS)), "test")
    for seed in range(5):
        some = rows_of_some(rows, 1, np.random.default_rng(seed))
        assert some.tolist() in ([[0, 3], [0, 4]], [[2, 2]])
    assert rows_of_some(rows, 9, np.random.default_rng(0)).tolist() == rows.tolist()


def test_baselines_count_the_training_part_of_a_split_by_time():
    ds = cut(Split(MOMENTS))
    assert PopularityModel.fit(ds).counts.tolist() == [2, 1, 0, 1, 1, 1]
    ranks = CountingModel.fit(ds).ranks(ds, split_rows(ds, "test"), masked=False)
    assert len(ranks) == 3
    no_training = cut(Split((0, 20)))
    assert PopularityModel.fit(no_training).counts.sum() == 0
    assert (
        CountingModel.fit(no_training).ranks(no_training, split_rows(no_training, "valid"), False) == 0
    ).all()


def test_last_rows_of_users_with_several_go_behind():
    rows = np.array([[0, 1], [0, 2], [0, 3], [1, 1], [2, 1], [2, 2]])
    found, kept = last_rows_behind(rows)
    assert kept == 2
    assert found.tolist() == [[0, 1], [0, 2], [1, 1], [2, 1], [0, 3], [2, 2]]
    nothing, none = last_rows_behind(np.zeros((0, 2), dtype=np.int64))
    assert len(nothing) == none == 0
