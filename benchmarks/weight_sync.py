"""From a learner's finished step to weights in every rollout actor, through the object store and by broadcast.

    python benchmarks/weight_sync.py --json

Seconds from the end of the step to the last actor that has written the new weights into its model, on one machine,
with Ray actors that do nothing else: flattening, the controller's wait, publication, transport, adoption. Models are
of this system (policy of 7.9 M and 105 M fp32 weights, laid out for decoding as well) and, for a billion, plain bf16
matrices. Transports take turns; medians. What this machine's memory does not hold is left out, and said so.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any, Protocol

# Before Ray is imported, which reads its environment then.
os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}

import numpy as np
import psutil
import ray
import torch
from measure import machine
from torch import Tensor, nn

from actors.calls import RayRuntime
from actors.inbox import Inbox
from actors.pool import Pool, wait_started
from actors.worker import Worker
from learners.broadcaster import BroadcastPublisher
from learners.group import KeptVectors, LearnerGroup
from learners.keeper import Keeper
from learners.ranks import Rank, RankGroup
from streamrec_dist.config import ActorConfig, Config
from streamrec_dist.config_file import parse_config
from streamrec_dist.decode.engine import Engine
from streamrec_dist.hardware import use_cores
from streamrec_dist.model.backbone import StreamRec
from streamrec_dist.model.weights import flat, load_vector, policy_parameters, readable
from streamrec_dist.rl.broadcast import CONCURRENCY, Kept, Plan
from streamrec_dist.types import PolicyVersion

SIZES = {"7.6M": "{}", "100M": "{d_model: 960, heads: 14, d_ff: 3840}", "1B": ""}
ACTORS = (1, 2, 4)
TRANSPORTS = ("store", "collective")
BILLION = 1_000_000_000
WARM_UP = 2
DEADLINE_S = 120.0
#: What a process takes before it has a model.
PROCESS_BYTES = 0.5e9


class Subject(Protocol):
    """Weights in the memory of modules."""

    size: int  # of their vector, in float32

    def vector(self) -> Tensor: ...

    def adopt(self, vector: np.ndarray | Tensor) -> None: ...


class Recommender:
    """The model and its layout for decoding, as a rollout actor has them."""

    def __init__(self, config: Config, device: str):
        self.model = StreamRec(config).to(device).eval()
        self.engine = Engine(self.model)
        self.engine.stack("thinking")
        self.size = sum(value.numel() for _, value in policy_parameters(self.model))

    def vector(self) -> Tensor:
        return flat(self.model)

    def adopt(self, vector: np.ndarray | Tensor) -> None:
        load_vector(self.model, vector)
        self.engine.refresh()


class Matrices:
    """A billion bf16 weights; a vector has two of them in each float32, whose type Ray and gloo know."""

    def __init__(self, device: str) -> None:
        shapes = [(4000, 5000)] * (BILLION // 20_000_000)
        self.matrices = nn.ParameterList(
            nn.Parameter(torch.full(shape, 0.5, dtype=torch.bfloat16, device=device)) for shape in shapes
        )
        self.size = BILLION // 2

    def vector(self) -> Tensor:
        return torch.cat([value.detach().view(-1) for value in self.matrices]).view(torch.float32)

    def adopt(self, vector: np.ndarray | Tensor) -> None:
        source = vector if isinstance(vector, Tensor) else readable(vector)
        source = source.to(self.matrices[0].device)
        parts = source.view(torch.bfloat16).split([value.numel() for value in self.matrices])
        for value, part in zip(self.matrices, parts, strict=True):
            value.data.copy_(part.view_as(value))


def subject(name: str) -> Subject:
    """The weights of a size, on the GPU where this process was given one."""
    device = "cuda" if ray.get_gpu_ids() else "cpu"
    if not SIZES[name]:
        return Matrices(device)
    return Recommender(parse_config(f"model: {SIZES[name]}", "benchmark"), device)


def finish() -> None:
    """Wait for what the GPU was given to do."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


class Trainer(Keeper, Rank):
    """A learner whose steps take no time and change one weight."""

    def __init__(self, config: Config, name: str):
        super().__init__(config)
        self.subject, self.steps = subject(name), 0

    def _step(self) -> tuple[dict[str, float], Tensor]:
        self.steps += 1
        done = time.perf_counter()
        vector = self.subject.vector()
        vector[-1] = self.steps
        finish()
        return {"done": done, "flat": time.perf_counter(), "step": self.steps, "seconds": 0.1}, vector

    @ray.method(num_returns=2)
    def train_groups_and_publish(self, *arguments: Any) -> tuple[dict[str, float], np.ndarray]:
        receipt, vector = self._step()
        vector = vector.cpu()
        receipt["flat"] = time.perf_counter()
        return receipt, vector.numpy()

    def train_groups_and_keep(self, key: int, forget: Any, *arguments: Any) -> dict[str, float]:
        self.forget(forget)
        receipt, self.kept[key] = self._step()
        return receipt


class Trainers(LearnerGroup):
    def __init__(self, config: Config, name: str):
        self.kept = KeptVectors()
        RankGroup.__init__(self, Trainer, config.learners, [config, name], threads=CONCURRENCY)
        self.start()

    def step(self, transport: str) -> Any:
        self.config = self.config.model_copy(update={"transport": transport})
        nothing: Any = None
        return self.train_groups([[(nothing, nothing, np.arange(1))]], 1, PolicyVersion(0))


