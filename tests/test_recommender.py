"""A stage's model as a recommender: the plan it decodes by, whole rankings, and what a recommendation says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from streamrec_dist.config_file import parse_config
from streamrec_dist.data.batches import targets
from streamrec_dist.data.build import validate
from streamrec_dist.data.demo import demo_catalogue
from streamrec_dist.data.split import split_rows
from streamrec_dist.decode.search import Plan
from streamrec_dist.stages.decoding import Recommender, decoding_of, plan_of
from streamrec_dist.stages.recommend import explain_rows, recommend
from streamrec_dist.tokens import BOS, FIRST_CODE
from tests.local_ports import TINY, UNGUIDED, tiny_materials

SAMPLED = "stages.evaluate.thoughts=sampled"
JOINT = "stages.evaluate.thoughts=beam"


def config_of(*overrides: str):
    return parse_config(TINY, "tiny", list(overrides))


def recommender(name: str, *overrides: str) -> Recommender:
    materials = tiny_materials(config_of(*overrides))
    return Recommender(materials, materials.new_model(), name)


def test_the_plan_of_each_stage():
    config = config_of(SAMPLED, "stages.evaluate.samples=3")
    assert plan_of("direct", config) == Plan()
    assert plan_of("pretrain", config) == Plan("greedy", 3)
    assert plan_of("sft", config) == plan_of("rl", config) == Plan("sampled", 2, 3)
    assert plan_of("rl", config_of(JOINT)).thoughts == "beam"
    assert plan_of("rl", config_of()).thoughts == "greedy"


def test_what_is_recorded_of_a_plan():
    assert decoding_of(Plan(), 20) == {"thoughts": "none", "steps": 0, "samples": None, "beam": 20}
    assert decoding_of(Plan("sampled", 4, 8), 50) == {
        "thoughts": "sampled",
        "steps": 4,
        "samples": 8,
        "beam": 50,
    }
    assert decoding_of(Plan("beam", 4, 8), 20)["samples"] is None


@pytest.mark.parametrize("overrides", [(), (SAMPLED, "stages.evaluate.samples=3"), (JOINT,)])
def test_a_ranking_does_not_depend_on_how_rows_are_batched(overrides):
    whole, single = (recommender("sft", *overrides, f"stages.evaluate.batch={batch}") for batch in (100, 1))
    rows = split_rows(whole.materials.corpus, "valid")[:12]
    together, apart = whole.rank(rows, 6, True), single.rank(rows, 6, True)
    other_order = whole.rank(rows[::-1], 6, True)
    assert np.array_equal(together.items, apart.items)
    assert np.array_equal(together.thoughts, apart.thoughts)
    assert np.array_equal(together.items, other_order.items[::-1])
    np.testing.assert_allclose(together.scores, apart.scores, atol=1e-4)
    corpus = whole.materials.corpus
    for (user, position), items in zip(rows, together.items, strict=True):
        first = corpus.offsets[user]
        assert not set(items.tolist()) & set(corpus.items[first : first + position].tolist())
        kept = items[items >= 0].tolist()
        assert len(set(kept)) == len(kept) > 0


@pytest.mark.parametrize("overrides", [(), (SAMPLED, "stages.evaluate.samples=3")])
def test_equally_likely_items_have_ranks_by_chance(overrides):
    """A model that knows nothing gives all items one probability: each rank is as likely for every target."""
    ignorant, single = (
        recommender("sft", "stages.evaluate.beam=90", f"stages.evaluate.batch={batch}", *UNGUIDED, *overrides)
        for batch in (100, 7)
    )
    for model in (ignorant.model, single.model):
        with torch.no_grad():
            model.embed.weight.zero_()
    for judge in (ignorant, single):
        judge.engine.refresh()
    rows = split_rows(ignorant.materials.corpus, "test")
    scores = ignorant.rank(rows[:3], 90, False).scores
    assert (scores == scores[:, :1]).all()
    ranks = ignorant.target_ranks(rows, False)
    assert np.array_equal(single.target_ranks(rows, False), ranks), "however rows are batched"
    assert len(rows) == 120 and ranks.min() >= 1 and ranks.max() <= 90
    assert ranks.mean() == pytest.approx(45.5, abs=8)
    assert np.corrcoef(ranks, targets(ignorant.materials.corpus, rows))[0, 1] == pytest.approx(0, abs=0.25)


@torch.no_grad()
def invalid_by_loops(judge: Recommender, row: np.ndarray, beam: int) -> int:
    """How many of the sequences that a beam over all tokens finds, one prefix after the other, name no item."""
    corpus, model = judge.materials.corpus, judge.model
    memory = model.read(torch.from_numpy(judge.materials.prompts(row[None])[0]), judge.stack)

    def log_probs(sequence: list[int]) -> list[float]:
        hidden, _ = model.decode(torch.tensor([[sequence]]), memory, stack=judge.stack)
        return torch.log_softmax(model.logits(hidden[0, 0, -1]), dim=-1).tolist()

    def grown(score: float, tokens: list[int]) -> list[tuple[float, list[int]]]:
        values = enumerate(log_probs([*before, *tokens]), start=FIRST_CODE)
        return [(score + value, [*tokens, token]) for token, value in values]

    before = [BOS]
    for _ in range(judge.plan.steps):
        before.append(FIRST_CODE + int(np.argmax(log_probs(before))))
    beams: list[tuple[float, list[int]]] = [(0.0, [])]
    for _ in range(corpus.levels):
        beams = sorted((way for beam in beams for way in grown(*beam)), reverse=True)[:beam]
    items = corpus.item_tokens(np.arange(corpus.n_items)).tolist()
    return sum(tokens not in items for _, tokens in beams)


@pytest.mark.parametrize("name", ["direct", "sft"])
def test_the_invalid_share_is_that_of_sequences_which_name_no_item(name):
    # Sixty of 256 sequences are items: a beam finds some of either kind.
    settings = ("items.levels=2", "items.codes=8", "stages.evaluate.batch=5", "stages.evaluate.beam=160")
    materials = tiny_materials(config_of(*settings, *UNGUIDED), items=60)
    model = materials.new_model()
    with torch.no_grad():
        model.embed.weight.mul_(0.6)  # an untrained tied table otherwise repeats its last input for ever
    judge = Recommender(materials, model, name)
    rows = split_rows(materials.corpus, "test")[:12]
    counts = [invalid_by_loops(judge, row, 160) for row in rows]
    assert len(set(counts)) > 1 and min(counts) > 0 and max(counts) < 160
    assert judge.invalid_beam_share(rows) == pytest.approx(sum(counts) / (12 * 160))
    assert judge.invalid_beam_share(rows[:0]) == 0


@pytest.mark.parametrize("name", ["direct", "pretrain"])
def test_models_that_do_not_think_are_decoded_as_ever(name):
    usual = recommender(name)
    rows = split_rows(usual.materials.corpus, "valid")[:8]
    expected = usual.rank(rows, 5, False)
    for override in (SAMPLED, JOINT):
        found = recommender(name, override).rank(rows, 5, False)
        assert np.array_equal(found.items, expected.items)
        assert np.array_equal(found.scores, expected.scores)


@pytest.mark.parametrize(
    ("overrides", "thoughts"), [((), "greedy"), ((SAMPLED,), "sampled"), ((JOINT,), "beam")]
)
def test_a_recommendation_says_how_it_was_decoded(overrides, thoughts):
    dataset = validate(demo_catalogue(users=120, items=90, seed=0))
    history = dataset.history(3).astype(np.int64)
    found = recommend(recommender("rl", *overrides), None, dataset, history, 7)
    assert found == recommend(recommender("rl", *overrides), None, dataset, history, 7)
    assert (found["decoding"]["thoughts"], found["decoding"]["steps"]) == (thoughts, 2)
    assert found["decoding"]["beam"] >= 7 + len(np.unique(history))
    assert len(found["thoughts"]) == 2
    items = [entry["item"] for entry in found["items"]]
    assert len(set(items)) == 7 and not set(items) & {entry["item"] for entry in found["history"]}
    scores = [entry["score"] for entry in found["items"]]
    assert scores == sorted(scores, reverse=True) and scores[0] < 0


@pytest.mark.parametrize("count", [1, 4, 5, 40])
def test_rows_that_are_explained_are_hits_and_misses_as_they_are_evaluated(count):
    dataset, judge = validate(demo_catalogue(users=120, items=90, seed=0)), recommender("rl")
    rows = split_rows(judge.materials.corpus, "valid")[:60]
    found = explain_rows(judge, dataset, rows, count, 5)
    ranks = judge.target_ranks(rows, False)
    hits = int(((ranks > 0) & (ranks <= 5)).sum())
    assert found["drawn"] == 60 and found["hits"] == hits and 2 < hits < 40
    shown = found["shown"]
    among = [any(item["item"] == one["target"]["item"] for item in one["items"]) for one in shown]
    assert len(shown) == count and sum(among) == min(-(-count // 2), hits)
    for one in shown:
        (user,) = (user for user in range(dataset.users) if dataset.user_ids[user] == one["user"])
        (position,) = rows[rows[:, 0] == user][:, 1]
        history = [dataset.item_ids[item] for item in dataset.history(user)[:position]]
        limit = judge.materials.corpus.max_history
        assert [entry["item"] for entry in one["history"]] == history[-limit:]
        assert one["target"]["item"] == dataset.item_ids[dataset.history(user)[position]]
        assert [entry["rank"] for entry in one["items"]] == [1, 2, 3, 4, 5]
        assert [len(thought["nearest"]) for thought in one["thoughts"]] == [3, 3]
        assert (one["rank"] is not None and one["rank"] <= 5) == any(
            item["item"] == one["target"]["item"] for item in one["items"]
        )
