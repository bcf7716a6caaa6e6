"""Which roles a stage needs, whether the cluster can hold them, and how many threads each may use."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import ray

from streamrec_dist.baselines.config import TRAINED
from streamrec_dist.config import ActorConfig, Config, LearnersConfig
from streamrec_dist.errors import ConfigError
from streamrec_dist.hardware import use_cores
from streamrec_dist.repeatable import compute_repeatably

Role = TypeVar("Role", ActorConfig, LearnersConfig)
#: Parts of a resource that Ray tells apart.
SHARES = 10_000
#: The actors of each stage and baseline; they run beside the learners, except in tokenize, where they end before
#: those begin.
ROLES: dict[str, tuple[str, ...]] = {
    "tokenize": ("embed",),
    "retrieve": ("evaluate",),
    "pretrain": ("evaluate",),
    "sft": ("annotate", "evaluate"),
    "rl": ("rollout", "reward", "evaluate"),
} | dict.fromkeys(TRAINED, ("evaluate",))


def stage_config(config: Config, stage: str, gpus: float) -> Config:
    """The configuration with every `gpus: auto` of the stage's roles settled, for a cluster of `gpus` GPUs.

    Where there are more GPUs than learner ranks, each rank gets one of its own and the actors share the rest;
    otherwise all processes share all GPUs.
    """
    learners, ranks = config.learners, config.learners.world_size
    replicas = sum(getattr(config.actors, role).replicas for role in ROLES[stage])
    own = gpus > ranks
    actor_share = _share(replicas, gpus - ranks) if own else _share(replicas + ranks, gpus)
    learner_share = 1.0 if own else actor_share
    actors = {
        role: _settle(getattr(config.actors, role), actor_share) for role in type(config.actors).model_fields
    }
    return config.model_copy(
        update={
            "learners": _settle(learners, learner_share),
            "actors": config.actors.model_copy(update=actors),
        }
    )


def _share(processes: int, gpus: float) -> float:
    """An equal share of whole GPUs: 1 / (processes on each), at most 1.

    Rounded down to the ten-thousandths in which Ray counts: rounded up, the last process would find no room.
    """
    return SHARES // max(1, -(-processes // int(gpus))) / SHARES if gpus >= 1 else 0.0


def _settle(role: Role, share: float) -> Role:
    return role if role.gpus != "auto" else role.model_copy(update={"gpus": share})


def cluster_gpus() -> float:
    """GPUs of the connected cluster."""
    return ray.cluster_resources().get("GPU", 0.0)


def check_fits(config: Config, stages: Iterable[str]) -> None:
    """Raise ConfigError when a stage asks for more CPUs or GPUs than the cluster has: it would wait for ever."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for stage in stages:
        settled = stage_config(config, stage, sum(node.get("GPU", 0) for node in nodes))
        needs: list[tuple[str, int, float, float]] = []
        for name in ROLES[stage]:
            role = getattr(settled.actors, name)
            needs.append((f"actors.{name}", role.replicas, role.cpus, float(role.gpus)))
        ranks = settled.learners
        learners = ("learners", ranks.world_size, ranks.cpus, float(ranks.gpus))
        for together in (needs, [learners]) if stage == "tokenize" else ([*needs, learners],):
            for key, place, resource in (("cpus", 2, "CPU"), ("gpus", 3, "GPU")):
                have = [node.get(resource, 0) for node in nodes]
                _check_resource(stage, key, resource, [(n[0], n[1], n[place]) for n in together], have)  # type: ignore[misc]


def _check_resource(
    stage: str, key: str, resource: str, needs: list[tuple[str, int, float]], have: list[float]
) -> None:
    for name, _, share in needs:
        if share > max(have, default=0):
            raise ConfigError(
                f"{name}.{key} asks for {share:g} {resource}s in one process, the largest node has "
                f"{max(have, default=0):g}; lower it in cluster.yaml"
            )
    want = sum(count * share for _, count, share in needs)
    if want > sum(have) + 1e-6:
        parts = ", ".join(f"{name} {count} x {share:g}" for name, count, share in needs)
        raise ConfigError(
            f"stage {stage} asks for {want:g} {resource}s ({parts}), the cluster has {sum(have):g}; "
            "lower the replicas or their shares in cluster.yaml, or add nodes"
        )


def start_worker(cpus: float, deterministic: bool) -> str:
    """Set up torch in a worker process that was given `cpus`; returns its device."""
    if deterministic:
        compute_repeatably()
    if ray.get_gpu_ids():
        return "cuda"
    use_cores(cpus)
    return "cpu"
