"""The baselines against a loop written from the definition, and against published figures on real data."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from streamrec_dist.baselines.counting import CountingModel
from streamrec_dist.baselines.popularity import PopularityModel
from streamrec_dist.baselines.ranking import rank_rows
from streamrec_dist.data.build import validate
from streamrec_dist.data.dataset import Dataset
from streamrec_dist.data.prepare import prepare
from streamrec_dist.data.raw import RawData
from streamrec_dist.data.split import split_rows
from streamrec_dist.metrics import ranking_metrics

REAL = Path(__file__).parents[1].parent / "shared" / "data"


def dataset(sequences: list[list[int]], n_items: int) -> Dataset:
    names = [f"i{number}" for number in range(n_items)]
    return validate(
        RawData(
            name="tiny",
            source="test",
            items=np.array([item for sequence in sequences for item in sequence], dtype=np.int32),
            offsets=np.cumsum([0] + [len(sequence) for sequence in sequences]),
            user_ids=[f"u{number}" for number in range(len(sequences))],
            item_ids=names,
            titles=names,
            texts=names,
        )
    )


def scores_by_definition(sequences: list[list[int]], n_items: int, user: int, position: int) -> np.ndarray:
    weight, popularity = np.zeros((n_items, n_items)), np.zeros(n_items)
    for sequence in sequences:
        train = sequence[:-2]
        for place, item in enumerate(train):
            popularity[item] += 1
            for d in range(1, 6):
                if place + d < len(train):
                    weight[item, train[place + d]] += 1 / d
                    weight[train[place + d], item] += 0.3 / d
    score = np.zeros(n_items)
    for e, item in enumerate(reversed(sequences[user][max(0, position - 20) : position])):
        for other in range(n_items):
            if weight[item, other]:
                score[other] += 0.7**e * weight[item, other] / math.sqrt(popularity[item] * popularity[other])
    return score


def test_counting_scores_follow_the_definition():
    rng = np.random.default_rng(0)
    # Lengths beyond 20 exercise the cut of the history, repeats the sums; item 29 is never used.
    sequences = [rng.integers(0, 29, size=length).tolist() for length in (3, 4, 9, 26, 31)]
    ds = dataset(sequences, 30)
    model = CountingModel.fit(ds)
    for split in ("valid", "test"):
        rows = split_rows(ds, split)
        expected = np.stack([scores_by_definition(sequences, 30, user, position) for user, position in rows])
        assert model.score(ds, rows) == pytest.approx(expected, abs=1e-12)
        assert (expected > 0).any(axis=1).sum() >= 4


def test_counting_ranks_by_hand():
    # Training parts: 0 1 2, 0 1 and 0 3. After 0, 1 item 2 has the strongest evidence apart from 0 and 1.
    ds = dataset([[0, 1, 2, 4, 5], [0, 1, 2, 3], [0, 3, 1, 2]], 6)
    model, rows = CountingModel.fit(ds), np.array([[1, 2], [0, 4]])
    scores = model.score(ds, rows)
    # User 1, validation: history 0, 1; w(1,0) = .3 * 2 and w(0,1) = 2, w(1,2) = 1, w(0,2) = 1/2.
    assert scores[0, 2] == pytest.approx(1 / math.sqrt(2) + 0.7 * 0.5 / math.sqrt(3))
    assert scores[0, 1] == pytest.approx(0.7 * 2 / math.sqrt(6))
    ranks = model.ranks(ds, rows, masked=False)
    assert ranks[0] == 1 + (scores[0] > scores[0, 2]).sum()
    assert model.ranks(ds, rows, masked=True)[0] == 1
    assert ranks[1] == 0, "item 5 never occurs in training, so nothing speaks for it"


def test_popularity_counts_the_training_part_and_masks_the_history():
    # Training parts: 0 1, 0 1, 0 2. Counts 3, 2, 1 for the items 0, 1, 2; items 3 and 4 are never counted.
    ds = dataset([[0, 1, 2, 3], [0, 1, 3, 2], [0, 2, 1, 4]], 5)
    model = PopularityModel.fit(ds)
    assert model.counts.tolist() == [3, 2, 1, 0, 0]
    valid, test = split_rows(ds, "valid"), split_rows(ds, "test")
    assert model.ranks(ds, valid, masked=False).tolist() == [3, 0, 2]
    assert model.ranks(ds, valid, masked=True).tolist() == [1, 0, 1]
    assert model.ranks(ds, test, masked=False).tolist() == [0, 3, 0]


def test_ranks_stop_at_one_hundred():
    # Item i occurs 120 - i times in training; targets are the items 99 and 100, at the ranks 100 and 101.
    sequence = [item for item in range(120) for _ in range(120 - item)]
    ds = dataset([[*sequence, 99, 100]], 120)
    model = PopularityModel.fit(ds)
    assert model.ranks(ds, split_rows(ds, "valid"), masked=False).tolist() == [100]
    assert model.ranks(ds, split_rows(ds, "test"), masked=False).tolist() == [0]


def test_ties_do_not_favour_small_item_numbers():
    # All 40 items are equally popular, so every rank of every target is drawn uniformly.
    sequences = [[*np.roll(np.arange(40), shift), 0, 1] for shift in range(400)]
    ds = dataset(sequences, 40)
    ranks = PopularityModel.fit(ds).ranks(ds, split_rows(ds, "valid"), masked=False, seed=3)
    assert ranks.mean() == pytest.approx(20.5, abs=2.5)


@pytest.mark.parametrize("model", [CountingModel, PopularityModel])
@pytest.mark.parametrize("masked", [False, True])
def test_other_item_numbers_change_no_rank(model, masked: bool):
    rng = np.random.default_rng(1)
    sequences = [rng.permutation(60)[:length].tolist() for length in rng.integers(4, 7, 120)]
    found = []
    for renamed in (np.arange(60), np.arange(60)[::-1], rng.permutation(60)):
        ds = dataset([renamed[sequence].tolist() for sequence in sequences], 60)
        fitted, rows = model.fit(ds), split_rows(ds, "test")
        # What is drawn depends on how many items tie, so equal ties give equal ranks.
        found.append(np.stack([fitted.ranks(ds, rows, masked, seed) for seed in range(5)]))
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])
    assert (np.ptp(found[0], axis=0) > 0).sum() >= 5, "the problem has ties"


def test_scores_that_are_equal_but_for_rounding_are_ties():
    ds = dataset([[0, 1, 2, 3], [1, 0, 3, 2]], 4)
    rows = np.repeat(split_rows(ds, "test")[:1], 200, axis=0)
    target = ds.history(0)[3]
    scores = np.full(4, 0.1 + 0.2)
    scores[target] = 0.3
    ranks = rank_rows(lambda block: np.tile(scores, (len(block), 1)), ds, rows, False, seed=0)
    assert set(ranks.tolist()) == {1, 2, 3, 4}


@pytest.mark.parametrize(
    ("name", "masked", "recall", "ndcg"),
    [
        ("Beauty", False, 0.0721, 0.0440),
        ("Beauty", True, 0.0775, 0.0486),
        ("Scientific", False, 0.0997, 0.0742),
        ("Scientific", True, 0.1068, 0.0790),
    ],
)
def test_counting_reproduces_the_published_figures(
    tmp_path: Path, name: str, masked: bool, recall: float, ndcg: float
):
    folder = REAL / name
    if not folder.is_dir():
        pytest.skip(f"the real data set {name} is not beside the repository")
    ds = prepare(folder, "lcrec", tmp_path / name)
    result = ranking_metrics(CountingModel.fit(ds).ranks(ds, split_rows(ds, "test"), masked))
    assert result["ndcg@10"] == pytest.approx(ndcg, abs=0.001)
    assert result["recall@10"] == pytest.approx(recall, abs=0.001)
