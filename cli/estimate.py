"""What a configuration would start on which nodes, how large it gets, and whether it fits."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from actors.placement import (
    Need,
    Resources,
    beside_each_other,
    check_fits,
    homes,
    known_gpus,
    room,
    shortage,
    stage_needs,
)
from cli.members import HEAD, members
from cli.ray_head import object_store_bytes, usable_cpus
from cli.record import ClusterRecord
from streamrec_dist.cluster_config import ROLE_PREFIX
from streamrec_dist.config import Config
from streamrec_dist.data.files import load_dataset
from streamrec_dist.data.prepare import prepare
from streamrec_dist.errors import ConfigError
from streamrec_dist.rundir import STAGES
from streamrec_dist.sizing import actor_memory, learner_memory, parameters, stage_steps

GIB = 2**30
#: What is estimated of a process, in GiB.
ESTIMATED = {"memory_gib": "memory", "gpu_memory_gib": "GPU memory"}
LOWER = "lower the batch, learners.pass_tokens"


@dataclass(frozen=True)
class Node:
    """A machine of the cluster: what it may run, and what it has, as far as that is known."""

    node: str
    roles: tuple[str, ...] = ()
    cpus: float | None = None
    gpus: float | None = None
    memory_gib: float | None = None
    gpu_memory_gib: float | None = None

    def resources(self) -> Resources:
        """By the names that processes ask for; of what nobody knows, as much as may be wanted."""
        has = {
            "CPU": self.cpus,
            "GPU": self.gpus,
            "memory_gib": self.memory_gib,
            "gpu_memory_gib": self.gpu_memory_gib,
        }
        known = {name: math.inf if amount is None else amount for name, amount in has.items()}
        return known | {f"{ROLE_PREFIX}{role}": 1.0 for role in self.roles}


def estimate(config: Config, nodes: Sequence[Node]) -> dict[str, Any]:
    """What a run has on these nodes: parameters, stages with their roles and steps, warnings and problems.

    Reads the data. Raises ConfigError for a placement that cannot be, DataError for data that cannot be used.
    """
    resources = [node.resources() for node in nodes]
    names = [name for name in STAGES if name != "retrieve" or config.model.evidence]
    groups = {name: beside_each_other(name, _needs(config, name, resources)) for name in names}
    warnings, problems = _check(config, groups, resources)
    steps = _steps(config)
    stages = [
        {"stage": name, "steps": steps.get(name), "roles": _roles(groups[name], nodes, resources)}
        for name in names
    ]
    return {
        "nodes": [asdict(node) for node in nodes],
        "parameters": parameters(config),
        "stages": stages,
        "warnings": warnings,
        "problems": problems,
    }


def living(record: ClusterRecord) -> list[Node]:
    """The nodes of the connected cluster."""
    return [
        Node(
            member.node,
            member.roles,
            member.cpus,
            member.gpus,
            member.memory_gib,
            # Nobody but this machine can be asked without starting something.
            _gpu_memory(member.gpus) if record.created_by_us and member.node == HEAD else None,
        )
        for member in members()
        if member.alive
    ]


def to_be_started(config: Config) -> list[Node]:
    """What `up` would start: this machine, and those of `cluster.nodes`, of which is known what stands there."""
    settings = config.cluster
    if settings.address != "local":
        return [Node(settings.address)]
    gpus = torch.cuda.device_count() if settings.gpus is None else settings.gpus
    here = Node(
        HEAD,
        settings.roles,
        settings.cpus or usable_cpus(),
        gpus,
        round(_memory_for_work() / GIB, 1),
        _gpu_memory(gpus),
    )
    return [here, *(Node(node.name, node.roles, node.cpus, node.gpus) for node in settings.nodes)]


def _memory_for_work() -> int:
    """Bytes that Ray would find here for processes: in a container, within its limit."""
    from ray._private.utils import estimate_available_memory

    return estimate_available_memory() - object_store_bytes()


def _gpu_memory(gpus: float) -> float | None:
    """GiB on the first GPUs of this machine; None where it has not so many."""
    if gpus > torch.cuda.device_count():
        return None
    total = sum(torch.cuda.get_device_properties(number).total_memory for number in range(int(gpus)))
    return round(total / GIB, 1)


def _needs(config: Config, stage: str, nodes: list[Resources]) -> list[Need]:
    """The processes of a stage, with the memory that each is estimated to need."""
    needs = []
    for need in stage_needs(config, stage, known_gpus(nodes)):
        learns = need.role == "learners"
        memory = learner_memory(config, stage) if learns else actor_memory(config, need.role)
        estimated = (memory.host, memory.device if need.shares["GPU"] else 0)
        shares = {name: round(size / GIB, 2) for name, size in zip(ESTIMATED, estimated, strict=True)}
        needs.append(need._replace(shares=need.shares | shares))
    return needs


def _roles(
    groups: Sequence[Sequence[Need]], nodes: Sequence[Node], resources: list[Resources]
) -> list[dict[str, Any]]:
    """The roles of a stage: what each process takes, where they run, and how many find room at once if one knows."""
    roles = []
    for together in groups:
        found = room(together, resources)
        for need in together:
            counts = found[need.name]
            used = [node for node, count in zip(nodes, counts, strict=True) if count]
            guessed = any(node.cpus is None or node.gpus is None for node in used)
            roles.append(
                {
                    "role": need.role,
                    "processes": need.most,
                    "at_least": need.fewest,
                    "fit": None if guessed else sum(counts),
                    "nodes": [nodes[number].node for number in homes(need.role, resources)],
                    "cpus": need.shares["CPU"],
                    "gpus": need.shares["GPU"],
                    **{name: need.shares[name] for name in ESTIMATED},
                }
            )
    return roles


def _steps(config: Config) -> dict[str, int]:
    source = Path(config.data.path) if config.data.path else None
    if source and (source / "dataset.json").is_file():
        return stage_steps(config, load_dataset(source))
    with tempfile.TemporaryDirectory() as folder:
        return stage_steps(config, prepare(source, config.data.format, Path(folder) / "data", config.seed))


def _check(
    config: Config, groups: Mapping[str, Sequence[Sequence[Need]]], nodes: list[Resources]
) -> tuple[list[str], list[str]]:
    """Warnings, and problems that a run could not begin with: what `train` would refuse, else too little memory."""
    try:
        warnings = check_fits(config, groups, nodes)
    except ConfigError as error:
        return [], [str(error)]
    problems = []
    for stage, together in ((stage, needs) for stage, beside in groups.items() for needs in beside):
        for resource, name in ESTIMATED.items():
            one = next(
                (need for need in together if need.shares[resource] > _largest(need, resource, nodes)), None
            )
            unit = f"GiB of {name}"
            if one:
                problems.append(
                    f"stage {stage} asks for {one.shares[resource]:g} {unit} in one process ({one.name}), the most "
                    f"that one can have is {_largest(one, resource, nodes):g}; {LOWER}"
                )
            elif short := shortage(together, nodes, resource, "fewest"):
                problems.append(f"{short.told(stage, unit)}; {LOWER}, the replicas, or add nodes")
            elif short := shortage(together, nodes, resource, "most"):
                warnings.append(f"{short.told(stage, unit)}; {LOWER}, or the replicas")
    return warnings, problems


def _largest(need: Need, resource: str, nodes: list[Resources]) -> float:
    """The most memory that one process can have on the nodes of its role, or on the GPUs that it takes of one."""
    at = [nodes[number] for number in homes(need.role, nodes)]
    if resource == "memory_gib":
        return max(node[resource] for node in at)
    taken = max(1.0, need.shares["GPU"])
    # Where the memory is known, so is the number of GPUs.
    return max(
        node[resource] if node[resource] in (0, math.inf) else taken * node[resource] / node["GPU"]
        for node in at
    )
