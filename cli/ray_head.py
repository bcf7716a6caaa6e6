"""The Ray processes of the head: how they are started and what they are told."""

from __future__ import annotations

import json
import os
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from cli.processes import MARK, cluster_processes, is_whole
from cli.record import TEMP_PREFIX, ClusterRecord, write_private
from streamrec_dist.cluster_config import ROLE_PREFIX, ClusterConfig, is_loopback
from streamrec_dist.errors import EnvironmentProblem

LOOPBACK = "127.0.0.1"
START_SECONDS = 120
OBJECT_STORE_BYTES = 2 * 2**30
TOKEN_BYTES = 32
#: Variables of whoever types `up` that must not reach Ray: they lead to another cluster, or past the token.
WITHOUT = ("RAY_ADDRESS", "RAY_AUTH_TOKEN")
#: How a lost node is noticed. A refused connection counts at once, and one is tried every half second: a raylet that
#: was killed is given up after 1.6 to 2.0 s (with Ray's own values after 16 s). One that stalls, or whose machine has
#: vanished, has four times four seconds and is given up after 18 s: a busy machine keeps its node through a pause.
HEALTH = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 4000,
    "health_check_failure_threshold": 4,
}


def ray_variables(token_path: Path | str, host: str) -> dict[str, str]:
    """What every process that talks to a cluster whose head is at `host` must find in its environment."""
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_path),
        "RAY_USAGE_STATS_ENABLED": "0",
        # Ray replaces 127.0.0.1 by the machine's outward address, and then listens on all interfaces,
        # unless it takes itself for a Ray that cannot form clusters of several machines.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0" if is_loopback(host) else "1",
    }


def make_temp_dir() -> str:
    """A private folder with a short name: Ray puts Unix sockets into it, whose paths may have 107 bytes."""
    base = "/tmp" if os.access("/tmp", os.W_OK) else None
    return tempfile.mkdtemp(prefix=TEMP_PREFIX, dir=base)


def start_head(record: ClusterRecord, settings: ClusterConfig, host: str) -> str:
    """Start Ray for a record at an address of this machine; returns address and port.

    Raises EnvironmentProblem with the end of Ray's log.
    """
    write_private(record.token_path, secrets.token_hex(TOKEN_BYTES))
    _check_guarded(record.token_path, host)
    port = free_port(host)
    environment = {
        **{name: value for name, value in os.environ.items() if name not in WITHOUT},
        **ray_variables(record.token_path, host),
        MARK: record.cluster_id,
    }
    log = Path(record.temp_dir) / "start.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            head_command(record, settings, host, str(port)),
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
    return f"{host}:{port}"


def remove_temp_dir(record: ClusterRecord) -> None:
    if record.temp_dir and not Path(record.temp_dir).is_symlink():
        shutil.rmtree(record.temp_dir, ignore_errors=True)


def usable_cpus() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def object_store_bytes() -> int:
    """Memory of this machine that the head's object store takes."""
    return min(OBJECT_STORE_BYTES, psutil.virtual_memory().total // 10)


def head_command(record: ClusterRecord, settings: ClusterConfig, host: str, port: str) -> list[str]:
    """The command line that starts the head."""
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head"),
        *(f"--node-ip-address={host}", f"--port={port}", f"--temp-dir={record.temp_dir}/ray"),
        *("--include-dashboard=false", "--include-log-monitor=false", "--disable-usage-stats"),
        "--dashboard-agent-listen-port=0",
        f"--num-cpus={settings.cpus or usable_cpus()}",
        f"--object-store-memory={object_store_bytes()}",
        "--log-color=false",
    ]
    if not is_loopback(host):
        command.append(f"--system-config={json.dumps(HEALTH)}")
    return command + share_options(settings.gpus, settings.roles)


def printed_head(record: ClusterRecord, settings: ClusterConfig) -> list[str]:
    """What `up` runs for the head, as a command."""
    host, _, port = record.address.rpartition(":")
    variables = {**ray_variables(record.token_path, host), MARK: record.cluster_id}
    return [with_variables(variables, head_command(record, settings, host, port))]


def with_variables(variables: Mapping[str, str], command: Sequence[str]) -> str:
    """A command line that runs a command as `up` does: with these variables, without those that lead astray."""
    unset = [word for name in WITHOUT for word in ("-u", name)]
    return shlex.join(["env", *unset, *(f"{name}={value}" for name, value in variables.items()), *command])


def share_options(gpus: int | None, roles: Sequence[str]) -> list[str]:
    """What a machine gives to the cluster besides its cores: GPUs, and resources that stand for roles."""
    options = [] if gpus is None else [f"--num-gpus={gpus}"]
    return options + (
        [f"--resources={json.dumps({ROLE_PREFIX + role: 1 for role in roles})}"] if roles else []
    )


def _check_guarded(token_path: Path, host: str) -> None:
    """Raise EnvironmentProblem rather than listen to other machines without a secret: who gets in runs any code."""
    found = token_path.stat()
    if not is_loopback(host) and (found.st_size < TOKEN_BYTES or found.st_mode & 0o077):
        raise EnvironmentProblem(
            f"{token_path} is no private token (mode {found.st_mode & 0o777:o}), and without one Ray must not "
            f"listen at {host}; is the folder on a file system that keeps modes?"
        )


def free_port(host: str) -> int:
    with socket.socket() as listener:
        try:
            listener.bind((host, 0))
        except OSError as error:
            raise EnvironmentProblem(
                f"cluster.head: {host} is no address of this machine ({error}); `ip addr` shows those it has"
            ) from None
        return listener.getsockname()[1]


def _tail(log: Path, lines: int = 15) -> str:
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    return "\n".join("  " + line for line in text.splitlines()[-lines:]) or "  (empty)"
