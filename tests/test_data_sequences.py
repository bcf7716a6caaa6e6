"""The core, duplicates and numbering by themselves, against loops."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from streamrec_dist.data.ids import Numbering
from streamrec_dist.data.sequences import Sequences, core, duplicates


@pytest.mark.parametrize("seed", range(30))
def test_the_core_is_that_of_a_loop(seed: int):
    rng = np.random.default_rng(seed)
    users, items = 12, 10
    owner = np.sort(rng.integers(0, users, size=60))
    chosen = rng.integers(0, items, size=60)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=users))])
    user_min, item_min = rng.integers(1, 6, size=2)
    expected = list(range(60))
    while True:
        per_user, per_item = Counter(owner[expected].tolist()), Counter(chosen[expected].tolist())
        left = [k for k in expected if per_user[owner[k]] >= user_min and per_item[chosen[k]] >= item_min]
        if left == expected:
            break
        expected = left
    keep = np.ones(60, dtype=bool)
    core(Sequences(chosen, offsets), keep, int(user_min), int(item_min), items)
    assert np.flatnonzero(keep).tolist() == expected


def test_duplicates_are_exact_and_the_first_one_stays():
    owners = np.array([0, 0, 0, 0, 0, 1, 1])
    times = np.array([5, 5, 5, 6, 6, 6, 6])
    items = np.array([3, 4, 3, 3, 3, 3, 4])
    assert np.flatnonzero(duplicates(owners, items, times)).tolist() == [2, 4]


def test_numbers_are_given_in_the_order_of_first_appearance():
    numbering = Numbering()
    rng = np.random.default_rng(0)
    given: list[str] = []
    for _ in range(20):
        ids = [f"id{number}é" for number in rng.integers(0, 5000, size=1000)]
        numbers = numbering.numbers(pa.array(ids, pa.large_string()))
        given += [text for text in dict.fromkeys(ids) if text not in set(given)]
        assert [given[number] for number in numbers] == ids
    assert list(numbering.strings()) == given
    assert len(numbering) == len(given)
