"""Which roles a stage needs, whether the cluster can hold them, and how many threads each may use."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, TypeVar

import ray

from streamrec_dist.baselines.config import TRAINED
from streamrec_dist.cluster_config import ROLE_PREFIX
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

    Split, each rank gets one of its own and the actors share the rest; colocated, all processes share all GPUs.
    `placement: auto` splits where there are more GPUs than learner ranks. Raises ConfigError where it is to be split
    and there are not.
    """
    learners, ranks = config.learners, config.learners.world_size
    replicas = sum(getattr(config.actors, role).replicas for role in ROLES[stage])
    if config.placement == "split" and 0 < gpus <= ranks:
        raise ConfigError(
            f"placement: split gives each of {ranks} learner ranks a GPU and the actors the others, the cluster has "
            f"{gpus:g}; lower learners.world_size, or set placement: colocated"
        )
    own = gpus > ranks and config.placement != "colocated"
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


def role_resources(role: str) -> dict[str, float]:
    """What a process of a role asks for besides CPUs and GPUs: a sliver of a node that was started for the role.

    Where no living node names the role it may run anywhere.
    """
    name = ROLE_PREFIX + role
    return {name: 1 / SHARES} if any(name in node for node in living_nodes()) else {}


def cluster_gpus() -> float:
    """GPUs of the connected cluster."""
    return ray.cluster_resources().get("GPU", 0.0)


def living_nodes() -> list[dict[str, float]]:
    """The resources of each node of the connected cluster."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def check_fits(config: Config, stages: Iterable[str], nodes: list[dict[str, float]]) -> list[str]:
    """What nodes with these resources have no room for yet, as warnings.

    Raises ConfigError when a stage asks for more CPUs or GPUs than the cluster has even with the fewest processes
    that it can do with: it would wait for ever.
    """
    warnings = []
    for stage in stages:
        *needs, learners = stage_needs(config, stage, sum(node.get("GPU", 0) for node in nodes))
        for together in (needs, [learners]) if stage == "tokenize" else ([*needs, learners],):
            for key, resource in (("cpus", "CPU"), ("gpus", "GPU")):
                have = [node.get(resource, 0) for node in nodes]
                warnings += _check_resource(stage, key, resource, together, have)
    return warnings


class Need(NamedTuple):
    """Processes of one role in a stage, and the share of each."""

    name: str
    most: int
    fewest: int
    cpus: float
    gpus: float


def stage_needs(config: Config, stage: str, gpus: float) -> list[Need]:
    """The processes of a stage on a cluster of `gpus` GPUs, learners last."""
    settled, needs = stage_config(config, stage, gpus), []
    for name in ROLES[stage]:
        role = getattr(settled.actors, name)
        # Ray Data starts all embed actors, or none.
        fewest = role.replicas if name == "embed" else min(role.minimum, role.replicas)
        needs.append(Need(f"actors.{name}", role.replicas, fewest, role.cpus, float(role.gpus)))
    ranks = settled.learners
    fewest = min(ranks.minimum or ranks.world_size, ranks.world_size)
    return [*needs, Need("learners", ranks.world_size, fewest, ranks.cpus, float(ranks.gpus))]


def _check_resource(stage: str, key: str, resource: str, needs: list[Need], have: list[float]) -> list[str]:
    shares = {need.name: getattr(need, key) for need in needs}
    for name, share in shares.items():
        if share > max(have, default=0):
            raise ConfigError(
                f"{name}.{key} asks for {share:g} {resource}s in one process, the largest node has "
                f"{max(have, default=0):g}; lower it in cluster.yaml"
            )
    room = sum(have) + 1e-6
    told = {}
    for many in ("fewest", "most"):
        counts = {need.name: getattr(need, many) for need in needs}
        want = sum(counts[name] * share for name, share in shares.items())
        parts = ", ".join(f"{name} {count} x {shares[name]:g}" for name, count in counts.items())
        told[many] = f"stage {stage} asks for {want:g} {resource}s ({parts}), the cluster has {sum(have):g}"
        if many == "fewest" and want > room:
            raise ConfigError(
                f"{told[many]}; lower the replicas or their shares in cluster.yaml, or add nodes"
            )
    return [f"{told['most']}; what finds no room starts when nodes join"] if want > room else []


def start_worker(cpus: float, deterministic: bool) -> str:
    """Set up torch in a worker process that was given `cpus`; returns its device."""
    if deterministic:
        compute_repeatably()
    if ray.get_gpu_ids():
        return "cuda"
    use_cores(cpus)
    return "cpu"
