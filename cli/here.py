"""This machine, told from others: whoever reads a record of processes must know whether it can see them."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Place:
    """A machine, or a container on one, since it was started."""

    host: str
    machine: str  # what stays when it is started again; empty where the system has no such id
    processes: str  # which boot, and which processes see one another; empty where the system does not tell

    def is_here(self) -> bool:
        """Whether this is the place, or what it has become after it was started again."""
        here = this_place()
        if self.processes and self.processes == here.processes:
            return True
        return (self.host, self.machine) == (here.host, here.machine)


def this_place() -> Place:
    """The place where this process runs."""
    boot = _read("/proc/sys/kernel/random/boot_id")
    return Place(
        host=socket.gethostname(),
        machine=_read("/etc/machine-id"),
        processes=f"{boot} {os.readlink('/proc/self/ns/pid')}" if boot else "",
    )


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""
