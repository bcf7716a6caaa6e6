"""The engine at its edges: precision, odd batches, one item, no prompt, columns that grow."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from streamrec_dist.config_file import parse_config
from streamrec_dist.decode.beam import beam_search
from streamrec_dist.decode.branches import Branches
from streamrec_dist.decode.candidates import candidate_log_probs, prefix_trees
from streamrec_dist.decode.engine import Engine
from streamrec_dist.decode.likelihood import direct_log_probs
from streamrec_dist.decode.random import rollout_uniforms
from streamrec_dist.decode.sampler import sample, think_greedily
from streamrec_dist.items.catalogue import Catalogue
from streamrec_dist.model.backbone import StreamRec, shift_right, token_log_probs
from streamrec_dist.tokens import FIRST_CODE

LEVELS, CODES, HISTORY = 4, 16, 20


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = parse_config(
        f"items: {{levels: {LEVELS}, codes: {CODES}}}\n"
        "model: {softmax: codes, d_model: 64, layers: 2, heads: 4, d_head: 16, d_ff: 96}",
        "test",
    )
    return StreamRec(config).eval()


def histories(*items: int, seed: int = 0) -> torch.Tensor:
    """Histories of that many items each: int64 [n, S], padded."""
    rng = np.random.default_rng(seed)
    tokens = np.zeros((len(items), LEVELS * max(items, default=1)), dtype=np.int64)
    for row, count in enumerate(items):
        codes = rng.integers(0, CODES, (count, LEVELS)) + FIRST_CODE + np.arange(LEVELS) * CODES
        tokens[row, : count * LEVELS] = codes.ravel()
    return torch.from_numpy(tokens)


def uniforms(prompts: int, group: int = 3, length: int = 6) -> torch.Tensor:
    return torch.from_numpy(rollout_uniforms(5, np.arange(prompts), group, length))


@pytest.mark.parametrize("items", [(1,), (HISTORY,), (1, HISTORY), (3, 3, 3), (2, 7, 20, 1, 13)])
def test_encoder_equals_the_modules_at_every_length(model, items):
    history = histories(*items)
    with torch.no_grad():
        expected, mask = model.encode(history)
    states, same = Engine(model).encode(history)
    assert torch.equal(mask, same)
    torch.testing.assert_close(states[mask], expected[mask], atol=1e-4, rtol=1e-4)


def test_what_a_prompt_gets_does_not_depend_on_its_batch(model):
    engine, items = Engine(model), (2, 7, 20, 1, 13)
    history = histories(*items)
    together = sample(engine, engine.read(history), uniforms(5), 2)
    for row, count in enumerate(items):
        alone_history = history[row : row + 1, : count * LEVELS]
        alone = sample(engine, engine.read(alone_history), uniforms(5)[row : row + 1], 2)
        assert torch.equal(alone.tokens[0], together.tokens[row])
        torch.testing.assert_close(alone.logprobs[0], together.logprobs[row], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(alone.pooled[0], together.pooled[row], atol=1e-4, rtol=1e-4)


def test_bf16_is_near_and_its_log_probs_are_those_of_its_own_logits(model):
    history = histories(5, 12, 20)
    exact, rounded = Engine(model), Engine(model, torch.bfloat16)
    samples = sample(rounded, rounded.read(history), uniforms(3), 2)
    with torch.no_grad():
        hidden, _ = model.decode(shift_right(samples.tokens), model.read(history))
        again = token_log_probs(model, hidden, samples.tokens)
    gap = (samples.logprobs - again).abs()
    assert 0 < gap.mean() < 0.03 and gap.max() < 0.2
    wide, _ = rounded.encode(history)
    narrow, mask = exact.encode(history)
    assert wide.dtype == torch.float32
    assert ((wide - narrow)[mask].abs().mean() / narrow[mask].abs().mean()) < 0.02


def test_a_caches_room_is_no_limit(model):
    engine = Engine(model)
    prompts = engine.read(histories(4, 4))
    roomy = Branches.start(engine, prompts, 40).fan(3)
    tight = Branches.start(engine, prompts, 0).fan(3)
    for step in range(7):
        tokens = torch.randint(
            FIRST_CODE, model.vocabulary, (2, 3), generator=torch.Generator().manual_seed(step)
        )
        roomy, tight = roomy.advance(tokens), tight.advance(tokens)
        assert torch.equal(roomy.hidden, tight.hidden)


def test_rows_may_go_on_twice_from_one_place(model):
    engine = Engine(model)
    start = think_greedily(engine, engine.read(histories(4, 9)), 2).branches.fan(2)
    one, other = (torch.randint(FIRST_CODE, model.vocabulary, (2, 2)) for _ in range(2))
    first = start.advance(one).advance(other).hidden
    start.advance(other).advance(one)
    torch.testing.assert_close(start.advance(one).advance(other).hidden, first, atol=1e-5, rtol=1e-5)


def test_no_prompts_give_nothing(model):
    engine = Engine(model)
    prompts = engine.read(histories())
    samples = sample(engine, prompts, uniforms(0), 2)
    assert samples.tokens.shape == (0, 3, 6)
    assert samples.pooled.shape == (0, 3, 64)
    catalogue = Catalogue(np.array([[1, 2, 3, 4], [1, 2, 3, 5]]), CODES)
    items, _ = beam_search(Branches.start(engine, prompts, 0), catalogue, 5)
    assert items.shape == (0, 1, 2)
    candidates = torch.zeros((0, 4, LEVELS), dtype=torch.long)
    assert candidate_log_probs(samples.thinking.branches, candidates, prefix_trees(candidates)).shape == (
        0,
        3,
        4,
    )
    assert direct_log_probs(engine, histories(), candidates).shape == (0, 4)


@pytest.mark.parametrize("beam", [1, 2, 50])
def test_a_catalogue_smaller_than_the_beam_gives_all_it_has(model, beam):
    engine = Engine(model)
    codes = np.array([[1, 2, 3, 4], [1, 2, 3, 5], [9, 0, 0, 0]])
    start = Branches.start(engine, engine.read(histories(3, 8), "direct"), 0)
    items, scores = beam_search(start, Catalogue(codes, CODES), beam)
    assert items.shape == scores.shape == (2, 1, min(beam, 3))
    assert all(len(set(row)) == len(row) for row in items[:, 0].tolist())
    assert (scores.diff(dim=-1) <= 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_refreshed_engine_is_a_fresh_one_in_the_same_memory(model, dtype):
    model = copy.deepcopy(model)
    engine, history = Engine(model, dtype), histories(3, 8)
    items = torch.full((2, 1, LEVELS), FIRST_CODE)
    sample(engine, engine.read(history), uniforms(2), 2)
    direct_log_probs(engine, history, items)  # the second decoder is laid out as well
    memory = [tensor.data_ptr() for tensor in laid_out(engine)]
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.1 * torch.randn_like(value))
    engine.refresh()
    fresh = Engine(model, dtype)
    again = sample(engine, engine.read(history), uniforms(2), 2)
    expected = sample(fresh, fresh.read(history), uniforms(2), 2)
    assert torch.equal(again.tokens, expected.tokens)
    assert torch.equal(again.logprobs, expected.logprobs)
    assert torch.equal(again.pooled, expected.pooled)
    assert torch.equal(direct_log_probs(engine, history, items), direct_log_probs(fresh, history, items))
    assert memory == [tensor.data_ptr() for tensor in laid_out(engine)]


def laid_out(engine: Engine) -> list[torch.Tensor]:
    """Every tensor that decoding reads its weights from."""
    found, rest = [], [vars(engine)[name] for name in ("embed", "_table", "_encoder", "_stacks")]
    while rest:
        value = rest.pop()
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif value is not None:
            rest += (
                value
                if isinstance(value, list)
                else (value if isinstance(value, dict) else vars(value)).values()
            )
    return found
