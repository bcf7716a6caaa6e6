"""Every loss against a closed form or a plain loop."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from streamrec_dist.config_file import parse_config
from streamrec_dist.data.batches import targets
from streamrec_dist.decode.engine import Engine
from streamrec_dist.decode.likelihood import direct_log_probs, item_log_probs
from streamrec_dist.model.backbone import shift_right
from streamrec_dist.model.thinking import ThinkingHeads, nearest_tokens, unit_rms
from streamrec_dist.rl.objective import clipped_surrogate, k3_divergence
from streamrec_dist.stages.annotate import Annotator, ThinkingMeter, iterative_inference
from streamrec_dist.tokens import BOS, FIRST_CODE
from streamrec_dist.training.history_dropout import leave_out_items
from streamrec_dist.training.optimiser import learning_rate
from streamrec_dist.training.pretrain_loss import PretrainLoss, pretrain_batch
from streamrec_dist.training.sft_loss import (
    SftLoss,
    all_item_tokens,
    dpo_loss,
    quantisation_loss,
    sft_batch,
    sft_nll,
    state_loss,
)
from tests.local_ports import TINY, UNGUIDED, tiny_materials


@pytest.fixture(scope="module")
def materials():
    """Without a guide, of which tests/test_guide.py and tests/test_evidence.py are."""
    return tiny_materials(parse_config(TINY, "tiny", UNGUIDED))


def test_dpo_equals_its_definition():
    preferred, dispreferred = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0])
    plus, minus = (torch.exp(0.1 * x) for x in (preferred, dispreferred))
    expected = -torch.log(plus / (plus + minus)).mean()
    torch.testing.assert_close(dpo_loss(preferred, dispreferred, 0.1, torch.ones(2)), expected)


def test_quantisation_loss_and_where_its_gradients_go():
    torch.manual_seed(0)
    r = torch.randn(2, 3, 4, requires_grad=True)
    o = torch.randn(2, 3, 4, requires_grad=True)
    loss = quantisation_loss(r, o, torch.tensor([False, False]))
    expected = 0.0
    for i in range(2):
        for j in range(3):
            a, b = (x[i, j] / x[i, j].pow(2).mean().sqrt() for x in (r.detach(), o.detach()))
            expected += 1.25 * float(((a - b) ** 2).mean()) / 6
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    loss.backward()
    pulled = unit_rms(r).detach()
    alone = o.detach().clone().requires_grad_()
    ((pulled - unit_rms(alone)) ** 2).mean().backward()
    torch.testing.assert_close(o.grad, alone.grad)
    own = quantisation_loss(r, o, torch.tensor([True, True]))
    assert own.item() == 0


def test_state_loss_equals_a_loop_with_duplicates_masked():
    torch.manual_seed(0)
    states, target = torch.randn(3, 2, 5), torch.randn(3, 5)
    items = torch.tensor([7, 8, 7])
    target[2] = target[0]
    for cosine in (True, False):
        loss = state_loss(states, target, items, target, items, 0.07, cosine)
        expected = 0.0
        for j in range(2):
            weight = 2 * (j + 1) / (2 * 3)
            for i in range(3):
                scale = 1 / 0.07 if cosine else 1.0
                measure = (lambda a, b: F.cosine_similarity(a, b, dim=0)) if cosine else torch.dot
                own = measure(states[i, j], target[i]) * scale
                others = [measure(states[i, j], target[k]) * scale for k in range(3) if items[k] != items[i]]
                denominator = torch.logsumexp(torch.stack([own, *others]), 0)
                expected += weight * float(denominator - own) / 3
        assert loss.item() == pytest.approx(expected, rel=1e-4)


def test_sft_nll_leaves_own_thoughts_out():
    thoughts, item = torch.tensor([[-1.0, -2.0], [-30.0, -40.0]]), torch.tensor([[-3.0], [-5.0]])
    own = torch.tensor([False, True])
    assert sft_nll(thoughts, item, own, torch.ones(2)).item() == pytest.approx((1 + 2 + 3 + 5) / 4)
    # Items after annotated thoughts may count less, or not at all.
    assert sft_nll(thoughts, item, own, torch.tensor([0.5, 1.0])).item() == pytest.approx(
        (1 + 2 + 1.5 + 5) / 3.5
    )
    assert sft_nll(thoughts, item, own, torch.tensor([0.0, 1.0])).item() == pytest.approx((1 + 2 + 5) / 3)


def test_dpo_weighs_its_rows():
    preferred, dispreferred = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0])
    only_first = dpo_loss(preferred, dispreferred, 0.1, torch.tensor([1.0, 0.0]))
    assert only_first.item() == pytest.approx(float(np.log1p(np.exp(-0.05))))


def test_thinking_heads_start_as_the_identity():
    heads = ThinkingHeads(6)
    first, hidden, target = torch.randn(2, 6), torch.randn(2, 3, 6), torch.randn(2, 6)
    states = heads.states(first, hidden)
    torch.testing.assert_close(states[:, 0], unit_rms(first))
    torch.testing.assert_close(states[:, 2], unit_rms(first + hidden[:, 0] + hidden[:, 1]))
    residuals = heads.residuals(target, states[:, :-1])
    torch.testing.assert_close(residuals[:, 1], unit_rms(target) - states[:, 1])


def test_nearest_token_is_the_smallest_normalised_distance():
    torch.manual_seed(0)
    residuals, table = torch.randn(5, 8), torch.randn(30, 8) * torch.rand(30, 1) * 5
    for row, chosen in zip(residuals, nearest_tokens(residuals, table), strict=True):
        distances = [float((unit_rms(code) - unit_rms(row)).norm()) for code in table]
        assert int(chosen) == int(np.argmin(distances))


def test_iterative_inference_equals_uncached_passes(materials):
    model = materials.new_model().eval()
    rows = materials.rows[5:9]
    batch = pretrain_batch(materials, rows, torch.device("cpu"))
    with torch.no_grad():
        states, mask = model.encode(batch.history)
        memory = model.memory(states, mask)
        first, target = model.history_state(states, mask), model.item_states(batch.target)
        engine = Engine(model)
        found = iterative_inference(engine, engine.prompts(states, mask), first, target, 3)
        tokens = torch.full((4, 1), BOS)
        summed = first.clone()
        state = unit_rms(summed)
        for _ in range(3):
            token = nearest_tokens(unit_rms(target) - state, model.code_table) + FIRST_CODE
            tokens = torch.cat([tokens, token[:, None]], dim=1)
            hidden, _ = model.decode(tokens[:, None], memory)
            summed = summed + hidden[:, 0, -1]
            state = unit_rms(summed)
    assert torch.equal(found.thinking.tokens[:, 0], tokens[:, 1:])
    assert found.distances.shape == (4, 4)
    last = (unit_rms(target) - state).pow(2).mean(-1).sqrt()
    torch.testing.assert_close(found.distances[:, -1], last, atol=1e-4, rtol=1e-3)


def test_pretrain_loss_equals_separate_passes(materials):
    model = materials.new_model().eval()
    rows = materials.rows[:6]
    batch = pretrain_batch(materials, rows, torch.device("cpu"))
    item = int(targets(materials.corpus, rows)[0])
    nearest = materials.neighbours[item, 0]
    assert batch.retrieved[0].tolist() == materials.corpus.item_tokens(nearest).tolist()
    with torch.no_grad():
        loss, parts = PretrainLoss(model, materials.config.stages.pretrain, materials.catalogue)(batch)
        for stack, labels in (
            ("thinking", torch.cat([batch.retrieved, batch.target], -1)),
            ("direct", batch.target),
        ):
            hidden, _ = model.decode(
                shift_right(labels)[:, None], model.read(batch.history, stack), stack=stack
            )
            logits = model.logits(hidden[:, 0])
            expected = F.cross_entropy(logits.flatten(0, 1), labels.flatten() - FIRST_CODE)
            torch.testing.assert_close(parts[stack], expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(loss, parts["thinking"] + parts["direct"])


def test_retrieved_items_stand_nearest_last():
    config = parse_config(TINY, "tiny", ["stages.pretrain.retrieved=2"])
    materials = tiny_materials(config)
    rows = materials.rows[:1]
    batch = pretrain_batch(materials, rows, torch.device("cpu"))
    first, second = materials.neighbours[targets(materials.corpus, rows)[0], :2]
    expected = [*materials.corpus.item_tokens(second), *materials.corpus.item_tokens(first)]
    assert batch.retrieved[0].tolist() == expected


@pytest.mark.parametrize("ste", ["one_pass", "two_pass"])
def test_sft_loss_equals_its_parts(ste):
    config = parse_config(TINY, "tiny", [*UNGUIDED, f"stages.sft.ste={ste}"])
    materials = tiny_materials(config)
    model = materials.new_model().eval()
    chosen = np.arange(12)
    annotation = annotate(materials, model, 0, len(materials.rows), 0)
    batch = sft_batch(materials, annotation, chosen, torch.device("cpu"))
    loss_module = SftLoss(model, config.stages.sft, all_item_tokens(materials), materials.catalogue)
    loss, parts = loss_module(batch)
    sequences = torch.cat([batch.thoughts, batch.target], dim=-1)
    with torch.no_grad():
        hidden, _ = model.decode(shift_right(sequences)[:, None], model.read(batch.history))
        nll = F.cross_entropy(model.logits(hidden[:, 0]).flatten(0, 1), sequences.flatten() - FIRST_CODE)
        torch.testing.assert_close(parts["nll"], nll, atol=1e-5, rtol=1e-4)
        pair = torch.stack([batch.target, batch.negative], dim=1)
        memory = model.read(batch.history)
        follow = torch.cat([torch.full_like(batch.thoughts[:, :1], BOS), batch.thoughts], dim=-1)
        own = []
        for item in (batch.target, batch.negative):
            whole = torch.cat([follow, item[:, :-1]], dim=-1)
            states, _ = model.decode(whole[:, None], memory)
            log_probs = model.logits(states[:, 0, batch.thoughts.shape[1] :]).log_softmax(-1)
            own.append(log_probs.gather(-1, (item - FIRST_CODE)[..., None])[..., 0].sum(-1))
        reference = direct_log_probs(Engine(model), batch.history, pair)
        expected = dpo_loss(own[0] - reference[:, 0], own[1] - reference[:, 1], 0.1, torch.ones(12))
        torch.testing.assert_close(parts["dpo"], expected, atol=1e-5, rtol=1e-4)
    total = parts["nll"] + 0.1 * parts["dpo"] + 0.25 * parts["quantisation"] + 0.1 * parts["state"]
    torch.testing.assert_close(loss, total)
    loss.backward()
    assert model.heads.residual_mlp.wo.weight.grad.abs().sum() > 0
    assert model.heads.state_mlp.wo.weight.grad.abs().sum() > 0


def test_a_gradient_through_thoughts_turns_residuals_and_does_not_grow_with_them():
    config = parse_config(TINY, "tiny", [*UNGUIDED, "stages.sft.ste=two_pass", "stages.sft.own_thoughts=0"])
    materials = tiny_materials(config)
    model = materials.new_model().eval()
    annotation = annotate(materials, model, 0, len(materials.rows), 0)
    batch = sft_batch(materials, annotation, np.arange(12), torch.device("cpu"))
    loss = SftLoss(model, config.stages.sft, all_item_tokens(materials), materials.catalogue)
    memory = model.read(batch.history)
    torch.manual_seed(0)
    residuals = torch.randn(*batch.thoughts.shape, config.model.d_model)
    gradients = []
    for size in (1.0, 100.0):
        grown = (size * residuals).requires_grad_()
        hidden, _ = loss._straight_through(batch, memory, grown)
        gradients.append(torch.autograd.grad(hidden[..., -1, 0].sum(), grown)[0])
        lengths = gradients[-1].norm(dim=-1) * grown.norm(dim=-1)
        assert lengths.min() > 0
        assert ((gradients[-1] * grown).sum(-1).abs() < 1e-4 * lengths).all()
    torch.testing.assert_close(100 * gradients[1], gradients[0], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("stage", ["pretrain", "sft"])
def test_items_of_the_history_are_left_out_in_training_alone(stage):
    settings = [f"stages.{stage}.history_dropout=0.5", "model.dropout=0"]
    materials = tiny_materials(parse_config(TINY, "tiny", settings))
    model, chosen = materials.new_model(), np.arange(12)
    if stage == "pretrain":
        batch = pretrain_batch(materials, materials.rows[chosen], torch.device("cpu"))
        loss = PretrainLoss(model, materials.config.stages.pretrain, materials.catalogue)
    else:
        annotation = annotate(materials, model, 0, len(materials.rows), 0)
        batch = sft_batch(materials, annotation, chosen, torch.device("cpu"))
        loss = SftLoss(model, materials.config.stages.sft, all_item_tokens(materials), materials.catalogue)
    torch.manual_seed(1)
    found, _ = loss.train()(batch)
    torch.manual_seed(1)
    left = replace(batch, history=leave_out_items(batch.history, materials.corpus.levels, 0.5))
    assert not torch.equal(left.history, batch.history)
    torch.testing.assert_close(found, loss.eval()(left)[0])
    assert not torch.allclose(found, loss(batch)[0])


def annotate(materials, model, first, last, round_number):
    """The model is its own reference."""
    engine = Engine(model)
    return Annotator(materials, engine, engine).annotate(first, last, round_number)


def test_annotation_is_keyed_by_row_and_not_by_batch(materials):
    model = materials.new_model().eval()
    whole = annotate(materials, model, 0, 40, 1)
    part = annotate(materials, model, 20, 40, 1)
    assert np.array_equal(whole.thoughts[20:], part.thoughts)
    assert np.array_equal(whole.negatives[20:], part.negatives)
    np.testing.assert_allclose(whole.reference_target[20:], part.reference_target, atol=1e-4)
    other = annotate(materials, model, 0, 40, 2)
    assert not np.array_equal(whole.negatives, other.negatives)
    items = targets(materials.corpus, materials.rows[:40])
    assert all(whole.negatives[i] in materials.neighbours[items[i]] for i in range(40))


def test_own_thoughts_are_mixed_in_by_share():
    config = parse_config(TINY, "tiny", ["stages.sft.own_thoughts=0.5"])
    materials = tiny_materials(config)
    model = materials.new_model().eval()
    mixed = annotate(materials, model, 0, 400, 0)
    assert 0.35 < mixed.own.mean() < 0.65
    plain = annotate(tiny_materials(), model, 0, 400, 0)
    assert np.array_equal(mixed.thoughts[~mixed.own], plain.thoughts[~mixed.own])
    assert not np.array_equal(mixed.thoughts[mixed.own], plain.thoughts[mixed.own])


def test_measured_thinking_agrees_with_plain_likelihoods(materials):
    model = materials.new_model().eval()
    rows = materials.rows[:7]
    columns = ThinkingMeter(materials, Engine(model)).measure(rows)
    batch = pretrain_batch(materials, rows, torch.device("cpu"))
    with torch.no_grad():
        states, mask = model.encode(batch.history)
        memory = model.memory(states, mask)
        engine = Engine(model)
        target, first = model.item_states(batch.target), model.history_state(states, mask)
        gold = iterative_inference(engine, engine.prompts(states, mask), first, target, 2)
        sequence = torch.cat([gold.thinking.tokens[:, 0], batch.target], dim=-1)
        hidden, _ = model.decode(shift_right(sequence)[:, None], memory)
        log_probs = (
            model.logits(hidden[:, 0]).log_softmax(-1).gather(-1, (sequence - FIRST_CODE)[..., None])[..., 0]
        )
        again = item_log_probs(gold.thinking.branches, batch.target[:, None])[:, 0]
    np.testing.assert_allclose(columns["gold_nll"], -log_probs[:, 2:].sum(-1), atol=1e-4)
    np.testing.assert_allclose(columns["gold_nll"], -again, atol=1e-4)
    tokens = gold.thinking.tokens[:, 0]
    assert columns["distinct"].tolist() == [len(set(row)) for row in tokens.tolist()]


def test_clipped_surrogate_by_hand():
    behaviour = torch.log(torch.tensor([[[0.5, 0.5]], [[0.5, 0.5]]]))
    now = torch.log(torch.tensor([[[0.75, 0.5]], [[0.25, 0.5]]]))
    advantages = torch.tensor([[1.0], [-1.0]])
    surrogate, ratio, clips = clipped_surrogate(now, behaviour, advantages, 0.2, "token", "clipped")
    torch.testing.assert_close(ratio[:, 0], torch.tensor([[1.5, 1.0], [0.5, 1.0]]))
    torch.testing.assert_close(surrogate[:, 0], torch.tensor([(1.2 + 1) / 2, (-0.8 - 1) / 2]))
    assert clips[:, 0].tolist() == [[1, 0], [1, 0]]
    surrogate, ratio, _ = clipped_surrogate(now, behaviour, advantages, 0.2, "sequence", "clipped")
    torch.testing.assert_close(surrogate[:, 0], torch.tensor([1.2, -0.8]))


def test_decoupled_objective_weighs_by_the_capped_proximal_ratio():
    behaviour = torch.log(torch.tensor([[[0.1, 0.4]]]))
    now = torch.log(torch.tensor([[[0.9, 0.2]]])).requires_grad_()
    surrogate, ratio, clips = clipped_surrogate(
        now, behaviour, torch.tensor([[2.0]]), 0.2, "token", "decoupled"
    )
    torch.testing.assert_close(ratio, torch.ones(1, 1, 2))
    assert surrogate.item() == pytest.approx((2.0 * 2 + 0.5 * 2) / 2)
    surrogate.sum().backward()
    torch.testing.assert_close(now.grad, torch.tensor([[[2.0 * 2 / 2, 0.5 * 2 / 2]]]))
    assert clips.sum() == 0


def test_k3_is_zero_at_equality_and_never_negative():
    log_probs = torch.linspace(-5, 0, 11)
    assert k3_divergence(log_probs, log_probs).abs().max() == 0
    assert k3_divergence(torch.tensor(-1.0), torch.tensor(-2.0)).item() == pytest.approx(math.exp(-1) + 1 - 1)
    assert (k3_divergence(torch.randn(1000), torch.randn(1000)) >= 0).all()


def test_learning_rate_warms_up_and_decays_to_zero():
    rates = [learning_rate(1.0, 0.1, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == pytest.approx(1.0)
    assert rates[55] == pytest.approx(0.5, abs=0.01)
    assert rates[99] < 0.01
    assert rates[9:] == sorted(rates[9:], reverse=True)
