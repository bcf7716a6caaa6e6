"""Text neighbours against a brute-force loop."""

from __future__ import annotations

import numpy as np
import pytest

from streamrec_dist.items import neighbours as module
from streamrec_dist.items.neighbours import nearest_neighbours, neighbour_recall


def brute_force(vectors: np.ndarray, k: int) -> list[list[int]]:
    result = []
    for i, a in enumerate(vectors):
        cosines = {
            j: float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) for j, b in enumerate(vectors) if j != i
        }
        result.append(sorted(cosines, key=cosines.__getitem__, reverse=True)[:k])
    return result


@pytest.mark.parametrize("block_entries", [1, 100, 2**24])
def test_equals_brute_force_in_blocks_of_any_size(monkeypatch, block_entries):
    monkeypatch.setattr(module, "_BLOCK_ENTRIES", block_entries)
    vectors = np.random.default_rng(0).normal(size=(30, 6)) * np.linspace(0.1, 9, 30)[:, None]
    found = nearest_neighbours(vectors, 7)
    assert found.dtype == np.int32
    assert found.tolist() == brute_force(vectors, 7)


def test_k_is_cut_to_the_other_items():
    vectors = np.eye(3, dtype=np.float32)
    assert nearest_neighbours(vectors, 50).shape == (3, 2)
    assert nearest_neighbours(vectors[:1], 50).shape == (1, 0)


def test_duplicates_are_neighbours_but_never_of_themselves():
    vectors = np.repeat(np.random.default_rng(1).normal(size=(4, 8)), 5, axis=0)
    found = nearest_neighbours(vectors, 4)
    for item, row in enumerate(found):
        assert sorted(row) == [j for j in range(item // 5 * 5, item // 5 * 5 + 5) if j != item]


def test_ties_do_not_follow_item_numbers_and_repeat():
    vectors = np.ones((200, 3))
    found = nearest_neighbours(vectors, 10)
    assert np.array_equal(found, nearest_neighbours(vectors, 10))
    assert not np.array_equal(found[-1], np.arange(10))
    assert not np.array_equal(found[-1], np.arange(198, 188, -1))


def test_a_zero_vector_gets_neighbours_and_comes_after_nearer_items():
    vectors = np.array([[0.0, 0], [1, 0], [1, 0.1], [-1, 0]])
    found = nearest_neighbours(vectors, 3)
    assert sorted(found[0]) == [1, 2, 3]
    assert found[1].tolist() == [2, 0, 3]


def test_a_graph_finds_nearly_all_neighbours_and_never_the_item_itself():
    rng = np.random.default_rng(4)
    vectors = (
        rng.normal(size=(40, 16))[rng.integers(0, 40, 3000)] + 0.3 * rng.normal(size=(3000, 16))
    ).astype(np.float32)
    found = nearest_neighbours(vectors, 20, search="hnsw")
    assert found.shape == (3000, 20) and found.dtype == np.int32
    assert (found != np.arange(3000)[:, None]).all()
    assert neighbour_recall(vectors, found) > 0.95
    exact = nearest_neighbours(vectors, 20, search="exact")
    assert neighbour_recall(vectors, exact) == 1.0
    same = [len(set(a) & set(b)) / 20 for a, b in zip(found.tolist(), exact.tolist(), strict=True)]
    assert np.mean(same) > 0.95
    assert neighbour_recall(vectors, np.roll(exact, 1500, axis=0)) < 0.2


def test_a_graph_of_equal_items_gives_others():
    found = nearest_neighbours(np.ones((50, 4), np.float32), 5, search="hnsw")
    assert found.shape == (50, 5)
    assert (found != np.arange(50)[:, None]).all() and (found >= 0).all()
