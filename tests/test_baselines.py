"""The baselines that are trained: models and losses against independent references, and their loop in process."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from streamrec_dist.baselines.config import ITEM_MODELS, TRAINED, section_name
from streamrec_dist.baselines.models import new_item_model
from streamrec_dist.config import Config
from streamrec_dist.config_file import parse_config
from streamrec_dist.data.batches import Corpus
from streamrec_dist.data.row_counts import Cooccurrence
from streamrec_dist.data.split import split_rows, training_rows
from streamrec_dist.errors import ConfigError, DataError
from streamrec_dist.materials import Materials
from streamrec_dist.model.weights import export_weights, import_weights
from streamrec_dist.stages.baseline import train_baseline
from streamrec_dist.stages.decoding import Recommender
from streamrec_dist.stages.item_ranking import item_model_ranks
from streamrec_dist.tokens import PAD
from streamrec_dist.training.history_dropout import leave_out_items
from streamrec_dist.training.item_losses import ItemBatch, NegativeLoss, SoftmaxLoss, draw_negatives
from streamrec_dist.training.learner import Learner
from streamrec_dist.training.tiger import TigerBatch, TigerLoss
from tests.local_ports import TINY, MemoryStore, local_context, tiny_materials

HISTORIES = torch.tensor([[4, 2, 9, -1], [1, 7, 3, 5], [6, -1, -1, -1]])


def item_model(name: str, *overrides: str):
    torch.manual_seed(0)
    model = new_item_model(name, parse_config(TINY, "tiny", list(overrides)), 12).eval()
    with torch.no_grad():
        model.bias.normal_()
        model.item.weight.normal_()
    return model


def plain_materials(*overrides: str) -> Materials:
    return tiny_materials(parse_config(TINY, "tiny", list(overrides)).of_stage("tiger"))


# models


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


@torch.no_grad()
def test_gru4rec_is_its_equations_item_by_item():
    model = item_model("gru4rec")
    weights = {name: array.astype(np.float64) for name, array in export_weights(model).items()}
    for row, scores in zip(HISTORIES.tolist(), model(HISTORIES).numpy(), strict=True):
        hidden = np.zeros(24)
        for item in row:
            if item < 0:
                continue
            x = weights["gru.weight_ih_l0"] @ weights["item.weight"][item] + weights["gru.bias_ih_l0"]
            h = weights["gru.weight_hh_l0"] @ hidden + weights["gru.bias_hh_l0"]
            reset, update = sigmoid(x[:24] + h[:24]), sigmoid(x[24:48] + h[24:48])
            hidden = (1 - update) * np.tanh(x[48:] + reset * h[48:]) + update * hidden
        state = weights["project.weight"] @ hidden + weights["project.bias"]
        np.testing.assert_allclose(scores, weights["item.weight"] @ state + weights["bias"], atol=1e-4)


@pytest.mark.parametrize("name", ITEM_MODELS)
@torch.no_grad()
def test_padding_is_not_seen_and_order_is(name):
    model = item_model(name)
    together = model(HISTORIES)
    for number, row in enumerate(HISTORIES):
        alone = model(row[row >= 0][None])[0]
        torch.testing.assert_close(alone, together[number], atol=1e-5, rtol=1e-5)
    turned = model(HISTORIES[1:2].flip(1))
    assert (turned - together[1]).abs().max() > 1e-3


@pytest.mark.parametrize("name", ITEM_MODELS)
@torch.no_grad()
def test_what_comes_later_does_not_change_what_was_before(name):
    model, length = item_model(name), torch.tensor([2])
    vectors = model.vectors()
    states = [model.states(vectors[torch.tensor([[5, 7, *later]])], length) for later in ([9, 11], [3, 2])]
    assert torch.equal(*states)


@pytest.mark.parametrize("name", ITEM_MODELS)
@torch.no_grad()
def test_scores_of_candidates_are_those_among_all(name):
    model, candidates = item_model(name), torch.tensor([[1, 2], [0, 11], [5, 5]])
    expected = model(HISTORIES).gather(1, candidates)
    torch.testing.assert_close(model.scores(HISTORIES, candidates), expected, atol=1e-5, rtol=1e-5)


# losses


@torch.no_grad()
def test_the_softmax_loss_in_closed_form():
    model, target = item_model("sasrec"), torch.tensor([3, 0, 8])
    logits = model(HISTORIES).double().numpy()
    expected = np.mean(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(3), target])
    loss, metrics = SoftmaxLoss(model)(ItemBatch(0.5, (HISTORIES,), target))
    assert float(loss) == pytest.approx(0.5 * expected, rel=1e-5) == float(metrics["nll"])


@torch.no_grad()
def test_the_loss_of_a_negative_by_a_loop():
    model, target = item_model("sasrec-bce"), torch.tensor([3, 0, 8])
    torch.manual_seed(5)
    loss, _ = NegativeLoss(model)(ItemBatch(0.5, (HISTORIES,), target))
    torch.manual_seed(5)
    negatives = draw_negatives(HISTORIES, target, 12)
    logits, total = model(HISTORIES).double().numpy(), 0.0
    for row in range(3):
        total -= math.log(1 / (1 + math.exp(-logits[row, target[row]])))
        total -= math.log(1 - 1 / (1 + math.exp(-logits[row, negatives[row]])))
    assert float(loss) == pytest.approx(0.5 * total / 3, rel=1e-5)


def test_negatives_are_uniform_among_the_items_that_a_row_leaves():
    history = torch.tensor([[4, 2, 4, 0], [11, 1, -1, -1]]).repeat_interleave(6000, 0)
    target = torch.tensor([2, 7]).repeat_interleave(6000)
    torch.manual_seed(0)
    drawn = draw_negatives(history, target, 12).view(2, 6000)
    for row, taken in enumerate(({0, 2, 4}, {1, 7, 11})):
        left = sorted(set(range(12)) - taken)
        counts = np.bincount(drawn[row], minlength=12)
        assert counts[sorted(taken)].sum() == 0
        # Five standard deviations of a binomial count.
        assert np.abs(counts[left] - 6000 / 9).max() < 5 * math.sqrt(6000 / 9 * 8 / 9)


def test_a_history_of_all_items_leaves_no_negative():
    with pytest.raises(DataError, match=r"no negative .* data.max_history"):
        draw_negatives(torch.tensor([[0, 1]]), torch.tensor([2]), 3)


@torch.no_grad()
def test_tiger_spreads_some_probability_over_the_vocabulary():
    config = parse_config(TINY, "tiny", ["baselines.tiger.label_smoothing=0.1", "model.dropout=0"])
    materials = plain_materials()
    model = materials.new_model().eval()
    corpus, rows = materials.corpus, materials.rows[:3]
    history = torch.from_numpy(materials.prompts(rows)[0])
    target = torch.from_numpy(
        corpus.item_tokens(corpus.items[corpus.offsets[rows[:, 0]] + rows[:, 1]].astype(np.int64))
    )
    loss, metrics = TigerLoss(model, config.baselines.tiger, materials.catalogue)(
        TigerBatch(1.0, history, target)
    )
    total = nll = 0.0
    for row in range(3):
        sequence = [1]
        for token in target[row].tolist():
            memory = model.read(history[row : row + 1], "direct")
            hidden, _ = model.decode(torch.tensor([[sequence]]), memory, stack="direct")
            logits = model.logits(hidden[0, 0, -1]).double().numpy()
            log_probs = logits - np.logaddexp.reduce(logits)
            wanted = np.full(48, 0.1 / 48)
            wanted[token - 2] += 0.9
            total, nll = total - wanted @ log_probs, nll - log_probs[token - 2]
            sequence.append(token)
    assert float(loss) == pytest.approx(total / 9, rel=1e-4)
    assert float(metrics["nll"]) == pytest.approx(nll / 9, rel=1e-4)


def test_whole_items_are_left_out_but_never_the_last():
    history = torch.arange(2, 14).view(1, 12).repeat(4000, 1)
    history[2000:, 9:] = PAD
    torch.manual_seed(0)
    left = leave_out_items(history, 3, 0.25).view(4000, 4, 3)
    there = (left != PAD).all(-1)
    assert torch.equal(there, (left != PAD).any(-1))
    assert there[:2000, 3].all() and there[2000:, 2].all() and not there[2000:, 3].any()
    assert abs(float(there[:, :2].float().mean()) - 0.75) < 0.03
    assert leave_out_items(history, 3, 0.0) is history


# training


def planted(*overrides: str) -> Materials:
    """Users who all walk on through 24 items in a circle, so that the last item decides the next."""
    text = TINY.replace("codes: 16", "codes: 4")
    config = parse_config(
        text, "tiny", ["items.neighbours=20", "model.evidence=0", "data.max_history=3", *overrides]
    )
    starts = np.arange(48)
    items = np.concatenate([(start + np.arange(7)) % 24 for start in starts]).astype(np.int32)
    codes = np.stack(np.unravel_index(np.arange(24), (4, 4, 4)), axis=1).astype(np.int32)
    offsets = np.arange(49, dtype=np.int64) * 7
    corpus = Corpus(items, offsets, np.full(48, 5), np.full(48, 6), codes, 4, 3)
    neighbours = np.tile(np.arange(20, dtype=np.int32), (24, 1))
    return Materials(config, corpus, neighbours, training_rows(corpus), Cooccurrence.of(corpus))


@pytest.mark.parametrize("name", TRAINED)
def test_each_baseline_learns_a_planted_sequence(name):
    section = section_name(name)
    plan = [f"{section}.epochs=50", f"{section}.batch=32", f"{section}.lr=0.005", "model.dropout=0"]
    plan += [f"{section}.dropout=0.1"] if name in ITEM_MODELS else []
    materials = planted(*plan)
    learner = Learner(materials)
    learner.begin(name, 6 * 50)
    for epoch in range(50):
        learner.train_rows(epoch, 0, 6)
    rows = split_rows(materials.corpus, "test")
    # With the history masked: its items are no negatives of sasrec-bce, which leaves them high.
    if name == "tiger":
        ranks = Recommender(materials, learner.model, name).target_ranks(rows, True)
    else:
        ranks = item_model_ranks(learner.model.eval(), materials, rows, True)
    assert (ranks == 1).mean() > 0.95


def test_tiger_leaves_what_thinks_as_it_was():
    materials = plain_materials()
    learner = Learner(materials)
    learner.begin("tiger", 10)
    learner.train_rows(0, 0, 3)
    before, after = export_weights(materials.new_model()), learner.weights()
    moved = {name.split(".")[0] for name in before if not np.array_equal(before[name], after[name])}
    assert moved == {"embed", "encoder", "direct"}


@pytest.fixture(scope="module")
def trained() -> dict[str, MemoryStore]:
    stores = {name: MemoryStore() for name in TRAINED}
    for name, store in stores.items():
        store.finish_stage(train_baseline(local_context(plain_materials(), store), name))
    return stores


@pytest.mark.parametrize("name", TRAINED)
def test_the_loop_lowers_the_loss_and_keeps_the_best(trained, name):
    store = trained[name]
    steps = store.of_kind("step", name)
    fifth = len(steps) // 5
    first, last = (
        np.mean([event.metrics["loss"] for event in part]) for part in (steps[:fifth], steps[-fifth:])
    )
    assert last < first
    evaluations = [event.metrics["ndcg@10"] for event in store.of_kind("eval", name)]
    result = store.results[name]
    assert result.metrics["ndcg@10"] == pytest.approx(max(evaluations)) and len(evaluations) == 2
    assert result.metrics["epochs"] == 2 and result.steps == steps[-1].total
    assert store.newest_checkpoint(name).step == result.steps


@pytest.mark.parametrize("name", TRAINED)
def test_the_weights_that_are_kept_rank_as_they_did(trained, name):
    materials = plain_materials()
    context = local_context(materials)
    rows = context.evaluation_rows(40)
    model = materials.new_model() if name == "tiger" else materials.new_item_model(name)
    import_weights(model, trained[name].weights[name])
    if name == "tiger":
        ranks = Recommender(materials, model, name).target_ranks(rows, False)
    else:
        ranks = item_model_ranks(model.eval(), materials, rows, False)
    again = context.report_ranks(name, 0, rows, ranks)["ndcg@10"]
    assert again == pytest.approx(trained[name].results[name].metrics["ndcg@10"])


@pytest.mark.parametrize("name", ["sasrec-bce", "tiger"])
def test_a_baseline_that_was_stopped_goes_on_to_the_same_weights(trained, name):
    store = MemoryStore()
    context = local_context(plain_materials(), store)
    emit = store.emit

    def stop_after_an_epoch(*events):
        emit(*events)
        if events[0].kind == "eval":
            context.stop.set()

    store.emit = stop_after_an_epoch
    with pytest.raises(Exception, match="stopped as asked"):
        train_baseline(context, name)
    store.emit = emit
    again = train_baseline(local_context(plain_materials(), store), name)
    assert again.metrics["epochs"] == 2
    for key, array in trained[name].weights[name].items():
        assert np.array_equal(array, store.weights[name][key]), key


def test_a_baseline_is_given_no_evidence_whatever_the_stages_are():
    config = parse_config(TINY, "tiny", ["model.direct_evidence=true"])
    assert config.model.evidence and config.of_stage("rl") == config
    assert config.of_stage("tiger").model.evidence == 0
    assert (config.model.softmax, config.of_stage("tiger").model.softmax) == ("trie", "codes")
    ours = parse_config(TINY, "tiny", ["baselines.tiger.softmax=trie"])
    assert ours.of_stage("tiger").model.softmax == "trie"
    dropped = parse_config(TINY, "tiny", ["model.dropout=0.2"])
    assert dropped.of_stage("tiger").model.dropout == 0.2
    other = parse_config(TINY, "tiny", ["model.dropout=0.2", "baselines.tiger.dropout=0"])
    assert (other.of_stage("tiger").model.dropout, other.model.dropout) == (0.0, 0.2)
    model = plain_materials("model.direct_evidence=true").new_model()
    assert model.direct.evidence is None and model.decoder.evidence is None


def test_batches_of_baselines_are_shared_by_the_ranks():
    with pytest.raises(ConfigError, match=r"baselines.sasrec_bce.batch is 63, which 2 learner ranks"):
        parse_config("baselines: {sasrec_bce: {batch: 63}}", "f")
    with pytest.raises(ConfigError, match=r"d_model 64 does not divide by heads 3"):
        parse_config("baselines: {sasrec: {heads: 3}}", "f")
    assert {Config().trained(name).batch for name in TRAINED} == {256}
