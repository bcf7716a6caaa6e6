"""Stage 3 and broken broadcasts with Ray's processes, in a cluster of this process's own; prints what it saw.

It stands by itself because a local `ray.init` keeps its token in the home folder unless the environment, which Ray
reads when it is imported, says otherwise.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}

import numpy as np
import ray

from actors.calls import RayRuntime
from actors.pool import Pool, wait_started
from actors.reward import RewardPool
from actors.rollout import RolloutPool
from learners.broadcaster import BroadcastPublisher
from learners.group import LearnerGroup
from streamrec_dist.config import ActorConfig
from streamrec_dist.config_file import parse_config
from streamrec_dist.model.weights import export_weights
from streamrec_dist.rl.broadcast import SHARE, Kept
from streamrec_dist.rl.ports import Published, Task
from streamrec_dist.stages.context import Context
from streamrec_dist.stages.rl import rl
from tests.local_ports import TINY, MemoryStore, tiny_materials

DEADLINE_S = 2.0
PROMPTS = 16


class NoEvaluators:
    """Judges at once."""

    replicas = 1

    def ranks(self, model: str, rows: np.ndarray, mask_history: bool, weights: Published) -> Task:
        return Task([ray.put(np.zeros(len(rows), dtype=np.int64))])

    def invalid_share(self, model: str, rows: np.ndarray, weights: Published) -> Task:
        return Task([ray.put(0.0)])


class Runs:
    """One learner, two rollout actors and a reward worker."""

    def __init__(self) -> None:
        settings = [
            "deterministic=true",
            "learners.transport=collective",
            "learners.cpus=0",
            "learners.gpus=0",
        ]
        settings += [f"stages.rl.prompts={PROMPTS}", "stages.rl.max_staleness=1", "stages.rl.signal=0"]
        self.config = parse_config(TINY, "tiny", settings)
        self.materials = tiny_materials(self.config, users=60)
        self.start = export_weights(self.materials.new_model())
        shared, idle = ray.put(self.materials), ActorConfig(cpus=0, gpus=0)
        pair = ActorConfig(replicas=2, minimum=2, cpus=0, gpus=0)
        self.rollouts = RolloutPool(pair, shared, True)
        self.rewards = RewardPool(idle, shared, ray.put(self.start))
        self.learners = LearnerGroup(self.config.learners, shared)
        self.learners.start()
        self.pools: list[Pool] = [self.rollouts.pool, self.rewards.pool]
        wait_started(self.pools)
        self.said: list[str] = []
        self.publisher = BroadcastPublisher(self.said.append, DEADLINE_S)
        self.publisher.send_to(self.rollouts.pool.actors, self.config.learners, pair)
        self.pids = {m.place["worker"]: m.place["pid"] for m in self.rollouts.pool.members}
        self.batch: Any = None

    def train(self, transport: str) -> dict[str, np.ndarray]:
        """The best weights of stage 3, and its last, by name."""
        self.learners.config = self.config.learners.model_copy(update={"transport": transport})
        store, runtime, evaluators = MemoryStore(weights={"sft": self.start}), RayRuntime(), NoEvaluators()
        runtime.pools += self.pools
        context = Context(
            self.config, self.materials, runtime, self.learners, store, evaluators, self.publisher
        )
        context.rollouts, context.rewards = self.rollouts, self.rewards
        rl(context)
        return {f"best.{name}": value for name, value in store.weights["rl"].items()} | dict(
            self.learners.checkpoint()
        )

    # broken broadcasts, without the pools' own watch

    def publish(self) -> Published:
        """Weights after one more step."""
        if self.batch is None:
            actor = next(iter(self.rollouts.pool.actors().values()))
            vector = self.learners.vector()
            _, batch = actor.rollout.remote(0, 4, -2, vector)
            scorer = self.rewards.pool.members[0].actor
            self.batch = batch, scorer.score.remote(batch)[1]
        task = self.learners.train_groups([[(*self.batch, np.arange(4))]], 4, -2)
        ray.get(task.receipt, timeout=60)
        return self.publisher.publish(task.payload)

    def held(self) -> list[int]:
        """Keys of earlier vectors that the learner still gives, after a step, which tells it what is forgotten."""
        newest, rank = self.publish(), self.learners.ranks[0]
        held = []
        for key in range(newest.vector.key):
            with suppress(ray.exceptions.RayTaskError):
                ray.get(rank.share.options(concurrency_group=SHARE).remote(key), timeout=60)
                held.append(key)
        return held

    def adopt(self, name: str, published: Published) -> float:
        """Seconds until a replica has sampled with these weights."""
        before = time.monotonic()
        actor = self.rollouts.pool.actors()[name]
        receipt, _ = actor.rollout.remote(0, 1, published.version, published.vector)
        assert ray.get(receipt, timeout=60)["version"] == published.version
        return time.monotonic() - before

    def settled(self, happened: Callable[[Published], bool]) -> Published:
        """Publish until something has happened."""
        give_up = time.monotonic() + 20
        while not happened(published := self.publish()):
            assert time.monotonic() < give_up, (published, self.publisher.unanswered, self.said)
            time.sleep(0.1)
        return published

    def stop(self, name: str) -> Published:
        """Stop a replica that has answered for all so far, and publish."""
        refs = [sent.ref for sent in self.publisher.unanswered.values()]
        assert ray.wait(refs, num_returns=len(refs), timeout=2 * DEADLINE_S)[1] == []
        os.kill(self.pids[name], signal.SIGSTOP)
        published = self.publish()
        assert name in published.vector.invited, self.said
        return published

    def frozen(self, forming: bool) -> dict[str, Any]:
        """A replica stops while weights are broadcast, or a group for it is formed, and goes on later."""
        one, other = self.pids
        self.settled(lambda published: len(published.vector.invited) == 2)
        if forming:
            self.publisher.members = ()
        seen: dict[str, Any] = {}
        try:
            published = self.stop(one)
            seen["seconds"] = self.adopt(other, published)
            after = self.settled(lambda published: published.vector.invited == {other})
            seen["seconds_after"] = self.adopt(other, after)
        finally:
            os.kill(self.pids[one], signal.SIGCONT)
        both = self.settled(lambda published: len(published.vector.invited) == 2)
        seen["seconds_thawed"] = max(self.adopt(name, both) for name in self.pids)
        return seen

    def killed(self) -> dict[str, Any]:
        """A replica dies while weights are broadcast."""
        one, other = self.pids
        published = self.stop(one)
        os.kill(self.pids[one], signal.SIGKILL)
        seen = {"seconds": self.adopt(other, published)}
        del self.pids[one]
        self.publisher.receivers = lambda: {other: self.rollouts.pool.actors()[other]}
        after = self.settled(lambda published: published.vector.invited == {other})
        return seen | {"seconds_after": self.adopt(other, after)}

    def learner_killed(self) -> dict[str, Any]:
        """The learner dies while it broadcasts."""
        (other,) = self.pids
        pid = self.learners.places[0]["pid"]
        published = None
        while published is None or not published.vector.invited:
            task = self.learners.train_groups([[(*self.batch, np.arange(4))]], 4, -2)
            ray.get(task.receipt, timeout=60)
            os.kill(pid, signal.SIGSTOP)
            published = self.publisher.publish(task.payload)
            if not published.vector.invited:
                os.kill(pid, signal.SIGCONT)
        os.kill(pid, signal.SIGKILL)
        before = time.monotonic()
        try:
            self.adopt(other, published)
        except ray.exceptions.RayTaskError as error:
            return {"seconds": time.monotonic() - before, "error": type(error.cause).__name__}
        raise AssertionError("the dead learner's weights were adopted")


def main() -> None:
    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    runs = Runs()
    found: dict[str, Any] = {"deadline": DEADLINE_S}
    trained = {transport: runs.train(transport) for transport in ("store", "collective")}
    gc.collect()
    found["kept"] = sum(isinstance(thing, Kept) for thing in gc.get_objects())
    found["counts"] = dict(runs.publisher.counts)
    found["held"] = runs.held()
    one, other = trained.values()
    found["arrays"] = len(one)
    found["different"] = [name for name in one if not np.array_equal(one[name], other[name])]
    found["frozen"] = runs.frozen(forming=False)
    found["frozen_forming"] = runs.frozen(forming=True)
    found["killed"] = runs.killed()
    found["learner_killed"] = runs.learner_killed()
    found |= {"said": runs.said, "failed": runs.publisher.counts["failed"]}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
