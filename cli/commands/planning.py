"""plan: what a configuration would start, how large it gets, and whether it fits. Nothing is started."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cli import cluster
from cli.commands.options import JsonOption, examples
from cli.output import emit_json, note, show, table
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
    Exit code 2 when a run could not begin; memory is compared where it is known what a node has.
    """
    settled = load_config(config, overrides or [])
    record = living_cluster()
    if record:
        cluster.connect(record, to_work=False)
    note("reading the data ...")

    from cli.estimate import estimate, living, to_be_started

    nodes = living(record) if record else to_be_started(settled)
    body = {"up": record is not None, **estimate(settled, nodes)}
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
    note("the cluster that is up:" if body["up"] else "the cluster that `up` would start:")
    columns = ["node", "roles", "CPUs", "GPUs", "memory, GiB", "on GPUs, GiB"]
    amounts = ("cpus", "gpus", "memory_gib", "gpu_memory_gib")
    machines = [
        (node["node"], ", ".join(node["roles"]) or "any", *(_amount(node[name]) for name in amounts))
        for node in body["nodes"]
    ]
    show(table("", columns, machines, left=2))
    if any(node[name] is None for node in body["nodes"] for name in ("cpus", "gpus")):
        note("?: all that the machine has; known when it is up")
    note(f"the model has {body['parameters'] / 1e6:.1f} M parameters")
    columns = [
        "stage",
        "role",
        "where",
        "wanted",
        "at least",
        "fit at once",
        "CPUs",
        "GPUs",
        "GiB",
        "GiB on GPU",
    ]
    rows: list[tuple[str, ...]] = []
    for stage in body["stages"]:
        for number, role in enumerate(stage["roles"]):
            numbers = [_amount(role[name]) for name in ("processes", "at_least", "fit")]
            shares = [f"{role[name]:g}" for name in ("cpus", "gpus", "memory_gib", "gpu_memory_gib")]
            where = "any node" if len(role["nodes"]) == len(body["nodes"]) > 1 else ", ".join(role["nodes"])
            rows.append((stage["stage"] if number == 0 else "", role["role"], where, *numbers, *shares))
    show(
        table("processes of each role, and what each of them takes (memory estimated)", columns, rows, left=3)
    )
    steps = ", ".join(f"{stage['stage']} {stage['steps']:,}" for stage in body["stages"])
    note(f"optimizer steps, about: {steps}")
    for problem in body["problems"]:
        note(f"problem: {problem}")


def _amount(known: float | None) -> str:
    return "?" if known is None else f"{known:g}"


def add_to(app: typer.Typer) -> None:
    app.command(epilog=examples("streamrec-dist plan", "streamrec-dist plan configs/beauty.yaml --json"))(
        plan
    )
