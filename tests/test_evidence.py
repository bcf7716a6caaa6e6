"""Evidence from other users' sequences: its counts against a loop, its logits against the trie by brute force."""

from __future__ import annotations

import numpy as np
import pytest

from streamrec_dist.data.batches import Corpus
from streamrec_dist.data.evidence import Cooccurrence, evidence_of_rows

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


def by_loops(sequences: list[list[int]], user: int, position: int, max_history: int) -> np.ndarray:
    """Evidence before `position` of `user`, counted as if the user's sequence had ended there."""
    weights, popularity = np.zeros((ITEMS, ITEMS)), np.zeros(ITEMS)
    everyone = np.zeros(ITEMS)
    for number, sequence in enumerate(sequences):
        training = sequence[:-2]
        everyone += np.bincount(training, minlength=ITEMS)
        if number == user:
            training = training[:position]
        popularity += np.bincount(training, minlength=ITEMS)
        for place, item in enumerate(training):
            for distance in range(1, 6):
                if place >= distance:
                    before = training[place - distance]
                    weights[before, item] += 1 / distance
                    weights[item, before] += 0.3 / distance
    history = sequences[user][:position][-max_history:]
    mass = np.zeros(ITEMS)
    for back, item in enumerate(reversed(history)):
        mass += 0.7**back * weights[item] / np.sqrt(max(everyone[item], 1) * np.maximum(popularity, 1))
    return mass


@pytest.fixture
def sequences() -> list[list[int]]:
    rng = np.random.default_rng(3)
    # Some users repeat items, one is long, some are too short to train on.
    return [rng.integers(0, ITEMS, size).tolist() for size in (3, 9, 4, 30, 6, 7, 12, 3)] + [
        [1, 2, 3, 4, 5, 6]
    ]


@pytest.mark.parametrize("max_history", [2, 20])
def test_evidence_counts_as_if_the_sequence_ended_before_the_target(sequences, max_history):
    corpus = corpus_of(sequences, max_history)
    rows = np.array([(u, p) for u, s in enumerate(sequences) for p in range(1, len(s))])
    found = evidence_of_rows(Cooccurrence.of(corpus), corpus, rows, ITEMS).toarray()
    for number, (user, position) in enumerate(rows):
        expected = by_loops(sequences, user, position, max_history)
        np.testing.assert_allclose(found[number], expected, atol=2e-6, err_msg=f"row {user}, {position}")
