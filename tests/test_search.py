"""Every way of finding thoughts before the items, against loops over all thoughts and all items."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from streamrec_dist.config_file import parse_config
from streamrec_dist.decode.branches import Branches
from streamrec_dist.decode.engine import Engine
from streamrec_dist.decode.joint import joint_beam_search
from streamrec_dist.decode.merge import merge_rows, mixed, sum_runs
from streamrec_dist.decode.random import rollout_uniforms
from streamrec_dist.decode.sampler import sample_thoughts, think_greedily
from streamrec_dist.decode.search import Found, Plan, search
from streamrec_dist.items.catalogue import Catalogue
from streamrec_dist.model.backbone import StreamRec, shift_right, token_log_probs
from streamrec_dist.tokens import FIRST_CODE

LEVELS, CODES, STEPS, PROMPTS, SAMPLES = 3, 3, 2, 4, 5
TOKENS = range(FIRST_CODE, FIRST_CODE + LEVELS * CODES)
ALL_THOUGHTS = torch.tensor(list(itertools.product(TOKENS, repeat=STEPS)))
PLANS = {
    "direct": Plan(),
    "greedy": Plan("greedy", STEPS),
    "sampled": Plan("sampled", STEPS, SAMPLES),
    "beam": Plan("beam", STEPS),
}


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
        model.embed.weight.mul_(0.6)  # an untrained tied table otherwise repeats its last input for ever
    return model


@pytest.fixture(scope="module")
def engine(model):
    return Engine(model)


@pytest.fixture(scope="module")
def catalogue():
    every = np.array(list(itertools.product(range(CODES), repeat=LEVELS)))
    return Catalogue(every[np.random.default_rng(0).permutation(len(every))[:17]], CODES)


@pytest.fixture(scope="module")
def history():
    tokens = torch.randint(
        TOKENS[0], TOKENS[-1] + 1, (PROMPTS, 9), generator=torch.Generator().manual_seed(1)
    )
    tokens[1, 3:] = 0
    return tokens


def uniforms(*prompts: int) -> torch.Tensor:
    """Those of some prompts: float32 [n, SAMPLES, STEPS]."""
    return torch.from_numpy(rollout_uniforms(3, np.array(prompts, dtype=np.int64), SAMPLES, STEPS))


def find(engine, history, catalogue, beam, plan, draws=None, banned=None) -> Found:
    prompts = engine.read(history, "thinking" if plan.steps else "direct")
    draws = uniforms(*range(PROMPTS)) if draws is None and plan.sampled else draws
    return search(engine, prompts, catalogue, beam, plan, draws, banned)


def log_probs(model, history, sequences, stack="thinking") -> torch.Tensor:
    """log P of each token of sequences int64 [n, length] after one history, by teacher-forced passes."""
    with torch.no_grad():
        memory = model.read(history[None].expand(len(sequences), -1), stack)
        hidden, _ = model.decode(shift_right(sequences)[:, None], memory, stack=stack)
        return token_log_probs(model, hidden[:, 0], sequences)


def item_tokens(catalogue) -> torch.Tensor:
    return catalogue.codes + FIRST_CODE + torch.arange(LEVELS) * CODES


def after(model, history, thoughts, catalogue, stack="thinking") -> tuple[torch.Tensor, torch.Tensor]:
    """log P(thoughts) [n] and log P(item | thoughts) [n, items] of thoughts int64 [n, l]."""
    items = item_tokens(catalogue)
    rows = torch.cat([thoughts.repeat_interleave(len(items), dim=0), items.repeat(len(thoughts), 1)], dim=-1)
    each = log_probs(model, history, rows, stack).view(len(thoughts), len(items), -1)
    split = thoughts.shape[1]
    return each[:, 0, :split].sum(-1), each[:, :, split:].sum(-1)


def expected_scores(model, engine, history, catalogue, name, prompt) -> torch.Tensor:
    """Scores float32 [items] that an unlimited beam gives one prompt, by loops."""
    one = history[prompt]
    if name == "direct":
        return after(model, one, torch.zeros((1, 0), dtype=torch.long), catalogue, "direct")[1][0]
    if name == "beam":
        thoughts, items = after(model, one, ALL_THOUGHTS, catalogue)
        return (thoughts[:, None] + items).logsumexp(dim=0)
    prompts = engine.read(history)
    if name == "greedy":
        return after(model, one, think_greedily(engine, prompts, STEPS).tokens[prompt], catalogue)[1][0]
    total = torch.zeros(catalogue.n_items)
    for thoughts in sample_thoughts(engine, prompts, uniforms(*range(PROMPTS))).tokens[prompt]:
        total += after(model, one, thoughts[None], catalogue)[1][0].exp() / SAMPLES
    return total.log()


def whole(catalogue) -> int:
    """A beam that nothing falls out of."""
    return len(ALL_THOUGHTS) * catalogue.n_items


@pytest.mark.parametrize("name", PLANS)
def test_a_beam_that_holds_all_equals_enumeration(model, engine, history, catalogue, name):
    found = find(engine, history, catalogue, whole(catalogue), PLANS[name])
    assert found.items.shape == found.scores.shape == (PROMPTS, catalogue.n_items)
    for prompt in range(PROMPTS):
        expected = expected_scores(model, engine, history, catalogue, name, prompt)
        order = expected.argsort(descending=True)
        assert torch.equal(found.items[prompt], order)
        torch.testing.assert_close(found.scores[prompt], expected[order], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["sampled", "beam"])
def test_the_thoughts_are_those_that_lead_to_the_first_item(model, engine, history, catalogue, name):
    found = find(engine, history, catalogue, whole(catalogue), PLANS[name])
    drawn = sample_thoughts(engine, engine.read(history), uniforms(*range(PROMPTS))).tokens
    for prompt in range(PROMPTS):
        thoughts = ALL_THOUGHTS if name == "beam" else drawn[prompt]
        before, items = after(model, history[prompt], thoughts, catalogue)
        share = items[:, found.items[prompt, 0]] + (before if name == "beam" else 0)
        assert found.thoughts[prompt].tolist() == thoughts[share.argmax()].tolist()


def plain_joint_beam(model, history, catalogue, beam) -> dict[int, float]:
    """Log-probs of the items that beam search over whole sequences gives one history, by loops over lists."""
    rows = {tuple(row) for row in item_tokens(catalogue).tolist()}
    beams: list[tuple[tuple[int, ...], float]] = [((), 0.0)]
    for depth in range(-STEPS, LEVELS):
        grown = []
        for sequence, score in beams:
            item = sequence[STEPS:]
            nexts = TOKENS if depth < 0 else {row[depth] for row in rows if row[:depth] == item}
            for token in nexts:
                longer = (*sequence, token)
                step = log_probs(model, history, torch.tensor([longer]))[0, -1].item()
                grown.append((longer, score + step))
        grown.sort(key=lambda pair: -pair[1])
        beams = grown[:beam]
        if 0 <= depth < LEVELS - 1:
            seen = {sequence[STEPS:] for sequence, _ in beams}
            others = []
            for sequence, score in grown[beam:]:
                if sequence[STEPS:] not in seen:
                    seen.add(sequence[STEPS:])
                    others.append((sequence, score))
            beams = beams + others[: beam - 1]
    totals: dict[int, list[float]] = {}
    # The last step is not cut: what ends in one item is added up first.
    for sequence, score in grown:
        item = int(catalogue.item_of_tokens(torch.tensor(sequence[STEPS:])))
        totals.setdefault(item, []).append(score)
    return {item: torch.tensor(scores).logsumexp(0).item() for item, scores in totals.items()}


@pytest.mark.parametrize("beam", [1, 2, 4, 7])
def test_a_narrow_joint_beam_equals_a_plain_one_and_finds_distinct_items(
    model, engine, history, catalogue, beam
):
    found = find(engine, history, catalogue, beam, PLANS["beam"])
    for prompt in range(PROMPTS):
        expected = plain_joint_beam(model, history[prompt], catalogue, beam)
        ranked = sorted(expected, key=lambda item: -expected[item])[:beam]
        assert found.items[prompt].tolist() == ranked
        assert len(set(ranked)) == beam
        scores = torch.tensor([expected[item] for item in ranked])
        torch.testing.assert_close(found.scores[prompt], scores, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("beam", [4, 1000])
def test_banned_items_are_not_returned_and_nothing_else_changes(engine, history, catalogue, name, beam):
    plan = PLANS[name]
    free = find(engine, history, catalogue, beam, plan)
    banned = torch.cat([free.items[:, :2], torch.full((PROMPTS, 1), -1)], dim=-1)
    banned[0, 0] = -1  # prompts differ in how many are banned
    found = find(engine, history, catalogue, beam, plan, banned=banned)
    for prompt in range(PROMPTS):
        kept = dict(zip(found.items[prompt].tolist(), found.scores[prompt].tolist(), strict=True))
        assert not set(kept) & (set(banned[prompt].tolist()) - {-1})
        if beam == 1000:
            left = [item for item in free.items[prompt].tolist() if item not in banned[prompt].tolist()]
            missing = catalogue.n_items - len(left)
            assert found.items[prompt].tolist() == left + [-1] * missing
            scores = dict(zip(free.items[prompt].tolist(), free.scores[prompt].tolist(), strict=True))
            assert all(math.isclose(scores[item], kept[item], abs_tol=1e-5) for item in left)
    everything = torch.arange(catalogue.n_items).expand(PROMPTS, -1)
    nothing = find(engine, history, catalogue, beam, plan, banned=everything)
    assert (nothing.items == -1).all() and (nothing.scores == -torch.inf).all()
    none = find(engine, history, catalogue, beam, plan, banned=everything[:, :0])
    assert torch.equal(none.items, free.items)


@pytest.mark.parametrize("name", PLANS)
def test_what_a_prompt_gets_does_not_depend_on_its_batch(engine, history, catalogue, name):
    plan = PLANS[name]
    together = find(engine, history, catalogue, 6, plan)
    for prompt in range(PROMPTS):
        alone = history[prompt : prompt + 1]
        alone = alone[:, : int((alone != 0).sum())]
        draws = uniforms(prompt) if plan.sampled else None
        found = find(engine, alone, catalogue, 6, plan, draws)
        assert torch.equal(found.items[0], together.items[prompt])
        assert torch.equal(found.thoughts[0], together.thoughts[prompt])
        torch.testing.assert_close(found.scores[0], together.scores[prompt], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("beam", [1, 2, 50])
def test_few_items_and_one(model, engine, history, name, beam):
    for codes in ([[1, 2, 0]], [[1, 2, 0], [1, 2, 1], [2, 0, 0]]):
        small = Catalogue(np.array(codes), CODES)
        found = find(engine, history, small, beam, PLANS[name])
        assert found.items.shape == (PROMPTS, min(beam, len(codes)))
        assert all(len(set(row) - {-1}) == len(row) for row in found.items.tolist())
        assert (found.scores.diff(dim=-1) <= 0).all() and found.scores.isfinite().all()
        assert found.thoughts.shape == (PROMPTS, PLANS[name].steps)


@pytest.mark.parametrize("name", PLANS)
def test_no_prompts_give_nothing(engine, catalogue, name):
    plan = PLANS[name]
    draws = uniforms() if plan.sampled else None
    empty = torch.zeros((0, 6), dtype=torch.long)
    found = find(engine, empty, catalogue, 5, plan, draws, banned=torch.zeros((0, 2), dtype=torch.long))
    assert found.items.shape == found.scores.shape == (0, 5)
    assert found.thoughts.shape == (0, plan.steps)


def test_without_thinking_steps_every_plan_is_the_direct_decoder(engine, history, catalogue):
    direct = find(engine, history, catalogue, 6, Plan())
    for plan in (Plan("sampled", 0, 3), Plan("beam", 0)):
        found = find(engine, history, catalogue, 6, plan)
        assert torch.equal(found.items, direct.items) and torch.equal(found.scores, direct.scores)


def test_one_favourite_does_not_crowd_other_items_out(engine, history):
    """One first code for all but a few items: their prefixes are kept although many thoughts prefer it."""
    codes = [[0, 0, 0], *([1, b, c] for b, c in itertools.product(range(3), range(3)))]
    items, _, _ = joint_beam_search(
        Branches.start(engine, engine.read(history), 0), Catalogue(np.array(codes), CODES), STEPS, 8
    )
    assert all(len(set(row)) == 8 and -1 not in row for row in items.tolist())


class NothingReadBack(TorchDispatchMode):
    """Refuses what makes a host wait for its device, and so cannot be part of a CUDA graph."""

    REFUSED = (
        torch.ops.aten._local_scalar_dense,
        torch.ops.aten.nonzero,
        torch.ops.aten.masked_select,
        torch.ops.aten._unique2,
        torch.ops.aten.repeat_interleave.Tensor,
    )

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func not in self.REFUSED and func.overloadpacket not in self.REFUSED, func
        if func.overloadpacket in (torch.ops.aten.index, torch.ops.aten.index_put_):
            assert all(index is None or index.dtype == torch.int64 for index in args[1]), "a mask as an index"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", PLANS)
def test_nothing_is_read_off_the_device(engine, history, catalogue, name):
    plan, banned = PLANS[name], torch.tensor([[0, 3, -1]]).expand(PROMPTS, -1)
    draws = uniforms(*range(PROMPTS)) if plan.sampled else None
    usual = find(engine, history, catalogue, 6, plan, draws, banned)
    with NothingReadBack():
        found = find(engine, history, catalogue, 6, plan, draws, banned)
        with pytest.raises(AssertionError):
            (found.scores > 0).nonzero()
    assert torch.equal(found.items, usual.items)


def test_runs_are_summed_as_a_loop_does():
    rng = np.random.default_rng(0)
    keys = torch.from_numpy(np.sort(rng.integers(0, 6, (3, 40)), axis=1))
    scores = torch.from_numpy(rng.normal(size=(3, 40, 2)).astype(np.float32) * 30)
    scores[0, :10] = -torch.inf
    summed = sum_runs(keys, scores, longest=40)
    for row, slot in itertools.product(range(3), range(2)):
        for key in range(6):
            members = (keys[row] == key).nonzero().flatten()
            if len(members):
                expected = scores[row, members, slot].logsumexp(0)
                torch.testing.assert_close(summed[row, members[-1], slot], expected)
                assert (summed[row, members[:-1], slot] == -torch.inf).all()


def test_item_numbers_do_not_decide_which_of_equal_items_stay():
    """Of 40 items of one score 20 stay; over many sets of numbers each place in the order stays equally often."""
    kept = np.zeros(40)
    for first in range(0, 40 * 400, 40):
        items = torch.arange(first, first + 40)[torch.randperm(40)].view(1, 2, 20)
        merged, _ = merge_rows(items, torch.zeros(1, 2, 20), 20)
        kept[merged[0].numpy() - first] += 1
    assert kept / 400 == pytest.approx(np.full(40, 0.5), abs=0.13)
    assert np.corrcoef(kept, np.arange(40))[0, 1] == pytest.approx(0, abs=0.5)


def test_mixed_numbers_are_distinct():
    numbers = torch.cat([torch.arange(-1, 200_000), torch.tensor([2**31, 2**62, -(2**63)])])
    assert len(mixed(numbers).unique()) == len(numbers)


def test_merging_rows_of_which_some_have_run_out():
    items = torch.tensor([[[4, 2, -1], [2, 7, 4]], [[-1, -1, -1], [-1, -1, -1]]])
    gone = -torch.inf
    scores = torch.tensor([[[-1.0, -2.0, gone], [-1.5, -3.0, -4.0]], [[gone] * 3] * 2])
    merged, sums = merge_rows(items, scores, 4)
    assert merged.tolist() == [[4, 2, 7, -1], [-1] * 4]
    two, four = math.log(math.exp(-2) + math.exp(-1.5)), math.log(math.exp(-1) + math.exp(-4))
    assert sums.tolist() == [pytest.approx([four, two, -3.0, gone]), [gone] * 4]
