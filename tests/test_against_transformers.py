"""All ways of decoding, and annotation, against `transformers`' T5 with the same weights, in fp32."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList
from transformers.models.t5.modeling_t5 import T5Attention

from streamrec_dist.config_file import parse_config
from streamrec_dist.data.batches import history_tokens, targets
from streamrec_dist.decode.beam import beam_search, free_beam_search
from streamrec_dist.decode.candidates import candidate_log_probs, prefix_trees
from streamrec_dist.decode.engine import Engine
from streamrec_dist.decode.likelihood import direct_log_probs
from streamrec_dist.decode.random import rollout_uniforms, row_keys
from streamrec_dist.decode.sampler import sample, sample_thoughts, think_greedily
from streamrec_dist.items.catalogue import Catalogue
from streamrec_dist.model.backbone import StreamRec, shift_right
from streamrec_dist.model.convert import to_t5
from streamrec_dist.model.layers import relative_buckets
from streamrec_dist.stages.annotate import Annotator, ThinkingMeter
from streamrec_dist.tokens import BOS, FIRST_CODE
from tests.local_ports import TINY, UNGUIDED, tiny_materials

LEVELS, CODES, THOUGHTS, ITEMS = 3, 8, 2, 60
#: Items of each history: one, the most that a model sees, and some between.
LENGTHS = (1, 20, 5, 13)
CLOSE = {"atol": 1e-4, "rtol": 0}
CONFIG = parse_config(
    f"items: {{levels: {LEVELS}, codes: {CODES}}}\n"
    "model: {softmax: codes, d_model: 32, layers: 2, heads: 2, d_head: 8, d_ff: 48}",
    "test",
)


@pytest.fixture(scope="module")
def model() -> StreamRec:
    torch.manual_seed(0)
    return lively(StreamRec(CONFIG).eval())


def lively(model: StreamRec) -> StreamRec:
    """Norms and heads that are no identity, and a table that does not make the model repeat its last input."""
    with torch.no_grad():
        for value in model.parameters():
            if value.ndim == 1:
                value.add_(0.2 * torch.randn_like(value))
        for mlp in (model.heads.state_mlp, model.heads.residual_mlp):
            mlp.wo.weight.normal_(std=0.2)
        model.embed.weight.mul_(0.6)
    return model


@pytest.fixture(scope="module")
def peers(model):
    return {stack: to_t5(model, CONFIG, stack) for stack in ("thinking", "direct")}


@pytest.fixture(scope="module")
def history() -> Tensor:
    rng = np.random.default_rng(0)
    tokens = np.zeros((len(LENGTHS), max(LENGTHS) * LEVELS), dtype=np.int64)
    for row, items in enumerate(LENGTHS):
        codes = rng.integers(0, CODES, (items, LEVELS)) + FIRST_CODE + np.arange(LEVELS) * CODES
        tokens[row, : items * LEVELS] = codes.ravel()
    return torch.from_numpy(tokens)


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    every = np.array(list(itertools.product(range(CODES), repeat=LEVELS)))
    return Catalogue(every[np.random.default_rng(0).permutation(len(every))[:ITEMS]], CODES)


def tokens_of(catalogue: Catalogue) -> Tensor:
    return catalogue.codes + FIRST_CODE + torch.arange(LEVELS) * CODES


def uniforms(prompts: int, group: int, length: int) -> Tensor:
    return torch.from_numpy(rollout_uniforms(3, np.arange(prompts), group, length))


@torch.no_grad()
def their_log_probs(t5, history: Tensor, rows: Tensor) -> Tensor:
    """Log-probs [P, R, T, levels * codes] that T5 gives after each prefix of rows int64 [P, R, T]."""
    prompts, count, length = rows.shape
    each = history.repeat_interleave(count, 0)
    logits = t5(
        input_ids=each,
        attention_mask=(each != 0).long(),
        decoder_input_ids=shift_right(rows.flatten(0, 1)),
    ).logits
    return logits[..., FIRST_CODE:].log_softmax(-1).view(prompts, count, length, -1)


def scored(log_probs: Tensor, rows: Tensor) -> Tensor:
    return log_probs.gather(-1, (rows - FIRST_CODE).unsqueeze(-1)).squeeze(-1)


class CodesOnly(LogitsProcessor):
    """Probabilities over the code tokens; of those, the ones that `catalogue` has after `skip` tokens."""

    def __init__(self, skip: int = 0, catalogue: Catalogue | None = None):
        self.skip, self.items = skip, None if catalogue is None else tokens_of(catalogue).tolist()

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        scores = scores.clone()
        scores[:, :FIRST_CODE] = -torch.inf
        scores = scores.log_softmax(-1)
        if self.items is None:
            return scores
        allowed = torch.zeros_like(scores, dtype=torch.bool)
        for row, sequence in enumerate(input_ids[:, 1 + self.skip :].tolist()):
            depth = len(sequence)
            follow = [item[depth] for item in self.items if item[:depth] == sequence]
            allowed[row, follow] = True
        return scores.masked_fill(~allowed, -torch.inf)


def their_beams(t5, history: Tensor, read: Tensor, width: int, codes: CodesOnly) -> tuple[Tensor, Tensor]:
    """Their beams after decoder tokens `read` [P, T]: tokens [P, W, m] and summed log-probs [P, W]."""
    found = t5.generate(
        input_ids=history,
        attention_mask=(history != 0).long(),
        decoder_input_ids=read,
        num_beams=width,
        num_return_sequences=width,
        max_new_tokens=LEVELS,
        length_penalty=0.0,
        logits_processor=LogitsProcessorList([codes]),
        return_dict_in_generate=True,
        output_scores=True,
    )
    tokens = found.sequences[:, read.shape[1] :].view(len(history), width, LEVELS)
    return tokens, found.sequences_scores.view(len(history), width)


def test_samples_have_their_log_probs(model, peers, history):
    engine = Engine(model)
    samples = sample(engine, engine.read(history), uniforms(4, 5, THOUGHTS + LEVELS), THOUGHTS)
    theirs = scored(their_log_probs(peers["thinking"], history, samples.tokens), samples.tokens)
    torch.testing.assert_close(samples.logprobs, theirs, **CLOSE)


def test_logits_of_the_engine_are_theirs(model, peers, history):
    engine = Engine(model)
    thinking = think_greedily(engine, engine.read(history), THOUGHTS)
    rows = torch.cat([thinking.tokens, torch.full_like(thinking.tokens[..., :1], FIRST_CODE)], dim=-1)
    theirs = their_log_probs(peers["thinking"], history, rows)
    torch.testing.assert_close(engine.log_probs(thinking.hidden), theirs, **CLOSE)
    assert torch.equal(thinking.tokens, theirs[:, :, :THOUGHTS].argmax(-1) + FIRST_CODE)


def test_items_sampled_along_the_trie_follow_their_distribution(model, peers, history, catalogue):
    engine, repeats, group = Engine(model), 1500, 32
    rows = tokens_of(catalogue)
    log_probs = their_log_probs(peers["thinking"], history[1:2], rows[None])[0]
    expected = torch.zeros(ITEMS)
    for depth in range(LEVELS):
        same = (rows[:, None, :depth] == rows[None, :, :depth]).all(-1)
        allowed = torch.zeros(ITEMS, LEVELS * CODES, dtype=torch.bool)
        for item in range(ITEMS):
            allowed[item, rows[same[item], depth] - FIRST_CODE] = True
        among = log_probs[:, depth].masked_fill(~allowed, -torch.inf).log_softmax(-1)
        expected += among.gather(-1, (rows[:, depth : depth + 1] - FIRST_CODE)).squeeze(-1)
    expected = expected.exp() * repeats * group
    assert expected.sum().item() == pytest.approx(repeats * group, rel=1e-4)

    prompts = engine.read(history[1:2].expand(repeats, -1))
    drawn = sample(engine, prompts, uniforms(repeats, group, LEVELS), 0, catalogue=catalogue).tokens
    counts = torch.bincount(catalogue.item_of_tokens(drawn).flatten(), minlength=ITEMS).float()
    usual = expected >= 5
    chi_square = ((counts - expected) ** 2 / expected)[usual].sum().item()
    freedom = int(usual.sum())
    assert freedom > 30
    # Five standard deviations above the mean of a chi-square.
    assert chi_square < freedom + 5 * (2 * freedom) ** 0.5


@pytest.mark.parametrize("stack", ["thinking", "direct"])
@pytest.mark.parametrize("width", [2, 5])
def test_trie_beams_are_their_constrained_ones(model, peers, history, catalogue, stack, width):
    engine = Engine(model)
    steps = THOUGHTS if stack == "thinking" else 0
    thinking = think_greedily(engine, engine.read(history, stack), steps)
    items, scores = beam_search(thinking.branches, catalogue, width)
    read = torch.cat([torch.full((len(history), 1), BOS), thinking.tokens[:, 0]], dim=1)
    tokens, expected = their_beams(peers[stack], history, read, width, CodesOnly(steps, catalogue))
    assert torch.equal(items[:, 0], catalogue.item_of_tokens(tokens))
    torch.testing.assert_close(scores[:, 0], expected, **CLOSE)


def test_free_beams_are_theirs(model, peers, history):
    engine = Engine(model)
    tokens, scores = free_beam_search(think_greedily(engine, engine.read(history), 0).branches, LEVELS, 6)
    read = torch.full((len(history), 1), BOS)
    their_tokens, expected = their_beams(peers["thinking"], history, read, 6, CodesOnly())
    assert torch.equal(tokens, their_tokens)
    torch.testing.assert_close(scores, expected, **CLOSE)


def test_candidates_have_their_log_probs(model, peers, history, catalogue):
    engine, count, group = Engine(model), 17, 3
    samples = sample(engine, engine.read(history), uniforms(4, group, THOUGHTS + LEVELS), THOUGHTS)
    chosen = torch.stack([torch.randperm(ITEMS)[:count] for _ in LENGTHS])
    candidates = tokens_of(catalogue)[chosen]
    found = candidate_log_probs(samples.thinking.branches, candidates, prefix_trees(candidates))
    for rollout in range(group):
        thoughts = samples.tokens[:, rollout : rollout + 1, :THOUGHTS].expand(-1, count, -1)
        rows = torch.cat([thoughts, candidates], dim=-1)
        theirs = scored(their_log_probs(peers["thinking"], history, rows), rows)[..., THOUGHTS:].sum(-1)
        torch.testing.assert_close(found[:, rollout], theirs, **CLOSE)
    direct = scored(their_log_probs(peers["direct"], history, candidates), candidates).sum(-1)
    torch.testing.assert_close(direct_log_probs(engine, history, candidates), direct, **CLOSE)


def unit(x: Tensor) -> Tensor:
    return x / x.pow(2).mean(-1, keepdim=True).sqrt()


def mlp(head, x: Tensor) -> Tensor:
    inside = (x @ head.wi.weight.T + head.wi.bias).clamp(min=0)
    return x + inside @ head.wo.weight.T + head.wo.bias


@torch.no_grad()
def annotate_plainly(
    model: StreamRec, t5, history: Tensor, item: Tensor, steps: int, given: list[int] | None = None
):
    """Eq. 12 and 13 of one row by a loop over T5: history int64 [S], item int64 [m] -> thoughts (those `given`, if
    any) and distances."""
    table, heads = t5.shared.weight, model.heads
    states = t5.encoder(input_ids=history[None]).last_hidden_state[0]
    summed, target = states.mean(0), unit(table[item].mean(0))
    read, distances = [BOS], []
    for step in range(steps + 1):
        state = mlp(heads.state_mlp, unit(summed))
        distances.append((target - unit(state)).pow(2).mean().sqrt())
        if step == steps:
            break
        residual = unit(mlp(heads.residual_mlp, target - state))
        gaps = (unit(table[FIRST_CODE:]) - residual).pow(2).sum(-1)
        read.append(given[step] if given else int(gaps.argmin()) + FIRST_CODE)
        decoded = t5(
            encoder_outputs=(states[None],),
            decoder_input_ids=torch.tensor([read]),
            output_hidden_states=True,
        )
        summed = summed + decoded.decoder_hidden_states[-1][0, -1]
    return read[1:], torch.stack(distances)


def test_annotation_chooses_what_a_loop_over_t5_does():
    materials = tiny_materials(parse_config(TINY, "tiny", ["stages.sft.thoughts=4", *UNGUIDED]))
    torch.manual_seed(5)
    model = lively(materials.new_model().eval())
    reference = lively(materials.new_model().eval())
    rows, corpus = materials.rows[:60], materials.corpus
    engine = Engine(model)
    made = Annotator(materials, engine, Engine(reference)).annotate(0, len(rows), 0)
    measured = ThinkingMeter(materials, engine).measure(rows)
    draws = rollout_uniforms(materials.config.seed, row_keys(rows), 1, 4)
    thinking = to_t5(model, materials.config)
    frozen = to_t5(reference, materials.config, "direct")
    histories, lengths = history_tokens(corpus, rows)
    assert lengths.min() == corpus.levels < lengths.max()
    items = torch.from_numpy(corpus.item_tokens(targets(corpus, rows)))
    for row in range(len(rows)):
        history = torch.from_numpy(histories[row, : lengths[row]])
        thoughts, distances = annotate_plainly(model, thinking, history, items[row], 4)
        assert made.thoughts[row].tolist() == thoughts
        torch.testing.assert_close(torch.from_numpy(measured["distance"][row]), distances, **CLOSE)
        own = sample_thoughts(engine, engine.read(history[None]), torch.from_numpy(draws[row : row + 1]))
        own_tokens = own.tokens[0, 0].tolist()
        _, own_distances = annotate_plainly(model, thinking, history, items[row], 4, own_tokens)
        torch.testing.assert_close(torch.from_numpy(measured["own_distance"][row]), own_distances, **CLOSE)
        given = torch.tensor(thoughts)
        sequence = torch.cat([given, items[row]])[None, None]
        nll = -scored(their_log_probs(thinking, history[None], sequence), sequence)[..., 4:].sum()
        assert measured["gold_nll"][row] == pytest.approx(nll.item(), abs=1e-4)
        pair = torch.from_numpy(corpus.item_tokens(np.array([made.negatives[row]])))
        pair = torch.cat([items[row][None], pair])[None]
        log_probs = scored(their_log_probs(frozen, history[None], pair), pair).sum(-1)[0]
        assert made.reference_target[row] == pytest.approx(log_probs[0].item(), abs=1e-4)
        assert made.reference_negative[row] == pytest.approx(log_probs[1].item(), abs=1e-4)
    assert len({tuple(row) for row in made.thoughts.tolist()}) > 20


@pytest.mark.parametrize("bidirectional", [False, True])
def test_positions_fall_into_their_buckets_at_every_edge(bidirectional):
    keys = torch.arange(600)
    ours = relative_buckets(torch.tensor([300]), keys, bidirectional)[0]
    theirs = T5Attention._relative_position_bucket(keys - 300, bidirectional, 32, 128)
    assert torch.equal(ours, theirs)
    # To the right there is no distance of 0.
    assert len(ours.unique()) == 32 - bidirectional
