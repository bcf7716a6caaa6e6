"""Evidence in the model: its logits against the trie by brute force; the retriever that finds it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from streamrec_dist.config_file import parse_config
from streamrec_dist.data.split import split_rows
from streamrec_dist.decode.engine import Engine
from streamrec_dist.decode.random import rollout_uniforms
from streamrec_dist.decode.sampler import sample_thoughts
from streamrec_dist.errors import DataError
from streamrec_dist.model.evidence import LEAST
from streamrec_dist.model.guide import Guide
from streamrec_dist.model.reranker import SCALES
from streamrec_dist.rl.rollout import Sampler
from streamrec_dist.stages.annotate import Annotator
from streamrec_dist.stages.decoding import Recommender
from streamrec_dist.tokens import BOS, FIRST_CODE
from streamrec_dist.training.pretrain_loss import PretrainLoss, pretrain_batch
from streamrec_dist.training.rl_loss import rollout_log_probs
from streamrec_dist.training.sft_loss import SftLoss, all_item_tokens, sft_batch
from streamrec_dist.types import PolicyVersion
from tests.local_ports import TINY, tiny_materials

# evidence in the model


@pytest.fixture(scope="module", params=["trie", "codes"])
def softmax(request):
    return request.param


@pytest.fixture(scope="module")
def materials(softmax):
    return tiny_materials(parse_config(TINY, "tiny", [f"model.softmax={softmax}"]))


@pytest.fixture
def model(materials):
    model = materials.new_model().eval()
    with torch.no_grad():
        model.decoder.evidence.copy_(torch.tensor([[0.9, 0.6, 1.1, 0.7], [0.5, 1.5, 1.0, 0.8]]))
    return model


def item_masses(materials, row: np.ndarray) -> np.ndarray:
    """Mass of every item for a row: in probabilities of one of those that are not named."""
    table, n_items = materials.evidence, materials.corpus.n_items
    event = materials.corpus.offsets[row[0]] + row[1]
    named = dict(zip(table.items[event].tolist(), table.share[event].astype(float).tolist(), strict=True))
    left = max(1 - sum(named.values()), 1e-3) / (n_items - len(named))
    return np.array([named.get(item, left) / left for item in range(n_items)])


def evidence_by_loops(materials, model, row: np.ndarray, logits: np.ndarray, prefix: list[int]) -> np.ndarray:
    """Logits [levels * codes] of the code after `prefix`, with what the row's likely items add."""
    corpus, level = materials.corpus, len(prefix)
    masses = np.zeros(corpus.codes_per_level)
    behind = [item for item, codes in enumerate(corpus.codes) if codes[:level].tolist() == prefix]
    np.add.at(masses, corpus.codes[behind, level], item_masses(materials, row)[behind])
    own, told = model.decoder.evidence[:, level].tolist()
    start = level * corpus.codes_per_level
    here = slice(start, start + corpus.codes_per_level)
    if materials.config.model.softmax == "codes":
        added = logits * own
        added[here] += told * np.log1p(20 * masses)
        return added
    added = np.full_like(logits, -np.inf)
    leads = np.unique(corpus.codes[behind, level])
    added[start + leads] = logits[start + leads] * own + told * np.log(np.maximum(masses[leads], LEAST))
    return added


def log_prob_by_loops(materials, model, row: np.ndarray, thoughts: list[int], item: int) -> float:
    """log P(item | history, thoughts), token by token through the plain model."""
    corpus = materials.corpus
    tokens = corpus.item_tokens(np.array([item]))[0].tolist()
    history = torch.from_numpy(materials.prompts(row[None])[0])
    total, sequence = 0.0, [BOS, *thoughts]
    for level, token in enumerate(tokens):
        hidden, _ = model.decode(torch.tensor([[sequence]]), model.read(history))
        logits = model.logits(hidden[0, 0, -1]).numpy()
        prefix = corpus.codes[item][:level].tolist()
        logits = evidence_by_loops(materials, model, row, logits, prefix)
        total += logits[token - FIRST_CODE] - np.logaddexp.reduce(logits)
        sequence.append(token)
    return total


