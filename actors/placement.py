"""Which roles a stage needs, whether the cluster can hold them, and how many threads each may use."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple, TypeVar

import ray

from streamrec_dist.baselines.config import TRAINED
from streamrec_dist.cluster_config import ROLE_PREFIX
from streamrec_dist.config import ActorConfig, Config, LearnersConfig
from streamrec_dist.errors import ConfigError
from streamrec_dist.hardware import use_cores
from streamrec_dist.repeatable import compute_repeatably

Role = TypeVar("Role", ActorConfig, LearnersConfig)
#: What one node has, by the name of the resource; infinitely much where nobody knows yet.
Resources = dict[str, float]
#: What a process takes from its node, and the key that says how much.
KEYS = {"CPU": "cpus", "GPU": "gpus"}
#: Shares are decimal fractions, whose sums are off by a little.
ROUNDING = 1e-6
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


def known_gpus(nodes: Iterable[Resources]) -> float:
    """GPUs of the nodes of which it is known how many they have."""
    return sum(node.get("GPU", 0) for node in nodes if node.get("GPU", 0) < math.inf)


def living_nodes() -> list[Resources]:
    """The resources of each node of the connected cluster."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def check_fits(config: Config, stages: Iterable[str], nodes: list[Resources]) -> list[str]:
    """What nodes with these resources have no room for yet, as warnings.

    Raises ConfigError when a stage asks for more CPUs or GPUs than the cluster, or the nodes of a role, have even
    with the fewest processes that it can do with: it would wait for ever.
    """
    warnings = []
    for stage in stages:
        needs = stage_needs(config, stage, known_gpus(nodes))
        for together in beside_each_other(stage, needs):
            for need in together:
                _check_largest(need, nodes)
            for resource in KEYS:
                unit = f"{resource}s"
                if short := shortage(together, nodes, resource, "fewest"):
                    remedy = "lower the replicas or their shares in cluster.yaml, or add nodes"
                    raise ConfigError(f"{short.told(stage, unit)}; {remedy}")
                if short := shortage(together, nodes, resource, "most"):
                    warnings.append(f"{short.told(stage, unit)}; what finds no room starts when nodes join")
            for need in together:
                _check_room(need, nodes)
    return warnings


class Need(NamedTuple):
    """Processes of one role in a stage, and what each asks for, by resource."""

    name: str
    most: int
    fewest: int
    shares: dict[str, float]

    @property
    def role(self) -> str:
        return self.name.removeprefix("actors.")


def stage_needs(config: Config, stage: str, gpus: float) -> list[Need]:
    """The processes of a stage on a cluster of `gpus` GPUs, learners last."""
    settled, needs = stage_config(config, stage, gpus), []
    for name in ROLES[stage]:
        role = getattr(settled.actors, name)
        # Ray Data starts all embed actors, or none.
        fewest = role.replicas if name == "embed" else min(role.minimum, role.replicas)
        needs.append(Need(f"actors.{name}", role.replicas, fewest, _shares(role)))
    ranks = settled.learners
    fewest = min(ranks.minimum or ranks.world_size, ranks.world_size)
    return [*needs, Need("learners", ranks.world_size, fewest, _shares(ranks))]


def _shares(role: ActorConfig | LearnersConfig) -> dict[str, float]:
    return {resource: float(getattr(role, key)) for resource, key in KEYS.items()}


def beside_each_other(stage: str, needs: Sequence[Need]) -> list[list[Need]]:
    """The processes of a stage, learners last, in groups that run at the same time."""
    *actors, learners = needs
    return [actors, [learners]] if stage == "tokenize" else [[*actors, learners]]


def homes(role: str, nodes: Sequence[Resources]) -> list[int]:
    """Where a role runs: the nodes that name it, all of them where none does."""
    named = [number for number, node in enumerate(nodes) if ROLE_PREFIX + role in node]
    return named or list(range(len(nodes)))


