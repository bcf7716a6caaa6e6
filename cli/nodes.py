"""The machines beside the head: Ray on them is started, looked at and ended over ssh."""

from __future__ import annotations

import hashlib
import shlex
import socket
import subprocess
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

from cli.processes import MARK
from cli.ray_head import START_SECONDS, WITHOUT, ray_variables, share_options, with_variables
from cli.record import ClusterRecord, NodeRecord
from cli.remote import node as program
from cli.ssh import interpreter, run_there, ssh_command
from streamrec_dist.cluster_config import ClusterConfig, NodeConfig, is_loopback
from streamrec_dist.errors import ConfigError, RunError, StreamRecError

Done = TypeVar("Done")
AT_ONCE = 16
#: For ssh itself, and what the program does before and after Ray starts.
EXTRA_SECONDS = 60
#: A port nobody has to listen at: a datagram socket is connected without a packet.
DISCARD = 9


def start_node(record: ClusterRecord, lost: Collection[str], node: NodeConfig) -> tuple[NodeRecord, str]:
    """Start Ray on a node, unless it runs there; its record, and `started` or `running`.

    Of the nodes `lost` to the cluster, the head has given up what still runs there. Raises EnvironmentProblem.
    """
    job = {
        "do": "start",
        **_which(record, node),
        "command": node_command(record, node),
        "variables": node_variables(record, node),
        "without": WITHOUT,
        "share": share_of(node),
        "token": record.token_path.read_text(encoding="utf-8"),
        "seconds": START_SECONDS,
        "anew": node.name in lost,
    }
    answer = run_there(node, program, job, START_SECONDS + EXTRA_SECONDS)
    settings = node.model_dump(mode="json") | answer["share"]
    return NodeRecord(settings, tuple(answer["pids"])), answer["state"]


def running_share(record: ClusterRecord, node: NodeConfig) -> dict[str, Any]:
    """What a node gives to this cluster, as it was started; nothing where Ray does not run.

    Raises EnvironmentProblem.
    """
    answer = run_there(node, program, {"do": "look", **_which(record, node)}, EXTRA_SECONDS)
    return dict(answer["share"])


def share_of(node: NodeConfig) -> dict[str, Any]:
    """What a node is to give to a cluster, and with which interpreter: this cannot change while Ray runs there."""
    return node.model_dump(mode="json", include={"roles", "cpus", "gpus", "python"})


def end_node(record: ClusterRecord, node: NodeConfig) -> list[int]:
    """End what runs on a node for this cluster, and its folder; the ids of what was ended.

    Raises EnvironmentProblem.
    """
    answer = run_there(node, program, {"do": "end", **_which(record, node)}, EXTRA_SECONDS)
    if answer["left"]:
        raise RunError(f"{node.name}: these processes could not be ended: {answer['left']}")
    return list(answer["ended"])


def on_each(
    nodes: Iterable[NodeConfig], work: Callable[[NodeConfig], Done]
) -> dict[str, Done | StreamRecError]:
    """What the work returns for each node, or why it could not be done; on all of them at once."""

    def attempt(node: NodeConfig) -> Done | StreamRecError:
        try:
            return work(node)
        except StreamRecError as error:
            return error

    nodes = list(nodes)
    with ThreadPoolExecutor(AT_ONCE) as threads:
        return dict(zip([node.name for node in nodes], threads.map(attempt, nodes), strict=True))


def node_command(record: ClusterRecord, node: NodeConfig) -> list[str]:
    """The command line that starts Ray on a node; what only the node knows is in braces."""
    return [
        *(interpreter(node), "-m", "ray.scripts.scripts", "start", f"--address={record.address}"),
        *(f"--node-name={node.name}", f"--temp-dir={program.FOLDER}/ray"),
        *("--include-log-monitor=false", "--disable-usage-stats", "--dashboard-agent-listen-port=0"),
        *([f"--num-cpus={node.cpus}"] if node.cpus else []),
        f"--object-store-memory={program.STORE}",
        "--log-color=false",
        *share_options(node.gpus, node.roles),
    ]


def node_variables(record: ClusterRecord, node: NodeConfig) -> dict[str, str]:
    """What Ray on a node finds in its environment."""
    marks = {MARK: record.cluster_id, program.NODE_MARK: node.name}
    return {**ray_variables(f"{program.FOLDER}/token", record.host), **marks}


def printed(record: ClusterRecord, node: NodeConfig) -> list[str]:
    """What `up` does for a node, as commands: the way there, and what runs there."""
    there = with_variables(node_variables(record, node), node_command(record, node))
    return [shlex.join(ssh_command(node)), f"  there: {there}"]


def find_head_address(settings: ClusterConfig) -> str:
    """The address of this machine that the nodes reach: cluster.head, or that from which the first one is reached.

    Raises ConfigError when it cannot be told.
    """
    if settings.head:
        try:
            return socket.gethostbyname(settings.head)
        except OSError as error:
            raise ConfigError(f"cluster.head: {settings.head} is no address ({error})") from None
    first = settings.nodes[0]
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((real_name(first), DISCARD))
            address = str(probe.getsockname()[0])
    except OSError as error:
        raise ConfigError(
            f"cluster.head: the way from this machine to {first.host} cannot be told ({error}); give the address "
            "of this machine in the network of the nodes"
        ) from None
    if is_loopback(address):
        raise ConfigError(
            f"cluster.head: {first.host} is reached from {address}, which no other machine reaches; give the "
            "address of this machine in the network of the nodes"
        )
    return address


def known_node(record: ClusterRecord, name: str) -> NodeRecord | None:
    return next((node for node in record.nodes if node.name == name), None)


def with_node(record: ClusterRecord, node: NodeRecord) -> ClusterRecord:
    """The record with this node in it, in place of what it knew of it."""
    others = tuple(known for known in record.nodes if known.name != node.name)
    return replace(record, nodes=(*others, node))


def without_node(record: ClusterRecord, name: str) -> ClusterRecord:
    return replace(record, nodes=tuple(known for known in record.nodes if known.name != name))


def _which(record: ClusterRecord, node: NodeConfig) -> dict[str, Any]:
    digest = hashlib.sha256(node.name.encode()).hexdigest()
    # Short: Ray's sockets lie below it.
    folder = f"streamrec-{record.cluster_id[:8]}-{digest[:4]}"
    return {"cluster": record.cluster_id, "node": node.name, "folder": folder}


def real_name(node: NodeConfig) -> str:
    """What ssh's configuration makes of a host's name."""
    command = ["ssh", "-G", *(["-p", str(node.port)] if node.port else []), "--", node.host]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=EXTRA_SECONDS).stdout
    except FileNotFoundError:
        return node.host
    names = [line.split(maxsplit=1)[1] for line in said.splitlines() if line.startswith("hostname ")]
    return names[0] if names else node.host
