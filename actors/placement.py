"""Which roles a stage needs, whether the cluster can hold them, and how many threads each may use."""

from __future__ import annotations

from collections.abc import Iterable

import ray
import torch

from streamrec_dist.config import ActorConfig, Config
from streamrec_dist.errors import ConfigError

ROLES = {
    "tokenize": ("embed",),
    "pretrain": ("evaluate",),
    "sft": ("annotate", "evaluate"),
    "rl": ("rollout", "reward", "evaluate"),
}


def check_fits(config: Config, stages: Iterable[str]) -> None:
    """Raise ConfigError when a stage asks for more CPUs or GPUs than the cluster has: it would wait for ever."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for stage in stages:
        needs = [(f"actors.{role}", getattr(config.actors, role)) for role in ROLES[stage]]
        if stage != "tokenize":
            learners = config.learners
            ranks = ActorConfig(replicas=learners.world_size, cpus=learners.cpus, gpus=learners.gpus)
            needs.append(("learners", ranks))
        for resource, unit in (("CPU", "cpus"), ("GPU", "gpus")):
            have = sum(node.get(resource, 0) for node in nodes)
            largest = max((node.get(resource, 0) for node in nodes), default=0)
            want = sum(role.replicas * getattr(role, unit) for _, role in needs)
            for name, role in needs:
                if getattr(role, unit) > largest:
                    raise ConfigError(
                        f"{name}.{unit} asks for {getattr(role, unit):g} {resource}s in one process, "
                        f"the largest node has {largest:g}; lower it in cluster.yaml"
                    )
            if want > have + 1e-6:
                parts = ", ".join(f"{name} {role.replicas} x {getattr(role, unit):g}" for name, role in needs)
                raise ConfigError(
                    f"stage {stage} asks for {want:g} {resource}s ({parts}), the cluster has {have:g}; "
                    "lower the replicas or their shares in cluster.yaml, or add nodes"
                )


def start_worker(cpus: float) -> str:
    """Set up torch in a worker process that was given `cpus`; returns its device.

    A process with a share of a core gets one thread. Roles overlap, and where threads outnumber cores every
    parallel region waits for one that is not scheduled: two threads each on two busy cores measured ten times
    slower than one. Parallelism comes from replicas.
    """
    if ray.get_gpu_ids():
        return "cuda"
    torch.set_num_threads(max(1, int(cpus)))
    return "cpu"
