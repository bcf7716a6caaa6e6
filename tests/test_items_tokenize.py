"""The tokenize stage from embeddings and sequences to unique ids."""

from __future__ import annotations

import numpy as np
import pytest

from streamrec_dist.config import Config
from streamrec_dist.config_file import parse_config
from streamrec_dist.errors import DataError
from streamrec_dist.items.catalogue import Catalogue
from streamrec_dist.items.extend import extend_ids
from streamrec_dist.stages.tokenize import (
    Clock,
    item_vectors,
    restore_tokenizer,
    take_ids,
    tokenize,
    tokenizer_options,
)

BASE = """\
items: {levels: 3, codes: 8, neighbours: 5}
stages:
  tokenize: {latent: 4, hidden: [16], epochs: 4, batch: 16}
  pretrain: {retrieved: 2}
  rl: {negatives: 5}
"""
WORDS = ["bolt", "nut", "saw", "drill", "tape", "glue", "lamp"]
TEXTS = ["", *(f"{a} {b}" for a in WORDS for b in WORDS)]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
EMBEDDINGS = np.array([[text.count(letter) for letter in LETTERS] for text in TEXTS], dtype=np.float32)
# Everybody takes the items one after the other.
ITEMS = np.tile(np.arange(len(TEXTS), dtype=np.int32), 2)
OFFSETS = np.array([0, len(TEXTS), 2 * len(TEXTS)])


def config(**items) -> Config:
    parsed = parse_config(BASE, "test")
    return Config.model_validate(parsed.model_dump() | {"items": parsed.items.model_dump() | items})


def made(embeddings: np.ndarray = EMBEDDINGS, emit=lambda progress: None, **items):
    return tokenize(embeddings, ITEMS, OFFSETS, config(**items), emit)


@pytest.mark.parametrize("method", ["rqvae", "kmeans"])
@pytest.mark.parametrize("collisions", ["digit", "sinkhorn"])
def test_embeddings_become_neighbours_and_unique_ids(method, collisions):
    progress: list[dict] = []
    found = made(emit=progress.append, method=method, collisions=collisions, behaviour={"weight": 0})
    n = len(TEXTS)
    assert found.neighbours.shape == (n, 5)
    # "bolt nut" and "nut bolt" have the same letters.
    assert found.neighbours[TEXTS.index("bolt nut"), 0] == TEXTS.index("nut bolt")
    assert Catalogue(found.codes, 8).n_items == n
    assert found.codes.shape == (n, 3)
    assert [values["epoch"] for values in progress] == ([1, 2, 3, 4] if method == "rqvae" else [])
    assert found.report["items"] == n
    assert 0 < found.report["recon"] < 1.5
    # Each unordered pair of words occurs in both orders, with one embedding.
    assert found.report["surplus"] >= len(WORDS) * (len(WORDS) - 1) // 2
    assert set(found.report["seconds"]) == {"behaviour", "tokenizer", "ids", "neighbours"}
    shared = found.report["prefixes"]
    assert shared["neighbours"][0] > shared["random"][0]


def test_behaviour_tells_items_with_one_text_apart():
    # Two levels and a digit give too few codes to tell all of them apart; the more often, the better.
    alone, joined = (
        made(collisions="sinkhorn", behaviour={"weight": weight, "dim": 8}).report["surplus"]
        for weight in (0, 2)
    )
    assert joined < 0.5 * alone


def test_a_tokenizer_is_restored_and_gives_new_items_ids():
    settings = config(behaviour={"weight": 1.0, "dim": 8})
    found = tokenize(EMBEDDINGS[:40], ITEMS[:40], np.array([0, 40]), settings, lambda progress: None)
    space, model = restore_tokenizer(found.tokenizer, settings)
    vectors = space.join(EMBEDDINGS[40:])
    assert vectors.shape[1] == 26 + 8
    new = extend_ids(model, vectors, found.codes, tokenizer_options(settings))
    everything = np.concatenate([found.codes, new])
    assert Catalogue(everything, 8).n_items == len(TEXTS)
    with pytest.raises(DataError, match="not of this configuration"):
        restore_tokenizer(found.tokenizer, config(codes=16, behaviour={"weight": 1.0, "dim": 8}))


def test_new_items_get_ids_near_known_ones_though_nobody_has_had_them():
    settings = config(codes=16, behaviour={"weight": 1.5, "dim": 8}, method="kmeans")
    # Two kinds of items, each with texts and company of its own.
    rng = np.random.default_rng(0)
    kind = np.arange(60) % 2
    texts = (np.eye(8)[kind] * 4 + rng.normal(size=(60, 8))).astype(np.float32)
    walks = np.concatenate([np.tile(np.flatnonzero(kind == k), 3) for k in (0, 1)]).astype(np.int32)
    found = tokenize(texts, walks, np.array([0, 90, 180]), settings, lambda progress: None)
    space, model = restore_tokenizer(found.tokenizer, settings)
    vectors = item_vectors(texts, walks, np.array([0, 90, 180]), settings)
    guess = space.guess_behaviour(texts + 0.01, vectors.texts, vectors.joined)
    assert np.linalg.norm(guess, axis=1) == pytest.approx(np.full(60, 1.5), abs=1e-4)
    new = extend_ids(model, space.join(texts + 0.01, guess), found.codes, tokenizer_options(settings))
    of_kind = [set(found.codes[kind == k, 0].tolist()) for k in (0, 1)]
    assert not of_kind[0] & of_kind[1]
    assert np.mean([new[i, 0] in of_kind[kind[i]] for i in range(60)]) > 0.9
    # Without a guess all stand in the middle, where the texts alone decide.
    assert len({*new[:, 0].tolist()}) > 4


def test_given_ids_are_told_apart_and_reported():
    given = np.zeros((len(TEXTS), 3), dtype=np.int32)
    given[:, 1] = np.arange(len(TEXTS)) // 8
    vectors = item_vectors(EMBEDDINGS, ITEMS, OFFSETS, config())
    found = take_ids(vectors, given, config(), Clock())
    assert Catalogue(found.codes, 8).n_items == len(TEXTS)
    assert np.array_equal(found.codes[:, :2], given[:, :2])
    assert found.report["surplus"] == len(TEXTS) - 7
    with pytest.raises(DataError, match=r"ids of 2 levels of 7 codes; expected items\.levels: 3"):
        take_ids(vectors, given[:, :-1], config(), Clock())


def test_one_item_is_enough():
    found = tokenize(EMBEDDINGS[:1], ITEMS[:1], np.array([0, 1]), config(), lambda progress: None)
    assert found.codes.shape == (1, 3)
    assert found.neighbours.shape == (1, 0)


def test_an_empty_catalogue_is_refused():
    with pytest.raises(DataError, match="catalogue is empty"):
        tokenize(EMBEDDINGS[:0], ITEMS[:0], np.array([0]), config(), lambda progress: None)


def test_a_not_finite_embedding_names_the_item():
    broken = EMBEDDINGS.copy()
    broken[4, 2] = np.nan
    with pytest.raises(DataError, match="text embedding of item 4 is not finite"):
        made(broken)
