"""Codes that compete on the trie: training, sampling, beams and scores share one distribution over the catalogue."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from streamrec_dist.config_file import parse_config
from streamrec_dist.data.batches import targets
from streamrec_dist.data.split import split_rows
from streamrec_dist.decode.beam import free_beam_search
from streamrec_dist.decode.engine import Engine
from streamrec_dist.decode.sampler import think_greedily
from streamrec_dist.model.guide import Guide
from streamrec_dist.rl.rollout import Sampler
from streamrec_dist.rl.scoring import Scorer
from streamrec_dist.stages.annotate import Annotator, ThinkingMeter
from streamrec_dist.stages.decoding import Recommender
from streamrec_dist.tokens import BOS, FIRST_CODE
from streamrec_dist.training.pretrain_loss import PretrainLoss, pretrain_batch
from streamrec_dist.training.rl_loss import rollout_log_probs
from streamrec_dist.training.tiger import TigerBatch, TigerLoss
from streamrec_dist.types import PolicyVersion
from tests.local_ports import TINY, tiny_materials

PLAIN = ["model.evidence=0"]


@pytest.fixture(scope="module")
def materials():
    return tiny_materials(parse_config(TINY, "tiny", PLAIN))


@pytest.fixture(scope="module")
def model(materials):
    torch.manual_seed(3)
    return materials.new_model().eval()


def children(materials, prefix: list[int]) -> list[int]:
    """The codes that follow a prefix in some item's id."""
    level = len(prefix)
    return sorted({int(codes[level]) for codes in materials.corpus.codes if codes[:level].tolist() == prefix})


@torch.no_grad()
def token_log_probs_by_loops(materials, model, history, sequence: list[int], item: int, stack) -> list[float]:
    """log P of each of an item's codes after `sequence`, through the plain model."""
    codes, found = materials.corpus.codes[item].tolist(), []
    for level, code in enumerate(codes):
        hidden, _ = model.decode(torch.tensor([[sequence]]), model.read(history, stack), stack=stack)
        logits = model.logits(hidden[0, 0, -1])[16 * level : 16 * (level + 1)]
        allowed = children(materials, codes[:level])
        found.append(float(logits[code] - logits[allowed].logsumexp(0)))
        sequence = [*sequence, FIRST_CODE + 16 * level + code]
    return found


