"""Ranks of targets: their file, what is in it, and results by groups against loops."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from streamrec_dist.breakdown import HISTORY_BINS, breakdowns
from streamrec_dist.data.dataset import Dataset
from streamrec_dist.data.split import split_rows
from streamrec_dist.errors import DataError
from streamrec_dist.metrics import MEASURES, measure
from streamrec_dist.ranks import TargetRanks, load_ranks, quartiles, save_ranks
from streamrec_dist.stages.evaluate import judge, summary
from tests.test_counting import dataset

ABOUT = {"run": "demo", "stage": "rl", "split": "test", "masked": False, "decoding": None}


def by_time() -> Dataset:
    """40 users of whom some have several test targets and some none; the items 30 to 34 are new in test."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 30, 40)
    sequences = [(30 * rng.random(length) ** 2).astype(int).tolist() for length in lengths]
    for user in range(0, 40, 4):
        sequences[user][-1] = 30 + user % 5
    ends = np.maximum(lengths - rng.integers(0, 4, 40) - (np.arange(40) % 4 == 0), 1)
    return replace(dataset(sequences, 35), train_end=np.maximum(ends - 1, 0), valid_end=ends)


def judged(ds: Dataset, split: str = "test", seed: int = 1) -> TargetRanks:
    rows = split_rows(ds, split)
    ranks = np.random.default_rng(seed).integers(0, 30, len(rows))
    return judge(ds, rows, ranks, **{**ABOUT, "split": split})


def test_a_row_is_a_target(tmp_path: Path):
    ds = by_time()
    ranks = judged(ds)
    rows = split_rows(ds, "test")
    assert len(np.unique(rows[:, 0])) < len(rows), "some users have several targets"
    save_ranks(tmp_path / "rl-test.parquet", ranks)
    table = pl.read_parquet(tmp_path / "rl-test.parquet")
    assert table.columns == ["user", "item", "position", "rank", "history_length", "popularity"]
    for (user, position), row, rank in zip(rows, table.iter_rows(named=True), ranks.ranks, strict=True):
        trained = [
            item
            for other in range(ds.users)
            for item in ds.history(other)[: ds.train_end[other]]
            if item == ds.history(user)[position]
        ]
        assert row == {
            "user": f"u{user}",
            "item": f"i{ds.history(user)[position]}",
            "position": position,
            "rank": rank,
            "history_length": len(ds.history(user)[:position]),
            "popularity": len(trained),
        }
    assert [path.name for path in tmp_path.iterdir()] == ["rl-test.parquet"]


def test_a_file_is_read_as_it_was_written(tmp_path: Path):
    ds = by_time()
    ranks = judged(ds)
    path = tmp_path / "results" / "rl-test.parquet"
    save_ranks(path, judged(ds, seed=2))
    save_ranks(path, ranks)
    read = load_ranks(path)
    assert read.users == ranks.users and read.items == ranks.items
    for name in ("positions", "ranks", "history_lengths", "popularity", "user_numbers"):
        assert np.array_equal(getattr(read, name), getattr(ranks, name))
    assert read.about == ranks.about
    assert read.about["data"] == ds.content_hash and read.about["depth"] == 100
    assert (read.name, read.n_users) == ("demo:rl", len(np.unique(split_rows(ds, "test")[:, 0])))
    assert summary(read) == summary(ranks)


def test_the_depth_is_the_beam():
    ds = by_time()
    rows = split_rows(ds, "valid")
    decoding = {"thoughts": "greedy", "steps": 4, "samples": None, "beam": 50}
    ranks = judge(ds, rows, np.zeros(len(rows), int), **{**ABOUT, "decoding": decoding})
    assert ranks.about["depth"] == 50


