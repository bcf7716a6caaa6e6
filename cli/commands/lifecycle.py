"""init, up, status, down: the cluster."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import typer

from cli import bringup, cluster, members
from cli.asking import controller_name, run_status
from cli.commands.options import JsonOption, examples
from cli.output import cell, clean, emit_json, note, show, span, table
from cli.record import ClusterRecord
from streamrec_dist.errors import EnvironmentProblem, StreamRecError, UsageError
from streamrec_dist.events import ENDED, Event, EventLog, last_event
from streamrec_dist.rundir import RunDir, list_runs

#: Why a run ended whose controller ended with the cluster.
TAKEN_DOWN = "its cluster was taken down"
NODE_COLUMNS = ("node", "address", "roles", "CPUs", "GPUs", "memory, GiB", "state")


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
    print_commands: Annotated[
        bool, typer.Option("--print-commands", help="Print what would run on which machine; start nothing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Start the cluster that a configuration describes, or attach to it; again, start what is missing of it.

    A node that cannot be started is named and the exit code is 3; the others are started all the same.
    """
    if print_commands:
        _print_commands(config, as_json)
        return
    if not config.is_file():
        raise UsageError(f"{config}: no such file; `streamrec-dist init` writes one")
    begun = time.monotonic()
    note(f"bringing up the cluster of {config} ...")
    brought = bringup.up(config)
    record = brought.record
    told = {
        "started": f"a cluster runs on this machine at {record.address} ({span(time.monotonic() - begun)})",
        "attached": f"attached to the cluster at {record.address}",
        "running": f"the cluster is up already, at {record.address}",
    }
    note(told[brought.state])
    body: dict[str, Any] = {"state": brought.state, "address": record.address, "root": record.root}
    body["pids"] = list(record.pids)
    if record.nodes or brought.nodes:
        body["nodes"] = _nodes(brought)
        show(table("", NODE_COLUMNS, _node_rows(body["nodes"]), left=3), to_stderr=as_json)
    _failed(brought.failures, "error: could not be started")
    note("next: streamrec-dist train --stage all   (status: streamrec-dist status, end: streamrec-dist down)")
    if as_json:
        emit_json(body)
    if brought.failures:
        raise typer.Exit(EnvironmentProblem.exit_code)


def status(as_json: JsonOption = False) -> None:
    """Show the cluster: nodes, resources, actors, and the runs that are going."""
    record = cluster.find_cluster()
    cluster.connect(record, to_work=False)
    body = members.status(record)
    body["runs"] = _going(record, members.living_controllers())
    body["going"] = {run: _run_status(record, run) for run in body["runs"]}
    cluster.disconnect()
    if as_json:
        emit_json(body)
        return
    show(table(f"cluster at {record.address}", ["", ""], _status_rows(body), left=2))
    show(table("", NODE_COLUMNS, _node_rows(body["members"]), left=3))
    if body["placed"]:
        rows = [(actor["role"], actor["node"], actor["count"]) for actor in body["placed"]]
        show(table("", ["actors", "node", "number"], rows, left=2))
    for run, going in body["going"].items():
        _show_run(run, going)


