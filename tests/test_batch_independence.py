"""What a row gets does not depend on the rows beside it: sampling, scoring, annotation, evaluation."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from streamrec_dist.config_file import parse_config
from streamrec_dist.data.batches import history_lengths, in_length_batches
from streamrec_dist.decode.candidates import candidate_log_probs, prefix_trees
from streamrec_dist.decode.engine import Engine
from streamrec_dist.decode.random import rollout_uniforms
from streamrec_dist.decode.sampler import sample
from streamrec_dist.items.catalogue import Catalogue
from streamrec_dist.model.guide import Guide
from streamrec_dist.rl import rollout as rollouts
from streamrec_dist.rl.rollout import Sampler
from streamrec_dist.stages import annotate
from streamrec_dist.stages.annotate import Annotator, ThinkingMeter
from streamrec_dist.stages.decoding import Recommender
from streamrec_dist.types import PolicyVersion
from tests.local_ports import TINY, tiny_materials

#: Rows decoded together in these tests, and numbers of rows around its multiples.
TOGETHER = 8
COUNTS = [1, 7, 8, 9, 16, 17]
NO_ROWS = np.zeros((0, 2), dtype=np.int64)


@pytest.fixture(scope="module")
def materials():
    settings = ["stages.sft.own_thoughts=0.5", f"stages.evaluate.batch={TOGETHER}", "data.max_history=6"]
    return tiny_materials(parse_config(TINY, "tiny", settings))


@pytest.fixture(scope="module")
def model(materials):
    model = materials.new_model().eval()
    with torch.no_grad():
        model.embed.weight.mul_(0.6)  # an untrained tied table otherwise repeats its last input for ever
    return model


@pytest.fixture(scope="module")
def engine(model):
    return Engine(model)


@pytest.fixture(autouse=True)
def few_together(monkeypatch):
    monkeypatch.setattr(annotate, "BATCH", TOGETHER)
    monkeypatch.setattr(rollouts, "PROMPTS", TOGETHER)


def assert_same(whole: dict[str, np.ndarray], parts: list[dict[str, np.ndarray]]) -> None:
    """The rows of `parts` are those of `whole`: integers equal, floats to 1e-4."""
    for name, column in whole.items():
        joined = np.concatenate([part[name] for part in parts])
        if np.issubdtype(column.dtype, np.floating):
            np.testing.assert_allclose(joined, column, atol=1e-4, rtol=0, err_msg=name)
        else:
            assert np.array_equal(joined, column), name


def test_these_histories_are_of_one_item_up_to_the_most_that_is_seen(materials):
    lengths = history_lengths(materials.corpus, materials.rows[: max(COUNTS)])
    assert set(lengths.tolist()) >= {1, 6}
    assert materials.rows[: max(COUNTS), 1].max() > 6


@pytest.mark.parametrize("count", COUNTS)
def test_annotation(materials, engine, count):
    annotator = Annotator(materials, engine, engine)

    def columns(first: int, last: int) -> dict[str, np.ndarray]:
        found = asdict(annotator.annotate(first, last, 1))
        assert found.pop("first") == first
        return found

    whole = columns(0, count)
    assert_same(whole, [columns(row, row + 1) for row in range(count)])
    assert count < 9 or len({tuple(row) for row in whole["thoughts"].tolist()}) > 2


@pytest.mark.parametrize("count", COUNTS)
def test_measures_of_thinking(materials, engine, count):
    rows, meter = materials.rows[:count], ThinkingMeter(materials, engine)
    assert_same(meter.measure(rows), [meter.measure(rows[row : row + 1]) for row in range(count)])


@pytest.mark.parametrize("count", COUNTS)
def test_rollouts_and_their_candidates(materials, engine, count):
    sampler = Sampler(materials, engine)

    def columns(first: int, last: int) -> dict[str, np.ndarray]:
        batch = sampler.rollout(PolicyVersion(0), first, last - first)
        names = ("rows", "tokens", "logprobs", "pooled", "candidate_logprobs", "target_states")
        return {name: getattr(batch, name) for name in names}

    assert_same(columns(0, count), [columns(row, row + 1) for row in range(count)])


@pytest.mark.parametrize(
    ("name", "thoughts"),
    [("direct", "greedy"), ("pretrain", "greedy"), ("sft", "greedy"), ("sft", "sampled"), ("sft", "beam")],
)
@pytest.mark.parametrize("masked", [False, True])
def test_ranking(materials, model, name, thoughts, masked):
    settings = ["data.max_history=6", "stages.evaluate.batch=8", f"stages.evaluate.thoughts={thoughts}"]
    chosen = replace(materials, config=parse_config(TINY, "tiny", [*settings, "stages.evaluate.samples=3"]))
    recommender = Recommender(chosen, model, name)
    rows = materials.rows[: max(COUNTS)]
    whole = vars(recommender.rank(rows, 5, masked))
    alone = [vars(recommender.rank(rows[row : row + 1], 5, masked)) for row in range(len(rows))]
    assert_same(whole, alone)
    backwards = vars(recommender.rank(rows[::-1], 5, masked))
    assert_same(whole, [{key: column[::-1] for key, column in backwards.items()}])


@pytest.mark.parametrize("count", [0, *COUNTS])
def test_rows_come_back_in_their_order_whatever_shares_a_batch(count):
    lengths = np.random.default_rng(count).integers(1, 5, count)
    seen: list[int] = []

    def work(numbers: np.ndarray) -> dict[str, np.ndarray]:
        seen.append(len(numbers))
        assert count == 0 or len(numbers) > 0
        return {"number": numbers, "length": lengths[numbers]}

    columns = in_length_batches(lengths, TOGETHER, work)
    assert columns["number"].tolist() == list(range(count))
    assert np.array_equal(columns["length"], lengths)
    assert sum(seen) == count and max(seen) <= TOGETHER


def test_no_rows_give_columns_without_rows(materials, model, engine):
    for name in ("direct", "sft"):
        recommender = Recommender(materials, model, name)
        for masked in (False, True):
            assert recommender.rank(NO_ROWS, 5, masked).items.shape == (0, 5)
            assert recommender.target_ranks(NO_ROWS, masked).shape == (0,)
    for static in (False, True):
        annotator, meter = Annotator(materials, engine, engine), ThinkingMeter(materials, engine)
        sampler = Sampler(materials, engine)
        for worker in (annotator, meter, sampler):
            worker.decode.static = static
        assert annotator.annotate(3, 3, 0).thoughts.shape == (0, 2)
        assert meter.measure(NO_ROWS)["distance"].shape == (0, 3)
        assert sampler.rollout(PolicyVersion(0), 5, 0).tokens.shape == (0, 4, 5)


def test_a_catalogue_of_one_item_leaves_nothing_else_to_sample(materials, model):
    engine, codes = Engine(model), np.array([[3, 1, 2]])
    one = Catalogue(codes, materials.corpus.codes_per_level)
    history = torch.from_numpy(materials.corpus.item_tokens(np.arange(6)).reshape(2, -1))
    uniforms = torch.from_numpy(rollout_uniforms(0, np.arange(2), 4, 5))
    prompts = engine.read(history, guide=Guide(one, on_trie=True))
    samples = sample(engine, prompts, uniforms, 2, catalogue=one)
    assert (one.item_of_tokens(samples.tokens[..., 2:]) == 0).all()
    assert torch.equal(samples.logprobs[..., 2:], torch.zeros(2, 4, 3))
    candidates = samples.tokens[:, :1, 2:]
    free = sample(engine, prompts, uniforms[:, :, :2], 2)
    assert torch.isfinite(
        candidate_log_probs(free.thinking.branches, candidates, prefix_trees(candidates))
    ).all()
