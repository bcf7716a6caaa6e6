"""What a machine has: versions, devices, room, clock, ways. Runs there, with nothing of this project installed."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from importlib import metadata
from typing import Any

WAY_SECONDS = 3.0
LISTEN_SECONDS = 20.0
TORCH = "import torch; print(torch.cuda.device_count() if torch.cuda.is_available() else 0)"
TORCH_SECONDS = 60


def main(job: dict[str, Any]) -> dict[str, Any]:
    """Facts about this machine. The job names packages, folders, the head's address, and ports to listen at one of.

    Raises OSError when none of these is free.
    """
    now = time.time()
    knocked = Door(job["listen"]) if job.get("listen") else None
    gpus = devices()
    facts = {
        "time": now,
        "system": platform.system(),
        "host": socket.gethostname(),
        "python": platform.python_version(),
        "executable": sys.executable,
        "packages": {name: version_of(name) for name in job["packages"]},
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpus": gpus,
        # Slow, and of no use where there is none.
        "torch_gpus": torch_gpus() if gpus else 0,
        "shm": room("/dev/shm"),
        "folders": {folder: room(folder) for folder in [temp_folder(), *job["folders"]]},
        "open_files": resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        "way": way_to(job["head"]) if job.get("head") else "",
    }
    return {**facts, "knocked": knocked.answered() if knocked else None}


class Door:
    """The first free one of some ports, waiting for the head to knock: it must reach the nodes as they reach it.

    Raises OSError when none is free.
    """

    def __init__(self, ports: list[int]):
        self.listener = listener_at(ports)
        self.listener.settimeout(LISTEN_SECONDS)
        self.knocked = False
        self.thread = threading.Thread(target=self.wait, daemon=True)
        self.thread.start()

    def wait(self) -> None:
        with contextlib.suppress(TimeoutError):
            self.listener.accept()[0].close()
            self.knocked = True

    def answered(self) -> bool:
        self.thread.join()
        self.listener.close()
        return self.knocked


def listener_at(ports: list[int]) -> socket.socket:
    """A socket that listens at the first free port. Raises OSError."""
    for port in ports:
        listener = socket.socket()
        try:
            listener.bind(("", port))
            listener.listen()
            return listener
        except OSError as error:
            listener.close()
            if error.errno != errno.EADDRINUSE:
                raise
    raise OSError(errno.EADDRINUSE, f"all of the ports {ports} are taken")


def version_of(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def devices() -> list[str]:
    """Names of the GPUs that the driver shows."""
    if not shutil.which("nvidia-smi"):
        return []
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TORCH_SECONDS)
    except subprocess.TimeoutExpired:
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()] if done.returncode == 0 else []


def torch_gpus() -> int:
    """How many GPUs torch can use."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", TORCH], capture_output=True, text=True, timeout=TORCH_SECONDS
        )
    except subprocess.TimeoutExpired:
        return 0
    return int(done.stdout) if done.returncode == 0 else 0


def temp_folder() -> str:
    return "/tmp" if os.access("/tmp", os.W_OK) else tempfile.gettempdir()


def room(folder: str) -> dict[str, Any]:
    """Bytes of the file system of a folder, and whether it can be written to."""
    while not os.path.exists(folder):
        folder = os.path.dirname(folder)
    usage = shutil.disk_usage(folder)
    return {"free": usage.free, "total": usage.total, "writable": os.access(folder, os.W_OK)}


def way_to(address: str) -> str:
    """Why HOST:PORT cannot be reached from here; nothing when it can."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=WAY_SECONDS):
            return ""
    except OSError as error:
        return str(error)
