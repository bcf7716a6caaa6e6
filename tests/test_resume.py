"""A run that is interrupted anywhere and goes on from its last checkpoint, in one process."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest

from streamrec_dist.config import Config
from streamrec_dist.config_file import parse_config
from streamrec_dist.errors import InputLost, WorkerLost
from streamrec_dist.rl.ports import Task
from streamrec_dist.stages.context import Context, Regroup
from streamrec_dist.stages.rl import rl
from tests.local_ports import (
    TINY,
    LocalRewards,
    LocalRollouts,
    LocalRuntime,
    MemoryStore,
    local_context,
    tiny_materials,
)
from tests.test_repeatable import repeatably as repeatably

STEPS, PROMPTS = 12, 32


def rl_config(staleness: int, *overrides: str) -> Config:
    settings = [f"stages.rl.prompts={PROMPTS}", f"stages.rl.steps={STEPS}", "stages.rl.checkpoint_every=2"]
    settings += [f"stages.rl.max_staleness={staleness}", "stages.rl.eval_every=5"]
    return parse_config(TINY, "tiny", [*settings, *overrides])


class DyingRuntime(LocalRuntime):
    """Learners are lost after `lives` of its waits."""

    def __init__(self, lives: int, order):
        super().__init__(order)
        self.lives = lives

    def wait(self, tasks, what, timeout_s) -> Task:
        self.lives -= 1
        if self.lives == 0:
            raise WorkerLost("killed by the test")
        return super().wait(tasks, what, timeout_s)


def begin(config: Config) -> tuple[Context, MemoryStore]:
    store = MemoryStore()
    context = local_context(tiny_materials(config, users=60), store)
    context.learners.begin("rl", STEPS)
    store.weights |= dict.fromkeys(("pretrain", "sft"), context.learners.weights())
    return context, store


def train(config: Config, kill_after: list[int], seed: int) -> tuple[Context, MemoryStore]:
    """Stage 3; each time it has begun it is killed after so many waits, and the last time it is not."""
    _, store = begin(config)
    rng = np.random.default_rng(seed)
    for lives in [*kill_after, 0]:
        context = local_context(tiny_materials(config, users=60), store)
        context.runtime = DyingRuntime(lives, lambda count: int(rng.integers(count)))
        try:
            result = rl(context)
        except WorkerLost:
            continue
        assert result.steps == STEPS
    return context, store


@pytest.mark.parametrize("staleness", [0, 1, 3])
def test_a_deterministic_run_resumes_to_the_same_bits(repeatably, staleness):
    config = rl_config(staleness, "deterministic=true")
    whole, whole_store = train(config, [], seed=0)
    for seed in range(3):
        kill_after = np.random.default_rng(seed).integers(5, 60, size=3).tolist()
        torn, torn_store = train(config, kill_after, seed)
        for one, other in (
            (whole.learners.checkpoint(), torn.learners.checkpoint()),
            (whole_store.weights["rl"], torn_store.weights["rl"]),
        ):
            assert one.keys() == other.keys()
            assert [name for name in one if not np.array_equal(one[name], other[name])] == []
        evaluated = {event.step for event in torn_store.of_kind("eval", "rl")}
        assert evaluated == {event.step for event in whole_store.of_kind("eval", "rl")} == {0, 5, 10, 12}


@pytest.mark.parametrize("deterministic", ["true", "false"])
def test_every_prompt_is_in_the_weights_once(repeatably, deterministic):
    """What the last life consumed from its checkpoint on, after what the lives before had consumed up to theirs."""
    config = rl_config(1, f"deterministic={deterministic}", "stages.rl.signal=0")
    _, store = begin(config)
    rng = np.random.default_rng(4)
    kept: list[int] = []
    for lives in [40, 30, 50, 0]:
        context = local_context(tiny_materials(config, users=60), store)
        context.runtime = DyingRuntime(lives, lambda count: int(rng.integers(count)))
        saved = store.newest_checkpoint("rl")
        kept = kept[: PROMPTS * saved.step] if saved else []
        with suppress(WorkerLost):
            rl(context)
        assert (saved is None) == (lives == 40)
        kept += sorted(cursor for cursor, _ in context.learners.consumed)
    assert kept == list(range(STEPS * PROMPTS))


class ForgetfulRewards(LocalRewards):
    """Some rollouts are gone when they are to be scored."""

    def __init__(self, materials, lost: int):
        super().__init__(materials)
        self.lost = lost

    def submit(self, rollouts) -> Task:
        if self.lost and rollouts().cursor % PROMPTS:
            self.lost -= 1

            def gone():
                raise InputLost("the node is gone")

            return Task(gone)
        return super().submit(rollouts)


def test_rollouts_whose_node_is_gone_are_sampled_again(repeatably):
    config = rl_config(1, "deterministic=true")
    weights = []
    for lost in (0, 5):
        context, store = begin(config)
        context.rewards = ForgetfulRewards(context.materials, lost)
        rl(context)
        assert context.rewards.lost == 0
        weights.append(store.weights["rl"])
    assert [name for name in weights[0] if not np.array_equal(weights[0][name], weights[1][name])] == []


class ForgetfulRollouts(LocalRollouts):
    """Some published weights are gone when rollouts ask for them."""

    def __init__(self, materials, lost: int):
        super().__init__(materials)
        self.lost, self.asked = lost, 0

    def submit(self, cursor, count, weights) -> Task:
        self.asked += 1
        if self.lost and self.asked % 3 == 0:
            self.lost -= 1

            def gone():
                raise InputLost("dropped")

            return Task(gone)
        return super().submit(cursor, count, weights)


def test_rollouts_whose_weights_are_gone_get_new_copies():
    context, _ = begin(rl_config(2, "stages.rl.signal=0"))
    context.rollouts = ForgetfulRollouts(context.materials, lost=6)
    rl(context)
    assert context.rollouts.lost == 0
    assert sorted(cursor for cursor, _ in context.learners.consumed) == list(range(STEPS * PROMPTS))


def test_learners_that_are_gone_with_the_weights_are_noticed():
    context, _ = begin(rl_config(0, "stages.rl.signal=0"))
    context.rollouts = ForgetfulRollouts(context.materials, lost=10**6)
    asked, vector = [], context.learners.vector

    def gone():
        raise WorkerLost("the learners are gone")

    def vector_or_none():
        asked.append(1)
        return gone if len(asked) > 1 else vector()

    context.learners.vector = vector_or_none
    with pytest.raises(WorkerLost, match="the learners are gone"):
        rl(context)
    assert len(asked) == 2


def test_learners_regroup_from_a_checkpoint_of_the_moment():
    context, store = begin(rl_config(1, "stages.rl.checkpoint_every=1000", "stages.rl.eval_every=1000"))
    runtime = context.runtime
    calls = iter(range(40))

    def wait(tasks, what, timeout_s):
        if next(calls) == 25:
            context.regroup.set()
        return LocalRuntime.wait(runtime, tasks, what, timeout_s)

    runtime.wait = wait
    with pytest.raises(Regroup):
        rl(context)
    (checkpoint,) = store.checkpoints["rl"]
    assert 0 < checkpoint.step == len({cursor // PROMPTS for cursor, _ in context.learners.consumed}) < STEPS
