"""init, up, status, down: the cluster."""

from __future__ import annotations

import time
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import typer

from cli import cluster
from cli.commands.options import JsonOption, examples
from cli.output import emit_json, note, show, span, table
from cli.record import ClusterRecord
from streamrec_dist.errors import EnvironmentProblem, UsageError
from streamrec_dist.rundir import list_runs


def init(
    directory: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where to write it.")] = Path("."),
) -> None:
    """Write a commented cluster.yaml to start from."""
    target = directory / "cluster.yaml"
    if target.exists():
        raise UsageError(f"{target} exists already; it is left as it is")
    if directory.exists() and not directory.is_dir():
        raise UsageError(f"{directory} is a file; give a folder")
    directory.mkdir(parents=True, exist_ok=True)
    target.write_text(files("cli").joinpath("cluster.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    note(f"wrote {target}")
    note(f"next: streamrec-dist up {target}")


def up(
    config: Annotated[Path, typer.Argument(metavar="[cluster.yaml]", help="The configuration.")] = Path(
        "cluster.yaml"
    ),
    as_json: JsonOption = False,
) -> None:
    """Start the cluster that a configuration describes, or attach to it."""
    begun = time.monotonic()
    note(f"bringing up the cluster of {config} ...")
    record, state = cluster.up(config)
    told = {
        "started": f"a cluster runs on this machine at {record.address} ({span(time.monotonic() - begun)})",
        "attached": f"attached to the cluster at {record.address}",
        "running": f"the cluster is up already, at {record.address}",
    }
    note(told[state])
    note("next: streamrec-dist train --stage all   (status: streamrec-dist status, end: streamrec-dist down)")
    if as_json:
        emit_json({"state": state, "address": record.address, "root": record.root, "pids": list(record.pids)})


def status(as_json: JsonOption = False) -> None:
    """Show the cluster: nodes, resources, actors, and the runs that are going."""
    record = cluster.find_cluster()
    cluster.connect(record)
    body = {**cluster.status(record), "runs": _going(record)}
    cluster.disconnect()
    if as_json:
        emit_json(body)
    else:
        show(table(f"cluster at {record.address}", ["", ""], _status_rows(body), left=2))


def down(as_json: JsonOption = False) -> None:
    """End the cluster and everything it started; a cluster that was attached to is only forgotten."""
    record = cluster.find_record()
    if record is None:
        raise EnvironmentProblem(
            f"no cluster in {Path.cwd()} or above it; start one with: streamrec-dist up cluster.yaml"
        )
    note(f"taking down the cluster of {record.root} ...")
    ended = cluster.down(record)
    note(
        f"the cluster is down; {len(ended)} processes ended"
        if record.created_by_us
        else f"forgot the cluster at {record.address}; it was not started here and goes on"
    )
    if as_json:
        emit_json({"state": "down", "address": record.address, "ended": ended})


def add_to(app: typer.Typer) -> None:
    app.command(epilog=examples("streamrec-dist init", "streamrec-dist init my-project"))(init)
    app.command(epilog=examples("streamrec-dist up", "streamrec-dist up configs/scientific.yaml"))(up)
    app.command(epilog=examples("streamrec-dist status", "streamrec-dist status --json"))(status)
    app.command(epilog=examples("streamrec-dist down"))(down)


def _going(record: ClusterRecord) -> list[str]:
    from cli.launch import run_alive

    return [run.name for run in list_runs(record.runs) if run_alive(run.name)]


def _status_rows(body: dict[str, Any]) -> list[tuple[str, str]]:
    total, free = body["total"], body["free"]
    kinds = {"CPU": "CPUs", "GPU": "GPUs", "memory_gib": "memory, GiB"}
    rows = [("configuration", body["config"]), ("up for", span(time.time() - body["started"]))]
    rows.append(("nodes", str(body["nodes"])))
    rows += [(label, f"{free[kind]:g} free of {total[kind]:g}") for kind, label in kinds.items()]
    rows += [(f"actors: {role}", str(count)) for role, count in body["actors"].items()]
    rows.append(("runs going", ", ".join(body["runs"]) or "none"))
    return rows