class Follower(Worker):
    """A worker that adopts weights."""

    def __init__(self, name: str):
        use_cores(0.2)
        self.subject = subject(name)
        self.inbox = Inbox(self.subject.size, newest=1)

    def receive(self, plan: Plan, rank: int) -> None:
        self.inbox.receive(plan, rank)

    def adopt(self, vector: np.ndarray | Kept) -> dict[str, Any]:
        """When it began, had the vector and had adopted it; the last weight; whether it came by broadcast."""
        began = time.perf_counter()
        arrived = self.inbox.take(vector) if isinstance(vector, Kept) else vector
        had = time.perf_counter()
        self.subject.adopt(arrived)
        finish()
        end = time.perf_counter()
        return {
            "began": began,
            "had": had,
            "end": end,
            "step": float(arrived[-1]),
            "broadcast": isinstance(arrived, Tensor),
        }


def needed_bytes(name: str, actors: int, transport: str) -> float:
    """Memory of one measurement: the models, vectors in the learner, in the store, and on their way in the actors."""
    size = 2.0 * BILLION if name == "1B" else 4e8 if name == "100M" else 3.2e7
    model = size if name == "1B" else 2.3 * size  # with the direct decoder and the layout
    vectors = {"store": 3 * size, "collective": 2 * size + actors * size}[transport]
    return (1 + actors) * (model + PROCESS_BYTES) + vectors


def with_ray(name: str, actors: int, transports: list[str], repeats: int, device: str) -> dict[str, Any]:
    """`measure` in a Ray of its own: the memory of its object store is free afterwards."""
    ray.init(
        num_cpus=2,
        num_gpus=int(device == "cuda"),
        include_dashboard=False,
        logging_level="ERROR",
        log_to_driver=False,
        object_store_memory=int(5e9 if name == "1B" else 2e9),
    )
    try:
        return measure(name, actors, transports, repeats, device)
    finally:
        ray.shutdown()


def measure(name: str, actors: int, transports: list[str], repeats: int, device: str) -> dict[str, Any]:
    """Medians of the seconds of each transport, and of their parts."""
    # All share the one GPU.
    share = 0.1 if device == "cuda" else 0
    settings = ["learners.cpus=0", f"learners.gpus={share}", "learners.world_size=1"]
    config = parse_config("", "benchmark", settings)
    learners = Trainers(config, name)
    idle = ActorConfig(replicas=actors, minimum=actors, cpus=0, gpus=share)
    pool = Pool("rollout", Follower, idle, [name], threads=CONCURRENCY)
    runtime, publisher = RayRuntime(), BroadcastPublisher(print)
    runtime.pools.append(pool)
    found: dict[str, list[dict[str, float]]] = {transport: [] for transport in transports}
    try:
        wait_started(runtime.pools)
        publisher.send_to(pool.actors, config.learners, idle)
        for turn in range(WARM_UP + repeats):
            for transport, kept in found.items():
                parts = one_publication(transport, learners, pool, runtime, publisher)
                if turn >= WARM_UP:
                    kept.append(parts)
    finally:
        learners.close()
        pool.close()
    return {
        transport: {part: round(statistics.median(one[part] for one in kept), 4) for part in kept[0]}
        | {"slowest": round(max(one["seconds"] for one in kept), 4)}
        for transport, kept in found.items()
    }


def one_publication(
    transport: str, learners: Trainers, pool: Pool, runtime: RayRuntime, publisher: BroadcastPublisher
) -> dict[str, float]:
    task = learners.step(transport)
    step = runtime.receipt(task, "a step", DEADLINE_S)
    noticed = time.perf_counter()
    vector = publisher.publish(task.payload).vector
    calls = [pool.call("adopt", vector) for _ in range(len(pool.members))]
    answers = [runtime.receipt(call, "an adoption", DEADLINE_S) for call in calls]
    assert all(answer["step"] == step["step"] for answer in answers)
    last = max(answers, key=lambda answer: answer["end"])
    return {
        "seconds": last["end"] - step["done"],
        "flatten": step["flat"] - step["done"],
        "notice": noticed - step["flat"],
        "travel": last["had"] - noticed,
        "adopt": last["end"] - last["had"],
        "by_broadcast": sum(answer["broadcast"] for answer in answers) / len(answers),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where the models are")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--actors", nargs="+", type=int, default=list(ACTORS))
    parser.add_argument("--out", type=Path, help="also write the object here")
    arguments = parser.parse_args()
    measured: dict[str, Any] = {}
    skipped: list[str] = []
    load = {"before": [round(one, 1) for one in os.getloadavg()]}
    for name, actors in itertools.product(arguments.sizes, arguments.actors):
        free = psutil.virtual_memory().available
        needed = {transport: needed_bytes(name, actors, transport) for transport in TRANSPORTS}
        fits = [transport for transport in TRANSPORTS if needed[transport] < 0.9 * free]
        skipped += [
            f"{name} x {actors}, {transport}: needs {needed[transport] / 1e9:.0f} GB, {free / 1e9:.0f} are free"
            for transport in TRANSPORTS
            if transport not in fits
        ]
        if fits:
            repeats = arguments.repeats if name != "1B" else max(3, arguments.repeats // 3)
            measured[f"{name} x {actors}"] = found = with_ray(name, actors, fits, repeats, arguments.device)
            if not arguments.json:
                print(f"{name} x {actors}: {found}", flush=True)
    body = {
        "publish_to_adopted": measured,
        "skipped": skipped,
        "load_average": load | {"after": [round(one, 1) for one in os.getloadavg()]},
        "hardware": machine(),
        "command": f"python benchmarks/weight_sync.py --device {arguments.device} --json",
    }
    if arguments.out:
        arguments.out.write_text(json.dumps(body, indent=1) + "\n")
    print(json.dumps(body) if arguments.json else "\n".join(f"skipped: {one}" for one in skipped))


if __name__ == "__main__":
    main()
