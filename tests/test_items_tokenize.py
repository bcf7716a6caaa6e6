"""The tokenize stage from texts to unique ids, with an encoder that counts letters."""

from __future__ import annotations

import numpy as np
import pytest

from streamrec_dist.errors import DataError, RunError
from streamrec_dist.items.catalogue import Catalogue
from streamrec_dist.items.rqvae import TokenizerOptions
from streamrec_dist.stages.tokenize import tokenize

OPTIONS = TokenizerOptions(levels=3, codes=8, latent=4, hidden=(16,), epochs=4, batch=16)
WORDS = ["bolt", "nut", "saw", "drill", "tape", "glue", "lamp"]
TEXTS = ["", *(f"{a} {b}" for a in WORDS for b in WORDS)]


def count_letters(texts) -> np.ndarray:
    letters = "abcdefghijklmnopqrstuvwxyz"
    return np.array([[text.count(letter) for letter in letters] for text in texts], dtype=np.float64)


@pytest.mark.parametrize("collisions", ["digit", "sinkhorn"])
def test_texts_become_embeddings_neighbours_and_unique_ids(collisions):
    events: list[tuple[str, dict]] = []
    options = TokenizerOptions(**{**vars(OPTIONS), "collisions": collisions})
    made = tokenize(TEXTS, count_letters, options, 5, lambda name, values: events.append((name, values)))
    n = len(TEXTS)
    assert (made.embeddings.dtype, made.embeddings.shape) == (np.float32, (n, 26))
    assert made.neighbours.shape == (n, 5)
    # "bolt nut" and "nut bolt" have the same letters.
    assert made.neighbours[TEXTS.index("bolt nut"), 0] == TEXTS.index("nut bolt")
    assert Catalogue(made.codes, options.codes).n_items == n
    assert made.codes.shape == (n, 3)
    assert {name for name, _ in events} == {"tokenize.progress"}
    assert [values["epoch"] for _, values in events] == [1, 2, 3, 4]
    assert set(events[0][1]) == {"epoch", "epochs", "loss", "recon", "used_codes"}
    assert made.report["items"] == n
    assert 0 < made.report["recon"] < 1.5
    # Each unordered pair of words occurs in both orders, with one embedding.
    assert made.report["surplus"] >= len(WORDS) * (len(WORDS) - 1) // 2
    assert set(made.report["seconds"]) == {"embed", "neighbours", "rqvae", "ids"}


def test_read_only_embeddings_are_fine():
    def embed(texts) -> np.ndarray:
        found = count_letters(texts).astype(np.float32)
        found.setflags(write=False)
        return found

    assert len(tokenize(TEXTS, embed, OPTIONS, 2, lambda name, values: None).codes) == len(TEXTS)


def test_one_item_is_enough():
    made = tokenize(["only"], count_letters, OPTIONS, 5, lambda name, values: None)
    assert made.codes.shape == (1, 3)
    assert made.neighbours.shape == (1, 0)


def test_an_empty_catalogue_is_refused():
    with pytest.raises(DataError, match="catalogue is empty"):
        tokenize([], count_letters, OPTIONS, 5, lambda name, values: None)


def test_a_not_finite_embedding_names_the_item():
    def embed(texts) -> np.ndarray:
        found = count_letters(texts)
        found[4, 2] = np.nan
        return found

    with pytest.raises(DataError, match="text embedding of item 4 is not finite"):
        tokenize(TEXTS, embed, OPTIONS, 5, lambda name, values: None)


def test_an_encoder_that_loses_rows_is_an_error():
    with pytest.raises(RunError, match=r"returned shape \[3, 26\] for 50 texts"):
        tokenize(TEXTS, lambda texts: count_letters(texts[:3]), OPTIONS, 5, lambda name, values: None)
