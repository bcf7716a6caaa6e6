"""The loop of stage 3 with fake workers (benchmarks/runtime.py), with and without all that tells what it does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial, wraps
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import ray
from runtime import (
    GROUP,
    PROMPTS,
    Bare,
    FakeLearners,
    FakeRank,
    FakeReward,
    FakeRollout,
    FakeRollouts,
    NoEvaluators,
    NoStore,
    Work,
)

from actors.calls import RayRuntime
from actors.pool import Pool, wait_started
from actors.reward import RewardPool
from actors.store import RemoteStore
from cli.conductor import Conductor
from cli.telling import Telling
from learners.publisher import WeightPublisher
from learners.ranks import RankGroup
from streamrec_dist.config import ActorConfig, Config
from streamrec_dist.config_file import parse_config
from streamrec_dist.rl.ports import Published
from streamrec_dist.rundir import RunDir
from streamrec_dist.spans import Spans, Timeline
from streamrec_dist.stages.rl import RlLoop, rl
from streamrec_dist.types import REWARDS, RewardBreakdown, RolloutBatch

KINDS = ("none", "events", "traced")
ACTORS, SKIP = 2, 20


class ToldRollout(FakeRollout):
    """With the spans of a RolloutActor."""

    def __init__(self, work: Work):
        super().__init__(work)
        self.spans = Spans()

    @ray.method(num_returns=2)
    def rollout(self, *arguments: Any) -> tuple[dict[str, Any], RolloutBatch]:
        self.spans.begin()
        with self.spans.part("adopt"):
            pass
        with self.spans.part("generate"):
            receipt, batch = super().rollout(*arguments)
        return receipt | {"spans": self.spans.told()}, batch


class ToldReward(FakeReward):
    def __init__(self) -> None:
        self.spans = Spans()

    @ray.method(num_returns=2)
    def score(self, batch: RolloutBatch) -> tuple[dict[str, Any], RewardBreakdown]:
        self.spans.begin()
        with self.spans.part("score"):
            receipt, rewards = super().score(batch)
        report = {f"{kind}/{name}": 0.5 for kind in ("reward", "spread", "share") for name in REWARDS}
        return receipt | {"report": report, "spans": self.spans.told()}, rewards


class ToldRank(FakeRank):
    """With as many spans as a learner has that passes over a batch in one part."""

    def __init__(self, config: Config, work: Work):
        super().__init__(config, work)
        self.spans = Spans()

    @ray.method(num_returns=2)
    def train_groups_and_publish(self, *arguments: Any) -> tuple[dict[str, Any], np.ndarray]:
        self.spans.begin()
        for part in ("prepare", "forward", "backward", "optimise"):
            with self.spans.part(part):
                pass
        with self.spans.part("publish"):
            metrics = self.train_groups(*arguments)
        return metrics | {"spans": self.spans.told()}, self.parameters


class ToldLearners(FakeLearners):
    def __init__(self, config: Config, work: Work):
        self.told: list[dict[str, Any]] = []
        RankGroup.__init__(self, ToldRank, config.learners, [config, work])
        self.start()


class EventStore(RemoteStore):
    """The real one for all but checkpoints and weights."""

    newest_checkpoint, load_weights = NoStore.newest_checkpoint, NoStore.load_weights
    save_checkpoint, save_weights = NoStore.save_checkpoint, NoStore.save_weights


class TimedPublisher(WeightPublisher):
    def __init__(self) -> None:
        super().__init__()
        self.moments: list[float] = []

    def publish(self, vector: Any) -> Published:
        self.moments.append(time.perf_counter())
        return super().publish(vector)


@dataclass(frozen=True)
class Taken:
    """Means of a run of the loop."""

    step_s: float  # of a step
    in_loop_s: float  # of it, that the loop's thread works for what is told of it
    telling: float  # part of all time in which the thread that tells of processes works


def take_steps(kind: str, run: RunDir, work: Work, steps: int) -> Taken:
    """Run the loop for so many steps; `kind` is one of KINDS."""
    config = parse_config("", "benchmark", [*SETTINGS, f"stages.rl.steps={steps}"])
    told, idle = kind != "none", ActorConfig(replicas=ACTORS, minimum=ACTORS, cpus=0, gpus=0)
    runtime, publisher = RayRuntime(), TimedPublisher()
    learners = (ToldLearners if told else FakeLearners)(config, work)
    rollouts = FakeRollouts.__new__(FakeRollouts)
    rollouts.pool = Pool("rollout", ToldRollout if told else FakeRollout, idle, [work])
    rewards = RewardPool.__new__(RewardPool)
    rewards.pool = Pool("reward", ToldReward if told else FakeReward, ActorConfig(cpus=0, gpus=0), [])
    runtime.pools += [rollouts.pool, rewards.pool]
    wait_started(runtime.pools)
    store: Any = EventStore(run.path, "DEFAULT") if told else NoStore()
    context: Any = Bare(
        config, None, runtime, learners, store, NoEvaluators(), publisher, None, rollouts, rewards,  # type: ignore[arg-type]
        timeline=Timeline(traced=kind == "traced"),
    )  # fmt: skip
    inside, telling, began = Stopwatch(), Stopwatch(), time.perf_counter()
    try:
        with ExitStack() as stack:
            if told:
                for name in ("report", "_took", "_adopted"):
                    stack.enter_context(mock.patch.object(RlLoop, name, inside.timed(getattr(RlLoop, name))))
                stack.enter_context(mock.patch.object(Telling, "_tell", telling.timed(Telling._tell)))
                stack.enter_context(Telling(conductor_of(context), context.timeline))
            else:
                stack.enter_context(mock.patch.object(RlLoop, "report", lambda *_: None))
            rl(context)
    finally:
        learners.close()
        for pool in runtime.pools:
            pool.close()
        if told:
            store.flush()
            ray.kill(store.actor)
    seconds = time.perf_counter() - began
    return Taken(
        float(np.diff(publisher.moments)[SKIP:].mean()), inside.seconds / steps, telling.seconds / seconds
    )


SETTINGS = (
    f"stages.rl.prompts={PROMPTS}",
    f"stages.rl.group_size={GROUP}",
    "stages.rl.max_staleness=1",
    "stages.rl.eval_every=1000000",
    "stages.rl.checkpoint_every=1000000",
    "learners.cpus=0",
    "learners.gpus=0",
    "learners.world_size=1",
)


class Stopwatch:
    """Adds up the seconds that calls are on a core, which other work on the machine changes little."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def timed(self, method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def work(*arguments: Any) -> Any:
            began = time.thread_time()
            try:
                return method(*arguments)
            finally:
                self.seconds += time.thread_time() - began

        return work


def conductor_of(context: Bare) -> Any:
    """What Telling asks of a conductor, answered by the code of the real one."""
    conductor: Any = SimpleNamespace(
        stage="rl",
        store=context.store,
        stop=threading.Event(),
        pausing=threading.Event(),
        scaled={},
        runtime=context.runtime,
        learners=context.learners,
        tokenizers=None,
        context=context,
        publisher=context.publisher,
        _broadcasts=dict,
    )
    conductor.status = partial(Conductor.status, conductor)
    return conductor
