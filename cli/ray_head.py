"""The Ray processes of a local cluster: how they are started and what they are told."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil

from cli.processes import MARK, cluster_processes, is_whole
from cli.record import ClusterRecord, write_private
from streamrec_dist.config import ClusterConfig
from streamrec_dist.errors import EnvironmentProblem

LOOPBACK = "127.0.0.1"
START_SECONDS = 120
OBJECT_STORE_BYTES = 2 * 2**30


def ray_variables(token_path: Path) -> dict[str, str]:
    """What every process that talks to a local cluster must find in its environment."""
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_path),
        "RAY_USAGE_STATS_ENABLED": "0",
        # Ray replaces 127.0.0.1 by the machine's outward address, and then listens on all interfaces,
        # unless it takes itself for a Ray that cannot form clusters of several machines.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }


def make_temp_dir() -> str:
    """A private folder with a short name: Ray puts Unix sockets into it, whose paths may have 107 bytes."""
    base = "/tmp" if os.access("/tmp", os.W_OK) else None
    return tempfile.mkdtemp(prefix="streamrec-", dir=base)


def start_head(record: ClusterRecord, settings: ClusterConfig) -> str:
    """Start Ray for a record; returns its address. Raises EnvironmentProblem with the end of Ray's log."""
    write_private(record.token_path, secrets.token_hex(32))
    port = _free_port()
    environment = {
        **{
            name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_AUTH_TOKEN")
        },
        **ray_variables(record.token_path),
        MARK: record.cluster_id,
    }
    log = Path(record.temp_dir) / "start.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            _command(record, settings, port),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # Its own session: Ctrl-C in the terminal must not reach the cluster.
            start_new_session=True,
        )
        try:
            status = process.wait(timeout=START_SECONDS)
        except subprocess.TimeoutExpired:
            raise EnvironmentProblem(
                f"waited {START_SECONDS} s for Ray to start; the end of its log:\n{_tail(log)}"
            ) from None
    if status != 0 or not is_whole(cluster_processes(record.cluster_id)):
        raise EnvironmentProblem(f"Ray did not start (exit code {status}); the end of its log:\n{_tail(log)}")
    return f"{LOOPBACK}:{port}"


def remove_temp_dir(record: ClusterRecord) -> None:
    if record.temp_dir:
        shutil.rmtree(record.temp_dir, ignore_errors=True)


def usable_cpus() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _command(record: ClusterRecord, settings: ClusterConfig, port: int) -> list[str]:
    object_store = min(OBJECT_STORE_BYTES, psutil.virtual_memory().total // 10)
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head"),
        *(f"--node-ip-address={LOOPBACK}", f"--port={port}", f"--temp-dir={record.temp_dir}/ray"),
        *("--include-dashboard=false", "--include-log-monitor=false", "--disable-usage-stats"),
        "--dashboard-agent-listen-port=0",
        f"--num-cpus={settings.cpus or usable_cpus()}",
        f"--object-store-memory={object_store}",
        "--log-color=false",
    ]
    if settings.gpus is not None:
        command.append(f"--num-gpus={settings.gpus}")
    return command


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind((LOOPBACK, 0))
        return listener.getsockname()[1]


def _tail(log: Path, lines: int = 15) -> str:
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    return "\n".join("  " + line for line in text.splitlines()[-lines:]) or "  (empty)"
