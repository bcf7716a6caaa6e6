"""Counts for rows, without their own future: against a loop that counts anew for each."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from streamrec_dist.baselines.counting import CountingModel
from streamrec_dist.data import row_counts
from streamrec_dist.data.batches import Corpus
from streamrec_dist.data.build import validate
from streamrec_dist.data.demo import demo_catalogue
from streamrec_dist.data.row_counts import Cooccurrence, counts_of_histories, counts_of_rows, strongest
from streamrec_dist.data.split import split_rows

ITEMS = 12


def corpus_of(sequences: list[list[int]], max_history: int = 20) -> Corpus:
    lengths = np.array([len(sequence) for sequence in sequences])
    codes = np.stack(np.unravel_index(np.arange(ITEMS), (3, 4)), axis=1).astype(np.int32)
    return Corpus(
        np.concatenate(sequences).astype(np.int32),
        np.concatenate([[0], np.cumsum(lengths)]),
        lengths - 2,
        lengths - 1,
        codes,
        4,
        max_history,
    )


def by_loops(
    sequences: list[list[int]], user: int, position: int, max_history: int, kept: np.ndarray | bool = True
) -> np.ndarray:
    """Mass before `position` of `user`, counted as if the user's sequence had ended there, by `kept` pairs."""
    weights, popularity = np.zeros((ITEMS, ITEMS)), np.zeros(ITEMS)
    for number, sequence in enumerate(sequences):
        training = sequence[:-2]
        if number == user:
            training = training[:position]
        popularity += np.bincount(training, minlength=ITEMS)
        for place, item in enumerate(training):
            for distance in range(1, 6):
                if place >= distance:
                    before = training[place - distance]
                    weights[before, item] += 1 / distance
                    weights[item, before] += 0.3 / distance
    weights = np.where(kept, weights, 0)
    history = sequences[user][:position][-max_history:]
    mass = np.zeros(ITEMS)
    for back, item in enumerate(reversed(history)):
        mass += 0.7**back * weights[item] / np.sqrt(max(popularity[item], 1) * np.maximum(popularity, 1))
    return mass


@pytest.fixture
def sequences() -> list[list[int]]:
    rng = np.random.default_rng(3)
    # Some users repeat items, one is long, some are too short to train on.
    return [rng.integers(0, ITEMS, size).tolist() for size in (3, 9, 4, 30, 6, 7, 12, 3)] + [
        [1, 2, 3, 4, 5, 6]
    ]


@pytest.mark.parametrize("max_history", [2, 20])
def test_rows_are_counted_as_if_the_sequence_ended_before_the_target(sequences, max_history):
    corpus = corpus_of(sequences, max_history)
    rows = np.array([(u, p) for u, s in enumerate(sequences) for p in range(1, len(s))])
    found = counts_of_rows(Cooccurrence.of(corpus), corpus, rows, ITEMS).toarray()
    for number, (user, position) in enumerate(rows):
        expected = by_loops(sequences, user, position, max_history)
        np.testing.assert_allclose(found[number], expected, atol=2e-6, err_msg=f"row {user}, {position}")


def test_a_pair_that_was_not_kept_is_not_counted_out(sequences, monkeypatch):
    monkeypatch.setattr(row_counts, "PARTNERS", 5)
    corpus = corpus_of(sequences)
    counts = Cooccurrence.of(corpus)
    assert np.diff(counts.indptr).max() == 5
    kept = np.zeros((ITEMS, ITEMS), dtype=bool)
    kept[np.repeat(np.arange(ITEMS), np.diff(counts.indptr)), counts.indices] = True
    everything = [(u, p) for u, s in enumerate(sequences) for p in range(1, len(s) - 2)]
    found = counts_of_rows(counts, corpus, np.array(everything), ITEMS).toarray()
    for number, (user, position) in enumerate(everything):
        expected = by_loops(sequences, user, position, 20, kept)
        np.testing.assert_allclose(found[number], np.where(expected > 1e-6, expected, 0), atol=2e-6)


def test_what_a_history_says_does_not_tell_which_of_its_items_come_again(sequences):
    once, again = [[0, 1, 2, 3, 4, 5, 6], *sequences], [[0, 1, 2, 0, 0, 5, 6], *sequences]
    found = [
        counts_of_rows(Cooccurrence.of(corpus), corpus, np.array([[0, 3]]), ITEMS).toarray()
        for corpus in (corpus_of(once), corpus_of(again))
    ]
    np.testing.assert_allclose(found[1], found[0], atol=2e-6)
    assert (found[0] > 0).sum() > 5


def test_equal_counts_are_chosen_between_without_regard_to_item_numbers():
    mass = sparse.csr_array(np.ones((1, 400), dtype=np.float32))
    chosen = strongest(mass, 100).indices
    assert len(set(chosen.tolist())) == 100 and 150 < chosen.mean() < 250


def test_the_mass_of_a_history_is_that_of_a_held_out_row(sequences):
    corpus = corpus_of(sequences)
    counts = Cooccurrence.of(corpus)
    row = np.array([[3, len(sequences[3]) - 1]])
    history = np.array([sequences[3][:-1][-20:]])
    expected = counts_of_rows(counts, corpus, row, 4).toarray()
    np.testing.assert_allclose(counts_of_histories(counts, history, 4).toarray(), expected, atol=1e-6)
    assert (expected > 0).sum() == 4


def test_the_counts_are_those_of_the_counting_baseline():
    dataset = validate(demo_catalogue(users=80, items=60, seed=0))
    corpus = Corpus.of(dataset, np.zeros((dataset.n_items, 2), dtype=np.int32), 4, 20)
    rows = split_rows(dataset, "test")
    found = counts_of_rows(Cooccurrence.of(corpus), corpus, rows, dataset.n_items).toarray()
    expected = CountingModel.fit(dataset).score(dataset, rows)
    np.testing.assert_allclose(found, np.where(expected > 1e-6, expected, 0), rtol=1e-4)
