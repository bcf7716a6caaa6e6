"""What a configuration would start on which nodes, how large it gets, and whether it fits."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from actors.placement import check_fits, living_nodes, stage_needs
from cli.ray_head import usable_cpus
from streamrec_dist.config import Config
from streamrec_dist.data.files import load_dataset
from streamrec_dist.data.prepare import prepare
from streamrec_dist.errors import StreamRecError
from streamrec_dist.rundir import STAGES
from streamrec_dist.sizing import actor_memory, learner_memory, parameters, stage_steps

GIB = 2**30


def estimate(config: Config, connected: bool) -> dict[str, Any]:
    """Nodes, parameters, stages with their roles and steps, warnings and problems. Reads the data.

    The nodes are those of the connected cluster, if there is one, else those that `up` would start.
    """
    nodes = _nodes(config, connected)
    body: dict[str, Any] = {"nodes": nodes, "up": connected, **_sizes(config, nodes)}
    body["warnings"], body["problems"] = _check(config, nodes, body)
    return body


def _nodes(config: Config, connected: bool) -> list[dict[str, float]]:
    """Resources of each node: of the cluster that is up, else what cluster.yaml says, and this machine."""
    if connected:
        kept = ("CPU", "GPU", "memory")
        return [{name: node[name] for name in kept if name in node} for node in living_nodes()]
    settings = config.cluster
    here: dict[str, float] = {
        "CPU": settings.cpus or usable_cpus(),
        "GPU": settings.gpus or torch.cuda.device_count(),
    }
    # What a machine has that the file does not say is known when it is up.
    others: list[dict[str, float]] = [
        {"CPU": node.cpus or 1, "GPU": node.gpus or 0} for node in settings.nodes
    ]
    return [here, *others]


def _sizes(config: Config, nodes: list[dict[str, float]]) -> dict[str, Any]:
    gpus = sum(node.get("GPU", 0) for node in nodes)
    steps = _steps(config)
    stages = []
    for stage in [name for name in STAGES if name != "retrieve" or config.model.evidence]:
        processes = []
        for need in stage_needs(config, stage, gpus):
            role = need.name.removeprefix("actors.")
            memory = learner_memory(config, stage) if role == "learners" else actor_memory(config, role)
            processes.append(
                {
                    "role": role,
                    "processes": need.most,
                    "at_least": need.fewest,
                    "cpus": need.cpus,
                    "gpus": need.gpus,
                    "memory_gib": round(memory.host / GIB, 2),
                    "gpu_memory_gib": round(memory.device / GIB, 2) if need.gpus else 0.0,
                }
            )
        stages.append({"stage": stage, "steps": steps.get(stage), "roles": processes})
    return {"parameters": parameters(config), "stages": stages}


def _steps(config: Config) -> dict[str, int]:
    source = Path(config.data.path) if config.data.path else None
    if source and (source / "dataset.json").is_file():
        return stage_steps(config, load_dataset(source))
    with tempfile.TemporaryDirectory() as folder:
        return stage_steps(config, prepare(source, config.data.format, Path(folder) / "data", config.seed))


def _check(
    config: Config, nodes: list[dict[str, float]], body: dict[str, Any]
) -> tuple[list[str], list[str]]:
    """Warnings, and problems that a run could not begin with."""
    stages = [stage["stage"] for stage in body["stages"]]
    try:
        warnings = check_fits(config, stages, nodes)
    except StreamRecError as error:
        return [], [str(error)]
    have = sum(node.get("memory", 0) for node in nodes) / GIB
    problems = []
    for stage in body["stages"]:
        want = sum(role["processes"] * role["memory_gib"] for role in stage["roles"])
        if have and want > have:
            problems.append(
                f"stage {stage['stage']} needs about {want:.1f} GiB of memory, the nodes have {have:.1f}; lower the "
                "replicas, the batch, or learners.pass_tokens"
            )
    return warnings, problems
