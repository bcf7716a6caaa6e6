"""Embeddings in shards: what is there is kept, what is of other data is dropped, what is broken is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from streamrec_dist.errors import DataError, RunError
from streamrec_dist.items.shards import SHARD_ITEMS, EmbeddingShards

ITEMS = 2 * SHARD_ITEMS + 10
MADE_OF = {"encoder": "e", "data": "abc", "items": ITEMS}
VECTORS = np.random.default_rng(0).normal(size=(ITEMS, 3)).astype(np.float32)


def filled(folder: Path) -> EmbeddingShards:
    shards = EmbeddingShards(folder)
    for first, last in shards.begin(MADE_OF):
        shards.write(first, VECTORS[first:last])
    return shards


def test_shards_come_back_in_order(tmp_path):
    shards = filled(tmp_path / "e")
    assert shards.begin(MADE_OF) == []
    np.testing.assert_array_equal(shards.load(ITEMS), VECTORS)


def test_only_what_is_missing_is_asked_for(tmp_path):
    shards = EmbeddingShards(tmp_path / "e")
    assert shards.begin(MADE_OF) == [
        (0, SHARD_ITEMS),
        (SHARD_ITEMS, 2 * SHARD_ITEMS),
        (2 * SHARD_ITEMS, ITEMS),
    ]
    shards.write(SHARD_ITEMS, VECTORS[SHARD_ITEMS : 2 * SHARD_ITEMS])
    assert [first for first, _ in shards.begin(MADE_OF)] == [0, 2 * SHARD_ITEMS]
    with pytest.raises(RunError, match=r"part-000000000.parquet: missing"):
        shards.load(ITEMS)


def test_shards_of_other_data_are_dropped(tmp_path):
    shards = filled(tmp_path / "e")
    assert len(shards.begin(MADE_OF | {"data": "other"})) == 3


def test_a_damaged_shard_is_named(tmp_path):
    shards = filled(tmp_path / "e")
    path = tmp_path / "e" / f"part-{SHARD_ITEMS:09d}.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"part-000000512.parquet: not a readable .*run stage tokenize again"):
        shards.load(ITEMS)
    shards.write(SHARD_ITEMS, VECTORS[:5])
    with pytest.raises(DataError, match="holds 5 items, expected 512"):
        shards.load(ITEMS)
