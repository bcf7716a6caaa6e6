"""plan: what a configuration would start, how large it gets, and whether it fits. Nothing is started."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from cli import cluster
from cli.commands.options import JsonOption, examples
from cli.output import emit_json, note, show, table
from cli.ray_head import usable_cpus
from cli.workspace import living_cluster
from streamrec_dist.config import Config
from streamrec_dist.config_file import load_config
from streamrec_dist.errors import StreamRecError
from streamrec_dist.rundir import STAGES

GIB = 2**30


def plan(
    config: Annotated[Path, typer.Argument(metavar="[cluster.yaml]", help="The configuration.")] = Path(
        "cluster.yaml"
    ),
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a key of cluster.yaml; may be repeated."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what a run would start where, its memory and steps, and what stands against it. Nothing is started.

    It reads the data, as the run would. Nodes are those of the cluster that is up, else those that `up` would start.
    """
    settled = load_config(config, overrides or [])
    nodes, whose = _nodes(settled)
    body = {"nodes": nodes, "nodes_of": whose, **_sizes(settled, nodes)}
    body["problems"] = _problems(settled, nodes, body)
    if as_json:
        emit_json(body)
    else:
        _show(body)
    if body["problems"]:
        raise typer.Exit(2)


def _nodes(config: Config) -> tuple[list[dict[str, float]], str]:
    """Resources of each node, and whose they are."""
    record = living_cluster()
    if record:
        cluster.connect(record)
        from actors.placement import living_nodes

        nodes = living_nodes()
        cluster.disconnect()
        wanted = ("CPU", "GPU", "memory")
        plain = [{name: node[name] for name in wanted if name in node} for node in nodes]
        return plain, f"the cluster at {record.address}"
    return [{"CPU": config.cluster.cpus or usable_cpus(), "GPU": config.cluster.gpus or 0}], "this machine"


def _sizes(config: Config, nodes: list[dict[str, float]]) -> dict[str, Any]:
    from actors.placement import stage_needs
    from streamrec_dist.sizing import actor_memory, learner_memory, parameters

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
    from streamrec_dist.data.files import load_dataset
    from streamrec_dist.data.prepare import prepare
    from streamrec_dist.sizing import stage_steps

    source = Path(config.data.path) if config.data.path else None
    if source and (source / "dataset.json").is_file():
        return stage_steps(config, load_dataset(source))
    note("reading the data ...")
    with tempfile.TemporaryDirectory() as folder:
        return stage_steps(config, prepare(source, config.data.format, Path(folder) / "data", config.seed))


def _problems(config: Config, nodes: list[dict[str, float]], body: dict[str, Any]) -> list[str]:
    from actors.placement import check_fits

    stages = [stage["stage"] for stage in body["stages"]]
    try:
        for warning in check_fits(config, stages, nodes):
            note(f"warning: {warning}")
    except StreamRecError as error:
        return [str(error)]
    have = sum(node.get("memory", 0) for node in nodes) / GIB
    problems = []
    for stage in body["stages"]:
        want = sum(role["processes"] * role["memory_gib"] for role in stage["roles"])
        if have and want > have:
            problems.append(
                f"stage {stage['stage']} needs about {want:.1f} GiB of memory, the nodes have {have:.1f}; lower the "
                "replicas, the batch, or learners.pass_tokens"
            )
    return problems


def _show(body: dict[str, Any]) -> None:
    nodes = body["nodes"]
    cores, gpus = (sum(node.get(name, 0) for node in nodes) for name in ("CPU", "GPU"))
    note(f"{body['nodes_of']}: {len(nodes)} node(s), {cores:g} CPUs, {gpus:g} GPUs")
    note(f"the model has {body['parameters'] / 1e6:.1f} M parameters")
    columns = ["stage", "role", "processes", "at least", "CPUs", "GPUs", "GiB", "GiB on GPU", "steps"]
    rows = []
    for stage in body["stages"]:
        for number, role in enumerate(stage["roles"]):
            first = number == 0
            numbers = [role[name] for name in ("processes", "at_least")]
            shares = [f"{role[name]:g}" for name in ("cpus", "gpus", "memory_gib", "gpu_memory_gib")]
            steps = f"{stage['steps']:,}" if first else ""
            rows.append([stage["stage"] if first else "", role["role"], *numbers, *shares, steps])
    show(table("for each process, memory estimated; steps about", columns, rows, left=2))
    for problem in body["problems"]:
        note(f"problem: {problem}")


def add_to(app: typer.Typer) -> None:
    app.command(epilog=examples("streamrec-dist plan", "streamrec-dist plan configs/beauty.yaml --json"))(
        plan
    )
