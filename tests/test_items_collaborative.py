"""Vectors of behaviour and the space they share with texts, against loops and closed forms."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from streamrec_dist.errors import ConfigError
from streamrec_dist.items import collaborative
from streamrec_dist.items.collaborative import behaviour_vectors
from streamrec_dist.items.space import ItemSpace


def two_worlds(users: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Users who stay among the items 0 .. 9 or 10 .. 19; the item 20 is never taken."""
    rng = np.random.default_rng(seed)
    sequences = [rng.permutation(10)[:6] + 10 * (user % 2) for user in range(users)]
    return np.concatenate(sequences).astype(np.int32), np.arange(users + 1) * 6


def information_by_loop(items: np.ndarray, offsets: np.ndarray, n: int) -> np.ndarray:
    """Positive pointwise mutual information, pair by pair."""
    weight = np.zeros((n, n))
    for start, end in itertools.pairwise(offsets):
        for i in range(start, end):
            for j in range(i + 1, min(i + 6, end)):
                weight[items[i], items[j]] += 1 / (j - i)
                weight[items[j], items[i]] += 1 / (j - i)
    alone, total, result = weight.sum(1), weight.sum(), np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            if weight[i, j] > 0:
                result[i, j] = max(0.0, math.log(weight[i, j] * total / (alone[i] * alone[j])))
    return result


@pytest.mark.parametrize("dense_items", [0, 512])
def test_vectors_factorise_the_information(monkeypatch, dense_items):
    monkeypatch.setattr(collaborative, "_DENSE_ITEMS", dense_items)
    items, offsets = two_worlds()
    found = behaviour_vectors(items, offsets, 21, dim=6)
    u, s, _ = np.linalg.svd(information_by_loop(items, offsets, 21))
    expected = u[:, :6] * np.sqrt(s[:6])
    expected[:20] /= np.linalg.norm(expected[:20], axis=1, keepdims=True)
    # A singular vector's sign is free, the cosines between items are not.
    np.testing.assert_allclose(found[:20] @ found[:20].T, expected[:20] @ expected[:20].T, atol=1e-4)
    assert not found[20].any()


def test_items_of_one_world_are_alike():
    items, offsets = two_worlds()
    vectors = behaviour_vectors(items, offsets, 21, dim=2)
    cosines = vectors @ vectors.T
    assert cosines[:10, :10].min() > 0.8
    assert np.abs(cosines[:10, 10:20]).max() < 0.2


@pytest.mark.parametrize(("items", "offsets", "n"), [([0], [0, 1], 1), ([0, 1], [0, 1, 2], 2), ([], [0], 3)])
def test_without_pairs_there_is_no_behaviour(items, offsets, n):
    found = behaviour_vectors(np.array(items, dtype=np.int32), np.array(offsets), n, dim=4)
    assert found.shape == (n, 4)
    assert not found.any()


def embeddings(n: int = 50, d: int = 8) -> np.ndarray:
    rng = np.random.default_rng(1)
    return (rng.normal(size=(n, d)) * np.arange(1, d + 1) + 3).astype(np.float32)


def test_texts_and_behaviour_have_their_say():
    rng = np.random.default_rng(2)
    behaviour = rng.normal(size=(50, 4)).astype(np.float32)
    behaviour[7] = 0
    space = ItemSpace.fit(embeddings(), None, False, weight=0.5, behaviour_dim=4)
    joined = space.join(embeddings(), space.place_behaviour(behaviour))
    texts, rest = joined[:, :8], joined[:, 8:]
    assert (texts**2).sum(1).mean() == pytest.approx(1.0, rel=1e-4)
    known = np.arange(50) != 7
    assert (rest[known] ** 2).sum(1).mean() == pytest.approx(0.25, rel=1e-4)
    assert not rest[7].any()
    # A new item has its text's place, and the middle of the rest.
    np.testing.assert_allclose(space.join(embeddings()[3:4]), [[*texts[3], 0, 0, 0, 0]], rtol=1e-5)


def test_without_weight_texts_are_alone():
    space = ItemSpace.fit(embeddings(), None, False, weight=0.0, behaviour_dim=4)
    assert space.join(embeddings(), np.ones((50, 4), np.float32)).shape == (50, 8)
    assert space.texts(embeddings()) is not None
    np.testing.assert_array_equal(space.texts(embeddings()), embeddings())


def test_principal_components_keep_the_most_variance():
    data = embeddings()
    centred = data - data.mean(0)
    _, s, axes = np.linalg.svd(centred, full_matrices=False)
    space = ItemSpace.fit(data, 3, False, 0.0, 0)
    found = space.texts(data)
    np.testing.assert_allclose(np.abs(found), np.abs(centred @ axes[:3].T), rtol=1e-3, atol=1e-3)
    assert (found**2).sum() == pytest.approx((s[:3] ** 2).sum(), rel=1e-4)


def test_whitened_components_have_one_spread_and_no_correlation():
    white = ItemSpace.fit(embeddings(), 4, True, 0.0, 0).texts(embeddings())
    np.testing.assert_allclose(white.T @ white / 50, np.eye(4), atol=1e-3)
    flat = np.zeros((5, 3), np.float32)
    assert np.isfinite(ItemSpace.fit(flat, 2, True, 0.0, 0).join(flat)).all()


def test_a_space_is_restored_from_its_arrays():
    space = ItemSpace.fit(embeddings(), 3, True, 0.7, 4)
    again = ItemSpace.restore(space.arrays())
    np.testing.assert_array_equal(again.join(embeddings()), space.join(embeddings()))


def test_more_components_than_dimensions_are_refused():
    with pytest.raises(ConfigError, match=r"items.pca: 9 components asked for, the embeddings have 8"):
        ItemSpace.fit(embeddings(), 9, False, 0.0, 0)
