"""A cluster that is up: found, and connected to."""

from __future__ import annotations

import logging
import os
import re
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from cli.processes import cluster_processes, is_whole
from cli.ray_head import ray_variables
from cli.record import FOLDER, ClusterRecord, read_record
from streamrec_dist.errors import EnvironmentProblem

NAMESPACE = "streamrec"
REACH_SECONDS = 5.0
#: What a worker imports. They lie side by side, in a checkout as well as installed.
PACKAGES = ("streamrec_dist", "actors", "learners", "cli")


#: Where a process that is connected to Ray writes what it does.
RAY_LOG = re.compile(r"/ray/session_[^/]+/logs/")


def find_record(start: Path | None = None) -> ClusterRecord | None:
    """The record in `start` (default: the working directory) or the nearest folder above it.

    None is looked for among a project's runs, which may come from anybody.
    """
    start = (start or Path.cwd()).absolute()
    folders = (folder for folder in (start, *start.parents) if not _is_among_runs(folder))
    return next((record for folder in folders if (record := read_record(folder))), None)


def _is_among_runs(folder: Path) -> bool:
    parts = (folder, *folder.parents)
    return any(
        part.name == "runs" and any((part.parent / name).exists() for name in ("cluster.yaml", FOLDER))
        for part in parts
    )


def find_cluster(start: Path | None = None) -> ClusterRecord:
    """The cluster that is up. Raises EnvironmentProblem saying how to start one, or on which machine it is."""
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
    """Whether the head's processes are there (its address answers, for a cluster we attached to).

    Raises EnvironmentProblem on another machine than the record's, where its processes cannot be seen.
    """
    check_here(record)
    if not record.address:
        return False
    if record.created_by_us:
        return is_whole(cluster_processes(record.cluster_id))
    return reachable(record.address)


def check_here(record: ClusterRecord) -> None:
    """Raise EnvironmentProblem on another machine than that which started a cluster, or attached to it."""
    if not record.place.is_here():
        raise EnvironmentProblem(
            f"the cluster of {record.root} runs on {record.place.host}, and this is another machine: use it there. "
            "If it is gone for good, forget it: streamrec-dist down --forget"
        )


def connect(record: ClusterRecord, to_work: bool = True) -> None:
    """Connect this process to the cluster as a driver. Raises EnvironmentProblem.

    Does nothing when it is connected already. Must come before anything imports ray: Ray reads its
    environment when it is imported. `to_work`: actors and tasks are to be started, so other machines need this code.
    """
    if record.created_by_us:
        os.environ.pop("RAY_AUTH_TOKEN", None)
        os.environ.update(ray_variables(record.token_path, record.host))
    else:
        # Left unset, it would be guessed anew by every process, and some guess that a token is to be made.
        os.environ.setdefault("RAY_AUTH_MODE", "token" if _has_token() else "disabled")
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
            runtime_env=_packages() if to_work and _has_other_machines(record) else None,
        )
    except (ConnectionError, RuntimeError, SystemExit, ray.exceptions.RayError) as error:
        raise EnvironmentProblem(f"cannot connect to the cluster at {record.address}: {error}") from error


def disconnect() -> None:
    """Leave the cluster; what is detached goes on there."""
    ray = sys.modules.get("ray")
    if ray is not None:
        ray.shutdown()
        _let_go_of_logs()


def _let_go_of_logs() -> None:
    """Have what Ray still writes of this process go nowhere.

    It keeps its logs open, which lie in the cluster's private folder: whoever writes there is ended with the cluster,
    and a view is to outlive it.
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for name in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else ():
            with suppress(OSError):
                if RAY_LOG.search(os.readlink(f"/proc/self/fd/{name}")):
                    os.dup2(nowhere, int(name))
    finally:
        os.close(nowhere)


def reachable(address: str) -> bool:
    """Whether something accepts connections at HOST:PORT."""
    host, _, port = address.rpartition(":")
    with suppress(OSError), socket.create_connection((host, int(port)), timeout=REACH_SECONDS):
        return True
    return False


def _has_token() -> bool:
    """Whether there is a token for a cluster that was not started here, at one of the places where Ray looks."""
    named = any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    return named or (Path.home() / ".ray" / "auth_token").is_file()


def _has_other_machines(record: ClusterRecord) -> bool:
    return bool(record.nodes) or not record.created_by_us


def _packages() -> dict[str, Any]:
    """What Ray copies to every node, once for each state of the files: this code.

    The copies stay as long as a detached actor, such as the controller of a run, was started with them.
    """
    here = Path(__file__).parents[1]
    return {"py_modules": [str(here / name) for name in PACKAGES], "excludes": ["**/__pycache__/**"]}


def _short(path: str) -> str:
    return os.path.relpath(path) if Path(path).is_relative_to(Path.cwd()) else path
