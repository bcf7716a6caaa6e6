"""plan: what a configuration would start, how large it gets, and whether it fits. Nothing is started."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cli import cluster
from cli.commands.options import JsonOption, examples
from cli.output import emit_json, note, show, table
from cli.roles import check_processes
from cli.workspace import living_cluster
from streamrec_dist.config_file import load_config


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
    check_processes(settled)
    note("reading the data ...")
    record = living_cluster()
    if record:
        cluster.connect(record, to_work=False)

    from cli.estimate import estimate

    body = estimate(settled, connected=record is not None)
    cluster.disconnect()
    for warning in body["warnings"]:
        note(f"warning: {warning}")
    if as_json:
        emit_json(body)
    else:
        _show(body)
    if body["problems"]:
        raise typer.Exit(2)


def _show(body: dict[str, Any]) -> None:
    nodes = body["nodes"]
    cores, gpus = (sum(node.get(name, 0) for node in nodes) for name in ("CPU", "GPU"))
    whose = "the cluster that is up" if body["up"] else "this machine, and cluster.nodes"
    note(f"{whose}: {len(nodes)} node(s), {cores:g} CPUs, {gpus:g} GPUs")
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