def down(
    forget: Annotated[
        bool,
        typer.Option("--forget", help="Give up what cannot be reached, as it is: nodes, another machine."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """End the cluster and everything it started; a cluster that was attached to is only forgotten.

    Runs that are going end with it, and can be resumed from their last checkpoints.
    """
    record = cluster.find_record()
    ended = None
    if record:
        note(f"taking down the cluster of {record.root} ...")
        ended = bringup.down(Path(record.root), forget)
    if record is None or ended is None:
        note(f"no cluster in {Path.cwd()} or above it: there is nothing to take down")
        if as_json:
            emit_json({"state": "none"})
        return
    count = len(ended.pids) + sum(map(len, ended.nodes.values()))
    told = {
        "down": f"the cluster is down; {count} processes ended",
        "given up": f"the cluster is down but for the nodes that were given up; {count} processes ended",
        "incomplete": f"{count} processes ended, not those of nodes that could not be reached",
        "forgotten": f"forgot the cluster at {ended.record.address}; nothing was ended, it may go on",
    }
    note(told[ended.state])
    for run in _cut_off(record) if ended.state in ("down", "given up") else ():
        note(
            f"run {run.name} was going; it goes on from its last checkpoint with: streamrec-dist up, and then"
        )
        note(f"  streamrec-dist train --resume --run {run.name}")
        # Nobody else is left who could say how it ended.
        with suppress(OSError, StreamRecError):
            EventLog(RunDir.open(run.path).events_path).append(
                [Event("run", state="stopped", message=TAKEN_DOWN)]
            )
    _failed(ended.failures, "given up" if forget else "error: could not be reached")
    if as_json:
        body = {"state": ended.state, "address": ended.record.address, "ended": ended.pids}
        emit_json(body | {"nodes": ended.nodes, "failures": ended.failures})
    if ended.state == "incomplete":
        raise EnvironmentProblem(
            "what was started on those nodes may still be there. Try again: streamrec-dist down. "
            "Give it up: streamrec-dist down --forget"
        )


def add_to(app: typer.Typer) -> None:
    app.command(epilog=examples("streamrec-dist init", "streamrec-dist init my-project"))(init)
    app.command(epilog=examples("streamrec-dist up", "streamrec-dist up --print-commands"))(up)
    app.command(epilog=examples("streamrec-dist status", "streamrec-dist status --json"))(status)
    app.command(epilog=examples("streamrec-dist down", "streamrec-dist down --forget"))(down)


def _print_commands(config: Path, as_json: bool) -> None:
    found = bringup.commands(config)
    for name, lines in found.items():
        note(f"{name}:" if name != members.HEAD else "head, this machine:")
        for line in lines:
            print(clean(line), file=sys.stderr if as_json else sys.stdout)
    if not found:
        note("nothing: the cluster of cluster.address runs already")
    elif len(found) > 1:
        note("in braces: what a node finds out itself, its private folder and the room for objects")
    if as_json:
        emit_json({"commands": found})


def _nodes(brought: bringup.Brought) -> list[dict[str, Any]]:
    """The nodes as Ray sees them, and those that are not there, each with what `up` did."""
    cluster.connect(brought.record, to_work=False)
    # Of a node that died Ray knows no more; what cluster.yaml says of one that is not there is still of use.
    found = {member.node: asdict(member) for member in members.members() if member.alive}
    cluster.disconnect()
    for name in {node.name for node in brought.record.nodes} | set(brought.nodes):
        found.setdefault(name, {"node": name, "address": name, "alive": False, "roles": []})
    for name, body in found.items():
        # One that was taken out of cluster.yaml goes on until the cluster ends.
        body["state"] = brought.nodes.get(name, brought.state if name == members.HEAD else "no longer listed")
        body["message"] = brought.failures.get(name, "")
    return list(found.values())


def _failed(failures: Mapping[str, str], what: str) -> None:
    for message in failures.values():
        note(f"{what}: {message}")


def _node_rows(nodes: Iterable[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    return [
        (
            node["node"],
            node["address"],
            ", ".join(node["roles"]) or ("any" if node["alive"] else "-"),
            *(f"{node[key]:g}" if node["alive"] else "-" for key in ("cpus", "gpus", "memory_gib")),
            node.get("state") or ("alive" if node["alive"] else "dead"),
        )
        for node in nodes
    ]


def _cut_off(record: ClusterRecord) -> list[RunDir]:
    """Runs of this folder that were going when their cluster was taken down: their events have no end."""
    last = [(run, last_event(run.events_path)) for run in list_runs(record.runs)]
    return [
        run
        for run, event in last
        if event and event.t > record.started and not (event.kind == "run" and event.state in ENDED)
    ]


def _going(record: ClusterRecord, controllers: Collection[str]) -> list[str]:
    """Runs of this folder that have a controller; the cluster may hold those of other folders too."""
    return [run.name for run in list_runs(record.runs) if controller_name(run.path) in controllers]


def _run_status(record: ClusterRecord, run: str) -> dict[str, Any]:
    """What the run's controller says, and the last event of the run."""
    try:
        said = run_status(record.runs / run)
    except StreamRecError as error:
        # It ended a moment ago, or is being started again.
        said = {"error": str(error)}
    last = last_event(RunDir.open(record.runs / run).events_path)
    return said | {"last_event": json.loads(last.to_json()) if last else {}}


def _show_run(run: str, going: Mapping[str, Any]) -> None:
    """A run: where it is, and how its roles do."""
    if "error" in going:
        note(f"{run}: {going['error']}")
        return
    place = f"stage {going['stage']}" if going["stage"] else "beginning"
    place += ", paused" if going.get("paused") else ""
    place += f", step {going['step']} of {going['total']}" if "step" in going else ""
    place += f", version {going['version']}" if "version" in going else ""
    if "prompts" in going:
        place += f"; prompts: {going['prompts']['started']} under way, {going['prompts']['scored']} scored"
    rows = [
        (role, *(state[key] for key in ("ready", "target", "waiting", "lost")))
        for role, state in going["roles"].items()
    ]
    columns = ["role", "up", "wanted", "calls waiting", "lost so far"]
    # No title of the table, which would be broken to its width.
    show(cell(f"{run}: {place}"))
    show(table("", columns, rows))
    last = going["last_event"]
    note(
        f"last event: {' '.join(str(last[key]) for key in ('kind', 'stage', 'step', 'message') if key in last)}"
    )


def _status_rows(body: dict[str, Any]) -> list[tuple[str, str]]:
    total, free = body["total"], body["free"]
    kinds = {"CPU": "CPUs", "GPU": "GPUs", "memory_gib": "memory, GiB"}
    rows = [("configuration", body["config"]), ("up for", span(time.time() - body["started"]))]
    rows.append(("nodes", str(body["nodes"])))
    rows += [(label, f"{free[kind]:g} free of {total[kind]:g}") for kind, label in kinds.items()]
    rows.append(("runs going", ", ".join(body["runs"]) or "none"))
    return rows