@torch.no_grad()
def test_logits_with_evidence_equal_loops_over_the_items(materials, model):
    rows = materials.rows[:5]
    _, places, below = (torch.from_numpy(array) for array in materials.prompts(rows))
    guide = model.guide(materials.catalogue, places, below)
    items = np.array([4, 17, 55, 80, 2])
    tokens = torch.from_numpy(materials.corpus.item_tokens(items))[:, None]
    logits = torch.randn(5, 1, 3, 48, generator=torch.Generator().manual_seed(0))
    found = guide.along(logits, tokens)
    for number, row in enumerate(rows):
        for level in range(3):
            prefix = materials.corpus.codes[items[number]][:level].tolist()
            expected = evidence_by_loops(materials, model, row, logits[number, 0, level].numpy(), prefix)
            np.testing.assert_allclose(found[number, 0, level], expected, atol=1e-5)
    # Of a prefix that no item has there is no evidence.
    nowhere = torch.full((5, 1), -1)
    torch.testing.assert_close(guide.add(logits[:, :, 1], 1, nowhere), 0.6 * logits[:, :, 1])


@torch.no_grad()
def test_thoughts_are_raised_by_the_items_that_have_their_code(materials, model):
    rows = materials.rows[:4]
    _, places, below = (torch.from_numpy(array) for array in materials.prompts(rows))
    guide = model.guide(materials.catalogue, places, below)
    found = guide.add_to_thoughts(torch.ones(4, 2, 48))
    for number, row in enumerate(rows):
        np.testing.assert_allclose(found[number, 1], 0.7 + raised_by_codes(materials, row), atol=1e-5)


def raised_by_codes(materials, row: np.ndarray) -> np.ndarray:
    """What is added to the logits of a thought, [levels * codes], at the weight .8."""
    masses = np.zeros(48)
    for item, mass in enumerate(item_masses(materials, row)):
        for level, code in enumerate(materials.corpus.codes[item]):
            masses[16 * level + code] += 20 * mass
    return 0.8 * np.log1p(masses)


@torch.no_grad()
def test_on_the_trie_evidence_alone_gives_every_item_its_own_mass():
    materials = tiny_materials()
    model = materials.new_model().eval()
    model.decoder.evidence[0] = 0.0
    rows = split_rows(materials.corpus, "test")[:5]
    ranked = Recommender(materials, model, "sft").rank(rows, materials.corpus.n_items, mask_history=False)
    for number, row in enumerate(rows):
        masses = np.maximum(item_masses(materials, row), LEAST)
        expected = np.log(masses / masses.sum())[ranked.items[number]]
        np.testing.assert_allclose(ranked.scores[number], expected, atol=2e-3)


@torch.no_grad()
def test_beams_rank_all_items_as_loops_do(materials, model):
    recommender = Recommender(materials, model, "sft")
    rows = split_rows(materials.corpus, "test")[:2]
    ranked = recommender.rank(rows, materials.corpus.n_items, mask_history=False)
    for number, row in enumerate(rows):
        thoughts = ranked.thoughts[number].tolist()
        scores = [log_prob_by_loops(materials, model, row, thoughts, item) for item in range(90)]
        np.testing.assert_allclose(ranked.scores[number], np.sort(scores)[::-1], atol=1e-4)
        assert np.array_equal(np.sort(ranked.items[number]), np.arange(90))
        np.testing.assert_allclose(np.array(scores)[ranked.items[number]], ranked.scores[number], atol=1e-4)


@pytest.mark.parametrize("sampling", ["free", "trie"])
@torch.no_grad()
def test_rollouts_candidates_and_the_learner_agree_on_evidence(model, softmax, sampling):
    overrides = [f"stages.rl.sampling={sampling}", f"model.softmax={softmax}"]
    materials = tiny_materials(parse_config(TINY, "tiny", overrides))
    config = materials.config.stages.rl
    batch = Sampler(materials, Engine(model)).rollout(PolicyVersion(0), 0, 6)
    rows = materials.rows[batch.rows]
    prompts = [torch.from_numpy(array) for array in materials.prompts(rows)]
    tokens = torch.from_numpy(batch.tokens.astype(np.int64))
    again = rollout_log_probs(model, prompts, tokens, config, materials.catalogue)
    np.testing.assert_allclose(batch.logprobs, again, atol=1e-4)
    corpus = materials.corpus
    for number in range(2):
        target = int(corpus.items[corpus.offsets[rows[number, 0]] + rows[number, 1]])
        candidates = [target, *materials.neighbours[target, : config.negatives]]
        thoughts = batch.tokens[number, 1, :2].tolist()
        expected = [log_prob_by_loops(materials, model, rows[number], thoughts, int(c)) for c in candidates]
        np.testing.assert_allclose(batch.candidate_logprobs[number, 1], expected, atol=1e-4)


