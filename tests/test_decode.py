"""Cached sampling, trie beam search and candidate scoring against the plain model and brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from streamrec_dist.config_file import parse_config
from streamrec_dist.decode.beam import beam_search, free_beam_search
from streamrec_dist.decode.branches import Branches
from streamrec_dist.decode.candidates import candidate_log_probs, prefix_tree, prefix_trees
from streamrec_dist.decode.engine import Engine
from streamrec_dist.decode.policy import sequence_log_probs
from streamrec_dist.decode.random import rollout_uniforms
from streamrec_dist.decode.sampler import Thinking, draw_token, sample, sample_thoughts, think, think_greedily
from streamrec_dist.items.catalogue import Catalogue
from streamrec_dist.model.backbone import StreamRec, shift_right, token_log_probs
from streamrec_dist.tokens import FIRST_CODE

LEVELS, CODES = 3, 8


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = parse_config(
        f"items: {{levels: {LEVELS}, codes: {CODES}}}\n"
        "model: {softmax: codes, d_model: 32, layers: 2, heads: 2, d_head: 8, d_ff: 48}",
        "test",
    )
    model = StreamRec(config).eval()
    with torch.no_grad():
        for value in model.parameters():
            if value.ndim == 1:  # norms whose weights matter
                value.add_(0.2 * torch.randn_like(value))
        model.embed.weight.mul_(0.6)  # an untrained tied table otherwise repeats its last input for ever
    return model


@pytest.fixture(scope="module")
def catalogue():
    every = np.array(list(itertools.product(range(CODES), repeat=LEVELS)))
    chosen = np.random.default_rng(0).permutation(len(every))[:60]
    return Catalogue(every[chosen], CODES)


@pytest.fixture(scope="module")
def memory(model):
    tokens = torch.randint(FIRST_CODE, FIRST_CODE + LEVELS * CODES, (4, 9))
    tokens[1, 3:] = 0
    engine = Engine(model)
    return tokens, engine.read(tokens), engine.read(tokens, "direct")


def item_tokens(catalogue: Catalogue) -> torch.Tensor:
    return catalogue.codes + FIRST_CODE + torch.arange(LEVELS) * CODES


@pytest.fixture(scope="module")
def engine(model):
    return Engine(model)


def follow(engine, prompts, thoughts) -> Thinking:
    """Given thoughts int64 [P, R, l]."""
    rows, steps = thoughts.shape[1:]
    start = Branches.start(engine, prompts, 0).fan(rows)
    return think(start, steps, lambda _, step: thoughts[:, :, step] - FIRST_CODE)


def plain_scores(model, history, thoughts, items, stack="thinking"):
    """log P(item | thoughts) by one teacher-forced pass an item: [items]."""
    rows = torch.cat([thoughts.expand(len(items), -1), items], dim=-1)
    memory = model.read(history[None].expand(len(rows), -1), stack)
    hidden, _ = model.decode(shift_right(rows)[:, None], memory, stack=stack)
    return token_log_probs(model, hidden[:, 0], rows)[:, thoughts.shape[-1] :].sum(-1)


@pytest.mark.parametrize("constrained", [False, True])
def test_sampled_log_probs_equal_teacher_forced_ones(model, engine, memory, catalogue, constrained):
    history, thinking, _ = memory
    trie = catalogue if constrained else None
    uniforms = torch.from_numpy(rollout_uniforms(7, np.arange(4), 5, 2 + LEVELS))
    samples = sample(engine, thinking, uniforms, 2, temperature=0.8, catalogue=trie)
    with torch.no_grad():
        hidden, _ = model.decode(shift_right(samples.tokens), model.read(history))
        again = sequence_log_probs(model, hidden, samples.tokens, 0.8, trie)
    torch.testing.assert_close(samples.logprobs, again, atol=1e-4, rtol=0)
    torch.testing.assert_close(samples.pooled, hidden.mean(2), atol=1e-4, rtol=1e-4)
    items = catalogue.item_of_tokens(samples.tokens[..., 2:])
    assert (items >= 0).all() if constrained else (items < 0).any()


def test_constrained_log_probs_sum_to_one_over_the_catalogue(model, memory, catalogue):
    history, _, _ = memory
    rows = item_tokens(catalogue)[None].expand(4, -1, -1)
    with torch.no_grad():
        hidden, _ = model.decode(shift_right(rows), model.read(history))
        total = sequence_log_probs(model, hidden, rows, 1.0, catalogue).sum(-1).exp().sum(-1)
    torch.testing.assert_close(total, torch.ones(4), atol=1e-4, rtol=0)


def test_samples_follow_the_models_distribution(model, engine, memory):
    history, thinking, _ = memory
    draws = 6000
    uniforms = torch.from_numpy(rollout_uniforms(1, np.arange(4), draws, 1))
    tokens = sample(engine, thinking, uniforms, 1).tokens[..., 0] - FIRST_CODE
    with torch.no_grad():
        hidden, _ = model.decode(torch.ones((4, 1, 1), dtype=torch.long), model.read(history))
        expected = model.logits(hidden[:, 0, 0]).log_softmax(-1).exp() * draws
    for prompt in range(4):
        counts = torch.bincount(tokens[prompt], minlength=LEVELS * CODES).float()
        usual = expected[prompt] >= 5
        chi_square = ((counts - expected[prompt]) ** 2 / expected[prompt])[usual].sum().item()
        freedom = int(usual.sum())
        # Five standard deviations above the mean of a chi-square.
        assert chi_square < freedom + 5 * (2 * freedom) ** 0.5


def test_a_sample_depends_on_its_prompt_and_not_on_the_batch(engine, memory):
    history, thinking, _ = memory
    together = sample(engine, thinking, torch.from_numpy(rollout_uniforms(7, np.arange(4), 3, 5)), 2)
    alone = sample(
        engine, engine.read(history[2:3]), torch.from_numpy(rollout_uniforms(7, np.array([2]), 3, 5)), 2
    )
    assert torch.equal(together.tokens[2:3], alone.tokens)
    assert len({tuple(row) for row in together.tokens.flatten(0, 1).tolist()}) > 6


def test_what_cannot_be_is_never_drawn():
    logits = torch.tensor([[-torch.inf, 7.0, -torch.inf, 7.0, -torch.inf]])
    for u, expected in ((0.0, 1), (0.4999, 1), (0.5, 3), (1 - 2**-24, 3)):
        token, logprob = draw_token(logits, torch.tensor([u]))
        assert token.item() == expected
        assert logprob.item() == pytest.approx(np.log(0.5))


def test_uniforms_are_uniform_and_keyed():
    u = rollout_uniforms(3, np.arange(200), 8, 16)
    assert abs(u.mean() - 0.5) < 0.01
    assert u.max() < 1
    assert np.array_equal(rollout_uniforms(3, np.array([150]), 8, 16)[0], u[150])
    assert len(np.unique(u)) > 0.99 * u.size
    assert not np.array_equal(rollout_uniforms(4, np.arange(1), 8, 16)[0], u[0])


def test_greedy_and_given_thoughts_agree_with_a_plain_loop(model, engine, memory):
    history, thinking, _ = memory
    greedy = think_greedily(engine, thinking, 3)
    tokens = torch.ones((4, 1, 1), dtype=torch.long)
    with torch.no_grad():
        for _ in range(3):
            hidden, _ = model.decode(tokens, model.read(history))
            tokens = torch.cat(
                [tokens, model.logits(hidden[:, :, -1:]).log_softmax(-1).argmax(-1) + FIRST_CODE], dim=-1
            )
    assert torch.equal(greedy.tokens, tokens[..., 1:])
    followed = follow(engine, thinking, greedy.tokens)
    torch.testing.assert_close(followed.hidden, greedy.hidden, atol=1e-4, rtol=1e-4)
    sampled = sample_thoughts(engine, thinking, torch.from_numpy(rollout_uniforms(1, np.arange(4), 2, 3)))
    assert sampled.tokens.shape == (4, 2, 3)
    again = follow(engine, thinking, sampled.tokens)
    torch.testing.assert_close(again.hidden, sampled.hidden, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("stack", ["thinking", "direct"])
def test_full_width_beam_equals_brute_force(model, engine, memory, catalogue, stack):
    history, thinking, direct = memory
    steps = 2 if stack == "thinking" else 0
    thoughts = torch.randint(FIRST_CODE, 20, (4, 3, steps))
    start = follow(engine, thinking if steps else direct, thoughts)
    items, scores = beam_search(start.branches, catalogue, beam=CODES**LEVELS)
    for prompt, row in itertools.product(range(4), range(3)):
        with torch.no_grad():
            expected = plain_scores(
                model, history[prompt], thoughts[prompt, row], item_tokens(catalogue), stack
            )
        order = expected.argsort(descending=True)
        assert torch.equal(items[prompt, row], order)
        torch.testing.assert_close(scores[prompt, row], expected[order], atol=1e-4, rtol=0)


def test_narrow_beam_equals_a_plain_beam_and_bans_items(model, engine, memory, catalogue):
    history, _, direct = memory
    width = 4
    start = Branches.start(engine, direct, 0)
    items, _ = beam_search(start, catalogue, beam=width)
    items = items[:, 0]
    rows = {tuple(row) for row in item_tokens(catalogue).tolist()}
    for prompt in range(4):
        beams = [((), 0.0)]
        for depth in range(LEVELS):
            grown = []
            for prefix, score in beams:
                for token in {row[depth] for row in rows if row[:depth] == prefix}:
                    sequence = torch.tensor([[*prefix, token]])
                    memory_one = model.read(history[prompt][None], "direct")
                    with torch.no_grad():
                        hidden, _ = model.decode(shift_right(sequence)[:, None], memory_one, stack="direct")
                        step = token_log_probs(model, hidden[:, 0], sequence)[0, -1].item()
                    grown.append(((*prefix, token), score + step))
            beams = sorted(grown, key=lambda pair: -pair[1])[:width]
        expected = catalogue.item_of_tokens(torch.tensor([list(prefix) for prefix, _ in beams]))
        assert items[prompt].tolist() == expected.tolist()
    without, _ = beam_search(start, catalogue, beam=CODES**LEVELS, banned=items[:, :2])
    without = without[:, 0]
    for prompt in range(4):
        assert not set(items[prompt, :2].tolist()) & set(without[prompt].tolist())
        assert (without[prompt] == -1).sum() == 2


def test_more_beams_than_items_and_a_catalogue_of_one(engine, memory):
    _, _, direct = memory
    one = Catalogue(np.array([[1, 2, 3]]), CODES)
    items, scores = beam_search(Branches.start(engine, direct, 0), one, beam=20)
    assert items.tolist() == [[[0]]] * 4
    assert torch.isfinite(scores).all()


def test_free_beam_of_full_width_finds_the_best_sequence(model, engine, memory, catalogue):
    history, _, direct = memory
    tokens, scores = free_beam_search(Branches.start(engine, direct, 0), LEVELS, beam=40)
    rows = item_tokens(catalogue)
    for prompt in range(4):
        with torch.no_grad():
            again = plain_scores(
                model, history[prompt], torch.zeros(0, dtype=torch.long), tokens[prompt], "direct"
            )
            best_item = plain_scores(model, history[prompt], torch.zeros(0, dtype=torch.long), rows, "direct")
        torch.testing.assert_close(scores[prompt], again, atol=1e-4, rtol=0)
        assert scores[prompt, 0] >= best_item.max() - 1e-4


@pytest.mark.parametrize("chunk", [1, 3, 8])
def test_candidate_scores_equal_separate_passes(model, engine, memory, catalogue, chunk):
    history, thinking, _ = memory
    uniforms = torch.from_numpy(rollout_uniforms(2, np.arange(4), 3, 2 + LEVELS))
    samples = sample(engine, thinking, uniforms, 2)
    generator = np.random.default_rng(1)
    chosen = torch.from_numpy(np.stack([generator.permutation(60)[:17] for _ in range(4)]))
    candidates = item_tokens(catalogue)[chosen]
    scores = candidate_log_probs(samples.thinking.branches, candidates, prefix_trees(candidates, chunk))
    assert scores.shape == (4, 3, 17)
    for prompt in range(4):
        for rollout in range(3):
            with torch.no_grad():
                expected = plain_scores(
                    model, history[prompt], samples.tokens[prompt, rollout, :2], candidates[prompt]
                )
            torch.testing.assert_close(scores[prompt, rollout], expected, atol=1e-4, rtol=0)


def test_prefix_tree_shares_prefixes():
    candidates = torch.tensor([[[2, 10, 18], [2, 10, 19], [2, 11, 18], [3, 10, 18]]])
    tree = prefix_tree(candidates)
    assert tree.tokens.shape[1] == 2 + 3
    assert sorted(tree.tokens[0, :2].tolist()) == [2, 3]
    assert sorted(tree.tokens[0, 2:].tolist()) == [10, 10, 11]
    assert tree.sees.sum() == 2 + 3 * 2
