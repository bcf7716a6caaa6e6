"""Looks at this machine and the nodes of a configuration; no cluster is needed, and none is changed."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any

from cli.findings import OK, PACKAGES, PROBLEM, Finding, clock, judge, way
from cli.members import HEAD
from cli.nodes import find_head_address, on_each, real_name
from cli.ray_head import LOOPBACK, free_port
from cli.record import root_of
from cli.remote import machine
from cli.ssh import Unreachable, run_there, with_key
from streamrec_dist.cluster_config import ClusterConfig, NodeConfig
from streamrec_dist.config_file import load_config
from streamrec_dist.errors import StreamRecError

EXAMINE_SECONDS = 120
KNOCK_SECONDS = 0.2
#: Where nodes listen to be knocked at: above the ports of services, below those of outgoing connections.
DOORS = range(20_000, 30_000)
#: Any of them may be taken there.
TRIED_DOORS = 8


def examine(config_path: Path | None) -> list[Finding]:
    """Findings about this machine and every node of a configuration; without one, about this machine.

    Raises ConfigError for a file that cannot be read.
    """
    settings = load_config(config_path).cluster if config_path else ClusterConfig()
    root = root_of(config_path) if config_path else Path.cwd()
    local = machine.main({"packages": PACKAGES, "folders": [str(root / "runs")]})
    findings = list(judge(HEAD, local, settings, None))
    nodes = [with_key(node, (config_path or root).absolute().parent) for node in settings.nodes]
    try:
        host = find_head_address(settings) if nodes else LOOPBACK
        port = free_port(host)
    except StreamRecError as error:
        return [*findings, Finding(HEAD, "address", PROBLEM, str(error), "set cluster.head")]
    findings.append(Finding(HEAD, "address", OK, host))
    with socket.socket() as listener:
        listener.bind((host, port))
        listener.listen()
        looked = on_each(nodes, partial(_look, f"{host}:{port}"))
    for node in nodes:
        found = looked[node.name]
        if isinstance(found, StreamRecError):
            findings.append(_unseen(node, found))
        else:
            facts, ahead = found
            findings += [*judge(node.name, facts, node, local), way(node.name, facts, host)]
            findings.append(clock(node.name, ahead))
    return findings


def prevented(findings: list[Finding]) -> bool:
    """Whether something keeps the cluster from running."""
    return any(finding.state == PROBLEM for finding in findings)


def _look(head: str, node: NodeConfig) -> tuple[Mapping[str, Any], float]:
    """Facts about a node, and how far its clock is ahead, at least."""
    ports = random.sample(DOORS, TRIED_DOORS)
    job = {"packages": PACKAGES, "folders": [], "head": head, "listen": ports}
    before, done = time.time(), Event()
    knocking = Thread(target=knock, args=(real_name(node), ports, done), daemon=True)
    knocking.start()
    try:
        facts = run_there(node, machine, job, EXAMINE_SECONDS)
    finally:
        done.set()
    after, there = time.time(), facts["time"]
    return facts, there - after if there > after else min(0.0, there - before)


def knock(host: str, ports: Sequence[int], done: Event) -> None:
    """Connect to each port, again and again, until nobody waits any more: others than the node may answer at some."""
    while not done.wait(KNOCK_SECONDS):
        for port in ports:
            with suppress(OSError), socket.create_connection((host, port), timeout=machine.WAY_SECONDS):
                pass


def _unseen(node: NodeConfig, error: StreamRecError) -> Finding:
    found, _, remedy = str(error).removeprefix(f"{node.name}: ").partition("\n  ")
    check = "ssh" if isinstance(error, Unreachable) else "python"
    return Finding(node.name, check, PROBLEM, found, remedy)