@torch.no_grad()
def test_own_thoughts_of_an_annotation_are_sampled_with_evidence(model, softmax):
    overrides = ["stages.sft.own_thoughts=1", f"model.softmax={softmax}"]
    materials = tiny_materials(parse_config(TINY, "tiny", overrides))
    with torch.no_grad():
        # Evidence has the say, so that thoughts drawn without it would be others.
        model.decoder.evidence.copy_(torch.tensor([[0.1] * 4, [3.0] * 4]))
    engine = Engine(model)
    found = Annotator(materials, engine, engine).annotate(0, 30, 0)
    uniforms = torch.from_numpy(rollout_uniforms(materials.config.seed, np.arange(30), 1, 4)[..., 2:])
    history, places, below = (torch.from_numpy(x) for x in materials.prompts(materials.rows[:30]))
    guide = model.guide(materials.catalogue, places, below)
    expected = sample_thoughts(engine, engine.read(history, guide=guide), uniforms).tokens[:, 0]
    assert np.array_equal(found.thoughts, expected.int())
    untold = Guide(materials.catalogue, model.on_trie)
    without = sample_thoughts(engine, engine.read(history, guide=untold), uniforms).tokens[:, 0]
    assert not np.array_equal(found.thoughts, without.int())


@torch.no_grad()
def test_sft_learns_thoughts_and_items_with_evidence(materials, model):
    engine, rows = Engine(model), materials.rows[:3]
    annotation = Annotator(materials, engine, engine).annotate(0, len(materials.rows), 0)
    batch = sft_batch(materials, annotation, np.arange(3), torch.device("cpu"))
    loss = SftLoss(model, materials.config.stages.sft, all_item_tokens(materials), materials.catalogue)
    _, parts = loss(batch)
    total = 0.0
    for number, row in enumerate(rows):
        thoughts = annotation.thoughts[number].tolist()
        hidden, _ = model.decode(
            torch.tensor([[[BOS, thoughts[0]]]]), model.read(batch.history[number : number + 1])
        )
        added = raised_by_codes(materials, row)
        for place, token in enumerate(thoughts):
            logits = 0.7 * model.logits(hidden[0, 0, place]).numpy() + added
            total += logits[token - FIRST_CODE] - np.logaddexp.reduce(logits)
        item = int(batch.target_item[number])
        total += log_prob_by_loops(materials, model, row, thoughts, item)
    assert float(parts["nll"]) == pytest.approx(-total / (3 * (2 + 3)), rel=1e-4)


def test_the_direct_decoder_has_evidence_only_where_it_is_given_any(materials):
    plain = materials.new_model()
    assert plain.direct.evidence is None and plain.decoder.evidence is not None
    both = tiny_materials(parse_config(TINY, "tiny", ["model.direct_evidence=true"])).new_model()
    assert both.direct.evidence is not None
    none = tiny_materials(parse_config(TINY, "tiny", ["model.evidence=0"])).new_model()
    assert none.decoder.evidence is None


def test_the_weight_of_evidence_is_learnt(materials):
    model = materials.new_model()
    batch = pretrain_batch(materials, materials.rows[:16], torch.device("cpu"))
    loss, _ = PretrainLoss(model, materials.config.stages.pretrain, materials.catalogue)(batch)
    loss.backward()
    # Retrieved items are written as thoughts are.
    assert (model.decoder.evidence.grad.abs() > 0).all()


# the retriever


