"""The three stage loops in one process: the real model and losses, no Ray."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from streamrec_dist.config_file import parse_config
from streamrec_dist.data.batches import targets
from streamrec_dist.data.evidence import EvidenceTable
from streamrec_dist.data.split import split_rows, training_rows
from streamrec_dist.decode.engine import Engine
from streamrec_dist.errors import RunError
from streamrec_dist.model.weights import import_weights
from streamrec_dist.rl.rollout import Sampler
from streamrec_dist.stages.item_ranking import likely_items
from streamrec_dist.stages.patience import Best
from streamrec_dist.stages.pretrain import pretrain
from streamrec_dist.stages.retrieve import retrieve
from streamrec_dist.stages.rl import rl
from streamrec_dist.stages.sft import calibrate, sft
from streamrec_dist.training.optimiser import Optimiser
from streamrec_dist.types import PolicyVersion
from tests.local_ports import TINY, UNGUIDED, MemoryStore, local_context, tiny_materials


@pytest.fixture(scope="module")
def materials():
    return tiny_materials(parse_config(TINY, "tiny", ["stages.sft.own_thoughts=0.5"]))


@pytest.fixture(scope="module")
def trained(materials):
    """A store after the retriever and stages 1 and 2."""
    store = MemoryStore()
    store.finish_stage(retrieve(local_context(materials, store)))
    informed = with_evidence(materials, store)
    for stage in (pretrain, sft):
        store.finish_stage(stage(local_context(informed, store)))
    return store


def with_evidence(materials, store: MemoryStore):
    parts = list(store.evidence.values())
    return replace(materials, evidence=EvidenceTable.joined(len(materials.corpus.items), parts))


def copy_of(store: MemoryStore) -> MemoryStore:
    return MemoryStore(weights=dict(store.weights), evidence=dict(store.evidence))


def test_every_row_has_evidence_from_a_retriever_that_has_not_seen_its_user(materials, trained):
    assert sorted(trained.evidence) == ["fold-0", "fold-1", "held-out"]
    held_out = sum(len(split_rows(materials.corpus, split)) for split in ("valid", "test"))
    assert len(trained.evidence["held-out"]["event"]) == held_out
    events = np.concatenate([part["event"] for part in trained.evidence.values()])
    assert len(np.unique(events)) == len(events) == held_out + len(materials.rows)
    folds = dict(zip(materials.rows[:, 0], materials.folds, strict=True))
    for fold in range(2):
        users = np.searchsorted(
            materials.corpus.offsets, trained.evidence[f"fold-{fold}"]["event"], side="right"
        )
        assert {folds[user - 1] for user in users} == {fold}
    # What the retriever of all users finds for held-out rows, another loop over them finds too.
    retriever = materials.new_retriever().eval()
    import_weights(retriever, trained.weights["retrieve"])
    rows = split_rows(materials.corpus, "valid")
    again = likely_items(retriever, materials, rows)
    part = trained.evidence["held-out"]
    assert np.array_equal(part["event"][: len(rows)], again["event"])
    np.testing.assert_allclose(part["share"][: len(rows)], again["share"], atol=2e-3)


def test_the_retriever_of_a_fold_has_learnt_from_no_user_of_it(materials):
    context = local_context(materials)
    learner = context.learners.learner
    learner.begin("retrieve", 4, fold=1)
    learner.train_rows(0, 0, 2)
    chosen = learner.trainee.rows
    assert set(chosen[:, 0]).isdisjoint(materials.rows[materials.folds == 1, 0])
    assert len(chosen) == (materials.folds != 1).sum()


@pytest.mark.parametrize("parts", [0, 1, 2])
def test_a_retriever_that_is_stopped_between_folds_ends_as_one_that_is_not(materials, trained, parts):
    class Broken(MemoryStore):
        def save_evidence(self, name, part):
            if len(self.evidence) == parts:
                raise ConnectionError(name)
            super().save_evidence(name, part)

    broken = Broken()
    with pytest.raises(ConnectionError):
        retrieve(local_context(materials, broken))
    store = MemoryStore(checkpoints=broken.checkpoints, weights=broken.weights, evidence=broken.evidence)
    before = dict(store.evidence)
    result = retrieve(local_context(materials, store))
    assert result.metrics == trained.results["retrieve"].metrics
    assert list(store.evidence) == list(trained.evidence) and len(before) == parts
    for name, part in trained.evidence.items():
        assert before.get(name, store.evidence[name]) is store.evidence[name], "none is found twice"
        np.testing.assert_array_equal(part["items"], store.evidence[name]["items"])
        np.testing.assert_allclose(part["share"], store.evidence[name]["share"], atol=2e-3)


def test_every_fold_has_users_however_few_there_are():
    for seed in range(20):
        few = tiny_materials(parse_config(TINY, "tiny", [f"seed={seed}"]), users=6)
        users = [len(np.unique(few.rows[few.folds == fold, 0])) for fold in range(2)]
        assert max(users) - min(users) <= 1 <= min(users)


def test_pretraining_lowers_the_loss_and_keeps_the_best(trained):
    steps = trained.of_kind("step", "pretrain")
    assert steps[-1].metrics["loss"] < steps[0].metrics["loss"]
    assert [event.step for event in steps] == list(range(1, steps[-1].total + 1))
    assert all(earlier.t <= later.t for earlier, later in pairwise(steps))
    evaluations = trained.of_kind("eval", "pretrain")
    assert len(evaluations) == 2
    best = max(evaluation.metrics["ndcg@10"] for evaluation in evaluations)
    assert trained.results["pretrain"].metrics["ndcg@10"] == pytest.approx(best)


def test_evaluations_tell_of_beams_that_name_no_item(trained):
    """Where codes compete with all others; on the trie there are none, and models that score items have no beam."""
    assert {event.metrics["invalid_beam_share"] for event in trained.of_kind("eval", "sft")} == {0}
    assert all("invalid_beam_share" not in event.metrics for event in trained.of_kind("eval", "retrieve"))
    config = parse_config(TINY, "tiny", [*UNGUIDED, "stages.pretrain.epochs=1", "stages.rl.steps=2"])
    store = MemoryStore()
    for stage in (pretrain, rl):
        store.finish_stage(stage(local_context(tiny_materials(config), store)))
        store.weights.setdefault("sft", store.weights["pretrain"])
        share = store.of_kind("eval", stage.__name__)[-1].metrics["invalid_beam_share"]
        assert 0 < share <= 1
        assert store.results[stage.__name__].metrics["invalid_beam_share"] > 0


def test_sft_lowers_the_nll_of_sampled_thoughts():
    """Without evidence, which lets a pretrained decoder find the target whatever it thinks."""
    # On the trie a decoder begins as one that finds all items alike, and has to learn more than to be surer.
    longer = ["stages.pretrain.epochs=8", "stages.sft.lr=0.003", "stages.sft.rounds=3"]
    config = parse_config(TINY, "tiny", ["stages.sft.own_thoughts=0.5", "model.evidence=0", *longer])
    store, materials = MemoryStore(), tiny_materials(config)
    for stage in (pretrain, sft):
        store.finish_stage(stage(local_context(materials, store)))
    metrics = store.results["sft"].metrics
    assert metrics["sampled_nll_last"] < metrics["sampled_nll_first"]
    assert store.of_kind("warning", "sft") == [], "there is nothing to calibrate"


def test_sft_reports_the_leak(trained):
    rounds = trained.of_kind("round", "sft")
    assert [event.step for event in rounds] == [0, 1, 2]
    for event in rounds:
        assert event.metrics["leak"] == pytest.approx(
            event.metrics["sampled_nll"] - event.metrics["gold_nll"]
        )
        assert len(event.metrics["distance"]) == len(event.metrics["own_distance"]) == 3


@pytest.mark.parametrize("rows", ["last", "named"])
def test_stage_3_samples_prompts_of_rows_that_the_others_have_not_learnt(rows):
    materials = tiny_materials(parse_config(TINY, "tiny", [f"stages.rl.rows={rows}", "model.evidence=16"]))
    kept = {tuple(row) for row in materials.rows[len(materials.supervised) :].tolist()}
    learner = local_context(materials).learners.learner
    learner.begin("pretrain", 2)
    learnt = {tuple(row) for row in learner.trainee.rows.tolist()}
    every = training_rows(materials.corpus).tolist()
    assert kept.isdisjoint(learnt) and kept | learnt == {tuple(row) for row in every}
    batch = Sampler(materials, Engine(materials.new_model().eval())).rollout(PolicyVersion(0), 0, 120)
    assert {tuple(row) for row in materials.rows[batch.rows].tolist()} == kept

    lasts = {user: (user, position) for user, position in every}
    alone = {last for user, last in lasts.items() if last[1] == 1}
    items, _ = materials.evidence.of(materials.corpus, materials.rows)
    wanted = targets(materials.corpus, materials.rows)[:, None]
    named = {tuple(row) for row in materials.rows[(items == wanted).any(axis=1)].tolist()}
    expected = set(lasts.values()) - alone
    assert 0 < len(expected & named) < len(expected)
    assert kept == (expected & named if rows == "named" else expected)


@pytest.mark.parametrize("staleness", [0, 1, 2])
def test_rl_consumes_every_prompt_once_within_the_staleness_bound(trained, staleness):
    config = parse_config(TINY, "tiny", [f"stages.rl.max_staleness={staleness}", "stages.rl.signal=0"])
    rng = np.random.default_rng(staleness)
    context = local_context(
        tiny_materials(config), copy_of(trained), order=lambda count: int(rng.integers(count))
    )
    result = rl(context)
    assert result.steps == 6
    consumed = sorted(cursor for cursor, _ in context.learners.consumed)
    assert consumed == list(range(6 * 16))
    events = context.store.of_kind("step", "rl")
    assert [event.step for event in events] == [1, 2, 3, 4, 5, 6]
    assert max(event.metrics.get("staleness", 0) for event in events) <= staleness
    for cursor, version in context.learners.consumed:
        # Not only within the bound: which version samples a prompt does not depend on what finishes first.
        assert version == max(0, cursor // 16 - staleness)


def test_strictly_on_policy_log_probs_agree_to_rounding(trained):
    config = parse_config(TINY, "tiny", ["stages.rl.max_staleness=0"])
    context = local_context(tiny_materials(config), copy_of(trained))
    rl(context)
    gaps = [event.metrics["policy_gap"] for event in context.store.of_kind("step", "rl")]
    assert len(gaps) == 6
    assert max(gaps) < 1e-4
    apart = [event.metrics["ppo_kl_at_equal_version"] for event in context.store.of_kind("step", "rl")]
    assert max(abs(kl) for kl in apart) < 1e-6
    ratios = [event.metrics["ratio"] for event in context.store.of_kind("step", "rl")]
    assert max(abs(ratio - 1) for ratio in ratios) < 1e-4


def test_a_batch_without_signal_makes_no_step_and_says_so(trained):
    config = parse_config(TINY, "tiny", ["stages.rl.signal=1000"])
    context = local_context(tiny_materials(config), copy_of(trained))
    result = rl(context)
    assert result.steps == 6
    assert context.learners.consumed == []
    events = context.store.of_kind("step", "rl")
    assert all(event.metrics["no_step"] == 1 and event.metrics["no_signal"] == 16 for event in events)
    before, after = trained.weights["sft"], context.store.weights["rl"]
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_stopping_and_resuming_gives_the_weights_of_an_uninterrupted_run(materials, trained):
    # Units of prompts are then the same in either, and so are sums over them.
    config = parse_config(TINY, "tiny", ["stages.rl.max_staleness=0", "deterministic=true"])
    materials = tiny_materials(config)
    whole = local_context(materials, copy_of(trained))
    rl(whole)

    first = local_context(materials, copy_of(trained))
    emit = first.store.emit

    def stop_after_three(event):
        emit(event)
        if event.kind == "step" and event.step == 3:
            first.stop.set()

    first.store.emit = stop_after_three
    with pytest.raises(Exception, match="stopped as asked"):
        rl(first)
    first.store.emit = emit
    second = local_context(materials, first.store)
    rl(second)
    for name, array in whole.learners.weights().items():
        assert np.array_equal(array, second.learners.weights()[name]), name


def test_a_split_by_time_trains_and_evaluates():
    whole = tiny_materials()
    lengths = np.diff(whole.corpus.offsets)
    # Every fourth user has nothing to train on, every fourth nothing held out, the others several targets.
    kind = np.arange(len(lengths)) % 4
    train_end = np.select([kind == 0, kind == 1], [0, lengths], lengths - 4)
    valid_end = np.select([kind == 0, kind == 1], [lengths // 2, lengths], lengths - 2)
    corpus = replace(whole.corpus, train_end=train_end, valid_end=valid_end)
    context = local_context(replace(whole, corpus=corpus, rows=training_rows(corpus)), MemoryStore())
    rows = context.evaluation_rows(10)
    assert len(set(rows[:, 0].tolist())) == 10 < len(rows)
    assert not (kind[rows[:, 0]] == 1).any()
    result = pretrain(context)
    assert 0 <= result.metrics["ndcg@10"] <= 1


def test_calibration_moves_only_the_say_of_decoder_and_evidence(trained):
    config = parse_config(TINY, "tiny", ["stages.rl.rows=last", "stages.sft.own_thoughts=0.5"])
    materials = tiny_materials(config)
    context = local_context(materials, copy_of(trained))
    best = Best(patience=1)
    start = trained.weights["pretrain"]
    best.offer(5, {"ndcg@10": -1.0, "leak": 2.0}, start)
    calibrate(context, 0, 9, best)
    assert best.step == 9
    assert "leak" not in best.metrics, "that was measured before"
    assert context.store.of_kind("warning", "sft") == []
    moved = {name for name, array in best.weights.items() if not np.array_equal(array, start[name])}
    assert moved == {"decoder.evidence"}


@pytest.mark.parametrize(
    ("kept", "ranks", "done"), [(0, 1, False), (1, 2, False), (1, 1, True), (63, 1, True)]
)
def test_calibration_on_less_than_a_batch_of_prompts_says_what_becomes_of_it(trained, kept, ranks, done):
    config = parse_config(TINY, "tiny", ["stages.sft.own_thoughts=0.5", "stages.sft.calibration=3"])
    context = local_context(replace(tiny_materials(config), kept=kept), copy_of(trained))
    context.learners.world_size = ranks
    best, start = Best(patience=1), trained.weights["pretrain"]
    best.offer(5, {"ndcg@10": -1.0}, start)
    calibrate(context, 0, 9, best)
    (warning,) = context.store.of_kind("warning", "sft")
    few = "stages.sft.batch: 64" if done else f"the {ranks} learner ranks"
    assert warning.message.startswith(f"stages.rl.rows: all keeps {kept} rows") and few in warning.message
    assert best.step == (9 if done else 5)
    assert np.isfinite(best.weights["decoder.evidence"]).all()
    assert np.array_equal(best.weights["decoder.evidence"], start["decoder.evidence"]) != done


def test_a_gradient_that_is_not_finite_ends_a_stage_with_what_may_help(trained, monkeypatch):
    monkeypatch.setattr(Optimiser, "step", lambda self, rate: torch.tensor(torch.nan))
    materials = tiny_materials(parse_config(TINY, "tiny", ["stages.rl.rows=last"]))
    with pytest.raises(
        RunError, match=r"of stage pretrain .* at step 1; try a smaller stages\.pretrain\.lr, or"
    ):
        pretrain(local_context(materials))
    best = Best(patience=1)
    best.offer(5, {"ndcg@10": -1.0}, trained.weights["pretrain"])
    with pytest.raises(
        RunError, match=r"of stage calibrate .*; try stages\.sft\.calibration: 0, which leaves it"
    ):
        calibrate(local_context(materials, copy_of(trained)), 0, 9, best)


def test_a_stage_whose_calibration_has_no_prompts_warns_of_it(trained):
    (warning,) = trained.of_kind("warning", "sft")
    assert "the decoder is not weighed against evidence" in warning.message
