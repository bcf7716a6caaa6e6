"""The processes of one cluster: found by the mark they inherit, ended without touching any other.

A Ray worker that takes a title, such as `ray::RolloutActor`, writes it over its environment: then the files that it
writes in the cluster's private folder tell whose it is.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import psutil

from cli.remote.node import MARK, writes_in


def cluster_processes(cluster_id: str, folder: str = "") -> list[psutil.Process]:
    """All living processes of a cluster, never this process or its parents.

    Orphaned workers are found if `folder` is given, the private folder of the cluster.
    """
    # Processes tell the real paths of what they write.
    folder = os.path.realpath(folder) if folder else ""
    spared = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        if _has_mark(process, cluster_id) or (folder and _writes_in(process, folder)):
            # A child may have been given another environment; it belongs to the cluster all the same.
            for member in (process, *_children(process)):
                found[member.pid] = member
    return [process for pid, process in found.items() if pid not in spared and _runs(process)]


def is_whole(processes: list[psutil.Process]) -> bool:
    """Whether the two processes without which Ray is not a cluster are among these."""
    return {"gcs_server", "raylet"} <= {_name(process) for process in processes}


def end_processes(cluster_id: str, folder: str = "", grace: float = 4.0, deadline: float = 30.0) -> list[int]:
    """End a cluster's processes, politely first; waits `deadline` seconds at most.

    Returns the ids of the processes still there.
    """
    give_up = time.monotonic() + deadline
    left = cluster_processes(cluster_id, folder)
    _send(left, psutil.Process.terminate)
    psutil.wait_procs(left, timeout=grace)
    # A raylet that is going down may still start a worker: look again until nothing is found.
    while (left := cluster_processes(cluster_id, folder)) and time.monotonic() < give_up:
        _send(left, psutil.Process.kill)
        psutil.wait_procs(left, timeout=1.0)
    return [process.pid for process in left]


def _has_mark(process: psutil.Process, cluster_id: str) -> bool:
    # A process of another user, or one that has just ended, cannot be asked and is not ours.
    try:
        return process.environ().get(MARK) == cluster_id
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


def _writes_in(process: psutil.Process, folder: str) -> bool:
    # One that cannot be asked is not ours, and where the system tells no files only the mark does.
    try:
        return writes_in(process.pid, folder)
    except OSError:
        return False


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _name(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.NoSuchProcess:
        return ""


def _send(processes: list[psutil.Process], signal: Callable[[psutil.Process], None]) -> None:
    for process in processes:
        try:
            signal(process)
        except psutil.NoSuchProcess:
            continue
