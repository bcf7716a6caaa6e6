"""Up and down: the head on this machine, and the nodes that join it."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from cli.cluster import REACH_SECONDS, alive, check_here, connect, disconnect, reachable
from cli.here import this_place
from cli.members import members
from cli.nodes import (
    end_node,
    find_head_address,
    known_node,
    on_each,
    printed,
    running_share,
    share_of,
    start_node,
    with_node,
    without_node,
)
from cli.processes import cluster_processes, end_processes
from cli.ray_head import LOOPBACK, make_temp_dir, printed_head, remove_temp_dir, start_head
from cli.record import ClusterRecord, NodeRecord, locked, read_record, root_of
from cli.ssh import NodeProblem, with_key
from streamrec_dist.cluster_config import ClusterConfig, NodeConfig, is_loopback
from streamrec_dist.config_file import load_config
from streamrec_dist.errors import ConfigError, EnvironmentProblem, RunError, StreamRecError


@dataclass(frozen=True)
class Brought:
    """What `up` did: the cluster was started, attached or running; each node was started, running or failed."""

    record: ClusterRecord
    state: str
    nodes: dict[str, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Ended:
    """What `down` did to the cluster of a record, and the processes it ended on this machine and on each node.

    `state` is `down`; `incomplete` when the nodes in `failures` are to be tried again; `given up` when they are not;
    `forgotten` when nothing was ended.
    """

    record: ClusterRecord
    state: str
    pids: list[int] = field(default_factory=list)
    nodes: dict[str, list[int]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


def up(config_path: Path) -> Brought:
    """Start the cluster of a configuration, or what is missing of it, or attach to it.

    A node that cannot be started is told of in `failures`; the others are started all the same. Raises ConfigError
    for a bad file or when what runs has other settings, EnvironmentProblem when Ray does not start on this machine.
    """
    settings = load_config(config_path).cluster
    root = root_of(config_path)
    with locked(root):
        record, state = read_record(root), "running"
        if record and alive(record):
            _check_same_settings(record, settings)
            record = replace(record, config_path=str(config_path.absolute()))
            record.save()
        else:
            if record:
                _clean(record)
            local = settings.address == "local"
            record = (_start if local else _attach)(root, config_path, settings)
            state = "started" if local else "attached"
        nodes = [with_key(node, config_path.absolute().parent) for node in settings.nodes]
        return _join(record, state, nodes)


def down(root: Path, forget: bool = False) -> Ended | None:
    """End the cluster of a folder and remove every trace of it; one we only attached to is left alone.

    Nodes that cannot be reached stay in the record, so that `down` can be tried again, unless they are to be
    forgotten; so is, then, a whole cluster of another machine. None where there is no cluster. Raises
    EnvironmentProblem when it runs on another machine, RunError when a process of this machine cannot be ended.
    """
    with locked(root):
        # Read here and not before: what another `up` or `down` has just left is what there is.
        record = read_record(root)
        if record is None:
            return None
        if not record.created_by_us or (forget and not record.place.is_here()):
            record.remove()
            return Ended(record, "forgotten")
        check_here(record)
        nodes, failures = _end_nodes(record)
        pids = [process.pid for process in cluster_processes(record.cluster_id, record.temp_dir)]
        _end_head(record)
        left = () if forget else tuple(node for node in record.nodes if node.name in failures)
        if left:
            # Without an address: what is left is no cluster.
            replace(record, address="", pids=(), temp_dir="", nodes=left).save()
    state = "incomplete" if left else "given up" if failures else "down"
    return Ended(record, state, pids, nodes, failures)


def commands(config_path: Path) -> dict[str, list[str]]:
    """The commands that `up` would run, for this machine and each node. Nothing is started or written."""
    settings = load_config(config_path).cluster
    if settings.address != "local":
        return {}
    root = root_of(config_path)
    record = read_record(root)
    if record is None or not alive(record):
        host = find_head_address(settings) if settings.nodes else LOOPBACK
        record = _new_record(root, config_path, settings)
        record = replace(record, cluster_id="ID", address=f"{host}:PORT", temp_dir="/tmp/streamrec-ID")
    nodes = [with_key(node, config_path.absolute().parent) for node in settings.nodes]
    return {
        "head": printed_head(record, settings),
        **{node.name: printed(record, node) for node in nodes},
    }


def _new_record(root: Path, config_path: Path, settings: ClusterConfig) -> ClusterRecord:
    return ClusterRecord(
        root=str(root),
        config_path=str(config_path.absolute()),
        cluster_id=uuid.uuid4().hex,
        created_by_us=settings.address == "local",
        place=this_place(),
        settings=settings.model_dump(mode="json"),
    )


def _start(root: Path, config_path: Path, settings: ClusterConfig) -> ClusterRecord:
    host = find_head_address(settings) if settings.nodes else LOOPBACK
    record = replace(_new_record(root, config_path, settings), temp_dir=make_temp_dir())
    # Written before anything runs: should this process be killed, `down` still finds what it started.
    record.save()
    try:
        address = start_head(record, settings, host)
    except BaseException:
        _clean(record)
        raise
    pids = tuple(process.pid for process in cluster_processes(record.cluster_id))
    record = replace(record, address=address, pids=pids)
    record.save()
    return record


def _attach(root: Path, config_path: Path, settings: ClusterConfig) -> ClusterRecord:
    record = replace(_new_record(root, config_path, settings), address=settings.address)
    if not reachable(settings.address):
        raise EnvironmentProblem(
            f"no answer from {settings.address} within {REACH_SECONDS:.0f} s (cluster.address in {config_path}); "
            "is Ray running there? `cluster: {address: local}` starts one here"
        )
    connect(record, to_work=False)
    disconnect()
    record.save()
    return record


def _join(record: ClusterRecord, state: str, nodes: Sequence[NodeConfig]) -> Brought:
    """Start those nodes that do not run; what is known of each is in the record before and after."""
    if not nodes:
        return Brought(record, state)
    before, lost = record, _lost(record)
    for node in nodes:
        known, settings = known_node(record, node.name), node.model_dump(mode="json")
        # What it gives is known when it runs; how it is reached is what the file says now.
        settings |= share_of(known.config) if known else {}
        record = with_node(record, NodeRecord(settings, known.pids if known else ()))
    record.save()
    outcomes = on_each(nodes, partial(start_node, record, lost))
    states: dict[str, str] = {}
    failures: dict[str, str] = {}
    for name, done in outcomes.items():
        if isinstance(done, StreamRecError):
            states[name], failures[name] = "failed", str(done)
            # `down` has to visit every node on which something may be: one of which we knew, too, since it may be
            # reached in another way now, where what runs cannot be seen.
            if isinstance(done, NodeProblem) and not done.left and known_node(before, name) is None:
                record = without_node(record, name)
        else:
            known, states[name] = done
            record = with_node(record, known)
    record.save()
    return Brought(record, state, states, failures)


def _lost(record: ClusterRecord) -> set[str]:
    """Nodes that the running cluster has given up, whatever still runs on them."""
    if not record.nodes:
        return set()
    connect(record, to_work=False)
    lost = {member.node for member in members() if not member.alive}
    disconnect()
    return lost


def _clean(record: ClusterRecord) -> None:
    """Remove what is left of a cluster, here and on its nodes. Raises EnvironmentProblem, RunError."""
    _, failures = _end_nodes(record)
    if failures:
        raise EnvironmentProblem(
            f"an earlier cluster of {record.root} may still have processes on nodes that do not answer:\n  "
            + "\n  ".join(failures.values())
            + "\n  make them reachable, or give them up with: streamrec-dist down --forget"
        )
    _end_head(record)


def _end_nodes(record: ClusterRecord) -> tuple[dict[str, list[int]], dict[str, str]]:
    ended: dict[str, list[int]] = {}
    failures: dict[str, str] = {}
    for name, done in on_each([node.config for node in record.nodes], partial(end_node, record)).items():
        if isinstance(done, StreamRecError):
            failures[name] = str(done)
        else:
            ended[name] = done
    return ended, failures


def _end_head(record: ClusterRecord) -> None:
    if record.created_by_us:
        left = end_processes(record.cluster_id, record.temp_dir)
        if left:
            raise RunError(f"these processes of the cluster could not be ended: {', '.join(map(str, left))}")
        remove_temp_dir(record)
    record.remove()


def _check_same_settings(record: ClusterRecord, settings: ClusterConfig) -> None:
    wanted = settings.model_dump(mode="json", exclude={"nodes", "patience_s"})
    if settings.head is None or (settings.nodes and find_head_address(settings) == record.host):
        del wanted["head"]
    differing = [
        f"cluster.{key}: {record.settings.get(key)!r} -> {value!r}"
        for key, value in wanted.items()
        if record.settings.get(key, [] if key == "roles" else None) != value
    ]
    if settings.nodes and is_loopback(record.host):
        differing.append(f"cluster.nodes: the cluster listens at {record.host} only, which no node reaches")
    differing += [] if differing else _changed_nodes(record, settings.nodes)
    if differing:
        raise ConfigError(
            f"the cluster of {record.root} runs with other settings; `streamrec-dist down` first, "
            "then `up` again:\n  " + "\n  ".join(differing)
        )


def _changed_nodes(record: ClusterRecord, wanted: Sequence[NodeConfig]) -> list[str]:
    """What is different about nodes that run; how they are reached may change."""
    shares = {node.name: share_of(node) for node in wanted}
    # Of a start that was not completed, the node alone knows with what it was made.
    asked = [
        node.config
        for node in record.nodes
        if node.name in shares and (not node.pids or share_of(node.config) != shares[node.name])
    ]
    runs = on_each(asked, partial(running_share, record))
    return [
        f"cluster.nodes: {key} of {name}: {was!r} -> {shares[name][key]!r}"
        for name, share in runs.items()
        if not isinstance(share, StreamRecError)
        for key, was in share.items()
        if was != shares[name][key]
    ]