def prompt(materials, row: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(materials.prompts(row[None])[0])


def test_only_codes_that_go_on_along_an_id_have_any_probability(materials):
    catalogue, corpus = materials.catalogue, materials.corpus
    guide = Guide(catalogue, on_trie=True)
    tokens = torch.from_numpy(corpus.item_tokens(np.arange(corpus.n_items)))
    logits = torch.randn(corpus.n_items, 3, 48, generator=torch.Generator().manual_seed(0))
    found = guide.along(logits, tokens)
    for item in range(corpus.n_items):
        for level in range(3):
            allowed = [16 * level + code for code in children(materials, corpus.codes[item][:level].tolist())]
            expected = torch.full((48,), -torch.inf)
            expected[allowed] = logits[item, level, allowed]
            assert torch.equal(found[item, level], expected)
    nowhere = torch.full((corpus.n_items,), -1)
    assert torch.equal(guide.add(logits[:, 1], 1, nowhere), logits[:, 1]), "no item has such a prefix"
    assert Guide(catalogue, on_trie=False).along(logits, tokens).equal(logits)


@torch.no_grad()
@pytest.mark.parametrize("name", ["direct", "sft"])
def test_beams_are_a_distribution_over_the_catalogue(materials, model, name):
    rows = split_rows(materials.corpus, "test")[:3]
    recommender = Recommender(materials, model, name)
    ranked = recommender.rank(rows, materials.corpus.n_items, mask_history=False)
    np.testing.assert_allclose(np.exp(ranked.scores).sum(axis=1), 1.0, atol=1e-4)
    stack = "direct" if name == "direct" else "thinking"
    for number, row in enumerate(rows):
        before = [BOS, *ranked.thoughts[number].tolist()]
        for place in (0, 3, 40):
            item = int(ranked.items[number, place])
            expected = token_log_probs_by_loops(materials, model, prompt(materials, row), before, item, stack)
            assert ranked.scores[number, place] == pytest.approx(sum(expected), abs=1e-4)


@pytest.mark.parametrize("name", ["direct", "sft"])
def test_a_beam_over_all_tokens_finds_items_only(materials, model, name):
    rows = split_rows(materials.corpus, "test")[:3]
    recommender = Recommender(materials, model, name)
    prompts = recommender._read(materials.prompts(rows))
    start = think_greedily(recommender.engine, prompts, recommender.plan.steps).branches
    tokens, scores = free_beam_search(start, 3, materials.corpus.n_items + 5)
    found = materials.catalogue.item_of_tokens(tokens)[scores > -torch.inf].view(3, -1)
    assert found.sort().values.tolist() == [list(range(materials.corpus.n_items))] * 3
    assert recommender.invalid_beam_share(rows) == 0


def test_rollouts_candidates_learner_and_reference_agree(materials, model):
    batch = Sampler(materials, Engine(model)).rollout(PolicyVersion(0), 0, 6)
    rows, rl = materials.rows[batch.rows], materials.config.stages.rl
    assert rl.sampling == "free"
    tokens = torch.from_numpy(batch.tokens.astype(np.int64))
    assert (materials.catalogue.item_of_tokens(tokens[..., -3:]) >= 0).all(), "free samples are items too"
    prompts = [torch.from_numpy(array) for array in materials.prompts(rows)]
    with torch.no_grad():
        again = rollout_log_probs(model, prompts, tokens, rl, materials.catalogue)
    np.testing.assert_allclose(batch.logprobs, again, atol=1e-4)
    wanted = targets(materials.corpus, rows)
    reference = Scorer(materials, model).target_logprobs(batch.rows)
    for number in range(3):
        history, target = prompt(materials, rows[number]), int(wanted[number])
        thoughts = batch.tokens[number, 1, :2].tolist()
        near = [target, *materials.neighbours[target, : rl.negatives].tolist()]
        expected = [
            sum(token_log_probs_by_loops(materials, model, history, [BOS, *thoughts], item, "thinking"))
            for item in near
        ]
        np.testing.assert_allclose(batch.candidate_logprobs[number, 1], expected, atol=1e-4)
        direct = token_log_probs_by_loops(materials, model, history, [BOS], target, "direct")
        assert float(reference[number]) == pytest.approx(sum(direct), abs=1e-4)


@pytest.mark.parametrize("thoughts", ["sampled", "beam"])
def test_however_thoughts_are_found_beams_are_a_distribution(model, thoughts):
    settings = [*PLAIN, f"stages.evaluate.thoughts={thoughts}", "stages.sft.thoughts=1"]
    materials = tiny_materials(parse_config(TINY, "tiny", settings))
    rows = split_rows(materials.corpus, "test")[:3]
    # Wide enough for every item after every thought.
    ranked = Recommender(materials, model, "sft").rank(
        rows, 48 * materials.corpus.n_items, mask_history=False
    )
    np.testing.assert_allclose(np.exp(ranked.scores).sum(axis=1), 1.0, atol=1e-3)


def test_annotation_and_its_measures_are_on_the_trie(materials, model):
    rows, engine = materials.rows[:4], Engine(model)
    made = Annotator(materials, engine, engine).annotate(0, 4, 0)
    measured = ThinkingMeter(materials, engine).measure(rows)
    for number, row in enumerate(rows):
        history, target = prompt(materials, row), int(targets(materials.corpus, rows)[number])
        before = [BOS, *made.thoughts[number].tolist()]
        gold = token_log_probs_by_loops(materials, model, history, before, target, "thinking")
        assert measured["gold_nll"][number] == pytest.approx(-sum(gold), abs=1e-4)
        for item, found in (
            (target, made.reference_target),
            (int(made.negatives[number]), made.reference_negative),
        ):
            direct = token_log_probs_by_loops(materials, model, history, [BOS], item, "direct")
            assert found[number] == pytest.approx(sum(direct), abs=1e-4)


@torch.no_grad()
def test_losses_are_over_the_codes_that_may_follow(materials, model):
    rows = materials.rows[:4]
    wanted = targets(materials.corpus, rows)
    parts = [
        token_log_probs_by_loops(materials, model, prompt(materials, row), [BOS], int(item), "direct")
        for row, item in zip(rows, wanted, strict=True)
    ]
    batch = pretrain_batch(materials, rows, torch.device("cpu"))
    _, metrics = PretrainLoss(model, materials.config.stages.pretrain, materials.catalogue)(batch)
    assert float(metrics["direct"]) == pytest.approx(-np.mean(parts), rel=1e-4)

    config = materials.config.baselines.tiger.model_copy(update={"label_smoothing": 0.1})
    loss, metrics = TigerLoss(model, config, materials.catalogue)(
        TigerBatch(1.0, batch.history, batch.target)
    )
    assert float(metrics["nll"]) == pytest.approx(-np.mean(parts), rel=1e-4)
    spread = []
    for row, item in zip(rows, wanted, strict=True):
        sequence, codes = [BOS], materials.corpus.codes[item].tolist()
        for level, code in enumerate(codes):
            memory = model.read(prompt(materials, row), "direct")
            hidden, _ = model.decode(torch.tensor([[sequence]]), memory, stack="direct")
            allowed = [16 * level + other for other in children(materials, codes[:level])]
            spread.append(float(model.logits(hidden[0, 0, -1])[allowed].log_softmax(0).mean()))
            sequence.append(FIRST_CODE + 16 * level + code)
    expected = -0.9 * np.mean(parts) - 0.1 * np.mean(spread)
    assert float(loss) == pytest.approx(expected, rel=1e-4)


def test_gradients_are_finite_where_one_code_alone_may_follow(materials):
    model = materials.new_model()
    batch = pretrain_batch(materials, materials.rows[:32], torch.device("cpu"))
    loss, _ = PretrainLoss(model, materials.config.stages.pretrain, materials.catalogue)(batch)
    loss.backward()
    assert all(value.grad is None or value.grad.isfinite().all() for value in model.parameters())
