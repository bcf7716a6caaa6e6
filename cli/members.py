"""What a connected cluster consists of: its nodes, and the actors on them."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from cli.record import ClusterRecord
from streamrec_dist.cluster_config import ROLE_PREFIX

#: Classes of our actors, and the roles they have.
ROLES = {
    # Ray Data wraps what embeds texts into an actor of its own.
    "MapWorker(MapBatches(EmbedWorker))": "embed",
    "AnnotateActor": "annotate",
    "RolloutActor": "rollout",
    "RewardActor": "reward",
    "EvaluateActor": "evaluate",
    "LearnerWorker": "learners",
    "TokenizerRank": "learners",
    "Controller": "controller",
    "StoreActor": "store",
}
ALIVE, DEAD = "ALIVE", "DEAD"
HEAD = "head"


@dataclass(frozen=True)
class Member:
    """A node: its name in cluster.yaml, its id in Ray, and what it gives to the cluster."""

    node: str
    id: str
    address: str
    alive: bool
    roles: tuple[str, ...]
    cpus: float
    gpus: float
    memory_gib: float


@dataclass(frozen=True)
class Actor:
    """An actor, or one that was: its role if it is ours, and the process and node it runs or ran on."""

    role: str
    class_name: str
    id: str
    state: str
    node_id: str
    pid: int
    name: str
    started: int  # milliseconds since 1970


def members() -> list[Member]:
    """The nodes of the connected cluster, the head first; of a node that was started again only its last life."""
    import ray

    found: dict[str, Member] = {}
    for node in ray.nodes():
        member = _member(node)
        known = found.get(member.node)
        if known is None or member.alive or not known.alive:
            found[member.node] = member
    return sorted(found.values(), key=lambda member: (member.node != HEAD, member.node))


def actors() -> list[Actor]:
    """All actors that the connected cluster remembers, those that have ended too, oldest first."""
    # The public ray.util.state asks the dashboard's server, which our clusters do not run.
    from ray._private.state import actors as known

    found = [
        Actor(
            role=ROLES.get(actor["ActorClassName"], ""),
            class_name=actor["ActorClassName"],
            id=actor["ActorID"],
            state=actor["State"],
            node_id=actor["Address"]["NodeID"],
            pid=actor["Pid"],
            name=actor["Name"],
            started=actor["StartTime"],
        )
        for actor in known().values()
    ]
    return sorted(found, key=lambda actor: (actor.started, actor.id))


def living_controllers() -> set[str]:
    """Names of the controllers (`asking.controller_name`) that live in the connected cluster, or are being started,
    or started again."""
    # Asked of the cluster and not of the controllers: that needs torch, five seconds of a command that takes two.
    return {actor.name for actor in actors() if actor.role == "controller" and actor.state != DEAD}


def status(record: ClusterRecord) -> dict[str, Any]:
    """What a connected cluster has and does: nodes, resources, and its living actors by class and by node."""
    import ray

    nodes, living = members(), [actor for actor in actors() if actor.state == ALIVE]
    names = {member.id: member.node for member in nodes}
    placed = Counter((actor.role, names.get(actor.node_id, "?")) for actor in living if actor.role)
    return {
        "address": record.address,
        "root": record.root,
        "config": record.config_path,
        "started": record.started,
        "created_by_us": record.created_by_us,
        "nodes": sum(member.alive for member in nodes),
        "members": [asdict(member) for member in nodes],
        "total": _resources(ray.cluster_resources()),
        "free": _resources(ray.available_resources()),
        "actors": dict(sorted(Counter(actor.class_name for actor in living).items())),
        "placed": [
            {"role": role, "node": node, "count": count} for (role, node), count in sorted(placed.items())
        ],
    }


def _member(node: dict[str, Any]) -> Member:
    resources, address = node["Resources"], node["NodeManagerAddress"]
    head = "node:__internal_head__" in resources
    # The head has no name of its own but its address.
    name = HEAD if head else node["NodeName"] or address
    return Member(
        node=name,
        id=node["NodeID"],
        address=address,
        alive=node["Alive"],
        roles=tuple(
            sorted(key.removeprefix(ROLE_PREFIX) for key in resources if key.startswith(ROLE_PREFIX))
        ),
        cpus=resources.get("CPU", 0.0),
        gpus=resources.get("GPU", 0.0),
        memory_gib=_gib(resources),
    )


def _resources(resources: dict[str, float]) -> dict[str, float]:
    return {name: resources.get(name, 0.0) for name in ("CPU", "GPU")} | {"memory_gib": _gib(resources)}


def _gib(resources: dict[str, float]) -> float:
    return round(resources.get("memory", 0.0) / 2**30, 1)