class Shortage(NamedTuple):
    """Processes that can run on some nodes alone, which have too little of a resource."""

    parts: list[tuple[str, int, float]]  # role, processes, share of each
    have: float
    where: str

    def told(self, stage: str, unit: str) -> str:
        """In words, without a remedy."""
        want = sum(count * share for _, count, share in self.parts)
        parts = ", ".join(f"{name} {count} x {share:g}" for name, count, share in self.parts)
        return f"stage {stage} asks for {want:g} {unit} ({parts}), {self.where} {self.have:g}"


def shortage(needs: Sequence[Need], nodes: Sequence[Resources], resource: str, many: str) -> Shortage | None:
    """What the `fewest` or the `most` processes of roles that run beside each other lack, the fewest nodes first."""
    found = {need.name: frozenset(homes(need.role, nodes)) for need in needs}
    chosen = (some for count in range(len(needs)) for some in combinations(found.values(), count + 1))
    places = {frozenset[int]().union(*some) for some in chosen}
    for place in sorted(places, key=lambda place: (len(place), sorted(place))):
        bound = [need for need in needs if found[need.name] <= place]
        parts = [(need.name, getattr(need, many), need.shares[resource]) for need in bound]
        have = sum(nodes[number].get(resource, 0) for number in place)
        if sum(count * share for _, count, share in parts) > have + ROUNDING:
            whose = ", ".join(need.role for need in bound)
            where = "the cluster has" if len(place) == len(nodes) else f"the nodes of {whose} have"
            return Shortage(parts, have, where)
    return None


def room(needs: Sequence[Need], nodes: Sequence[Resources]) -> dict[str, list[int]]:
    """How many processes of each role find room beside the others, node by node.

    The fewest of each role come first, then the others, and those first that have the fewest nodes to choose from.
    """
    free = [dict(node) for node in nodes]
    found = {need.name: [0] * len(nodes) for need in needs}
    order = sorted(needs, key=lambda need: len(homes(need.role, nodes)))
    for many, need in ((many, need) for many in ("fewest", "most") for need in order):
        counts = found[need.name]
        # Nodes that are there for some roles are left to those as far as others will do.
        for number in sorted(homes(need.role, nodes), key=lambda number: _roles_of(nodes[number])):
            while sum(counts) < getattr(need, many) and _take(free[number], need.shares):
                counts[number] += 1
    return found


def _roles_of(node: Resources) -> int:
    return sum(name.startswith(ROLE_PREFIX) for name in node)


def _take(free: Resources, shares: Mapping[str, float]) -> bool:
    """Take what one process asks for, if it is there."""
    left = {resource: free.get(resource, 0) - shares[resource] for resource in KEYS}
    if any(amount < -ROUNDING for amount in left.values()):
        return False
    free.update(left)
    return True


def _check_largest(need: Need, nodes: Sequence[Resources]) -> None:
    """Raise ConfigError where no node of a role is large enough for one process."""
    at = homes(need.role, nodes)
    whose = "" if len(at) == len(nodes) else f" of role {need.role}"
    for resource, key in KEYS.items():
        largest = max((nodes[number].get(resource, 0) for number in at), default=0)
        if need.shares[resource] > largest:
            raise ConfigError(
                f"{need.name}.{key} asks for {need.shares[resource]:g} {resource}s in one process, the largest node"
                f"{whose} has {largest:g}; lower it in cluster.yaml"
            )


def _check_room(need: Need, nodes: Sequence[Resources]) -> None:
    """Raise ConfigError where a node's rests are too small: three processes of .6 do not fit two nodes of 1."""
    fitting = sum(room([need], nodes)[need.name])
    if fitting < need.fewest:
        asked = " and ".join(f"{need.shares[one]:g} {one}s" for one in KEYS if need.shares[one])
        raise ConfigError(
            f"{need.name} cannot do with fewer than {need.fewest} processes of {asked} each, of which {fitting} find "
            "room on the nodes that they may run on; lower them in cluster.yaml, or add nodes"
        )


def start_worker(cpus: float, deterministic: bool) -> str:
    """Set up torch in a worker process that was given `cpus`; returns its device."""
    if deterministic:
        compute_repeatably()
    if ray.get_gpu_ids():
        return "cuda"
    use_cores(cpus)
    return "cpu"
