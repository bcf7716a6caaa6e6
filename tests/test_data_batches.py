"""Splits, token arrays and epoch order against plain loops."""

from __future__ import annotations

import numpy as np
import pytest

from streamrec_dist.data.batches import (
    Corpus,
    epoch_order,
    history_lengths,
    history_tokens,
    micro_batches,
    rank_rows,
    targets,
)
from streamrec_dist.data.build import validate
from streamrec_dist.data.demo import demo_catalogue
from streamrec_dist.data.split import split_rows, training_part, training_rows
from streamrec_dist.errors import ConfigError, DataError

DATA = validate(demo_catalogue(users=60, items=80))


def corpus(max_history: int = 4) -> Corpus:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 16, size=(DATA.n_items, 3)).astype(np.int32)
    return Corpus.of(DATA, codes, codes_per_level=16, max_history=max_history)


def test_rows_cover_every_target_exactly_once():
    seen = np.concatenate([training_rows(DATA), split_rows(DATA, "valid"), split_rows(DATA, "test")])
    expected = {(user, place) for user in range(DATA.users) for place in range(1, len(DATA.history(user)))}
    assert len(seen) == len(expected)
    assert {tuple(row) for row in seen.tolist()} == expected


def test_rows_of_one_user_by_hand():
    raw = demo_catalogue(users=1, items=60)
    five, three = raw.items[:5], raw.items[:3]
    sequences = np.concatenate([five, three])
    ds = validate(
        type(raw)("t", "t", sequences, np.array([0, 5, 8]), ["a", "b"], raw.item_ids, raw.titles, raw.texts)
    )
    assert training_rows(ds).tolist() == [[0, 1], [0, 2]]
    assert split_rows(ds, "valid").tolist() == [[0, 3], [1, 1]]
    assert split_rows(ds, "test").tolist() == [[0, 4], [1, 2]]
    items, offsets = training_part(ds)
    assert items.tolist() == [*five[:3], three[0]]
    assert offsets.tolist() == [0, 3, 4]


def test_an_unknown_split_is_refused():
    with pytest.raises(ConfigError, match="valid, test"):
        split_rows(DATA, "train")


def test_history_tokens_equal_a_loop():
    c = corpus()
    rows = np.concatenate([training_rows(DATA)[::7], split_rows(DATA, "test")])
    tokens, lengths = history_tokens(c, rows)
    expected = []
    for user, position in rows:
        history = DATA.history(user)[max(0, position - c.max_history) : position]
        expected.append([2 + level * 16 + int(c.codes[i, level]) for i in history for level in range(3)])
    assert lengths.tolist() == [len(row) for row in expected]
    assert tokens.shape == (len(rows), max(lengths))
    assert tokens.tolist() == [row + [0] * (tokens.shape[1] - len(row)) for row in expected]
    assert tokens.dtype == lengths.dtype == np.int64
    assert (history_lengths(c, rows) * 3).tolist() == lengths.tolist()


def test_targets_are_the_items_at_the_positions():
    rows = split_rows(DATA, "valid")
    assert targets(corpus(), rows).tolist() == [DATA.history(user)[-2] for user in range(DATA.users)]


def test_item_tokens_keep_the_levels_apart():
    tokens = corpus().item_tokens(np.arange(DATA.n_items))
    level = (tokens - 2) // 16
    assert (level == [0, 1, 2]).all()
    assert corpus().item_tokens(np.array([[0, 1], [2, 3]])).shape == (2, 2, 3)


def test_batches_of_the_ranks_make_up_the_single_rank_batches():
    lengths = np.random.default_rng(0).integers(1, 20, size=1003)
    alone = epoch_order(lengths, 16, seed=1, epoch=2)
    assert np.array_equal(epoch_order(lengths, 16, seed=1, epoch=2, world_size=4), alone)
    assert len(alone) == 1003 // 16
    for batch in alone:
        parts = [rank_rows(batch, rank, 4) for rank in range(4)]
        assert [len(part) for part in parts] == [4] * 4
        assert sorted(np.concatenate(parts)) == sorted(batch)
    visited = np.concatenate(alone)
    assert len(set(visited.tolist())) == len(visited) == 1003 // 16 * 16


def test_order_depends_on_seed_and_epoch_only():
    lengths = np.arange(200) % 9
    first = np.concatenate(epoch_order(lengths, 10, seed=0, epoch=0)).tolist()
    assert np.concatenate(epoch_order(lengths, 10, seed=0, epoch=0)).tolist() == first
    assert np.concatenate(epoch_order(lengths, 10, seed=0, epoch=1)).tolist() != first
    assert np.concatenate(epoch_order(lengths, 10, seed=1, epoch=0)).tolist() != first


def test_rows_of_similar_length_share_a_batch():
    lengths = np.random.default_rng(0).integers(1, 21, size=6400)
    batches = epoch_order(lengths, 32, seed=0, epoch=0)
    padded = sum(lengths[batch].max() * len(batch) for batch in batches)
    assert padded < 1.1 * sum(lengths[batch].sum() for batch in batches)
    means = np.array([lengths[batch].mean() for batch in batches])
    # Sorted batches would give a correlation near 1 inside each window.
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.3


def test_the_rows_left_out_change_from_epoch_to_epoch():
    lengths = np.arange(25)
    left_out = {
        tuple(sorted(set(range(25)) - set(np.concatenate(epoch_order(lengths, 10, 0, epoch)).tolist())))
        for epoch in range(20)
    }
    assert len(left_out) > 10


def test_a_single_partial_batch_is_kept_and_split_evenly():
    (alone,) = epoch_order(np.ones(7), 16, seed=0, epoch=0)
    assert sorted(alone) == list(range(7))
    (even,) = epoch_order(np.ones(7), 16, seed=0, epoch=0, world_size=2)
    assert [len(rank_rows(even, rank, 2)) for rank in range(2)] == [3, 3]


def test_impossible_batches_are_refused():
    with pytest.raises(ConfigError, match="10 rows cannot be split evenly over 4"):
        epoch_order(np.ones(100), 10, seed=0, epoch=0, world_size=4)
    with pytest.raises(DataError, match="too few"):
        epoch_order(np.ones(1), 4, seed=0, epoch=0, world_size=2)


@pytest.mark.parametrize("budget", [1, 7, 12, 60, 1000, None])
def test_micro_batches_hold_every_row_once_within_the_budget(budget):
    lengths = np.random.default_rng(0).integers(1, 13, size=50)
    parts = micro_batches(lengths, budget)
    assert sorted(np.concatenate(parts).tolist()) == list(range(50))
    if budget is None:
        assert len(parts) == 1
        return
    for part in parts:
        assert len(part) == 1 or len(part) * lengths[part].max() <= budget
    if budget == 60:
        assert len(parts) <= 1.3 * lengths.sum() / budget + 1