def test_the_retriever_adds_counts_and_repeats_to_its_scores(materials):
    retriever = materials.new_retriever().eval()
    with torch.no_grad():
        retriever.count_weight.fill_(0.5)
        retriever.repeat_weight.fill_(-0.2)
        rows = materials.rows[[3, 40, 41]]
        history, counted, mass = materials.item_prompts(rows)
        found = retriever(*(torch.from_numpy(array) for array in (history, counted, mass)))
        for number in range(3):
            items = [item for item in history[number].tolist() if item >= 0]
            vectors = retriever.vectors()
            alone = torch.tensor([items])
            state = retriever.states(vectors[alone], torch.tensor([len(items)]))[0]
            expected = vectors @ state + retriever.bias
            for item, amount in zip(counted[number], mass[number], strict=True):
                expected[item] += 0.5 * np.log1p(amount / 0.01)
            for item in set(items):
                expected[item] -= 2.0
            torch.testing.assert_close(found[number], expected, atol=1e-4, rtol=1e-4)


def test_what_only_the_retriever_is_given_is_missed_with_words(materials):
    bare, rows = replace(materials, counts=None, texts=None), materials.rows[:2]
    for ask in (lambda: bare.item_prompts(rows), lambda: bare.item_prompt_of(np.arange(3))):
        with pytest.raises(DataError, match=r"needs counts .*, which only stage retrieve is given"):
            ask()
    with pytest.raises(
        DataError, match="needs the items' text embeddings, which only stage retrieve is given"
    ):
        bare.new_retriever()
    assert np.array_equal(bare.item_prompts(rows, counted=False)[0], materials.item_prompts(rows)[0])


def looked_at_again(retriever, history: list[int], scores: torch.Tensor, told: np.ndarray) -> dict[int, list]:
    """Inputs of the second look at the best 7 items, by a loop."""
    texts, shares = retriever.texts, torch.softmax(scores, -1)
    best = scores.argsort(descending=True)[:7].tolist()
    weights = shares[best] / shares[best].sum()
    mean = sum(weight * texts[item] for weight, item in zip(weights, best, strict=True))
    return {
        item: [
            shares[item].log(),
            np.log(rank),
            max(texts[item] @ texts[other] for other in history),
            texts[item] @ texts[history[-1]],
            texts[item] @ mean,
            told[item],
            retriever.bias[item],
            float(item in history),
        ]
        for rank, item in enumerate(best, start=1)
    }


def test_the_best_items_are_looked_at_again_beside_the_history_and_one_another():
    materials = tiny_materials(parse_config(TINY, "tiny", ["stages.retrieve.reranked=7"]))
    retriever = materials.new_retriever().eval()
    rows = materials.rows[[3, 40, 41]]
    inputs = [torch.from_numpy(array) for array in materials.item_prompts(rows)]
    with torch.no_grad():
        torch.nn.init.normal_(retriever.bias)
        before = retriever(*inputs)  # the second look starts as nothing
        torch.nn.init.normal_(retriever.reranker.write.weight)
        found = retriever(*inputs)
        for number, (items, counted, mass) in enumerate(zip(*inputs, strict=True)):
            told = np.zeros(retriever.n_items)
            for item, amount in zip(counted.tolist(), mass.tolist(), strict=True):
                told[item] += np.log1p(amount / 0.01)
            history = items[items >= 0].tolist()
            expected = before[number].clone()
            for item, values in looked_at_again(retriever, history, before[number], told).items():
                network = retriever.reranker
                hidden = network.read(torch.tensor([float(value) for value in values]) * torch.tensor(SCALES))
                expected[item] += network.write(torch.nn.functional.gelu(hidden)).item()
            torch.testing.assert_close(found[number], expected, atol=1e-4, rtol=1e-4)
            assert (found[number] != before[number]).sum() == 7


def test_no_second_look_can_be_asked_for():
    materials = tiny_materials(parse_config(TINY, "tiny", ["stages.retrieve.reranked=0"]))
    assert materials.new_retriever().reranker is None


def test_later_items_do_not_change_earlier_states(materials):
    retriever = materials.new_retriever().eval()
    items = torch.tensor([[5, 7, 9, 11]])
    other = torch.tensor([[5, 7, 30, 2]])
    with torch.no_grad():
        vectors, length = retriever.vectors(), torch.tensor([2])
        # Positions count from the end of what is read, which is the same for both.
        assert torch.equal(retriever.states(vectors[items], length), retriever.states(vectors[other], length))
