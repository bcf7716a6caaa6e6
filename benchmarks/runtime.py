"""What the RL runtime costs by itself: the loop of stage 3, its pools, buffer, publisher and gang, with fake work.

    python benchmarks/runtime.py --json

`batches_per_s`: training batches of 2,048 samples (128 prompts x 16 rollouts, all columns of a RolloutBatch, states
of 256 fp32), sampled, scored and trained by workers that need no time, moved by reference as real ones are. Work that
takes no time is not cut up, so a unit is a whole batch here; in `batches_per_s_shared` every batch is shared by all
actors all the same, in units of 8 prompts where there are 16. Weights are left out (benchmarks/weight_sync.py).
`async_over_bound`: seconds of a training batch, where sampling and training take a fixed time each, over the longer
of both; `sync_over_bound` is the same strictly on-policy. `scaling_efficiency_16`: batches a second of 16 rollout
actors over 16 times those of one, each prompt taking a fixed time. Staleness is at most 1 (0 in the sync figure).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Before Ray is imported, which reads its environment then.
os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}

import numpy as np
import ray
from measure import machine

from actors.calls import RayRuntime
from actors.pool import Pool, wait_started
from actors.reward import RewardPool
from actors.rollout import RolloutPool
from actors.worker import Worker
from learners.group import LearnerGroup
from learners.publisher import WeightPublisher
from learners.ranks import Rank, RankGroup
from streamrec_dist.config import ActorConfig, Config
from streamrec_dist.config_file import parse_config
from streamrec_dist.events import Event
from streamrec_dist.rl import buffer
from streamrec_dist.rl.ports import Published, Task
from streamrec_dist.stages.context import Context, Evaluation
from streamrec_dist.stages.rl import rl
from streamrec_dist.types import PolicyVersion, RewardBreakdown, RolloutBatch

PROMPTS, GROUP, LENGTH, WIDTH, CANDIDATES, OTHERS = 128, 16, 8, 256, 51, 1024
PARAMETERS = 1000


@dataclass(frozen=True)
class Work:
    """What fake workers do: seconds a prompt and a training batch."""

    prompt_s: float = 0.0
    train_s: float = 0.0


class FakeRollout(Worker):
    """Columns of the right shapes after a fixed time."""

    def __init__(self, work: Work):
        self.work = work
        self.version: PolicyVersion | None = None
        rng = np.random.default_rng(0)
        self.normal = rng.standard_normal((PROMPTS, GROUP, WIDTH), dtype=np.float32)
        self.other = rng.standard_normal((OTHERS, WIDTH), dtype=np.float32)
        self.adopted = np.zeros(0, dtype=np.float32)

    @ray.method(num_returns=2)
    def rollout(
        self, cursor: int, count: int, version: PolicyVersion, vector: np.ndarray
    ) -> tuple[dict[str, Any], RolloutBatch]:
        started = time.perf_counter()
        if version != self.version:
            self.adopted, self.version = vector.copy(), version
        time.sleep(self.work.prompt_s * count)
        batch = RolloutBatch(
            rows=np.arange(cursor, cursor + count),
            tokens=np.ones((count, GROUP, LENGTH), dtype=np.int32),
            logprobs=self.normal[:count, :, :LENGTH].copy(),
            pooled=self.normal[:count],
            target_states=self.normal[:count, 0],
            other_items=np.arange(OTHERS),
            other_states=self.other,
            candidate_logprobs=self.normal[:count, :, :CANDIDATES].copy(),
            version=version,
            seed=0,
            cursor=cursor,
        )
        return {
            "version": version,
            "tokens": batch.tokens.size,
            "seconds": time.perf_counter() - started,
        }, batch


class FakeReward(Worker):
    """Rewards without looking."""

    @ray.method(num_returns=2)
    def score(self, batch: RolloutBatch) -> tuple[dict[str, Any], RewardBreakdown]:
        column = batch.logprobs[:, :, 0].copy()
        signal = np.ones(batch.prompts, dtype=bool)
        return {"signal": signal, "report": {"reward/total": 0.0}}, RewardBreakdown(*[column] * 7)


class FakeRank(Rank):
    """Looks at every column it is given, and takes a fixed time."""

    def __init__(self, config: Config, work: Work):
        super().__init__(config)
        self.work = work
        self.parameters = np.zeros(PARAMETERS, dtype=np.float32)

    def begin(self, *arguments: Any) -> None: ...

    def train_groups(
        self, groups: Any, counts: Any, version: PolicyVersion, *columns: Any
    ) -> dict[str, float]:
        started = time.perf_counter()
        seen = sum(
            float(batch.pooled[chosen].sum()) for batch, chosen in zip(columns[::2], groups, strict=True)
        )
        time.sleep(max(self.work.train_s - (time.perf_counter() - started), 0.0))
        return {"seen": seen, "seconds": time.perf_counter() - started}

    @ray.method(num_returns=2)
    def train_groups_and_publish(self, *arguments: Any) -> tuple[dict[str, float], np.ndarray]:
        return self.train_groups(*arguments), self.parameters

    def vector(self, policy_only: bool) -> np.ndarray:
        return self.parameters

    def weights(self) -> dict[str, np.ndarray]:
        return {"weight": np.zeros(1, dtype=np.float32)}

    checkpoint = weights


class FakeLearners(LearnerGroup):
    def __init__(self, config: Config, work: Work):
        RankGroup.__init__(self, FakeRank, config.learners, [config, work])
        self.start()


class FakeRollouts(RolloutPool):
    def __init__(self, config: ActorConfig, work: Work):
        self.pool = Pool("rollout", FakeRollout, config, [work])


class FakeRewards(RewardPool):
    def __init__(self, config: ActorConfig):
        self.pool = Pool("reward", FakeReward, config, [])


class NoEvaluators:
    """Evaluation is not what is measured: one rank, at once."""

    replicas = 1

    def ranks(self, model: str, rows: np.ndarray, mask_history: bool, weights: Published) -> Task:
        return Task([ray.put(np.zeros(1, dtype=np.int64))])


class NoStore:
    """Keeps the events of the steps."""

    def __init__(self) -> None:
        self.steps: list[Event] = []

    def emit(self, *events: Event) -> None:
        self.steps += [event for event in events if event.kind == "step"]

    def newest_checkpoint(self, stage: str) -> None:
        return None

    def load_weights(self, stage: str) -> dict[str, np.ndarray]:
        return {}

    def save_checkpoint(self, checkpoint: Any) -> None: ...

    def save_weights(self, stage: str, weights: Any) -> None: ...


class Bare(Context):
    """A Context without a data set."""

    def start_evaluation(self, model: str, users: int, weights: Any) -> Evaluation:
        row = np.zeros((1, 2), dtype=np.int64)
        return Evaluation([row], [self.evaluators.ranks(model, row, False, weights)], None, time.time())

    def report_ranks(self, *about: Any) -> dict[str, Any]:
        return {"ndcg@10": 0.0}


def seconds_a_batch(actors: int, work: Work, staleness: int, steps: int, skip: int = 10) -> float:
    """Mean seconds between training batches, without the first `skip`."""
    settings = [f"stages.rl.steps={steps}", f"stages.rl.prompts={PROMPTS}", f"stages.rl.group_size={GROUP}"]
    settings += [f"stages.rl.max_staleness={staleness}", f"stages.rl.eval_every={10 * steps}"]
    settings += [
        "stages.rl.checkpoint_every=1000000",
        "learners.cpus=0",
        "learners.gpus=0",
        "learners.world_size=1",
    ]
    config = parse_config("", "benchmark", settings)
    store, runtime = NoStore(), RayRuntime()
    idle = ActorConfig(replicas=actors, minimum=actors, cpus=0, gpus=0)
    learners, rollouts = FakeLearners(config, work), FakeRollouts(idle, work)
    rewards = FakeRewards(ActorConfig(cpus=0, gpus=0))
    runtime.pools += [rollouts.pool, rewards.pool]
    wait_started(runtime.pools)
    nothing: Any = None
    context = Bare(
        config,
        nothing,
        runtime,
        learners,
        store,
        NoEvaluators(),
        WeightPublisher(),
        None,
        rollouts,
        rewards,  # type: ignore[arg-type]
    )
    try:
        rl(context)
    finally:
        learners.close()
        for pool in runtime.pools:
            pool.close()
    ended = [event.t for event in store.steps]
    return (ended[-1] - ended[skip - 1]) / (len(ended) - skip)


def control_plane(repeats: int, steps: int) -> dict[str, Any]:
    """Batches a second by number of fake actors, medians of turns, in whole units and in shared ones."""
    found: dict[float, dict[int, list[float]]] = {
        share: {actors: [] for actors in (1, 2, 4, 8, 16)} for share in (1.0, 0.0)
    }
    kept = buffer.SHORTEST_S, buffer.SHORTEST_PER_WORKER_S
    for _ in range(repeats):
        for share, by_actors in found.items():
            for actors, rates in by_actors.items():
                buffer.SHORTEST_S, buffer.SHORTEST_PER_WORKER_S = (share * seconds for seconds in kept)
                rates.append(1 / seconds_a_batch(actors, Work(), 1, steps))
    buffer.SHORTEST_S, buffer.SHORTEST_PER_WORKER_S = kept
    whole, shared = (
        {str(actors): round(statistics.median(rates), 1) for actors, rates in by_actors.items()}
        for by_actors in found.values()
    )
    return {
        "batches_per_s": min(whole.values()),
        "batches_per_s_by_actors": whole,
        "batches_per_s_shared": shared,
    }


def overlap(steps: int) -> dict[str, Any]:
    """Asynchronous and synchronous steps over the longer of sampling and training, 4 actors."""
    actors, train_s, generate_s = 4, 0.25, 0.25
    work = Work(generate_s * actors / PROMPTS, train_s)
    bound = max(generate_s, train_s)
    return {
        "async_over_bound": round(seconds_a_batch(actors, work, 1, steps) / bound, 3),
        "sync_over_bound": round(seconds_a_batch(actors, work, 0, steps) / bound, 3),
    }


def scaling(steps: int) -> dict[str, Any]:
    """Batches a second of 16 actors over 16 times those of one; a prompt takes 25 ms."""
    work = Work(prompt_s=0.025)
    one = seconds_a_batch(1, work, 1, 5, skip=2)
    many = seconds_a_batch(16, work, 1, steps)
    return {"scaling_efficiency_16": round(one / many / 16, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=100, help="training batches of a measurement")
    parser.add_argument("--out", type=Path, help="also write the object here")
    arguments = parser.parse_args()
    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    found = control_plane(arguments.repeats, arguments.steps) | overlap(60) | scaling(60)
    ray.shutdown()
    found |= {
        "batch": f"{PROMPTS} prompts x {GROUP}",
        "prompts_a_unit": {
            "batches_per_s": PROMPTS,
            **{f"{what}, {n} actors": PROMPTS // n for what, n in (("async_over_bound", 4), ("scaling", 16))},
        },
        "max_staleness": 1,
        "hardware": machine(),
        "command": "python benchmarks/runtime.py --json",
    }
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    if arguments.json:
        print(json.dumps(found))
    else:
        print("\n".join(f"{name}: {value}" for name, value in found.items()))


if __name__ == "__main__":
    main()
