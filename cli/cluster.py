"""The life of a cluster: up, found, connected to, asked, down."""

from __future__ import annotations

import logging
import os
import socket
import sys
import uuid
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from cli.processes import cluster_processes, end_processes, is_whole
from cli.ray_head import make_temp_dir, ray_variables, remove_temp_dir, start_head
from cli.record import ClusterRecord, locked, read_record, root_of
from streamrec_dist.config import ClusterConfig
from streamrec_dist.config_file import load_config
from streamrec_dist.errors import ConfigError, EnvironmentProblem, RunError

NAMESPACE = "streamrec"
REACH_SECONDS = 5.0


def up(config_path: Path) -> tuple[ClusterRecord, str]:
    """Start the cluster of a configuration, or attach to it.

    Returns its record and one of: started, attached, running (it was there already). Raises ConfigError
    for a bad file or when the running cluster has other settings, EnvironmentProblem when Ray does not start.
    """
    settings = load_config(config_path).cluster
    root = root_of(config_path)
    with locked(root):
        known = read_record(root)
        if known and alive(known):
            _check_same_settings(known, settings)
            known = replace(known, config_path=str(config_path.absolute()))
            known.save()
            return known, "running"
        if known:
            _clean(known)
        if settings.address == "local":
            return _start(root, config_path, settings), "started"
        return _attach(root, config_path, settings), "attached"


def down(record: ClusterRecord) -> list[int]:
    """End a cluster and remove every trace of it; one we only attached to is left alone.

    Returns the ids of the processes that were ended. Raises RunError when one cannot be ended.
    """
    with locked(Path(record.root)):
        processes = cluster_processes(record.cluster_id) if record.created_by_us else []
        _clean(record)
    return [process.pid for process in processes]


def find_record(start: Path | None = None) -> ClusterRecord | None:
    """The record in `start` (default: the working directory) or the nearest folder above it."""
    start = (start or Path.cwd()).absolute()
    return next((record for folder in (start, *start.parents) if (record := read_record(folder))), None)


def find_cluster(start: Path | None = None) -> ClusterRecord:
    """The cluster that is up. Raises EnvironmentProblem saying how to start one."""
    record = find_record(start)
    if record is None:
        raise EnvironmentProblem(
            f"no cluster in {start or Path.cwd()} or above it; start one with: streamrec-dist up cluster.yaml"
        )
    if not alive(record):
        raise EnvironmentProblem(
            f"the cluster of {record.root} is no longer running; "
            f"start it again with: streamrec-dist up {_short(record.config_path)}"
        )
    return record


def alive(record: ClusterRecord) -> bool:
    """Whether the cluster's processes are there (its address answers, for one we attached to)."""
    if not record.address:
        return False
    if record.created_by_us:
        return is_whole(cluster_processes(record.cluster_id))
    return _reachable(record.address)


def connect(record: ClusterRecord) -> None:
    """Connect this process to the cluster as a driver. Raises EnvironmentProblem.

    Does nothing when it is connected already. Must come before anything imports ray: Ray reads its
    environment when it is imported.
    """
    if record.created_by_us:
        os.environ.pop("RAY_AUTH_TOKEN", None)
        os.environ.update(ray_variables(record.token_path))
    # Ray waits 40 seconds for an address that accepts connections but is no Ray, 20 times over.
    os.environ["RAY_NUM_REDIS_GET_RETRIES"] = "1"
    import ray

    if ray.is_initialized():
        return
    if not alive(record):
        raise EnvironmentProblem(f"the cluster at {record.address} does not answer")
    try:
        ray.init(
            address=record.address,
            namespace=NAMESPACE,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, RuntimeError, SystemExit, ray.exceptions.RayError) as error:
        raise EnvironmentProblem(f"cannot connect to the cluster at {record.address}: {error}") from error


def disconnect() -> None:
    """Leave the cluster; what is detached goes on there."""
    ray = sys.modules.get("ray")
    if ray is not None:
        ray.shutdown()


def status(record: ClusterRecord) -> dict[str, Any]:
    """What a connected cluster has and does: nodes, resources, and its living actors by class."""
    import ray

    # The public ray.util.state asks the dashboard's server, which a local cluster does not run.
    from ray._private.state import actors

    nodes = [node for node in ray.nodes() if node["Alive"]]
    classes = Counter(actor["ActorClassName"] for actor in actors().values() if actor["State"] == "ALIVE")
    return {
        "address": record.address,
        "root": record.root,
        "config": record.config_path,
        "started": record.started,
        "created_by_us": record.created_by_us,
        "nodes": len(nodes),
        "total": _resources(ray.cluster_resources()),
        "free": _resources(ray.available_resources()),
        "actors": dict(sorted(classes.items())),
    }


def _start(root: Path, config_path: Path, settings: ClusterConfig) -> ClusterRecord:
    record = ClusterRecord(
        root=str(root),
        config_path=str(config_path.absolute()),
        cluster_id=uuid.uuid4().hex,
        created_by_us=True,
        temp_dir=make_temp_dir(),
        settings=settings.model_dump(),
    )
    # Written before anything runs: should this process be killed, `down` still finds what it started.
    record.save()
    try:
        address = start_head(record, settings)
    except BaseException:
        _clean(record)
        raise
    pids = tuple(process.pid for process in cluster_processes(record.cluster_id))
    record = replace(record, address=address, pids=pids)
    record.save()
    return record


def _attach(root: Path, config_path: Path, settings: ClusterConfig) -> ClusterRecord:
    record = ClusterRecord(
        root=str(root),
        config_path=str(config_path.absolute()),
        cluster_id=uuid.uuid4().hex,
        created_by_us=False,
        address=settings.address,
        settings=settings.model_dump(),
    )
    if not _reachable(settings.address):
        raise EnvironmentProblem(
            f"no answer from {settings.address} within {REACH_SECONDS:.0f} s (cluster.address in {config_path}); "
            "is Ray running there? `cluster: {address: local}` starts one here"
        )
    connect(record)
    disconnect()
    record.save()
    return record


def _clean(record: ClusterRecord) -> None:
    if record.created_by_us:
        left = end_processes(record.cluster_id)
        if left:
            raise RunError(f"these processes of the cluster could not be ended: {', '.join(map(str, left))}")
        remove_temp_dir(record)
    record.remove()


def _check_same_settings(record: ClusterRecord, settings: ClusterConfig) -> None:
    wanted = settings.model_dump()
    differing = [
        f"cluster.{key}: {record.settings.get(key)!r} -> {value!r}"
        for key, value in wanted.items()
        if record.settings.get(key) != value
    ]
    if differing:
        raise ConfigError(
            f"the cluster of {record.root} runs with other settings; `streamrec-dist down` first, "
            "then `up` again:\n  " + "\n  ".join(differing)
        )


def _reachable(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with suppress(OSError), socket.create_connection((host, int(port)), timeout=REACH_SECONDS):
        return True
    return False


def _resources(resources: dict[str, float]) -> dict[str, float]:
    sizes = {name: resources.get(name, 0.0) for name in ("CPU", "GPU")}
    return {**sizes, "memory_gib": round(resources.get("memory", 0.0) / 2**30, 1)}


def _short(path: str) -> str:
    return os.path.relpath(path) if Path(path).is_relative_to(Path.cwd()) else path