def test_files_that_are_none_are_named(tmp_path: Path):
    path = tmp_path / "x.parquet"
    with pytest.raises(DataError, match=r"x\.parquet: no such file"):
        load_ranks(path)
    path.write_text("user,item\n")
    with pytest.raises(DataError, match=r"x\.parquet: not a readable Parquet file"):
        load_ranks(path)
    save_ranks(path, judged(by_time()))
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({}), path)
    with pytest.raises(DataError, match=r"its metadata are not what .* run: Field required"):
        load_ranks(path)
    pq.write_table(table.drop_columns(["rank"]), path)
    with pytest.raises(DataError, match="expected a column rank of int32"):
        load_ranks(path)
    pq.write_table(table.set_column(3, "rank", pa.nulls(len(table), pa.int32())), path)
    with pytest.raises(DataError, match="column rank has gaps"):
        load_ranks(path)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be written"):
        save_ranks(tmp_path / "file" / "x.parquet", judged(by_time()))


def test_quartiles_are_of_items_that_occur_and_equal_counts_stay_together():
    assert quartiles(np.array([0, 1, 2, 3, 4, 0, 5, 6, 7, 8])) == [2, 4, 6]
    assert quartiles(np.array([3, 3, 3, 3, 3, 9])) == [3, 3, 3]
    assert quartiles(np.zeros(4, int)) == [0, 0, 0]


def groups_by_loops(ds: Dataset, ranks: TargetRanks) -> dict[tuple[str, str], list[int]]:
    """The places of the targets of each group."""
    trained: dict[int, int] = {}
    for user in range(ds.users):
        for item in ds.history(user)[: ds.train_end[user]].tolist():
            trained[item] = trained.get(item, 0) + 1
    counts = sorted(trained.values())
    edges = [counts[-(-len(counts) * quarter // 4) - 1] for quarter in (1, 2, 3)]
    groups: dict[tuple[str, str], list[int]] = {}
    for place, (user, position) in enumerate(split_rows(ds, ranks.about["split"])):
        first = max(first for first in HISTORY_BINS if first <= position)
        name = {1: "1-4", 5: "5-9", 10: "10-19", 20: "20+"}[first]
        groups.setdefault(("history", name), []).append(place)
        count = trained.get(int(ds.history(user)[position]), 0)
        groups.setdefault(("cold", "seen" if count else "cold"), []).append(place)
        if count:
            quarter = 1 + sum(count > edge for edge in edges)
            groups.setdefault(("popularity", f"q{quarter}"), []).append(place)
    return groups


@pytest.mark.parametrize("split", ["valid", "test"])
def test_groups_agree_with_loops(split: str):
    ds = by_time()
    ranks = judged(ds, split)
    expected, found = groups_by_loops(ds, ranks), breakdowns(ranks)
    assert {by: list(groups) for by, groups in found.items()} == {
        "history": ["1-4", "5-9", "10-19", "20+"],
        "popularity": ["q1", "q2", "q3", "q4"],
        "cold": ["seen", "cold"],
    }
    # The test split has targets in every group.
    assert split == "valid" or len(expected) == 10
    for by, groups in found.items():
        for name, one in groups.items():
            places = expected.get((by, name), [])
            assert one["targets"] == len(places)
            assert one["users"] == len({ranks.users[place] for place in places})
            if not places:
                assert one["recall@10"] is one["ndcg@10_ci"] is None
                continue
            for key in ("recall@10", "ndcg@10"):
                mean = sum(measure(key, ranks.ranks)[place] for place in places) / len(places)
                assert one[key] == pytest.approx(mean)
                assert one[f"{key}_ci"][0] <= mean <= one[f"{key}_ci"][1]
    edges = ranks.about["popularity_quartiles"]
    assert found["popularity"]["q1"]["interactions"] == [1, edges[0]]
    assert found["popularity"]["q4"]["interactions"] == [edges[2] + 1, None]


def test_a_summary_has_every_measure_and_its_interval():
    body = summary(judged(by_time()))
    assert set(body) == {*MEASURES, *(f"{name}_ci" for name in MEASURES), "by"}
    assert all(body[f"{name}_ci"][0] <= body[name] <= body[f"{name}_ci"][1] for name in MEASURES)
