"""doctor, logs: what the machines of a cluster have, and what their workers say."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from cli import cluster
from cli.commands.options import JsonOption, examples
from cli.doctor import examine, prevented
from cli.findings import OK, PROBLEM
from cli.logs import Log, LogReader, kind, pick
from cli.output import cell, clean, emit_json, note, show, span, table
from streamrec_dist.errors import EnvironmentProblem, UsageError

STYLES = {OK: "green", "warning": "yellow", PROBLEM: "bold red"}


def doctor(
    config: Annotated[
        Path | None,
        typer.Argument(
            metavar="[cluster.yaml]",
            show_default=False,
            help="Whose nodes are looked at; default: that of this folder, and without one this machine alone.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Look at this machine and the nodes of cluster.yaml, before `up` or after it: can they be a cluster?

    Exit code 0 when all is well or there are only warnings, 3 when something prevents running.
    """
    if config is None and Path("cluster.yaml").exists():
        config = Path("cluster.yaml")
    if config is not None and not config.exists():
        raise UsageError(f"{config}: no such file; `streamrec-dist init` writes one")
    findings = examine(config)
    bad = prevented(findings)
    if as_json:
        emit_json({"ok": not bad, "findings": [asdict(finding) for finding in findings]})
    else:
        rows = [
            (finding.node, finding.check, cell(finding.state, STYLES[finding.state]), finding.found)
            for finding in findings
        ]
        show(table("", ["machine", "looked at", "", "found"], rows, left=4))
    for finding in findings:
        if finding.state != OK:
            note(clean(f"{finding.state}: {finding.node}: {finding.check}: {finding.remedy}"))
    if bad:
        raise typer.Exit(EnvironmentProblem.exit_code)


def logs(
    role: Annotated[
        str | None,
        typer.Argument(
            metavar="[ROLE[/N]]", show_default=False, help="Whose log; without it, which logs there are."
        ),
    ] = None,
    lines: Annotated[int, typer.Option("-n", "--lines", min=0, help="Last lines of each file.")] = 50,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="Go on with what is added, until the actors end.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what the processes of a role have printed, from whatever node they run or ran on.

    Numbers count the living actors of a role, then those that have ended, the one that printed last first.
    """
    if as_json and follow:
        raise UsageError("--follow does not end with one JSON object: give one of --follow and --json")
    reader = LogReader(cluster.find_cluster())
    found = reader.logs()
    chosen = pick(found, role) if role else found
    body: list[dict[str, Any]] = []
    offsets: dict[str, int] = {}
    for log in chosen:
        body.append({"log": log.name, "node": log.node, "pid": log.worker.pid, "alive": log.worker.alive})
        for path in (log.worker.out, log.worker.err) if role else ():
            body[-1][kind(path)], offsets[path] = reader.last_lines(log, path, lines)
            if not as_json:
                _show_log(log, path, body[-1][kind(path)])
        if role and not as_json and not (body[-1]["stdout"] or body[-1]["stderr"]):
            note(f"{log.name} on {log.node}, process {log.worker.pid}, has printed nothing")
    if as_json:
        emit_json({"logs": body})
    elif not role:
        _show_logs(chosen)
    if follow and role:
        for log, path, text in reader.follow(chosen, offsets):
            _show_log(log, path, text)
    cluster.disconnect()


def add_to(app: typer.Typer) -> None:
    app.command(epilog=examples("streamrec-dist logs", "streamrec-dist logs rollout/0 -n 20 --follow"))(logs)
    app.command(epilog=examples("streamrec-dist doctor", "streamrec-dist doctor cluster.yaml --json"))(doctor)


def _show_log(log: Log, path: str, text: str) -> None:
    if text:
        note(f"{log.name} on {log.node}, process {log.worker.pid}, {kind(path)}:")
        print(clean(text), end="", flush=True)


def _show_logs(logs: Sequence[Log]) -> None:
    rows = [
        (
            log.name,
            log.node,
            log.worker.pid,
            "alive"
            if log.worker.alive
            else f"ended, printed last {span(time.time() - log.worker.written)} ago",
        )
        for log in logs
    ]
    show(table("", ["log", "node", "process", "state"], rows, left=2))
    if not rows:
        note("no actor has run yet")
