"""`deterministic: true`: the same run gives the same bits, in whatever order its work is finished."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator

import numpy as np
import pytest
import ray
import torch

from actors.placement import start_worker
from learners.ranks import Rank
from streamrec_dist.config import Config
from streamrec_dist.config_file import parse_config
from streamrec_dist.decode.sampler import draw_token
from streamrec_dist.model.weights import import_weights
from streamrec_dist.repeatable import compute_repeatably, cumulated
from streamrec_dist.rl.scoring import Scorer
from streamrec_dist.stages.patience import Best
from streamrec_dist.stages.pretrain import pretrain
from streamrec_dist.stages.rl import rl
from streamrec_dist.stages.sft import sft
from tests.local_ports import TINY, LocalRewards, MemoryStore, local_context, tiny_materials
from tests.test_ddp import on_two_ranks

REPEATABLE = ["deterministic=true"]


@pytest.fixture
def repeatably() -> Iterator[None]:
    compute_repeatably()
    yield
    torch.use_deterministic_algorithms(False)


def tiny(*overrides: str) -> Config:
    return parse_config(TINY, "tiny", [*REPEATABLE, *overrides])


class RewardsInTurn(LocalRewards):
    """Two reward workers that get the rollouts in turn, as they arrive."""

    def __init__(self, materials, reference):
        super().__init__(materials)
        self.workers = [LocalRewards(materials) for _ in range(2)]
        for worker in self.workers:
            import_weights(worker.reference, reference)
        self.turns = itertools.cycle(self.workers)

    def submit(self, rollouts):
        return next(self.turns).submit(rollouts)


def train_all(arrival: int, staleness: int) -> dict[str, np.ndarray]:
    """The last weights of all three stages; `arrival` seeds the order in which work is finished."""
    # So few rows that the prompts come round again, half of them in units of their own.
    settings = ["stages.rl.prompts=32", "stages.rl.steps=12", "stages.sft.own_thoughts=0.5"]
    settings.append(f"stages.rl.max_staleness={staleness}")
    materials = tiny_materials(tiny(*settings), users=30)
    rng = np.random.default_rng(arrival)
    store = MemoryStore()
    for stage in (pretrain, sft, rl):
        context = local_context(materials, store, order=lambda count: int(rng.integers(count)))
        if stage is rl:
            context.rewards = RewardsInTurn(materials, store.weights["pretrain"])
        store.finish_stage(stage(context))
        store.weights[f"{stage.__name__}, last"] = context.learners.weights()
    return {f"{stage}: {name}": x for stage, arrays in store.weights.items() for name, x in arrays.items()}


@pytest.mark.parametrize("staleness", [0, 2])
def test_two_runs_give_the_same_bits_in_whatever_order_their_work_is_finished(repeatably, staleness):
    one, other = (train_all(arrival, staleness) for arrival in (0, 1))
    assert [name for name in one if not np.array_equal(one[name], other[name])] == []
    assert any(name.startswith("rl, last") for name in one)


@pytest.mark.parametrize("stage", ["tokenize", "sft", "rl"])
def test_two_ranks_give_the_same_bits_twice(stage):
    one, other = (on_two_ranks(stage, repeatable=True) for _ in range(2))
    for rank in range(2):
        assert [n for n, x in one[rank].items() if not np.array_equal(x, other[rank][n])] == []


def test_a_score_does_not_depend_on_what_was_scored_before():
    materials = tiny_materials(tiny("model.d_model=128", "model.heads=4"))
    reference = materials.new_model().eval()
    fresh, used = Scorer(materials, reference), Scorer(materials, reference)
    for row in (0, 7, 20, 21, 33):
        used.target_logprobs(np.array([row]))
    rows = np.arange(40)
    assert np.array_equal(fresh.target_logprobs(rows), used.target_logprobs(rows))


def test_of_equal_evaluations_the_earliest_is_kept_in_whatever_order_they_come():
    for steps in itertools.permutations([10, 20, 30]):
        best = Best(patience=9)
        for step in steps:
            best.offer(step, {"ndcg@10": 0.5 if step > 10 else 0.4}, {})
        assert best.step == 20


def test_running_sums_that_repeat_draw_what_plain_ones_draw(repeatably):
    logits = 3 * torch.randn(50, 300, generator=torch.Generator().manual_seed(0))
    logits[:, ::7] = -torch.inf
    weights = (logits - logits.amax(-1, keepdim=True)).exp()
    expected = weights.double().cumsum(-1)
    torch.testing.assert_close(cumulated(weights).double(), expected, atol=1e-6, rtol=1e-6)
    uniforms = torch.rand(50, generator=torch.Generator().manual_seed(1))
    tokens, logprobs = draw_token(logits, uniforms)
    place = torch.searchsorted(expected, uniforms.double()[:, None] * expected[:, -1:], right=True)
    assert torch.equal(tokens, place[:, 0])
    chosen = logits.log_softmax(-1).gather(-1, tokens[:, None])[:, 0]
    torch.testing.assert_close(logprobs, chosen, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("process", ["worker", "rank"])
def test_every_worker_and_rank_computes_as_the_file_says(process, deterministic, monkeypatch):
    monkeypatch.setattr(ray, "get_gpu_ids", list)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    threads = torch.get_num_threads()
    try:
        if process == "worker":
            start_worker(1.0, deterministic)
        else:
            Rank(tiny(f"deterministic={str(deterministic).lower()}"))
        assert torch.are_deterministic_algorithms_enabled() == deterministic
        assert ("CUBLAS_WORKSPACE_CONFIG" in os.environ) == deterministic
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_num_threads(threads)
